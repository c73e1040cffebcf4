import {Readable} from 'node:stream';
import test from 'ava';
import {SyscallError} from '../../src/index.ts';
import {serialKernelTest as kernelTest, refusal, rootTest} from '../helpers/kernel-test.ts';
import {makePool, until, usePool, within} from '../helpers/pool.ts';

/** Whoever has its result does not wait for its sandbox's end; a file does. */
test.serial.after.always(async () => {
	if (refusal === undefined) await until(() => fixture().pool.list().size === 0, 'the end of every sandbox');
});

const fixture = usePool();

/** Resolves when a sandbox of the pool has been destroyed. */
async function destroyed(): Promise<unknown> {
	return within(
		new Promise((resolve) => fixture().pool.once('destroyed', (_id, event) => resolve(event))),
		'the end of a sandbox',
	);
}

kernelTest('a program runs in a sandbox of its own, which goes when it has ended', async (t) => {
	const {pool} = fixture();
	const told: string[] = [];
	const note = (name: string) => () => void told.push(name);
	const names = ['created', 'forked', 'childExited', 'destroyed'] as const;
	const listeners = names.map((name) => [name, note(name)] as const);
	for (const [name, listener] of listeners) pool.on(name, listener);
	const end = destroyed();
	const result = await pool.run(['sh', '-c', 'cat; echo $WORD $$; pwd; exit 3'], {
		stdin: 'input\n',
		env: {WORD: 'word'},
		cwd: '/tmp',
		sandbox: {limits: {memoryMb: 32}},
	});
	t.like(result, {exitCode: 3, signal: undefined, error: undefined, stdout: 'input\nword 2\n/tmp\n'});
	t.deepEqual(await end, {reason: 'its program has ended'});
	for (const [name, listener] of listeners) pool.off(name, listener);
	t.deepEqual(told, names);
	t.is(pool.list().size, 0);
	t.is(pool.stats().memory.reservedMb, 0);
});

kernelTest('what ends a program has its word', async (t) => {
	const {pool} = fixture();
	const missing = await pool.run(['no-such-program']);
	t.like(missing.error, {code: 'StartFailed', phase: 'start', message: 'execute: ENOENT'});
	const late = await pool.run(['sleep', '60'], {timeoutMs: 50});
	t.like(late.error, {code: 'Timeout'});
	const large = await pool.run(['tail', '/dev/zero'], {sandbox: {limits: {memoryMb: 16}}});
	t.like(large.error, {code: 'OutOfMemory'});
});

kernelTest('an abort ends it and its sandbox', async (t) => {
	const controller = new AbortController();
	const end = destroyed();
	const onStdout = () => controller.abort();
	const run = fixture().pool.run(['sh', '-c', 'echo ready; exec sleep 60'], {signal: controller.signal, onStdout});
	await t.throwsAsync(within(run, 'an answer'), {code: 'Aborted'});
	await end;
});

kernelTest('a sandbox that can’t be made is an error, and nothing of it is left', async (t) => {
	const {pool} = fixture();
	await until(() => pool.list().size === 0, 'the end of those before');
	const end = destroyed();
	const small = pool.run(['true'], {sandbox: {limits: {memoryMb: 0.01}}});
	const error = await t.throwsAsync(within(small, 'an answer'), {instanceOf: SyscallError});
	t.regex(error?.message ?? '', /limits\.memoryMb/);
	await end;
	t.is(pool.list().size, 0);
	t.is(pool.stats().memory.reservedMb, 0);
	t.is((await pool.run(['true'])).exitCode, 0);
});

kernelTest('what can’t be run is refused before anything is made', async (t) => {
	const {pool} = fixture();
	await until(() => pool.list().size === 0, 'the end of those before');
	const created: string[] = [];
	const note = (id: string) => void created.push(id);
	pool.on('created', note);
	await t.throwsAsync(pool.run([]), {instanceOf: TypeError, message: /^argv: /});
	await t.throwsAsync(pool.run(['true'], {timeout: 5} as never), {instanceOf: TypeError});
	await t.throwsAsync(pool.run(['true'], {sandbox: {memory: 5} as never}), {instanceOf: TypeError});
	await t.throwsAsync(pool.run(['true'], {signal: AbortSignal.abort()}), {code: 'Aborted'});
	pool.off('created', note);
	t.deepEqual(created, []);
});

kernelTest('many at once, each with its own input', async (t) => {
	const {pool} = fixture();
	const inputs = Array.from({length: 12}, (_, index) => `input ${index}`);
	const runs = inputs.map(async (input) =>
		pool.run(['cat'], {stdin: Readable.from([input]), sandbox: {limits: {memoryMb: 16}}}),
	);
	t.deepEqual(
		(await within(Promise.all(runs), 'all of them')).map(({stdout}) => stdout),
		inputs,
	);
});

kernelTest('close waits for it', async (t) => {
	const {pool} = await makePool(t);
	let closed: Promise<void> | undefined;
	const onStdout = () => {
		closed ??= pool.close();
	};
	const result = await within(pool.run(['sh', '-c', 'echo ready; sleep 0.1; exit 4'], {onStdout}), 'its end');
	t.is(result.exitCode, 4);
	await within(closed ?? Promise.reject(new Error('expected output')), 'the end of the pool');
	await t.throwsAsync(pool.run(['true']), {code: 'RuntimeClosed'});
});

kernelTest('with a uid it has all the same', async (t) => {
	t.is((await fixture().pool.run(['id', '-u'], {sandbox: {uid: 7}})).stdout, '7\n');
});

rootTest('with a writable root it has all the same', async (t) => {
	const {pool} = fixture();
	const {exitCode} = await pool.run(['touch', '/usr/made'], {sandbox: {writable: 'overlay'}});
	t.is(exitCode, 0);
});
