import {type ChildProcess, execFile, spawn} from 'node:child_process';
import {once} from 'node:events';
import {readdirSync} from 'node:fs';
import {mkdir, readFile, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import {promisify} from 'node:util';
import type {ExecutionContext} from 'ava';
import {PackageStore} from '../../src/packages/package-store.ts';
import {kernelTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {fakeSteps, interpreter, lockOf} from './fake-steps.ts';
import type {ChildCommand} from './fixtures/store-child.ts';

const fixtures = path.join(import.meta.dirname, 'fixtures');

type Child = {
	readonly process: ChildProcess;
	readonly fetching: Promise<void>;
	/** What it has done. */
	readonly said: Promise<{log: string[]; changes: number}>;
};

function startChild(t: ExecutionContext, command: ChildCommand): Child {
	const child = spawn(
		process.execPath,
		['--import=tsx', path.join(fixtures, 'store-child.ts'), JSON.stringify(command)],
		{stdio: ['ignore', 'pipe', 'inherit']},
	);
	t.teardown(() => child.kill('SIGKILL'));
	const lines = createInterface(child.stdout);
	const first = (isIt: (line: string) => boolean): Promise<string> =>
		new Promise((resolve) => lines.on('line', (line) => isIt(line) && resolve(line)));
	return {
		process: child,
		fetching: first((line) => line === 'fetching').then(() => undefined),
		said: first((line) => line.startsWith('{')).then((line) => JSON.parse(line)),
	};
}

async function folder(t: ExecutionContext): Promise<string> {
	const made = await temporaryFolder();
	t.teardown(() => rm(made, {recursive: true, force: true}));
	return made;
}

/** Fails unless a store is as one that nothing has happened to, apart from whole packages. */
async function checkSound(t: ExecutionContext, dir: string, label: string): Promise<PackageStore> {
	const store = await PackageStore.open({dir, interpreter, steps: fakeSteps()});
	const {damaged, foreign, checked} = await store.verify();
	t.deepEqual({damaged, foreign}, {damaged: [], foreign: []}, label);
	t.is((await store.list()).length, checked, label);
	for (const name of ['scratch', 'quarantine', 'users']) t.deepEqual(readdirSync(path.join(dir, name)), [], label);
	const [abi = ''] = readdirSync(dir).filter((name) => name.startsWith('cpython'));
	for (const version of readdirSync(path.join(dir, abi))) {
		t.not(readdirSync(path.join(dir, abi, version)).length, 0, label);
	}
	return store;
}

serialKernelTest('a process that is killed before any of its changes leaves a sound store', async (t) => {
	t.timeout(10 * 60_000);
	const home = await folder(t);
	const distributions = ['a==1.0 sdist'];
	const whole = await startChild(t, {dir: path.join(home, 'whole'), distributions, killAt: 1e6}).said;
	t.true(whole.changes > 30, String(whole.changes));
	const counts = {none: 0, whole: 0};
	const kill = async (killAt: number): Promise<void> => {
		const dir = path.join(home, String(killAt));
		const child = startChild(t, {dir, distributions, killAt});
		await once(child.process, 'exit');
		t.is(child.process.signalCode, 'SIGKILL', String(killAt));
		const store = await checkSound(t, dir, String(killAt));
		const before = await store.list();
		counts[before.length === 0 ? 'none' : 'whole'] += 1;
		t.is((await store.install(lockOf(...distributions))).folders.length, 1);
		await checkSound(t, dir, `${killAt}, again`);
	};
	const numbers = Array.from({length: whole.changes}, (_, index) => index + 1).values();
	const work = async (): Promise<void> => {
		for (const number of numbers) await kill(number);
	};
	await Promise.all([work(), work(), work()]);
	t.true(counts.none > 20 && counts.whole > 0, JSON.stringify(counts));
});

kernelTest(
	'whatever change fails for lack of room: a typed error, the store as before, and the next time it works',
	async (t) => {
		t.timeout(5 * 60_000);
		const script = path.join(fixtures, 'store-faults.ts');
		const {stdout} = await promisify(execFile)(process.execPath, ['--import=tsx', script, await folder(t)]);
		const {total, wrong} = JSON.parse(stdout) as {total: number; wrong: string[]};
		t.true(total > 20, String(total));
		t.deepEqual(wrong, []);
	},
);

kernelTest('a full file system: a typed error, nothing left, and with room it works', async (t) => {
	const home = await folder(t);
	// In a mount namespace of its own, so that no mount of ours is seen or left.
	const script = `mount -t tmpfs -o size=160k none ${home} && exec "$@"`;
	const code = `
		import {readdirSync, rmSync, writeFileSync} from 'node:fs';
		import {PackageStore} from '${path.join(import.meta.dirname, '../../src/packages/package-store.ts')}';
		import {fakeSteps, interpreter, lockOf} from '${path.join(import.meta.dirname, 'fake-steps.ts')}';
		const store = await PackageStore.open({dir: '${home}/store', interpreter, steps: fakeSteps()});
		const before = readdirSync('${home}/store', {recursive: true}).join();
		let size = 0;
		try {
			for (;;) writeFileSync('${home}/filler' + size++, Buffer.alloc(4096));
		} catch {}
		rmSync('${home}/filler0');
		const error = await store.install(lockOf('a==1.0')).catch((error) => error);
		console.log(error.code, error.message.replace(/,.*/, ''), /ENOSPC/.test(error.message));
		rmSync('${home}/store/archives', {recursive: true});
		console.log(readdirSync('${home}/store', {recursive: true}).join() === before.replace('archives,', ''));
		for (let index = 1; index < size - 1; index++) rmSync('${home}/filler' + index);
		const again = await PackageStore.open({dir: '${home}/store', interpreter, steps: fakeSteps()});
		console.log((await again.install(lockOf('a==1.0'))).folders.length);
	`;
	const file = path.join(await folder(t), 'full.mts');
	await writeFile(file, code);
	const args = ['--mount', 'sh', '-c', script, 'sh', process.execPath, '--import=tsx', file];
	const {stdout} = await promisify(execFile)('unshare', args, {cwd: path.join(import.meta.dirname, '../..')});
	t.is(stdout, 'InstallFailed could not install a 1.0 true\ntrue\n1\n');
});

kernelTest('processes that install at once: each package is downloaded and unpacked once', async (t) => {
	const dir = await folder(t);
	const lists = [['a==1.0', 'b==1.0'], ['a==1.0', 'b==1.0', 'c==1.0'], ['b==1.0', 'd==1.0 sdist'], ['d==1.0 sdist']];
	const children = lists.map((distributions) => startChild(t, {dir, distributions, fetchMs: 300}));
	const logs = await Promise.all(children.map(async ({said}) => (await said).log));
	t.deepEqual(logs.flat().sort(), [
		'build d',
		'fetch a-1.0-py3-none-any.whl',
		'fetch b-1.0-py3-none-any.whl',
		'fetch c-1.0-py3-none-any.whl',
		'fetch d-1.0.tar.gz',
		'unpack a',
		'unpack b',
		'unpack c',
		'unpack d',
	]);
	const store = await checkSound(t, dir, 'after');
	t.deepEqual(
		(await store.list()).map(({name}) => name),
		['a', 'b', 'c', 'd'],
	);
	t.deepEqual(readdirSync(path.join(dir, 'locks')), []);
});

kernelTest('waiting for another process can be aborted, and goes on when that one is killed', async (t) => {
	const dir = await folder(t);
	const other = startChild(t, {dir, distributions: ['a==1.0'], fetchMs: 600_000});
	await other.fetching;
	const steps = fakeSteps();
	const store = await PackageStore.open({dir, interpreter, steps});
	t.is(readdirSync(path.join(dir, 'scratch')).length, 1, 'what a live process does is left alone');
	const controller = new AbortController();
	const aborted = t.throwsAsync(store.install(lockOf('a==1.0'), {signal: controller.signal}), {code: 'Aborted'});
	const patient = store.install(lockOf('a==1.0', 'b==1.0'));
	setTimeout(() => controller.abort(), 100);
	await aborted;
	t.false(steps.log.some((each) => each.endsWith(' a')));
	const alone = store.install(lockOf('a==1.0'), {signal: AbortSignal.timeout(200)});
	await t.throwsAsync(alone, {code: 'Aborted'});
	other.process.kill('SIGKILL');
	t.is((await patient).folders.length, 2);
	await checkSound(t, dir, 'after');
});

kernelTest('what another process holds is not removed until it is dead', async (t) => {
	const dir = await folder(t);
	const holder = startChild(t, {dir, distributions: ['a==1.0'], hold: true});
	await holder.said;
	const store = await PackageStore.open({dir, interpreter, steps: fakeSteps()});
	await store.install(lockOf('b==1.0'));
	const names = async () => (await store.list()).map(({name}) => name);
	t.deepEqual(
		(await store.gc({maxBytes: 0})).removed.map(({name}) => name),
		['b'],
	);
	t.deepEqual(await names(), ['a']);
	const exited = once(holder.process, 'exit');
	holder.process.kill('SIGKILL');
	await exited;
	t.deepEqual(
		(await store.gc({maxBytes: 0})).removed.map(({name}) => name),
		['a'],
	);
	t.deepEqual(await names(), []);
	await checkSound(t, dir, 'after');
});

kernelTest('a damaged package that another process holds is replaced beneath it, or else marked', async (t) => {
	const dir = await folder(t);
	const holder = startChild(t, {dir, distributions: ['a==1.0'], hold: true});
	await holder.said;
	const store = await PackageStore.open({dir, interpreter, steps: fakeSteps()});
	const [{folder: files, id} = {folder: '', id: undefined}] = await store.list();
	const module = path.join(files, 'a', '__init__.py');
	const whole = await readFile(module, 'utf8');
	await writeFile(module, 'damaged');
	const {damaged} = await store.verify();
	t.deepEqual(
		damaged.map((each) => [each.id, each.remedy]),
		[[id, 'reinstalled']],
	);
	t.is(await readFile(module, 'utf8'), whole);
	t.is(readdirSync(path.join(dir, 'quarantine')).length, 1);
	t.true((await store.gc({maxBytes: 0})).sizeBytes > 0);
	t.is(readdirSync(path.join(dir, 'quarantine')).length, 1, 'the holder may have mounted it before');

	await rm(path.join(dir, 'archives'), {recursive: true});
	await mkdir(path.join(dir, 'archives'));
	await writeFile(module, 'damaged');
	const offline = await PackageStore.open({dir, interpreter, steps: fakeSteps(), offline: true});
	const second = await offline.verify();
	t.deepEqual(
		second.damaged.map((each) => [each.remedy, each.error?.code]),
		[['marked', 'Offline']],
	);
	t.is(await readFile(module, 'utf8'), 'damaged', 'the holder still has it');
	await t.throwsAsync(offline.install(lockOf('a==1.0')), {code: 'Offline'});
	await store.install(lockOf('a==1.0'));
	t.is(await readFile(module, 'utf8'), whole, 'nobody else gets it');
	const exited = once(holder.process, 'exit');
	holder.process.kill('SIGKILL');
	await exited;
	t.is((await store.gc({maxBytes: 0})).sizeBytes, 0);
	await checkSound(t, dir, 'after');
});
