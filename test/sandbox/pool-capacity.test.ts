import {spawnSync} from 'node:child_process';
import {mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {PassThrough} from 'node:stream';
import type {ExecutionContext} from 'ava';
import {
	createSandboxPool,
	type EvictionCandidate,
	type Sandbox,
	SandboxDeadError,
	type SandboxPool,
} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {checkLeaks, makePool, startReady, waitMs, within} from '../helpers/pool.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

checkLeaks();

/** A pool in which that many sandboxes fit. */
const roomFor = (sandboxes: number, whenFull: 'wait' | 'reject' | 'evict') => ({
	memoryBudgetMb: 32 * sandboxes,
	whenFull,
	defaults: {limits: {memoryMb: 32, timeoutMs: 60_000}},
});

const create = async (pool: SandboxPool) => within(pool.create(), 'a sandbox');

async function settled(promise: Promise<unknown>): Promise<boolean> {
	let is = false;
	const note = () => {
		is = true;
	};
	promise.then(note, note);
	await new Promise((resolve) => setImmediate(resolve));
	return is;
}

async function startWaiting(sandbox: Sandbox): Promise<{end(): Promise<void>}> {
	const input = new PassThrough();
	const {result} = await startReady(sandbox, 'echo ready; read line', {stdin: input});
	return {
		async end() {
			input.end('\n');
			await within(result, 'its end');
		},
	};
}

async function isAlive(t: ExecutionContext, sandbox: Sandbox): Promise<void> {
	t.is((await within(sandbox.exec(['true']), 'its end')).exitCode, 0);
}

kernelTest('wait: what does not fit comes in fair order when there is room', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'wait'));
	const first = await create(pool);
	const order: number[] = [];
	const others = [1, 2, 3].map(async (number) => {
		const sandbox = await pool.create();
		order.push(number);
		await sandbox.destroy();
	});
	t.false(await settled(Promise.race(others)));
	t.deepEqual(pool.stats().memory, {budgetMb: 32, reservedMb: 32, waiting: 3});
	await first.destroy();
	await within(Promise.all(others), 'all of them');
	t.deepEqual(order, [1, 2, 3]);
	t.deepEqual(pool.stats().memory, {budgetMb: 32, reservedMb: 0, waiting: 0});
});

kernelTest('wait: after waitMs it is BudgetExceeded', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'wait'));
	const first = await create(pool);
	await t.throwsAsync(within(pool.create({waitMs: 30}), 'a refusal'), {
		code: 'BudgetExceeded',
		message: '32 MiB of the budget of 32 MiB did not become free within 30 ms',
	});
	await isAlive(t, first);
	await t.throwsAsync(pool.create({limits: {memoryMb: 33}}), {instanceOf: RangeError, message: /memoryBudgetMb/});
});

kernelTest('reject: what does not fit is Capacity at once', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'reject'));
	const first = await create(pool);
	await t.throwsAsync(within(pool.create(), 'a refusal'), {
		code: 'Capacity',
		message: '32 MiB do not fit: 32 of 32 MiB are taken',
	});
	await first.destroy();
	await isAlive(t, await create(pool));
});

kernelTest('evict: an idle one goes, the one used longest ago, and those that run stay', async (t) => {
	const {pool} = await makePool(t, roomFor(3, 'evict'));
	const [busy, old, recent] = [await create(pool), await create(pool), await create(pool)];
	const run = await startWaiting(busy);
	await isAlive(t, old);
	await isAlive(t, recent);
	const reasons: string[] = [];
	pool.on('destroyed', (id, {reason}) => reasons.push(`${id} ${reason}`));
	await isAlive(t, await create(pool));
	t.deepEqual(reasons, [`${old.id} it was evicted to make room`]);
	await t.throwsAsync(old.exec(['true']), {instanceOf: SandboxDeadError, message: /evicted to make room/});
	await isAlive(t, recent);
	await run.end();
});

kernelTest('evict: a paused one goes before one that is not', async (t) => {
	const {pool} = await makePool(t, roomFor(2, 'evict'));
	const [old, paused] = [await create(pool), await create(pool)];
	await isAlive(t, old);
	await isAlive(t, paused);
	await paused.pause();
	await create(pool);
	await isAlive(t, old);
	await t.throwsAsync(paused.exec(['true']), {instanceOf: SandboxDeadError});
});

kernelTest('evict: as many go as are needed, for several at once as well', async (t) => {
	const {pool} = await makePool(t, roomFor(3, 'evict'));
	const idle = [await create(pool), await create(pool), await create(pool)];
	const made = await Promise.all([create(pool), create(pool)]);
	t.deepEqual([...pool.list().keys()].sort(), [idle[2], ...made].map((each) => (each as Sandbox).id).sort());
});

kernelTest('evict: a policy of one’s own sees every sandbox, and may end what runs', async (t) => {
	const seen: EvictionCandidate[][] = [];
	const evictionPolicy = (candidates: readonly EvictionCandidate[]) => {
		seen.push([...candidates]);
		return candidates.find(({isIdle}) => !isIdle)?.id;
	};
	const {pool} = await makePool(t, {...roomFor(2, 'evict'), evictionPolicy});
	const [busy, idle] = [await create(pool), await create(pool)];
	const {result} = await startReady(busy, 'echo ready; exec sleep 600');
	await create(pool);
	t.like((await result).error, {code: 'Evicted', sandbox: busy.id, phase: 'run'});
	const [candidates = []] = seen;
	t.deepEqual(
		candidates.map(({id, isIdle, isPaused, reservedMb}) => [id, isIdle, isPaused, reservedMb]),
		[
			[busy.id, false, false, busy.reservedMb],
			[idle.id, true, false, idle.reservedMb],
		],
	);
	await isAlive(t, idle);
	await t.throwsAsync(createSandboxPool({evictionPolicy: 'none' as never}), {message: /^evictionPolicy: /});
});

kernelTest('evict: when all are busy, the first that is idle goes', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'evict'));
	const first = await create(pool);
	const run = await startWaiting(first);
	const second = create(pool);
	t.false(await settled(second));
	await run.end();
	await isAlive(t, await second);
	await t.throwsAsync(first.exec(['true']), {instanceOf: SandboxDeadError});
});

kernelTest('evict: whoever goes on at once keeps its sandbox', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'evict'));
	const first = await create(pool);
	const run = await startWaiting(first);
	const second = create(pool);
	const ended = run.end();
	await ended;
	await isAlive(t, first);
	await isAlive(t, first);
	await isAlive(t, await second);
});

kernelTest('evict: a sandbox that is to be resumed does not go to make room for itself', async (t) => {
	const {pool} = await makePool(t, roomFor(2, 'evict'));
	const [paused, other] = [await create(pool), await create(pool)];
	await paused.pause();
	const filler = await within(pool.create({limits: {memoryMb: 8}}), 'a sandbox');
	await isAlive(t, filler);
	await isAlive(t, paused);
	await t.throwsAsync(other.exec(['true']), {instanceOf: SandboxDeadError});
});

kernelTest('a run in a sandbox that is taken away is Evicted', async (t) => {
	const {pool} = await makePool(t);
	const sandbox = await create(pool);
	const {result} = await startReady(sandbox, 'echo ready; exec sleep 600');
	await sandbox.evict();
	t.like((await within(result, 'its end')).error, {code: 'Evicted', phase: 'run', sandbox: sandbox.id});
});

kernelTest('paused sandboxes make room for others, and wait for it to be resumed', async (t) => {
	const {pool} = await makePool(t, roomFor(2, 'wait'));
	const [one, two] = [await create(pool), await create(pool)];
	await one.pause();
	await two.pause();
	const third = await create(pool);
	const resumed = Promise.all([one.resume(), two.resume()]);
	t.false(await settled(resumed));
	await third.destroy();
	await within(resumed, 'both of them');
	t.is(pool.stats().memory.reservedMb, 64);
	await Promise.all([one.destroy(), two.destroy()]);
	t.is(pool.stats().memory.reservedMb, 0);
});

kernelTest('a sandbox that is destroyed while it waits to be resumed leaves the queue', async (t) => {
	const {pool} = await makePool(t, roomFor(2, 'wait'));
	const [one, two] = [await create(pool), await create(pool)];
	await one.pause();
	const filler = await within(pool.create({limits: {memoryMb: 8}}), 'a sandbox');
	const resumed = one.resume();
	t.false(await settled(resumed));
	const small = pool.create({limits: {memoryMb: 8}});
	t.false(await settled(small));
	t.is(pool.stats().memory.waiting, 2);
	await one.destroy();
	await t.throwsAsync(within(resumed, 'its end'), {instanceOf: SandboxDeadError});
	await within(small, 'the one behind it');
	t.is(pool.stats().memory.waiting, 0);
	t.is(pool.stats().memory.reservedMb, 48);
	await Promise.all([two.destroy(), filler.destroy()]);
});

kernelTest('what can’t be made gives its memory back', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'wait'));
	await t.throwsAsync(pool.create({base: '/no/such/folder'}), {code: 'InvalidSource'});
	await t.throwsAsync(pool.create({mounts: [{source: '/no/such/folder', target: '/data'}]}), {code: 'InvalidSource'});
	await t.throwsAsync(pool.create({mounts: [{source: '/usr', target: '/usr/no/such/folder'}]}), {code: 'Syscall'});
	t.is(pool.stats().memory.reservedMb, 0);
	t.is(pool.stats().sandboxes, 0);
	await isAlive(t, await create(pool));
});

kernelTest('close lets programs finish, and destroys what is left', async (t) => {
	const {pool} = await makePool(t);
	const sandbox = await create(pool);
	const idle = await create(pool);
	const input = new PassThrough();
	const {result} = await startReady(sandbox, 'echo ready; read line; echo $line', {stdin: input});
	const closed = pool.close();
	t.false(await settled(closed));
	input.end('finished\n');
	t.like(await within(result, 'its end'), {exitCode: 0, stdout: 'ready\nfinished\n', error: undefined});
	await within(closed, 'the end of the pool');
	for (const each of [sandbox, idle]) {
		await t.throwsAsync(each.exec(['true']), {instanceOf: SandboxDeadError, message: /the pool was closed/});
	}
});

kernelTest('close ends programs that take too long as Killed; a second call waits for the same', async (t) => {
	const {pool} = await makePool(t);
	const {result} = await startReady(await create(pool), 'echo ready; exec sleep 600');
	await within(Promise.all([pool.close(20), pool.close()]), 'the end of the pool');
	t.like((await result).error, {code: 'Killed', message: 'its sandbox has ended: the pool was closed'});
});

kernelTest('after close every method is RuntimeClosed', async (t) => {
	const {pool} = await makePool(t);
	await pool.close();
	await t.throwsAsync(pool.create(), {code: 'RuntimeClosed', message: 'the pool was closed'});
	t.throws(() => pool.list(), {code: 'RuntimeClosed'});
	t.throws(() => pool.stats(), {code: 'RuntimeClosed'});
	await t.notThrowsAsync(() => pool.close());
});

kernelTest('those that are being made when it is closed are RuntimeClosed', async (t) => {
	const {pool} = await makePool(t);
	const rejected = [pool.create(), pool.create()].map((each) => t.throwsAsync(each, {code: 'RuntimeClosed'}));
	await within(pool.close(), 'the end of the pool');
	await within(Promise.all(rejected), 'both');
});

kernelTest('those that wait for memory when it is closed are RuntimeClosed at once, whatever still runs', async (t) => {
	const {pool} = await makePool(t, roomFor(1, 'wait'));
	const run = await startWaiting(await create(pool));
	const waiting = [pool.create(), pool.create()];
	t.false(await settled(Promise.race(waiting)));
	const rejected = waiting.map((each) => t.throwsAsync(each, {code: 'RuntimeClosed'}));
	let ended = false;
	const closed = pool.close(60_000).then(() => {
		ended = true;
	});
	await within(Promise.all(rejected), 'both');
	t.false(ended);
	await run.end();
	await within(closed, 'the end of the pool');
});

kernelTest('two pools in one process do not see each other', async (t) => {
	const [one, other] = [await makePool(t), await makePool(t)];
	const sandbox = await create(one.pool);
	await isAlive(t, await create(other.pool));
	t.is(one.pool.list().get(sandbox.id), sandbox);
	t.is(one.pool.stats().sandboxes, 1);
	await other.pool.close();
	await isAlive(t, sandbox);
});

kernelTest('a state folder has one owner: another is refused and told who it is', async (t) => {
	const {stateDir, pool} = await makePool(t);
	const refused = {code: 'StateDirInUse', message: new RegExp(`which process ${process.pid} owns`)};
	await t.throwsAsync(createSandboxPool({stateDir}), refused);
	const program = `
		import {createSandboxPool} from ${JSON.stringify(path.join(import.meta.dirname, '../../dist/index.js'))};
		await createSandboxPool({stateDir: process.argv[1]}).catch((error) => console.log(error.code, error.message));
	`;
	const node = ['--input-type=module', '-e', program, stateDir];
	const {stdout, stderr} = spawnSync(process.execPath, node, {encoding: 'utf8', timeout: waitMs});
	t.regex(stdout, refused.message, stderr);
	await isAlive(t, await create(pool));
	await pool.close();
	await (await createSandboxPool({stateDir})).close();
});

kernelTest('a mount that is refused does not mix up those beside it', async (t) => {
	const {pool} = await makePool(t);
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true}));
	for (const name of ['one', 'two']) await mkdir(path.join(folder, name, `in-${name}`), {recursive: true});
	const mount = (name: string) => ({mounts: [{source: path.join(folder, name), target: '/data'}]});
	const [bad, one] = await Promise.allSettled([pool.create(mount('none')), pool.create(mount('one'))]);
	t.is(bad.status, 'rejected');
	t.is(one.status, 'fulfilled');
	const two = await pool.create(mount('two'));
	t.is((await two.exec(['ls', '/data'])).stdout, 'in-two\n');
});

for (const [title, options, error, message] of [
	['memoryBudgetMb', {memoryBudgetMb: 0}, RangeError, /^memoryBudgetMb/],
	['whenFull', {whenFull: 'never'}, RangeError, /^whenFull: expected wait or reject or evict, got "never"/],
	['an unknown one', {budget: 5}, TypeError, /^createSandboxPool options: expected .*, got "budget"/],
	['defaults', {defaults: {limits: {memory: 5}}}, TypeError, /^limits: expected .*, got "memory"/],
	['stateDir', {stateDir: ''}, TypeError, /^stateDir/],
] as const) {
	kernelTest(`options of a pool are checked: ${title}`, async (t) => {
		await t.throwsAsync(createSandboxPool(options as object), {instanceOf: error, message});
	});
}
