import {spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {mkdir, readdir, readFile, rm, stat, utimes, writeFile} from 'node:fs/promises';
import {createServer, type Socket} from 'node:net';
import {join} from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../../src/errors.ts';
import {findInstaller, type Installer} from '../../src/packages/installer.ts';
import {ownerPrefix} from '../../src/packages/owner.ts';
import {parseRequirements} from '../../src/packages/requirements.ts';
import {PackageStore} from '../../src/packages/store.ts';
import {findInterpreter} from '../../src/sandbox/interpreter.ts';

const fixtures = join(import.meta.dirname, 'fixtures');
// Offline: whatever is configured on this machine, only the fixture wheel is found.
Object.assign(process.env, {PIP_NO_INDEX: '1', PIP_FIND_LINKS: fixtures, UV_OFFLINE: '1', UV_FIND_LINKS: fixtures});
const interpreter = await findInterpreter('/usr/bin/python3');
const requirements = parseRequirements('forktree_fixture==1.0');

async function emptyDirectory(t: ExecutionContext): Promise<string> {
	const {path} = await temporaryDirectory({unsafeCleanup: true});
	t.teardown(() => rm(path, {recursive: true, force: true}));
	return path;
}

/** Counts its runs; writes nothing, then does what it is told. */
function fakeInstaller(then: (signal: AbortSignal | undefined) => Promise<void>): Installer & {runs: number} {
	const installer = {
		name: 'pip' as const,
		runs: 0,
		async install({signal}: {readonly signal?: AbortSignal | undefined}): Promise<void> {
			installer.runs += 1;
			await then(signal);
		},
	};
	return installer;
}

/** An index that accepts connections and never answers. */
async function silentIndex(t: ExecutionContext): Promise<{readonly url: string; readonly connected: Promise<Socket>}> {
	const server = createServer();
	const sockets: Socket[] = [];
	const connected = new Promise<Socket>((resolve) => {
		server.on('connection', (socket) => {
			sockets.push(socket.on('error', () => undefined));
			resolve(socket);
		});
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.teardown(() => {
		for (const socket of sockets) socket.destroy();
		server.close();
	});
	const address = server.address();
	if (address === null || typeof address === 'string') throw new Error('expected a port');
	return {url: `http://127.0.0.1:${address.port}/simple`, connected};
}

test('installs a wheel: modules, byte code, manifest; a second store finds it', async (t) => {
	const dir = join(await emptyDirectory(t), 'made', 'when', 'missing');
	const store = await PackageStore.open({dir, interpreter});
	t.deepEqual(await store.list(), []);
	const set = await store.install(requirements);
	t.regex(set.key, /^[0-9a-f]{32}$/);
	t.deepEqual(set.folders, [join(dir, set.key, 'site')]);
	t.deepEqual(set.distributions, [
		{
			name: 'forktree-fixture',
			version: '1.0',
			modules: ['forktree_fixture', 'forktree_fixture_native', 'forktree_fixture_single', 'forktree_fixture_stable'],
		},
	]);
	t.deepEqual(await readdir(dir), [set.key]);
	t.deepEqual((await readdir(join(dir, set.key))).sort(), ['forktree.json', 'requirements.txt', 'site']);
	const installer = fakeInstaller(async () => t.fail());
	const again = new PackageStore({dir, interpreter, installer});
	t.deepEqual(await again.install(parseRequirements('Forktree.Fixture == 1.0 # same')), set);
	t.deepEqual(await again.list(), [set]);
	t.is(installer.runs, 0);
});

test('byte code is of the unchecked-hash kind, and only for files that compile', async (t) => {
	const {folders} = await new PackageStore({dir: await emptyDirectory(t), interpreter}).install(requirements);
	const cached = join(folders[0] ?? '', 'forktree_fixture', '__pycache__');
	const file = `__init__.${interpreter.cacheTag}.pyc`;
	t.deepEqual(await readdir(cached), [file]);
	t.is((await readFile(join(cached, file))).readUInt32LE(4), 1);
	const script =
		'import sys; sys.path.insert(0, sys.argv[1]); import forktree_fixture as f; print(f.VALUE, f.__cached__)';
	const {stdout} = await execa(interpreter.executable, ['-I', '-S', '-c', script, folders[0] ?? '']);
	t.is(stdout, `42 ${join(cached, file)}`);
});

test.serial('everything is world-readable whatever the umask', async (t) => {
	const dir = await emptyDirectory(t);
	const before = process.umask(0o077);
	let path: string | undefined;
	try {
		path = join(dir, (await new PackageStore({dir, interpreter}).install(requirements)).key);
	} finally {
		process.umask(before);
	}
	const names = await readdir(path ?? '', {recursive: true});
	t.true(names.length > 15);
	for (const name of ['.', ...names]) {
		const stats = await stat(join(path ?? '', name));
		t.is(stats.mode & 0o7777, stats.isDirectory() ? 0o755 : (stats.mode & 0o755) | 0o444, name);
	}
});

test('no requirements are the empty set, which needs neither folder nor installer', async (t) => {
	const dir = join(await emptyDirectory(t), 'never made');
	const store = new PackageStore({dir, interpreter, installer: fakeInstaller(async () => t.fail())});
	t.deepEqual(await store.install(parseRequirements('# none')), {
		key: 'none',
		folders: [],
		distributions: [],
	});
	await t.throwsAsync(stat(dir), {code: 'ENOENT'});
});

test('a requirement that its marker rules out installs nothing', async (t) => {
	const store = new PackageStore({dir: await emptyDirectory(t), interpreter});
	const set = await store.install(parseRequirements('nothing-of-that-name; python_version < "3"'));
	t.deepEqual(set.distributions, []);
	t.is(set.folders.length, 1);
});

test('hashes are checked', async (t) => {
	const dir = await emptyDirectory(t);
	const store = new PackageStore({dir, interpreter});
	const wheel = await readFile(join(fixtures, 'forktree_fixture-1.0-py3-none-any.whl'));
	const hash = createHash('sha256').update(wheel).digest('hex');
	const wrong = parseRequirements(`forktree-fixture==1.0 --hash=sha256:${'0'.repeat(64)}`);
	const error = await t.throwsAsync(store.install(wrong), {code: 'InstallFailed'});
	t.regex(error?.message ?? '', /^could not install forktree-fixture==1\.0: .*hash/is);
	const set = await store.install(parseRequirements(`forktree-fixture==1.0 --hash=sha256:${hash}`));
	t.is(set.distributions.length, 1);
	t.not(set.key, (await store.install(requirements)).key);
});

test('what this store does not pass on is refused', async (t) => {
	const store = new PackageStore({
		dir: await emptyDirectory(t),
		interpreter,
		installer: fakeInstaller(async () => t.fail()),
	});
	for (const line of [
		'-i https://a.example',
		'--extra-index-url=https://a.example',
		'-f https://a.example',
		'--no-index',
		'--pre',
		'--no-binary=a',
	]) {
		await t.throwsAsync(
			store.install(parseRequirements(`${line}\na`)),
			{code: 'InstallFailed', message: /expected no/},
			line,
		);
	}
});

test('a requirement that does not exist is named, leaves nothing behind and is tried again', async (t) => {
	const dir = await emptyDirectory(t);
	const store = new PackageStore({dir, interpreter});
	const failing = parseRequirements('forktree-fixture\nno-such-package-forktree==9');
	for (const _ of [1, 2]) {
		const error = await t.throwsAsync(store.install(failing), {instanceOf: ForktreeError, code: 'InstallFailed'});
		t.regex(error?.message ?? '', /^could not install no-such-package-forktree==9: (pip|uv) ended with exit code 1\n/);
		t.regex(error?.message ?? '', /No matching distribution|no-such-package-forktree was not found/);
		t.deepEqual(await readdir(dir), []);
	}
});

test('concurrent installations of one set share one run', async (t) => {
	const installer = fakeInstaller(async () => undefined);
	const store = new PackageStore({dir: await emptyDirectory(t), interpreter, installer});
	const sets = await Promise.all([1, 2, 3].map(() => store.install(requirements)));
	t.is(installer.runs, 1);
	t.is(new Set(sets.map(({key}) => key)).size, 1);
});

test('of two stores that build one set, the second uses the folder of the first', async (t) => {
	const dir = await emptyDirectory(t);
	const first = new PackageStore({dir, interpreter, installer: fakeInstaller(async () => undefined)});
	const installer = fakeInstaller(async () => {
		await first.install(requirements);
		await writeFile(join(dir, (await readdir(dir)).find((name) => !name.startsWith('tmp-')) ?? '', 'of the first'), '');
	});
	const {key} = await new PackageStore({dir, interpreter, installer}).install(requirements);
	t.is(installer.runs, 1);
	t.true((await readdir(join(dir, key))).includes('of the first'));
	t.is((await readdir(dir)).length, 1);
});

test('the key depends on the interpreter', async (t) => {
	const dir = await emptyDirectory(t);
	const installer = fakeInstaller(async () => undefined);
	const keys = await Promise.all(
		[interpreter, {...interpreter, version: '3.12.1', cacheTag: 'cpython-312'}].map(
			async (other) => (await new PackageStore({dir, interpreter: other, installer}).install(requirements)).key,
		),
	);
	t.is(new Set(keys).size, 2);
});

test('a failure is not remembered', async (t) => {
	let fail = true;
	const installer = fakeInstaller(async () => {
		if (fail) throw new ForktreeError('InstallFailed', 'the index is down');
	});
	const store = new PackageStore({dir: await emptyDirectory(t), interpreter, installer});
	await t.throwsAsync(store.install(requirements), {code: 'InstallFailed'});
	fail = false;
	t.regex((await store.install(requirements)).key, /^[0-9a-f]{32}$/);
});

test('a folder without a valid manifest is neither listed nor used', async (t) => {
	const dir = await emptyDirectory(t);
	const installer = fakeInstaller(async () => undefined);
	const store = new PackageStore({dir, interpreter, installer});
	const {key} = await store.install(requirements);
	const bad = [
		'',
		'{',
		'null',
		'[]',
		JSON.stringify({format: 2, key, distributions: []}),
		JSON.stringify({format: 1, key: 'another', distributions: []}),
		JSON.stringify({format: 1, key, distributions: {}}),
		JSON.stringify({format: 1, key, distributions: [{name: 'a', version: '1'}]}),
		JSON.stringify({format: 1, key, distributions: [{name: 'a', version: '1', modules: [1]}]}),
	];
	for (const text of bad) {
		await writeFile(join(dir, key, 'forktree.json'), text);
		t.deepEqual(await store.list(), [], text);
	}
	await t.throwsAsync(store.install(requirements), {
		code: 'InstallFailed',
		message: /valid forktree\.json in .* remove/,
	});
	t.deepEqual(await readdir(dir), [key]);
});

test.serial('an installation of pip is aborted, ends its process and leaves nothing behind', async (t) => {
	const dir = await emptyDirectory(t);
	const {url, connected} = await silentIndex(t);
	const before = {...process.env};
	const installer = await findInstaller(interpreter);
	Object.assign(process.env, {PIP_INDEX_URL: url, UV_DEFAULT_INDEX: url, UV_OFFLINE: '0', NO_PROXY: '127.0.0.1'});
	delete process.env.PIP_NO_INDEX;
	t.teardown(() => Object.assign(process.env, before));
	const controller = new AbortController();
	const call = new PackageStore({dir, interpreter, installer}).install(requirements, {signal: controller.signal});
	const ended = t.throwsAsync(call, {instanceOf: ForktreeError, code: 'Aborted'});
	const closed = connected.then((socket) => once(socket.resume(), 'close'));
	await connected;
	t.is((await readdir(dir)).length, 1);
	controller.abort();
	await ended;
	await closed;
	t.deepEqual(await readdir(dir), []);
	await t.throwsAsync(new PackageStore({dir, interpreter}).install(requirements, {signal: AbortSignal.abort()}), {
		code: 'Aborted',
	});
});

test('a killed process leaves a temporary folder, takes its installer along and is swept up after', async (t) => {
	const dir = await emptyDirectory(t);
	const {url, connected} = await silentIndex(t);
	const {PIP_NO_INDEX: _, ...env} = process.env;
	const child = spawn(process.execPath, ['--import=tsx', join(fixtures, 'install.ts'), dir, 'forktree-fixture'], {
		env: {...env, PIP_INDEX_URL: url, UV_DEFAULT_INDEX: url, UV_OFFLINE: '0', NO_PROXY: '127.0.0.1'},
		stdio: 'ignore',
	});
	t.teardown(() => child.kill('SIGKILL'));
	const closed = connected.then((socket) => once(socket.resume(), 'close'));
	await connected;
	const [folder = '', ...others] = await readdir(dir);
	t.deepEqual(others, []);
	t.true(folder.startsWith(`tmp-${child.pid}-`), folder);

	await PackageStore.open({dir, interpreter});
	t.deepEqual(await readdir(dir), [folder], 'the owner still lives');

	const exited = once(child, 'exit');
	child.kill('SIGKILL');
	await exited;
	await closed;
	t.deepEqual(await readdir(dir), [folder]);
	t.deepEqual(await (await PackageStore.open({dir, interpreter})).list(), []);
	t.deepEqual(await readdir(dir), []);
});

test('sweeps folders of dead owners only', async (t) => {
	const dir = await emptyDirectory(t);
	const own = await ownerPrefix();
	const [, pid = '', start = '', namespace = '', boot = ''] = own.split('-');
	const old = new Date(Date.now() - 25 * 60 * 60_000);
	const kept = [`${own}aaaaaa`, `tmp-${pid}-${start}-1-${boot}-young`, 'tmp-other', 'mine', '0'.repeat(32)];
	const dead = [
		`tmp-${pid}-1-${namespace}-${boot}-reused`,
		`tmp-4194304-${start}-${namespace}-${boot}-gone`,
		`tmp-${pid}-${start}-${namespace}-00000000-rebooted`,
		`tmp-${pid}-${start}-1-${boot}-old`,
	];
	for (const name of [...kept, ...dead]) await mkdir(join(dir, name));
	await utimes(join(dir, `tmp-${pid}-${start}-1-${boot}-old`), old, old);
	await PackageStore.open({dir, interpreter});
	t.deepEqual((await readdir(dir)).sort(), kept.sort());
});
