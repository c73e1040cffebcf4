/** Code that functions bring along is imported in every kind of start. */
import {once} from 'node:events';
import {readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import type {DeployOptions, Outcome, Runtime} from '../../src/index.ts';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {makeRuntime, py, temporaryFolder, useRuntime, value} from '../helpers/runtime.ts';

const specs: readonly ArchiveSpec[] = [
	{name: 'installed', version: '1.0', text: 'FROM = "packages"\n'},
	{name: 'lib', version: '1.0', text: 'FROM = "packages"\n'},
	{name: 'other', version: '1.0', requires: ['local'], text: ''},
	{name: 'local', version: '9.0', text: 'FROM = "packages"\n'},
];
const fixture = useRuntime({promote: false});
let index: PackageIndex;

test.serial.before(async () => {
	index = await PackageIndex.start(specs, {json: true});
	for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];
	Object.assign(process.env, {PIP_INDEX_URL: index.url, UV_DEFAULT_INDEX: index.url});
});
test.after.always(() => index?.close());

const local = {
	'libs/local/pyproject.toml': '[project]\nname = "local"\nversion = "1.0"\ndependencies = ["installed"]\n',
	'libs/local/src/local/__init__.py': 'import installed\nFROM = "libs"\n',
	'libs/local/src/local/deep.py': 'FROM = "deep"\n',
};
const imports = py`
	import os, sys
	import both, installed, local, local.deep, mine, vendored
	modules = [both, local, local.deep, mine, vendored]
	assert all(os.path.exists(each.__cached__) for each in modules), 'compiled when it was deployed'
	def f(event):
		at = sys.path.index('/packages')
		where = [each.FROM for each in [both, installed, local, local.deep, mine, vendored]]
		return [where, [each for each in sys.path if each.startswith('/handler')], sys.path[0], at > 3]
`;
const files = {
	...local,
	'f.py': imports,
	'mine.py': 'FROM = "handler"\n',
	'both.py': 'FROM = "handler"\n',
	'vendor/both.py': 'FROM = "vendor"\n',
	'vendor/mine.py': 'FROM = "vendor"\n',
	'vendor/vendored/__init__.py': 'from .sub import FROM\n',
	'vendor/vendored/sub.py': 'FROM = "vendor"\n',
	'packages/vendored.py': 'FROM = "packages"\n',
	'requirements.txt': '-e ./libs/local\n',
};
const folders = ['vendor', 'packages', 'libs/local/src'];
const found = [
	['handler', 'packages', 'libs', 'deep', 'handler', 'vendor'],
	['/handler', ...folders.map((folder) => `/handler/${folder}`)],
	'/handler',
	true,
];

async function deploy(t: ExecutionContext, options: DeployOptions, source: Readonly<Record<string, string>> = files) {
	const name = await fixture().deploy(source, options);
	t.teardown(() => fixture().runtime.remove(name));
	return name;
}

/** Calls it until an outcome is of a kind. */
async function callUntil(
	t: ExecutionContext,
	runtime: Runtime,
	name: string,
	isMeant: (outcome: Outcome) => boolean,
): Promise<void> {
	for (let i = 0; i < 20; i += 1) {
		const outcome = await runtime.invoke(name, null);
		t.deepEqual(value(t, outcome), found, `${outcome.start} ${outcome.spare}`);
		if (isMeant(outcome)) return;
		await new Promise((resolve) => setTimeout(resolve, 20));
	}
	t.fail('expected such a start');
}

kernelTest('cold', async (t) => {
	const name = await deploy(t, {zygote: false});
	await callUntil(t, fixture().runtime, name, ({start}) => start === 'cold');
});

kernelTest('forked from a node', async (t) => {
	const {runtime} = await makeRuntime(t, {spares: 0});
	const report = await runtime.deploy('forked', files, {reuse: false, spares: 0, ownZygote: false});
	t.like(report, {path: folders, packages: ['installed==1.0'], statedBy: 'requirements.txt'});
	await callUntil(t, runtime, 'forked', ({start, spare}) => start === 'forked' && spare === undefined);
});

kernelTest('from a node’s spare, and a spare of its own', async (t) => {
	const ofNode = await deploy(t, {reuse: false, spares: 0, ownZygote: false});
	await callUntil(t, fixture().runtime, ofNode, ({spare}) => spare === 'node');
	const ofItsOwn = await deploy(t, {reuse: false, ownZygote: false});
	await callUntil(t, fixture().runtime, ofItsOwn, ({spare}) => spare === 'function');
});

kernelTest('from a zygote of its own', async (t) => {
	const {runtime} = fixture();
	const source = {...files, 'f.py': `${imports}def ahead(): pass\n`};
	const created = once(runtime, 'zygoteCreated');
	const name = await deploy(t, {reuse: false, spares: 0, warmup: 'f:ahead'}, source);
	await callUntil(t, runtime, name, ({ownZygote}) => ownZygote);
	await created;
});

kernelTest('an interpreter that the handler starts finds them too, unless the function says otherwise', async (t) => {
	const code = py`
		import subprocess, sys
		def f(event):
			text = 'import local, vendored; print(local.FROM, vendored.FROM, end="")'
			return subprocess.run(['python3', '-c', text], cwd='/tmp', capture_output=True, text=True).stdout
	`;
	const source = {...files, 'f.py': code};
	const {runtime} = fixture();
	t.is(value(t, await runtime.invoke(await deploy(t, {}, source), null)), 'libs vendor');
	t.is(value(t, await runtime.invoke(await deploy(t, {env: {PYTHONPATH: '/tmp'}}, source), null)), '');
});

kernelTest(
	'what is vendored comes before what is installed; what a zygote has imported counts all the same',
	async (t) => {
		const source = {
			'f.py': 'import lib\ndef f(event): return lib.FROM\n',
			'vendor/lib.py': 'FROM = "vendor"\n',
			'requirements.txt': 'lib',
		};
		const {runtime} = fixture();
		t.is(value(t, await runtime.invoke(await deploy(t, {zygote: false}, source), null)), 'vendor');
		t.is(value(t, await runtime.invoke(await deploy(t, {}, source), null)), 'packages');
	},
);

kernelTest('a changed package of the folder is another version of the function', async (t) => {
	const {runtime} = fixture();
	const source = {
		...local,
		'f.py': 'import local\ndef f(event): return local.FROM\n',
		'requirements.txt': '-e libs/local',
	};
	t.teardown(() => runtime.remove('changed'));
	const before = await runtime.deploy('changed', source);
	t.is(value(t, await runtime.invoke('changed', null)), 'libs');
	const changed = {...source, 'libs/local/src/local/__init__.py': 'FROM = "changed"\n'};
	const after = await runtime.deploy('changed', changed);
	t.not(after.version, before.version);
	t.is(value(t, await runtime.invoke('changed', null)), 'changed');
	const broken = {...source, 'libs/local/src/local/deep.py': 'FROM ='};
	await t.throwsAsync(runtime.deploy('changed', broken), {
		code: 'InvalidSyntax',
		message: /^libs\/local\/src\/local\/deep\.py:1: /,
	});
});

kernelTest('a package that an installed one requires too is refused', async (t) => {
	const source = {...local, 'f.py': 'def f(event): pass\n', 'requirements.txt': 'other\n-e libs/local'};
	await t.throwsAsync(fixture().runtime.deploy('twice', source), {
		code: 'InvalidRequirements',
		message: /^requirements\.txt, line 2: expected an archive of local instead of a folder.*; found "local==9\.0"$/,
	});
	t.false(
		fixture()
			.runtime.list()
			.some(({name}) => name === 'twice'),
	);
});

kernelTest(
	'a runtime that opens the state folder later has them; functions of before there were any have none',
	async (t) => {
		const stateDir = await temporaryFolder();
		const first = await makeRuntime(t, {stateDir});
		await first.runtime.deploy('kept', files);
		await first.runtime.deploy('old', {'f.py': 'def f(event): return "old"\n'});
		await first.runtime.close();
		const manifest = path.join(stateDir, 'functions', 'old', 'function.json');
		const {settings, ...rest} = JSON.parse(await readFile(manifest, 'utf8')) as {settings: Record<string, unknown>};
		t.deepEqual(settings.path, []);
		delete settings.path;
		await writeFile(manifest, JSON.stringify({...rest, settings}));
		const {runtime} = await makeRuntime(t, {stateDir});
		t.deepEqual(value(t, await runtime.invoke('kept', null)), found);
		t.is(value(t, await runtime.invoke('old', null)), 'old');
	},
);
