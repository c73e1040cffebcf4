import {mkdir, readFile, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {type ArchiveSpec, fileName, makeArchives, PackageIndex} from '../helpers/archives.ts';
import {serialKernelTest} from '../helpers/kernel-test.ts';
import {py, temporaryFolder, useRuntime, value} from '../helpers/runtime.ts';

const libs = ['1.0', '2.0'].map(
	(version): ArchiveSpec => ({name: 'lib', version, requires: ['helper'], text: `VERSION = "${version}"\n`}),
);
const [lib1] = libs as [ArchiveSpec, ArchiveSpec];
const specs: readonly ArchiveSpec[] = [{name: 'helper', version: '1.0'}, ...libs];

const fixture = useRuntime();
let index: PackageIndex;

test.serial.before(async () => {
	index = await PackageIndex.start(specs, {json: true});
	for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];
	Object.assign(process.env, {PIP_INDEX_URL: index.url, UV_DEFAULT_INDEX: index.url});
});
test.after.always(() => index?.close());

/** A folder, or a file in one, that ends with the test. */
async function write(t: ExecutionContext, files: Readonly<Record<string, string>>): Promise<string> {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	for (const [file, text] of Object.entries(files)) {
		await mkdir(path.dirname(path.join(folder, file)), {recursive: true});
		await writeFile(path.join(folder, file), text);
	}
	return folder;
}

const code = py`
	import lib

	def f(event):
		return lib.VERSION
`;
const script = (dependency: string) => `# /// script\n# dependencies = ["${dependency}"]\n# ///\n${code}`;

serialKernelTest('a single file with inline metadata', async (t) => {
	const {runtime} = fixture();
	const folder = await write(t, {'hello.py': script('lib<2')});
	const report = await runtime.deploy('script', path.join(folder, 'hello.py'));
	t.deepEqual(report.packages, ['helper==1.0', 'lib==1.0']);
	t.is(value(t, await runtime.invoke('script', null)), '1.0');
});

serialKernelTest('a script for another Python is refused, and nothing changes', async (t) => {
	const {runtime} = fixture();
	const source = {'f.py': `# /// script\n# requires-python = ">=4"\n# ///\n${code}`};
	await t.throwsAsync(runtime.deploy('other', source), {
		code: 'InterpreterMismatch',
		message: /^f\.py, requires-python: is for Python >=4; the interpreter is Python 3\.\d+\.\d+$/,
	});
	t.false(runtime.list().some(({name}) => name === 'other'));
});

serialKernelTest('a folder with pyproject.toml', async (t) => {
	const {runtime} = fixture();
	const files = {'f.py': code, 'pyproject.toml': '[project]\nname = "f"\ndependencies = ["lib>1"]\n'};
	const report = await runtime.deploy('project', await write(t, files));
	t.deepEqual(report.packages, ['helper==1.0', 'lib==2.0']);
	t.like(report, {statedBy: 'pyproject.toml', ignoredSources: []});
	t.is(value(t, await runtime.invoke('project', null)), '2.0');
	const both = await runtime.deploy('project', {...files, 'requirements.txt': 'lib<2'});
	t.like(both, {statedBy: 'requirements.txt', ignoredSources: ['pyproject.toml']});
	t.deepEqual(both.packages, ['helper==1.0', 'lib==1.0']);
});

const lockOf = (sha256: string) => `lock-version = "1.0"
created-by = "test"
[[packages]]
name = "lib"
version = "1.0"
wheels = [{name = "lib-1.0-py3-none-any.whl", url = "https://index.example/lib-1.0-py3-none-any.whl", hashes = {sha256 = "${sha256}"}}]
`;

serialKernelTest('pylock.toml: exactly what it names, by its hash; when that is there nobody is asked', async (t) => {
	const {runtime} = fixture();
	const files = {'f.py': code, 'pylock.toml': lockOf(index.sha256(lib1))};
	const report = await runtime.deploy('locked', files);
	t.deepEqual(report.packages, ['lib==1.0'], 'lib requires helper, which the lock does not have');
	t.is(value(t, await runtime.invoke('locked', null)), '1.0');
	index.requests.length = 0;
	const again = await runtime.deploy('again', files);
	t.like(again, {packages: ['lib==1.0'], installed: [], resolver: undefined});
	t.deepEqual(index.requests, []);
	await t.throwsAsync(runtime.deploy('locked', {...files, 'pylock.toml': lockOf('0'.repeat(64))}), {
		code: 'HashMismatch',
		message: /lib/,
	});
	t.is(value(t, await runtime.invoke('locked', null)), '1.0');
});

serialKernelTest('uv.lock beside pyproject.toml', async (t) => {
	const {runtime} = fixture();
	const lock = `version = 1
[[package]]
name = "f"
source = {virtual = "."}
dependencies = [{name = "lib"}]
[package.metadata]
requires-dist = [{name = "lib"}]
[[package]]
name = "lib"
version = "1.0"
source = {registry = "https://index.example/"}
dependencies = [{name = "helper"}]
wheels = [{url = "https://index.example/lib-1.0-py3-none-any.whl", hash = "sha256:${index.sha256(lib1)}"}]
[[package]]
name = "helper"
version = "1.0"
source = {registry = "https://index.example/"}
wheels = [{url = "https://index.example/helper-1.0-py3-none-any.whl", hash = "sha256:${index.sha256(specs[0] as ArchiveSpec)}"}]
`;
	const files = {'f.py': code, 'uv.lock': lock, 'pyproject.toml': '[project]\nname = "f"\ndependencies = ["lib"]\n'};
	t.deepEqual((await runtime.deploy('uv', files)).packages, ['helper==1.0', 'lib==1.0']);
	t.is(value(t, await runtime.invoke('uv', null)), '1.0');
});

/** The content of archives, by their names in a folder `wheels`. */
async function archivesOf(t: ExecutionContext, specs: readonly ArchiveSpec[]): Promise<Record<string, Uint8Array>> {
	const folder = await write(t, {});
	makeArchives(folder, specs);
	const names = specs.map((spec) => fileName({...spec, sdist: spec.build !== undefined}));
	const contents = await Promise.all(names.map((name) => readFile(path.join(folder, name))));
	return Object.fromEntries(names.map((name, index) => [`wheels/${name}`, new Uint8Array(contents[index] ?? [])]));
}

const ownLib: ArchiveSpec = {name: 'lib', version: '1.0', text: 'VERSION = "own"\n'};
const ownOther: ArchiveSpec = {name: 'other', version: '3.0', requires: ['lib'], text: 'VERSION = "other"\n'};

serialKernelTest('a wheel of the folder, by its path, in place of that of the index', async (t) => {
	const {runtime} = fixture();
	const files = await archivesOf(t, [ownLib, {...ownLib, version: '9.0'}]);
	const requirements = './wheels/lib-1.0-py3-none-any.whl\nhelper\n./wheels/gone-1.0.whl ; os_name == "nt"\n';
	const source = {...files, 'f.py': code, 'requirements.txt': requirements.replace(/.*gone.*\n/, '')};
	await t.throwsAsync(runtime.deploy('wheel', {...source, 'requirements.txt': requirements}), {
		message: /^requirements\.txt, line 3: expected an archive in the folder of the function; found "\.\/wheels\/gone/,
	});
	const report = await runtime.deploy('wheel', source);
	t.deepEqual(report.packages, ['helper==1.0', 'lib==1.0']);
	t.is(value(t, await runtime.invoke('wheel', null)), 'own');
	t.like(await runtime.deploy('wheel', source), {installed: [], resolver: undefined}, 'known by its content');
	const changed = await archivesOf(t, [{...ownLib, text: 'VERSION = "changed"\n'}]);
	await runtime.deploy('wheel', {...source, ...changed});
	t.is(value(t, await runtime.invoke('wheel', null)), 'changed');
});

serialKernelTest('a source distribution of the folder is built', async (t) => {
	const {runtime} = fixture();
	const files = await archivesOf(t, [{...ownOther, build: [], requires: ['lib<2']}]);
	const text = code.replaceAll('lib', 'other');
	const source = {...files, 'f.py': text, 'requirements.txt': 'other @ file:wheels/other-3.0.tar.gz\n'};
	t.deepEqual((await runtime.deploy('sdist', source)).packages, ['helper==1.0', 'lib==1.0', 'other==3.0']);
	t.is(value(t, await runtime.invoke('sdist', null)), 'other');
});

serialKernelTest('--find-links to a folder, without an index', async (t) => {
	const {runtime} = fixture();
	const files = await archivesOf(t, [ownLib, ownOther]);
	const requirements = '--no-index\n--find-links ./wheels\nother\n';
	const report = await runtime.deploy('links', {...files, 'f.py': code, 'requirements.txt': requirements});
	t.deepEqual(report.packages, ['lib==1.0', 'other==3.0']);
	t.is(value(t, await runtime.invoke('links', null)), 'own');
});
