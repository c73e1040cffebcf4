import {execFileSync} from 'node:child_process';
import {mkdir, readdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {createRuntime, type DeployOptions, type DeploySource, type ErrorCode, ForktreeError} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {failure, python, temporaryFolder, useRuntime, value} from '../helpers/runtime.ts';

const fixture = useRuntime();
const code = 'def f(event):\n\treturn event\n';

/** Without what resolvers keep for themselves. */
async function listing(): Promise<string[]> {
	const all = await readdir(fixture().stateDir, {recursive: true});
	return all.filter((name) => !name.startsWith('packages/cache/')).sort();
}

type Refused = {
	readonly code?: ErrorCode;
	readonly instanceOf?: typeof TypeError | typeof RangeError;
	readonly message?: RegExp;
};

/** Deploying is refused, and leaves folder, list and the function of that name as they were. */
async function refused(
	t: ExecutionContext,
	source: DeploySource,
	expected: Refused,
	options?: DeployOptions,
): Promise<void> {
	const {runtime} = fixture();
	const [before, listed] = [await listing(), runtime.list()];
	const {code: errorCode, ...rest} = expected;
	const error = await t.throwsAsync(
		() => runtime.deploy('kept', source, options),
		errorCode === undefined ? rest : {...expected},
	);
	if (errorCode !== undefined) t.true(error instanceof ForktreeError);
	t.deepEqual(await listing(), before);
	t.deepEqual(runtime.list(), listed);
	t.is(value(t, await runtime.invoke('kept', 'kept')), 'kept');
}

test.serial.before(async () => {
	await fixture().runtime.deploy('kept', {'f.py': code});
});

kernelTest('code without an entry file is EntryFileMissing', async (t) => {
	await refused(t, {'g.py': code}, {code: 'EntryFileMissing', message: /f\.py/});
	await refused(
		t,
		{'f.py': code},
		{code: 'EntryFileMissing', message: /other\.py/},
		{env: {OL_ENTRY_FILE: 'other.py'}},
	);
	await refused(t, {'f.py': code, 'ol.yaml': 'environment: {OL_ENTRY_FILE: missing.py}'}, {code: 'EntryFileMissing'});
});

kernelTest('code that does not compile is InvalidSyntax with file and line', async (t) => {
	await refused(t, {'f.py': 'x = 1\n\ndef f(event:\n'}, {code: 'InvalidSyntax', message: /^f\.py:3: /});
	const nested = {'f.py': code, 'lib/__init__.py': '', 'lib/broken.py': '\n\n\n  1x\n'};
	await refused(t, nested, {code: 'InvalidSyntax', message: /^lib\/broken\.py:4: /});
	await refused(t, {'f.py': 'x = "\0"\n'}, {code: 'InvalidSyntax', message: /^f\.py/});
	await refused(t, {'f.py': Buffer.from('x = "\xff"\n', 'latin1')}, {code: 'InvalidSyntax', message: /^f\.py/});
	await refused(t, {'f.py': `x = ${'('.repeat(100_000)}\n`}, {code: 'InvalidSyntax', message: /^f\.py/});
	await refused(t, {'f.py': `x = ${'-'.repeat(500_000)}1\n`}, {code: 'InvalidSyntax'});
});

kernelTest('a name that could lead elsewhere is InvalidName', async (t) => {
	const before = await listing();
	for (const name of ['a/b', '..', '.', '', '-a', 'a..b', 'a\0', 'x'.repeat(129), 'ä']) {
		await t.throwsAsync(() => fixture().runtime.deploy(name, {'f.py': code}), {code: 'InvalidName'}, name);
	}
	await t.throwsAsync(() => fixture().runtime.deploy(5 as never, {'f.py': code}), {code: 'InvalidName'});
	t.deepEqual(await listing(), before);
});

kernelTest('a requirement that does not exist is NoMatchingDistribution with the resolver’s words', async (t) => {
	const requirements = ['forktree-package-that-nobody-made==1.0'];
	const expected = {code: 'NoMatchingDistribution', message: /forktree-package-that-nobody-made/} as const;
	await refused(t, {'f.py': code}, expected, {requirements});
	await refused(t, {'f.py': code, 'requirements.txt': requirements.join('\n')}, expected);
	await refused(t, {'f.py': code}, {code: 'InvalidRequirements'}, {requirements: ['--trusted-host=elsewhere']});
});

kernelTest('an archive that leads outside is UnsafeArchive', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	await mkdir(path.join(folder, 'in'));
	await writeFile(path.join(folder, 'in', 'f.py'), code);
	const archive = path.join(folder, 'code.tar.gz');
	execFileSync('tar', ['-czf', archive, '-C', path.join(folder, 'in'), '--transform=s,^f.py,../f.py,', '-P', 'f.py']);
	await refused(t, archive, {code: 'UnsafeArchive', message: /"\.\./});
	execFileSync('ln', ['-s', '/etc/passwd', path.join(folder, 'in', 'link')]);
	execFileSync('tar', ['-czf', archive, '-C', path.join(folder, 'in'), '.']);
	await refused(t, archive, {code: 'UnsafeArchive', message: /link/});
	await writeFile(archive, 'not an archive');
	await refused(t, archive, {code: 'InvalidSource'});
	await refused(t, path.join(folder, 'nowhere'), {code: 'InvalidSource'});
});

kernelTest('an ol.yaml that is not understood is InvalidConfig', async (t) => {
	await refused(t, {'f.py': code, 'ol.yaml': 'limits: {memory: 5}'}, {code: 'InvalidConfig', message: /memory/});
	await refused(t, {'f.py': code, 'ol.yaml': '{'}, {code: 'InvalidConfig'});
});

kernelTest(
	'options of the wrong type are TypeError, of the wrong range RangeError; both name the option',
	async (t) => {
		const source = {'f.py': code};
		const cases: ReadonlyArray<readonly [unknown, typeof TypeError | typeof RangeError, RegExp]> = [
			[{limit: {}}, TypeError, /"limit"/],
			[{limits: {memoryMb: '5'}}, TypeError, /limits\.memoryMb/],
			[{limits: {memoryMb: 0}}, RangeError, /limits\.memoryMb/],
			[{limits: {memoryMb: Number.NaN}}, RangeError, /limits\.memoryMb/],
			[{limits: {memoryMb: Number.POSITIVE_INFINITY}}, RangeError, /limits\.memoryMb/],
			[{limits: {processes: 1.5}}, RangeError, /limits\.processes/],
			[{limits: {timeoutMs: 2 ** 31}}, RangeError, /limits\.timeoutMs/],
			[{limits: {ram: 1}}, TypeError, /ram/],
			[{limits: []}, TypeError, /limits/],
			[{limits: null}, TypeError, /limits/],
			[{env: {'A=B': 'x'}}, RangeError, /env/],
			[{env: {A: 'x\0'}}, RangeError, /env\.A/],
			[{env: {A: {}}}, TypeError, /env\.A/],
			[{env: 'A=B'}, TypeError, /env/],
			[{env: null}, TypeError, /env/],
			[{env: {OL_ENTRY_FILE: '../f.py'}}, RangeError, /env\.OL_ENTRY_FILE/],
			[{concurrency: 0}, RangeError, /concurrency/],
			[{concurrency: '1'}, TypeError, /concurrency/],
			[{reuse: 1}, TypeError, /reuse/],
			[{zygote: 'no'}, TypeError, /zygote/],
			[{requirements: 'numpy'}, TypeError, /requirements/],
			[{requirements: [1]}, TypeError, /requirements/],
		];
		for (const [options, instanceOf, message] of cases) {
			await refused(t, source, {instanceOf, message}, options as DeployOptions);
		}
	},
);

kernelTest('a limit that no machine has room for is refused with the option’s name', async (t) => {
	const name = await fixture().deploy({'f.py': code}, {limits: {memoryMb: 2 ** 40}});
	await t.throwsAsync(() => fixture().runtime.invoke(name, 1), {instanceOf: RangeError, message: /memoryBudgetMb/});
});

kernelTest('extreme limits are an outcome, not a hang', async (t) => {
	// So little that even telling about it can fail: then it is the start that was refused.
	const tiny = await fixture()
		.run(code, 1, {limits: {memoryMb: 0.1}})
		.then(
			(outcome) => failure(t, outcome).code,
			(error: ForktreeError) => error.code,
		);
	t.true(['OutOfMemory', 'StartFailed', 'ZygoteFailed'].includes(tiny), tiny);
	const slow = await fixture().run(code, 1, {limits: {cpuPercent: 0.001}});
	if (!slow.ok) t.is(slow.error.code, 'StartFailed');
	const files = await fixture().run(code, 1, {limits: {openFiles: 1}});
	if (!files.ok)
		t.true(
			['ImportFailed', 'HandlerError', 'StartFailed', 'ProtocolError', 'Exited'].includes(files.error.code),
			files.error.code,
		);
	for (const limits of [
		{openFiles: 2 ** 31},
		{scratchMb: 2 ** 40},
		{cpuPercent: 1e9},
		{processes: 2 ** 40},
		{processes: 1},
	]) {
		const outcome = await fixture().run(code, 1, {limits});
		if (!outcome.ok) t.is(outcome.error.code, 'StartFailed', JSON.stringify(limits));
	}
});

kernelTest('options of createRuntime are checked', async (t) => {
	const cases: ReadonlyArray<readonly [unknown, typeof TypeError | typeof RangeError, RegExp]> = [
		[{statedir: '/tmp'}, TypeError, /"statedir"/],
		[{stateDir: ''}, TypeError, /stateDir/],
		[{stateDir: 5}, TypeError, /stateDir/],
		[{packagesDir: false}, TypeError, /packagesDir/],
		[{python: []}, TypeError, /python/],
		[{memoryBudgetMb: '1'}, TypeError, /memoryBudgetMb/],
		[{memoryBudgetMb: 0}, RangeError, /memoryBudgetMb/],
		[{memoryBudgetMb: Number.NaN}, RangeError, /memoryBudgetMb/],
	];
	for (const [options, instanceOf, message] of cases) {
		await t.throwsAsync(() => createRuntime(options as never), {instanceOf, message});
	}
});

kernelTest('an interpreter that is none is PythonNotFound, and no state folder is made', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	for (const wrong of [path.join(folder, 'nowhere'), '/bin/false', '/bin/echo', '/']) {
		const stateDir = path.join(folder, 'state');
		await t.throwsAsync(() => createRuntime({python: wrong, stateDir}), {code: 'PythonNotFound'}, wrong);
		t.deepEqual(await readdir(folder), []);
	}
});

kernelTest('a state folder that can’t be one is refused', async (t) => {
	await t.throwsAsync(() => createRuntime({python, stateDir: '/etc/passwd/state'}), {code: 'ENOTDIR'});
	await t.throwsAsync(() => createRuntime({python, stateDir: path.join(fixture().stateDir, 'packages', '..')}), {
		code: 'StateDirInUse',
		message: new RegExp(`process ${process.pid} owns`),
	});
});

kernelTest('a folder, an archive, a single file and an object deploy the same', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	await mkdir(path.join(folder, 'in'));
	await writeFile(path.join(folder, 'in', 'f.py'), code);
	await writeFile(path.join(folder, 'single.py'), code);
	execFileSync('tar', ['-czf', path.join(folder, 'code.tar.gz'), '-C', path.join(folder, 'in'), '.']);
	const {runtime} = fixture();
	const versions = new Set<string>();
	for (const source of [
		path.join(folder, 'in'),
		path.join(folder, 'code.tar.gz'),
		path.join(folder, 'single.py'),
		{'f.py': code},
	]) {
		versions.add((await runtime.deploy('same', source)).version);
		t.is(value(t, await runtime.invoke('same', 1)), 1);
	}
	t.is(versions.size, 1);
});

kernelTest('a handler finds its modules, its files and its environment', async (t) => {
	const source = {
		'lib/handler.py':
			"import os, open_me\nfrom pkg import part\ndef f(event):\n\treturn [open_me.A, part.B, open('data.txt').read(), os.environ['ONE'], os.environ['TWO'], os.getcwd()]\n",
		'open_me.py': 'A = 1\n',
		'pkg/part.py': 'B = 2\n',
		'data.txt': 'data',
		'ol.yaml': 'environment: {OL_ENTRY_FILE: lib/handler.py, ONE: 1.10, TWO: yaml}',
	};
	t.deepEqual(value(t, await fixture().run(source, null, {env: {TWO: 'option'}})), [
		1,
		2,
		'data',
		'1.10',
		'option',
		'/handler',
	]);
});

kernelTest('deploys and removals of one name at once happen one after the other', async (t) => {
	const {runtime} = fixture();
	const source = (n: number) => ({'f.py': `def f(event):\n\treturn ${n}\n`});
	await Promise.all([1, 2, 3, 4].map((n) => runtime.deploy('raced', source(n))));
	t.is(value(t, await runtime.invoke('raced', null)), 4);
	const results = await Promise.allSettled([runtime.remove('raced'), runtime.deploy('raced', source(5))]);
	t.deepEqual(
		results.map(({status}) => status),
		['fulfilled', 'fulfilled'],
	);
	t.is(value(t, await runtime.invoke('raced', null)), 5);
	await runtime.remove('raced');
	t.false((await readdir(path.join(fixture().stateDir, 'functions'))).includes('raced'));
	await t.throwsAsync(() => runtime.invoke('raced', null), {code: 'UnknownFunction'});
});

kernelTest('sandboxes that end before a busy host has looked are understood', async (t) => {
	const {runtime} = fixture();
	// Their birth, their answer and their end then wait for the host at the same time, in any order.
	const pause = new Int32Array(new SharedArrayBuffer(4));
	let busy = true;
	const block = () => {
		Atomics.wait(pause, 0, 0, 15);
		if (busy) setImmediate(block);
	};
	block();
	try {
		for (let turn = 0; turn < 6; turn += 1) await runtime.deploy('busy', {'f.py': `${code}# ${turn}\n`});
		for (let turn = 0; turn < 3; turn += 1) {
			const name = await fixture().deploy('import os\nos._exit(8)\n');
			t.like(failure(t, await runtime.invoke(name, null)), {code: 'Exited', exitStatus: 8});
		}
		const refused = await fixture().deploy(code, {limits: {openFiles: 2 ** 31}});
		for (let turn = 0; turn < 3; turn += 1) {
			const error = failure(t, await runtime.invoke(refused, null));
			t.is(error.code, 'StartFailed');
			t.regex(error.message, /^set limits: /);
		}
	} finally {
		busy = false;
	}
});

kernelTest('what could be deployed is looked at, and nothing is deployed', async (t) => {
	const {runtime} = fixture();
	const before = await listing();
	const source = {
		'f.py': 'raise SystemExit',
		'ol.yaml': 'reuse-sandbox: false\nenvironment: {A: b}\nlimits: {memoryMb: 64}\n',
	};
	const {digest, ...rest} = await runtime.inspect(source);
	t.regex(digest, /^[0-9a-f]{64}$/);
	t.deepEqual(rest, {
		environment: {A: 'b'},
		triggers: {http: ['*'], cron: [], kafka: []},
		reuse: false,
		limits: {memoryMb: 64},
	});
	t.is((await runtime.inspect({'f.py': ''})).reuse, true);
	await t.throwsAsync(runtime.inspect({'g.py': ''}), {code: 'EntryFileMissing'});
	await t.throwsAsync(runtime.inspect({'f.py': '', 'ol.yaml': 'limits: 5'}), {code: 'InvalidConfig'});
	t.false(runtime.list().some(({environment}) => environment.A === 'b'));
	t.deepEqual(await listing(), before);
});

kernelTest('a function is described by its name', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(code);
	t.deepEqual(
		runtime.describe(name),
		runtime.list().find((each) => each.name === name),
	);
	t.throws(() => runtime.describe('nowhere'), {code: 'UnknownFunction'});
});

kernelTest(
	'without restoring them, functions of an earlier runtime are there to be deployed again, or removed',
	async (t) => {
		const stateDir = await temporaryFolder();
		t.teardown(() => rm(stateDir, {recursive: true, force: true}));
		const homes = path.join(stateDir, 'functions');
		const first = await createRuntime({stateDir, python});
		for (const name of ['again', 'gone', 'kept']) await first.deploy(name, {'f.py': code});
		await first.close();
		const second = await createRuntime({stateDir, python, restore: false});
		t.deepEqual(second.list(), []);
		t.deepEqual(second.dormant().sort(), ['again', 'gone', 'kept']);
		await t.throwsAsync(second.invoke('again', 1), {code: 'UnknownFunction'});
		await second.deploy('again', {'f.py': code});
		t.is(value(t, await second.invoke('again', 1)), 1);
		t.is((await readdir(path.join(homes, 'again'))).length, 2, 'one version, and what is known of it');
		await second.remove('gone');
		await t.throwsAsync(second.remove('gone'), {code: 'UnknownFunction'});
		t.deepEqual(second.dormant(), ['kept']);
		await second.close();
		t.deepEqual((await readdir(homes)).sort(), ['again', 'kept']);
		const third = await createRuntime({stateDir, python});
		t.teardown(() => third.close());
		t.deepEqual(third.dormant(), []);
		t.is(value(t, await third.invoke('kept', 2)), 2);
	},
);
