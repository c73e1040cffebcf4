import {createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {readPylock} from '../../src/packages/pylock.ts';
import {readStated} from '../../src/packages/stated.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {filesOf} from './files-of.ts';

const fixtures = path.join(import.meta.dirname, 'fixtures', 'locked');
const fixture = (file: string) => readFileSync(path.join(fixtures, file), 'utf8');
const project = fixture('pyproject.toml');

const read = async (texts: Readonly<Record<string, string>>, version = '3.11.2') =>
	(await readStated(filesOf(texts), {entryFile: 'f.py', interpreter: {version}})).requirements;
const lines = async (texts: Readonly<Record<string, string>>, version?: string) =>
	(await read(texts, version)).requirements.map(({name, specifier}) => `${name}${specifier}`);

const sha = (text: string) => createHash('sha256').update(text).digest('hex');
const wheel = (file: string) => `{name = "${file}", url = "https://h/${file}", hashes = {sha256 = "${sha(file)}"}}`;
const packages = (name: string, more = '', files = wheel(`${name}-1.0-py3-none-any.whl`)) =>
	`[[packages]]\nname = "${name}"\nversion = "1.0"\nwheels = [${files}]\n${more}\n`;
const pylock = (text: string) => `lock-version = "1.0"\ncreated-by = "test"\n${text}`;

const expected = {
	'3.11.2': ['attrs==26.1.0', 'linkify-it-py==2.2.0', 'markdown-it-py==3.0.0', 'mdurl==0.1.2'],
	'3.9.1': ['attrs==23.2.0', 'linkify-it-py==2.0.3', 'markdown-it-py==3.0.0', 'mdurl==0.1.2', 'uc-micro-py==1.0.3'],
} as const;

for (const [version, all] of Object.entries(expected)) {
	for (const lock of ['pylock.toml', 'uv.lock']) {
		test(`${lock}: what the tool that made it takes of it for ${version}, by hash, and complete`, async (t) => {
			const found = await read({[lock]: fixture(lock), 'pyproject.toml': project}, version);
			t.deepEqual(
				found.requirements.map(({name, specifier}) => `${name}${specifier}`),
				[...all],
			);
			t.true(found.isComplete && found.requireHashes);
			t.true(found.requirements.every(({hashes, marker}) => hashes.length === 2 && marker === undefined));
		});
	}
}

test('both locks of one project come to the same', async (t) => {
	const [one, other] = await Promise.all(
		['pylock.toml', 'uv.lock'].map((lock) => read({[lock]: fixture(lock), 'pyproject.toml': project})),
	);
	t.is(one?.digest, other?.digest);
	t.not(one?.digest, undefined);
});

test('locks count before what they were made of, and before a list', async (t) => {
	const all = {'pylock.toml': pylock(packages('a')), 'requirements.txt': 'six', 'f.py': ''};
	t.deepEqual(await lines(all), ['a==1.0']);
	t.deepEqual(await lines({'uv.lock': fixture('uv.lock'), 'pyproject.toml': project, 'requirements.txt': 'six'}), [
		...expected['3.11.2'],
	]);
});

test('a lock of nothing is complete', async (t) => {
	const found = await read({'pylock.toml': pylock('packages = []')});
	t.is(found.text, '');
});

test('pylock.toml: markers with groups, and the function itself', async (t) => {
	const text = pylock(
		`dependency-groups = ["x", "y"]\ndefault-groups = ["x"]\n${packages('a', `marker = "'x' in dependency_groups"`)}
${packages('b', `marker = "'y' in dependency_groups or 'z' in extras"`)}
[[packages]]\nname = "f"\ndirectory = {path = ".", editable = true}\n`,
	);
	t.deepEqual(await lines({'pylock.toml': text}), ['a==1.0']);
});

test('of the files of a package those are taken that could fit', (t) => {
	const names = ['a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl', 'a-1.0-cp311-cp311-win_amd64.whl'];
	const files = [
		...names,
		'a-1.0-cp39-abi3-linux_x86_64.whl',
		'a-1.0-cp312-cp312-linux_x86_64.whl',
		'a-1.0-py2-none-any.whl',
		'a-1.0-cp311-cp311-musllinux_1_1_x86_64.whl',
	];
	const text = pylock(packages('a', '', files.map((file) => wheel(file.replaceAll('x86_64', os.machine()))).join()));
	const [pin] = readPylock(text, {version: '3.11.2'}).pins;
	t.deepEqual(
		pin?.files.map(({file}) => file.replaceAll(os.machine(), 'x86_64')),
		[files[0], files[2]],
	);
});

const here = `CPython 3.11.2 on linux ${os.machine()}`;
const uvLock = fixture('uv.lock');

for (const [title, texts, code, message] of [
	['no lock', {'pylock.toml': ''}, 'InvalidRequirements', 'pylock.toml, lock-version: expected text; found "nothing"'],
	[
		'a later form',
		{'pylock.toml': 'lock-version = "2.0"'},
		'InvalidRequirements',
		'pylock.toml, lock-version: expected 1.0; found "2.0"',
	],
	[
		'another Python',
		{'pylock.toml': pylock('requires-python = ">=3.12"')},
		'InterpreterMismatch',
		'pylock.toml, requires-python: is for Python >=3.12; the interpreter is Python 3.11.2',
	],
	[
		'another system',
		{'pylock.toml': pylock(`environments = ["sys_platform == 'win32'", "os_name == 'nt'"]`)},
		'InterpreterMismatch',
		`pylock.toml, environments: is for "sys_platform == 'win32'" and 1 more; this is ${here}`,
	],
	[
		'wheels of another system',
		{'pylock.toml': pylock(packages('a', '', wheel('a-1.0-cp311-cp311-win_amd64.whl')))},
		'InterpreterMismatch',
		`pylock.toml, packages[0]: a 1.0 is locked as a-1.0-cp311-cp311-win_amd64.whl; this is ${here}`,
	],
	[
		'a package for another Python',
		{'pylock.toml': pylock(packages('a', 'requires-python = "<3.11"'))},
		'InterpreterMismatch',
		'pylock.toml, packages[0].requires-python: is for Python <3.11; the interpreter is Python 3.11.2',
	],
	[
		'a repository',
		{'pylock.toml': pylock('[[packages]]\nname = "a"\nvcs = {type = "git"}')},
		'InvalidRequirements',
		'pylock.toml, packages[0].vcs: expected wheels or an sdist of an index; found "vcs"',
	],
	[
		'no file',
		{'pylock.toml': pylock('[[packages]]\nname = "a"\nversion = "1"')},
		'InvalidRequirements',
		'pylock.toml, packages[0]: expected wheels or an sdist of a; found "none"',
	],
	[
		'no hash',
		{'pylock.toml': pylock(packages('a', '', '{name = "a-1.0-py3-none-any.whl", hashes = {md5 = "0"}}'))},
		'InvalidRequirements',
		'pylock.toml, packages[0].wheels[0].hashes.sha256: expected text; found "nothing"',
	],
	[
		'half a hash',
		{'pylock.toml': pylock(packages('a', '', '{name = "a-1.0-py3-none-any.whl", hashes = {sha256 = "00"}}'))},
		'InvalidRequirements',
		'pylock.toml, packages[0]: expected sha256: and 64 hexadecimal digits as a hash; found "sha256:00"',
	],
	[
		'a package twice',
		{'pylock.toml': pylock(`${packages('a-b')}${packages('A_b')}`)},
		'InvalidRequirements',
		'pylock.toml, packages[1]: expected each package once; found "A_b"',
	],
	[
		'a name with more',
		{'pylock.toml': pylock(packages('a[x]'))},
		'InvalidRequirements',
		'pylock.toml, packages[0]: expected a name and one version; found "a[x]==1.0"',
	],
	[
		'an option as a version',
		{'pylock.toml': pylock(packages('a').replace('"1.0"', '"1.0 --pre"'))},
		'InvalidRequirements',
		'pylock.toml, packages[0]: expected a version as in ==1.0, or ; and a marker; found "--pre"',
	],
	[
		'another version than the project’s',
		{
			'pylock.toml': pylock(packages('a')),
			'pyproject.toml': '[project]\ndependencies = ["b; os_name == \'nt\'", "a>1"]',
		},
		'InvalidRequirements',
		'pyproject.toml, project.dependencies[1]: expected what pylock.toml has, a==1.0; lock the project again; found "a>1"',
	],
	[
		'less than the project’s',
		{'pylock.toml': pylock(packages('a')), 'pyproject.toml': '[project]\ndependencies = ["b"]'},
		'InvalidRequirements',
		'pyproject.toml, project.dependencies[0]: expected what pylock.toml has, which is not b; lock the project again; found "b"',
	],
	[
		'no project',
		{'uv.lock': uvLock},
		'InvalidRequirements',
		'uv.lock: expected pyproject.toml with [project] beside it; found "none"',
	],
	[
		'a later form of uv’s',
		{'uv.lock': 'version = 2', 'pyproject.toml': project},
		'InvalidRequirements',
		'uv.lock, version: expected 1; found "2"',
	],
	[
		'another Python in uv’s',
		{'uv.lock': uvLock.replace('">=3.9"', '">=3.12"'), 'pyproject.toml': project},
		'InterpreterMismatch',
		'uv.lock, requires-python: is for Python >=3.12; the interpreter is Python 3.11.2',
	],
	[
		'another system in uv’s',
		{
			'uv.lock': `${uvLock.replace('resolution-markers', `supported-markers = ["os_name == 'nt'"]\nresolution-markers`)}`,
			'pyproject.toml': project,
		},
		'InterpreterMismatch',
		`uv.lock, supported-markers: is for "os_name == 'nt'"; this is ${here}`,
	],
	[
		'a dependency more',
		{'uv.lock': uvLock, 'pyproject.toml': project.replace('"colorama', '"six", "colorama')},
		'InvalidRequirements',
		'pyproject.toml, project.dependencies[2]: expected what uv.lock was made of; lock the project again; found "six"',
	],
	[
		'a dependency less',
		{'uv.lock': uvLock, 'pyproject.toml': project.replace(/"colorama.*/, '')},
		'InvalidRequirements',
		'uv.lock, package[7].metadata.requires-dist[2]: expected a dependency of the project; lock it again; found "colorama"',
	],
	[
		'another version in uv’s',
		{'uv.lock': uvLock, 'pyproject.toml': project.replace('==3.0.0', '==3.0.1')},
		'InvalidRequirements',
		'pyproject.toml, project.dependencies[3]: expected what uv.lock has, markdown-it-py==3.0.0; lock the project again; found "markdown-it-py[linkify]==3.0.1"',
	],
	[
		'a repository in uv’s',
		{
			'uv.lock': uvLock.replace(
				'"mdurl"\nversion = "0.1.2"\nsource = { registry',
				'"mdurl"\nversion = "0.1.2"\nsource = { git',
			),
			'pyproject.toml': project,
		},
		'InvalidRequirements',
		/^uv\.lock, package\[\d\]\.source: expected an index that has mdurl; found "another source"$/,
	],
	[
		'a package that is not there',
		{'uv.lock': uvLock.replace('name = "mdurl"\nversion', 'name = "m"\nversion'), 'pyproject.toml': project},
		'InvalidRequirements',
		/^uv\.lock, package\[\d\]\.dependencies\[0\]: expected one package mdurl in the lock; found "none"$/,
	],
	[
		'no root',
		{'uv.lock': uvLock.replace('virtual = "."', 'virtual = "x"'), 'pyproject.toml': project},
		'InvalidRequirements',
		'uv.lock, package: expected one package from the folder itself; found "0"',
	],
	[
		'many forks',
		{'uv.lock': `version = 1\n${'[[package]]\nname = "a"\n'.repeat(101)}`, 'pyproject.toml': project},
		'InvalidRequirements',
		'uv.lock, package[100]: expected at most 100 packages of one name; found more',
	],
] as const) {
	test(`refused: ${title}`, async (t) => {
		const error = await t.throwsAsync(read(texts), {code});
		if (typeof message === 'string') t.is(error?.message, message);
		else t.regex(error?.message ?? '', message);
	});
}

test('a package may name another one very often', async (t) => {
	const entry = (name: string, dependencies: string) =>
		`[[package]]\nname = "${name}"\nversion = "1"\nsource = {registry = "x"}\ndependencies = [${dependencies}]
sdist = {url = "${name}-1.tar.gz", hash = "sha256:${sha(name)}"}\n`;
	const root = '[[package]]\nname = "f"\nsource = {virtual = "."}\ndependencies = [{name = "a"}]\n';
	const made = '[package.metadata]\nrequires-dist = [{name = "a"}]\n';
	const text = `version = 1\n${root}${made}${entry('a', '{name="b"},\n'.repeat(150_000))}${entry('b', '')}`;
	t.deepEqual(await lines({'uv.lock': text, 'pyproject.toml': '[project]\ndependencies = ["a"]'}), ['a==1', 'b==1']);
});

test('packages that require each other end', async (t) => {
	const entry = (name: string, other: string) =>
		`[[package]]\nname = "${name}"\nversion = "1"\nsource = {registry = "https://h/"}\ndependencies = [{name = "${other}"}]
sdist = {url = "https://h/${name}-1.tar.gz", hash = "sha256:${sha(name)}"}\n`;
	const root =
		'[[package]]\nname = "f"\nsource = {editable = "."}\ndependencies = [{name = "a"}]\n[package.metadata]\nrequires-dist = [{name = "a"}]\n';
	const text = `version = 1\n${root}${entry('a', 'b')}${entry('b', 'a')}${entry('c', 'a')}`;
	t.deepEqual(await lines({'uv.lock': text, 'pyproject.toml': '[project]\ndependencies = ["a"]'}), ['a==1', 'b==1']);
});

/** Each token of a text may be changed into something else. */
function damaged(text: string): fc.Arbitrary<string> {
	const tokens = text.split(/(?<=[\s"'=,[\]{}])/);
	const other = fc.oneof(
		fc.constantFrom(
			'',
			'"',
			'[',
			']',
			'{',
			'}',
			'=',
			'\n',
			'1',
			'true',
			'"a"',
			"'",
			'.',
			'__proto__',
			'[[package]]\n',
			'\u0000',
		),
		fc.constantFrom(...tokens),
		fc.string({unit: 'binary', maxLength: 4}),
	);
	const change = fc.tuple(fc.nat(tokens.length - 1), other);
	return fc.array(change, {minLength: 1, maxLength: 4}).map((changes) => {
		const copy = [...tokens];
		for (const [index, token] of changes) copy[index] = token;
		return copy.join('');
	});
}

for (const file of ['pylock.toml', 'uv.lock']) {
	test(`property: whatever a ${file} holds is an answer or a typed error`, async (t) => {
		let answers = 0;
		await fc.assert(
			fc.asyncProperty(damaged(fixture(file)), async (text) => {
				try {
					await read({[file]: text, 'pyproject.toml': project});
					answers += 1;
				} catch (error) {
					if (!(error instanceof ForktreeError && /^(?:InvalidReq|InterpreterM)/.test(error.code))) throw error;
				}
			}),
			{numRuns: 300, ...fuzzParameters(2)},
		);
		t.true(answers > 0);
	});
}
