import {PassThrough} from 'node:stream';
import type {SandboxLimits} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {makePool, seenByHost, startReady, until, usePool, within} from '../helpers/pool.ts';
import {python} from '../helpers/runtime.ts';

const fixture = usePool({defaults: {limits: {memoryMb: 64, processes: 16, scratchMb: 8}}});

/** As a sandbox with these limits, made by whatever is given. */
const withLimits = (limits: Partial<SandboxLimits>) => ({limits});

kernelTest('memoryMb: what exceeds it is OutOfMemory, with what was used and the limit', async (t) => {
	const sandbox = await fixture().create(t, withLimits({memoryMb: 24}));
	// Before Linux 5.19 groups of v2 don't keep it.
	const keepsPeak = sandbox.stats().peakMiB !== undefined;
	const {error, signal, exitCode} = await sandbox.exec(['tail', '/dev/zero']);
	t.like({signal, exitCode, code: error?.code}, {signal: 'SIGKILL', exitCode: undefined, code: 'OutOfMemory'});
	const used = keepsPeak ? '; at most 2[34] MiB were used' : '';
	t.regex(error?.message ?? '', new RegExp(`exceeded 24 MiB \\(limits\\.memoryMb\\)${used}$`));
});

kernelTest('memoryMb: a child that the kernel kills is in limitsHit, and the sandbox lives', async (t) => {
	const sandbox = await fixture().create(t, withLimits({memoryMb: 24}));
	const events: unknown[] = [];
	sandbox.on('oom', (event) => events.push(['oom', event]));
	sandbox.on('limit', (event) => events.push(['limit', event]));
	const result = await within(sandbox.exec(['sh', '-c', 'tail /dev/zero; echo $?']), 'its end');
	t.like(result, {exitCode: 0, stdout: '137\n', error: undefined});
	t.deepEqual(result.limitsHit, ['memory']);
	t.deepEqual(events, [
		['oom', {kills: 1}],
		['limit', {limit: 'memory'}],
	]);
	const next = await sandbox.exec(['echo', 'lives']);
	t.like(next, {exitCode: 0, stdout: 'lives\n'});
	t.deepEqual(next.limitsHit, []);
});

kernelTest('memoryMb: of programs at once it is told to the one whose child was killed', async (t) => {
	const sandbox = await fixture().create(t, withLimits({memoryMb: 24}));
	const input = new PassThrough();
	const one = await startReady(sandbox, 'tail /dev/zero; echo ready; read line', {stdin: input});
	const other = await within(sandbox.exec(['true']), 'its end');
	input.end('\n');
	const {limitsHit} = await within(one.result, 'its end');
	t.deepEqual([limitsHit, other.limitsHit], [['memory'], []]);
});

kernelTest('memoryMb counts /tmp', async (t) => {
	const fill = ['head', '-c', String(40 * 1024 * 1024), '/dev/zero'];
	const {error, limitsHit} = await fixture().run(
		['sh', '-c', `${fill.join(' ')} > /tmp/file`],
		withLimits({memoryMb: 24, scratchMb: 48}),
	);
	t.true(error?.code === 'OutOfMemory' || limitsHit.includes('memory'), JSON.stringify({error, limitsHit}));
});

kernelTest('OutOfMemory in one sandbox does not hurt another one', async (t) => {
	const other = await fixture().create(t);
	const input = new PassThrough();
	const running = await startReady(other, 'echo ready; read line; echo $line', {stdin: input});
	const hungry = await fixture().create(t, withLimits({memoryMb: 24}));
	for (let turn = 0; turn < 3; turn += 1) {
		t.is((await within(hungry.exec(['tail', '/dev/zero']), 'its end')).error?.code, 'OutOfMemory');
	}
	input.end('well\n');
	t.like(await within(running.result, 'its end'), {exitCode: 0, stdout: 'ready\nwell\n', error: undefined});
	t.deepEqual((await other.exec(['true'])).limitsHit, []);
});

kernelTest('a memory limit that is too small for a sandbox is an error that names it', async (t) => {
	await t.throwsAsync(within(fixture().pool.create(withLimits({memoryMb: 0.01})), 'a refusal'), {
		code: 'Syscall',
		message: /limits\.memoryMb/,
	});
});

kernelTest('memoryMb, swapMb, cpuPercent and processes are what its cgroup has', async (t) => {
	const limits = {memoryMb: 48, swapMb: 16, cpuPercent: 37, processes: 11};
	const sandbox = await fixture().create(t, {limits});
	const {read} = await seenByHost(fixture().stateDir, sandbox);
	const mebibyte = 1024 * 1024;
	t.is(Number(read('memory.limit_in_bytes', 'memory.max')), 48 * mebibyte);
	t.is(read('pids.max'), '11');
	t.is(Number(read('cpu.cfs_quota_us', 'cpu.max').split(' ')[0]), 37_000);
	try {
		const swap = read('memory.memsw.limit_in_bytes', 'memory.swap.max');
		t.true([16, 48 + 16].map((each) => each * mebibyte).includes(Number(swap)), swap);
	} catch {
		t.log('the kernel does not account for swap');
	}
});

kernelTest('processes: no more than that, and limitsHit says so', async (t) => {
	const sandbox = await fixture().create(t, withLimits({processes: 6}));
	const program = `
import os, time
made = []
try:
	while True:
		pid = os.fork()
		if pid == 0:
			time.sleep(600)
		made.append(pid)
except OSError as error:
	print(len(made), error.strerror)
for pid in made:
	os.kill(pid, 9)
`;
	const result = await within(sandbox.exec([python, '-c', program]), 'its end');
	// Ours and the program itself count.
	t.is(result.stdout, '4 Resource temporarily unavailable\n', result.stderr);
	t.deepEqual(result.limitsHit, ['processes']);
	t.deepEqual((await sandbox.exec(['true'])).limitsHit, []);
});

kernelTest('openFiles: the next one is EMFILE, and it can’t be raised', async (t) => {
	const program = `
import os, resource
try:
	resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
	print('raised')
except (OSError, ValueError):
	pass
files = 3
try:
	while True:
		os.open('/dev/null', os.O_RDONLY)
		files += 1
except OSError as error:
	print(files, error.strerror)
`;
	const {stdout} = await fixture().run([python, '-c', program], withLimits({openFiles: 20}));
	t.is(stdout, '20 Too many open files\n');
});

kernelTest('scratchMb: a write beyond it is ENOSPC', async (t) => {
	const sandbox = await fixture().create(t, withLimits({scratchMb: 2}));
	const result = await within(sandbox.exec(['sh', '-c', 'head -c 3000000 /dev/zero > /tmp/work/file']), 'its end');
	t.not(result.exitCode, 0);
	t.regex(result.stderr, /No space left on device/);
	t.is((await sandbox.exec(['stat', '-c', '%s', '/tmp/work/file'])).stdout, `${2 * 1024 * 1024}\n`);
});

kernelTest('scratchMb 0: nothing is writable', async (t) => {
	const sandbox = await fixture().create(t, {limits: {scratchMb: 0}, cwd: '/'});
	t.not((await sandbox.exec(['touch', '/tmp/file'])).exitCode, 0);
});

for (const [stream, redirect] of [
	['stdout', ''],
	['stderr', ' >&2'],
] as const) {
	kernelTest(`outputMb: ${stream} is cut, also for its callback, and limitsHit says so`, async (t) => {
		let heard = '';
		const onText = (text: string) => {
			heard += text;
		};
		const result = await fixture().run(
			['sh', '-c', `head -c 300000 /dev/zero${redirect}`],
			withLimits({outputMb: 0.125}),
			stream === 'stdout' ? {onStdout: onText} : {onStderr: onText},
		);
		t.like(result, {exitCode: 0, error: undefined});
		t.is(result[stream], `${'\0'.repeat(131_072)}\n[output cut after 131072 bytes]\n`);
		t.is(heard, result[stream]);
		t.deepEqual(result.limitsHit, [stream]);
	});
}

kernelTest('timeoutMs: of the sandbox, and of a call instead', async (t) => {
	const sandbox = await fixture().create(t, withLimits({timeoutMs: 50}));
	const own = await within(sandbox.exec(['sh', '-c', 'echo begun; exec sleep 600']), 'its end');
	t.like(own, {exitCode: undefined, signal: 'SIGKILL', error: {code: 'Timeout', phase: 'run'}});
	t.is(own.error?.message, 'it took longer than 50 ms (limits.timeoutMs)');
	const input = new PassThrough();
	const longer = await startReady(sandbox, 'echo ready; read line', {timeoutMs: 60_000, stdin: input});
	const shorter = await within(sandbox.exec(['sleep', '600'], {timeoutMs: 70}), 'its end');
	t.is(shorter.error?.message, 'it took longer than 70 ms (limits.timeoutMs)');
	input.end('\n');
	t.is((await within(longer.result, 'its end')).exitCode, 0);
});

kernelTest('timeoutMs: what it started ends with it', async (t) => {
	const sandbox = await fixture().create(t);
	const result = await within(
		sandbox.exec(['sh', '-c', 'trap "" TERM INT HUP; sleep 600 & sleep 600; sleep 600'], {timeoutMs: 50}),
		'its end',
	);
	t.is(result.error?.code, 'Timeout');
	await until(() => sandbox.stats().processes === 0, 'the end of what it started');
});

kernelTest('cpuMs: of the sandbox, of a call instead, with what it started', async (t) => {
	const sandbox = await fixture().create(t, withLimits({cpuMs: 40}));
	const own = await within(sandbox.exec(['sh', '-c', 'while :; do :; done']), 'its end');
	t.like(own, {signal: 'SIGKILL', error: {code: 'CpuLimit', phase: 'run'}});
	t.is(own.error?.message, 'it used more than 40 ms of CPU time (limits.cpuMs)');
	const child = await within(sandbox.exec(['sh', '-c', '(while :; do :; done) & wait'], {cpuMs: 30}), 'its end');
	t.is(child.error?.message, 'it used more than 30 ms of CPU time (limits.cpuMs)');
	t.is((await sandbox.exec(['sh', '-c', 'while :; do :; done'], {cpuMs: 1e9, timeoutMs: 100})).error?.code, 'Timeout');
});

kernelTest('cpuMs: a century is as good as no limit, and costs no time of ours', async (t) => {
	const warnings: string[] = [];
	const note = (warning: Error) => warnings.push(warning.name);
	process.on('warning', note);
	t.teardown(() => process.off('warning', note));
	for (const cpuMs of [1e10, 3e12, 1e15]) t.is((await fixture().run(['true'], {}, {cpuMs})).exitCode, 0);
	t.deepEqual(warnings, []);
});

kernelTest('a limit that ends a run is told once, and what no limit ended is not', async (t) => {
	const sandbox = await fixture().create(t);
	const limits: string[] = [];
	sandbox.on('limit', ({limit}) => limits.push(limit));
	await sandbox.exec(['sleep', '600'], {timeoutMs: 20});
	await sandbox.exec(['no-such-program']);
	await sandbox.exec(['sh', '-c', 'kill -9 $$']);
	await sandbox.exec(['head', '-c', '2000', '/dev/zero'], {outputMb: 0.001});
	t.deepEqual(limits, ['Timeout', 'stdout']);
});

kernelTest(
	'limits come from the call, else from the sandbox, else from the pool, else from the defaults',
	async (t) => {
		const {pool} = await makePool(t, {defaults: {limits: {outputMb: 0.5, timeoutMs: 10_000}}});
		const print = ['head', '-c', '5000000', '/dev/zero'];
		const cutAt = async (limits: Partial<SandboxLimits>, outputMb?: number) => {
			const sandbox = await pool.create({limits});
			const {stdout} = await sandbox.exec(print, outputMb === undefined ? {} : {outputMb});
			await sandbox.destroy();
			return Number(/after (\d+) bytes/.exec(stdout)?.[1]) / 1024 / 1024;
		};
		t.deepEqual(
			[await cutAt({}), await cutAt({outputMb: 0.25}), await cutAt({outputMb: 0.25}, 2), await cutAt({memoryMb: 32})],
			[0.5, 0.25, 2, 0.5],
		);
		const other = await makePool(t);
		const {stdout} = await other.run(print);
		t.regex(stdout, /\[output cut after 1048576 bytes\]/);
	},
);
