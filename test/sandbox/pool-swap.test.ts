import {PassThrough} from 'node:stream';
import {seenByHost, startReady, usePool, within} from '../helpers/pool.ts';
import {python} from '../helpers/runtime.ts';
import {swapTest} from '../helpers/swap.ts';

// A kernel that gets too few pages back at a time, since most are in use or being written, kills before swap is full.
const limits = {memoryMb: 40, swapMb: 32, scratchMb: 1};
const fixture = usePool({defaults: {limits}});
const mebibyte = 1024 * 1024;

/** Writes to so many MiB, says so, waits for a line, and reads them again. */
const writing = (megabytes: number) => `
import sys
pages = bytearray(${megabytes} << 20)
pages[::4096] = bytes(range(1, 129)) * (${megabytes} << 1)
print('ready', flush=True)
sys.stdin.readline()
print(sum(pages[::4096]))
`;
const sumOf = (megabytes: number) => ((128 * 129) / 2) * (megabytes << 1);

swapTest('swapMb: what exceeds memoryMb goes there, and comes back', async (t) => {
	const sandbox = await fixture().create(t);
	const {read} = await seenByHost(fixture().stateDir, sandbox);
	const input = new PassThrough();
	const {result} = await startReady(sandbox, `exec ${python} -c "$PROGRAM"`, {
		stdin: input,
		env: {PROGRAM: writing(48)},
	});
	t.true(Number(read('memory.usage_in_bytes', 'memory.current')) <= 40 * mebibyte);
	t.true(swapped(read) > 4 * mebibyte, `${swapped(read)}`);
	input.end('\n');
	t.like(await within(result, 'its end'), {
		exitCode: 0,
		stdout: `ready\n${sumOf(48)}\n`,
		error: undefined,
		limitsHit: [],
	});
});

swapTest('swapMb: what exceeds both is OutOfMemory, which names both', async (t) => {
	const {error, signal} = await fixture().run(['tail', '/dev/zero']);
	t.like({signal, code: error?.code}, {signal: 'SIGKILL', code: 'OutOfMemory'});
	t.regex(error?.message ?? '', /exceeded 40 MiB \(limits\.memoryMb\) and 32 MiB of swap \(limits\.swapMb\)/);
});

swapTest('without swapMb nothing goes to the machine’s swap', async (t) => {
	const {error} = await fixture().run([python, '-c', writing(48)], {limits: {...limits, swapMb: 0}});
	t.is(error?.code, 'OutOfMemory');
});

swapTest('a paused sandbox has what it uses, and goes on with what is in swap', async (t) => {
	const sandbox = await fixture().create(t);
	const {read} = await seenByHost(fixture().stateDir, sandbox);
	const input = new PassThrough();
	const {result} = await startReady(sandbox, `exec ${python} -c "$PROGRAM"`, {
		stdin: input,
		env: {PROGRAM: writing(48)},
	});
	const before = swapped(read);
	await sandbox.pause();
	t.true(swapped(read) >= before);
	t.true(Number(read('memory.limit_in_bytes', 'memory.max')) <= 40 * mebibyte);
	await sandbox.resume();
	t.is(Number(read('memory.limit_in_bytes', 'memory.max')), 40 * mebibyte);
	input.end('\n');
	t.like(await within(result, 'its end'), {exitCode: 0, stdout: `ready\n${sumOf(48)}\n`});
});

/** Bytes of a sandbox that are in swap. */
function swapped(read: (...names: readonly string[]) => string): number {
	const text = read('memory.swap.current', 'memory.stat');
	return Number(/^(?:swap )?(\d+)$/m.exec(text)?.[1]);
}
