import process from 'node:process';
import {PassThrough} from 'node:stream';
import {type Sandbox, SandboxDeadError} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {launchersOf} from '../helpers/leak-check.ts';
import {seenByHost, startReady, until, usePool, within} from '../helpers/pool.ts';

const limits = {memoryMb: 64, timeoutMs: 60_000};
const fixture = usePool({defaults: {limits}});
const mebibyte = 1024 * 1024;

const names = ['forked', 'childExited', 'paused', 'resumed', 'oom', 'limit', 'destroyed'] as const;

/** The names of what a sandbox tells from now on. */
function eventsOf(sandbox: Sandbox): string[] {
	const events: string[] = [];
	for (const name of names) sandbox.on(name, () => events.push(name));
	return events;
}

/** Makes progress as long as it runs. */
const busy = 'echo ready; while :; do echo line >> /tmp/work/file; : > /tmp/work/file; done';

/** What the sandbox's processes have used, in milliseconds: to look inside would resume it. */
const used = (sandbox: Sandbox) => sandbox.stats().cpuMs;

kernelTest('pause and resume, each twice, change something once', async (t) => {
	const sandbox = await fixture().create(t);
	const events = eventsOf(sandbox);
	t.is(sandbox.stats().state, 'running');
	await sandbox.resume();
	await sandbox.pause();
	await sandbox.pause();
	t.true(sandbox.isPaused);
	t.is(sandbox.stats().state, 'paused');
	t.is(fixture().pool.stats().paused, 1);
	await sandbox.resume();
	await sandbox.resume();
	t.false(sandbox.isPaused);
	t.is(fixture().pool.stats().paused, 0);
	t.deepEqual(events, ['paused', 'resumed']);
});

kernelTest('many at once come one after the other, and the last one counts', async (t) => {
	const sandbox = await fixture().create(t);
	const events = eventsOf(sandbox);
	const changes = Array.from({length: 40}, async (_, turn) => (turn % 2 === 0 ? sandbox.pause() : sandbox.resume()));
	await within(Promise.all(changes), 'the end of all');
	t.false(sandbox.isPaused);
	t.deepEqual(
		events,
		Array.from({length: 40}, (_, turn) => (turn % 2 === 0 ? 'paused' : 'resumed')),
	);
	t.is((await sandbox.exec(['true'])).exitCode, 0);
});

kernelTest('what is paused makes no progress, and goes on where it was', async (t) => {
	const sandbox = await fixture().create(t);
	const controller = new AbortController();
	const {result} = await startReady(sandbox, busy, {signal: controller.signal});
	await sandbox.pause();
	const before = used(sandbox);
	// A turn of another sandbox's program takes longer than any of a loop.
	for (let turn = 0; turn < 3; turn += 1) await fixture().run(['true']);
	t.is(used(sandbox), before);
	await sandbox.resume();
	await until(() => used(sandbox) > before, 'progress');
	controller.abort();
	await t.throwsAsync(within(result, 'its end'), {code: 'Aborted'});
});

kernelTest('a program that is asked for resumes its sandbox', async (t) => {
	const sandbox = await fixture().create(t);
	await sandbox.exec(['sh', '-c', 'echo kept > /tmp/work/file']);
	await sandbox.pause();
	const events = eventsOf(sandbox);
	t.is((await within(sandbox.exec(['cat', '/tmp/work/file']), 'its end')).stdout, 'kept\n');
	t.false(sandbox.isPaused);
	t.deepEqual(events, ['resumed', 'forked', 'childExited']);
});

kernelTest('a paused sandbox keeps what it uses; resumed it has its own limit again', async (t) => {
	const sandbox = await fixture().create(t);
	const reserved = () => fixture().pool.stats().memory.reservedMb;
	const {read} = await seenByHost(fixture().stateDir, sandbox);
	const limit = () => Number(read('memory.limit_in_bytes', 'memory.max')) / mebibyte;
	t.is(limit(), limits.memoryMb);
	t.is(reserved(), limits.memoryMb);
	await sandbox.exec(['sh', '-c', 'head -c 5000000 /dev/zero > /tmp/work/file']);
	await sandbox.pause();
	t.true(reserved() >= 5 && reserved() < 40, `${reserved()} MiB`);
	t.is(limit(), reserved());
	await sandbox.resume();
	t.is(limit(), limits.memoryMb);
	t.is(reserved(), limits.memoryMb);
});

kernelTest('a deadline holds in a paused sandbox, and the others in it stay paused', async (t) => {
	const sandbox = await fixture().create(t);
	const controller = new AbortController();
	const other = await startReady(sandbox, busy, {signal: controller.signal});
	const short = sandbox.exec(['sleep', '600'], {timeoutMs: 100});
	await sandbox.pause();
	t.is((await within(short, 'its end')).error?.code, 'Timeout');
	t.true(sandbox.isPaused);
	const before = used(sandbox);
	for (let turn = 0; turn < 3; turn += 1) await fixture().run(['true']);
	t.is(used(sandbox), before);
	controller.abort();
	await t.throwsAsync(within(other.result, 'its end'), {code: 'Aborted'});
	await sandbox.resume();
	t.is((await sandbox.exec(['true'])).exitCode, 0);
});

kernelTest('destroy, often and at once, ends runs in flight as Killed', async (t) => {
	const sandbox = await fixture().create(t);
	const events = eventsOf(sandbox);
	const runs = await Promise.all([1, 2].map(async () => startReady(sandbox, 'echo ready; exec sleep 600')));
	await within(Promise.all([sandbox.destroy(), sandbox.destroy('another reason')]), 'its end');
	await sandbox.destroy();
	for (const {result} of runs) {
		t.like(await within(result, 'the end of a run'), {
			exitCode: undefined,
			stdout: 'ready\n',
			error: {code: 'Killed', message: 'its sandbox has ended: it was destroyed', sandbox: sandbox.id, phase: 'run'},
		});
	}
	t.deepEqual(events, ['forked', 'forked', 'destroyed']);
});

kernelTest(
	'a sandbox whose launcher dies before it is born is made by another one, and reserves its memory once',
	async (t) => {
		const {pool} = fixture();
		await fixture().run(['true']);
		const before = pool.stats().memory.reservedMb;
		const old = launchersOf(fixture().stateDir);
		t.true(old.length > 0);
		for (const pid of old) process.kill(pid, 'SIGSTOP');
		const created = pool.create({hostname: 'unspared'});
		await new Promise((resolve) => setImmediate(resolve));
		for (const pid of old) process.kill(pid, 'SIGKILL');
		const sandbox = await within(created, 'a sandbox');
		t.is(pool.stats().memory.reservedMb, before + limits.memoryMb);
		t.is((await sandbox.exec(['true'])).exitCode, 0);
		await sandbox.destroy();
		t.is(pool.stats().memory.reservedMb, before);
	},
);

kernelTest(
	'a program whose launcher dies before its sandbox is born is an error, since its input may be gone',
	async (t) => {
		const {pool} = fixture();
		await fixture().run(['true']);
		for (const pid of launchersOf(fixture().stateDir)) process.kill(pid, 'SIGSTOP');
		const old = launchersOf(fixture().stateDir);
		const run = pool.run(['cat'], {stdin: 'input', sandbox: {hostname: 'unspared-too'}});
		run.catch(() => undefined);
		await until(() => pool.list().size > 0, 'a sandbox that is asked for');
		for (const pid of old) process.kill(pid, 'SIGKILL');
		await t.throwsAsync(within(run, 'an answer'), {code: 'ZygoteFailed'});
		t.is(pool.stats().memory.reservedMb, 0);
		t.like(await pool.run(['cat'], {stdin: 'input', timeoutMs: 5000}), {stdout: 'input', error: undefined});
		await until(() => pool.list().size === 0, 'its end');
	},
);

kernelTest('what is just being started stops as well', async (t) => {
	const sandbox = await fixture().create(t);
	const runs: Array<ReturnType<Sandbox['exec']>> = [];
	for (let turn = 0; turn < 60; turn += 1) {
		const started = new Promise((resolve) => sandbox.once('forked', resolve));
		runs.push(sandbox.exec(['true']));
		await started;
		await sandbox.pause();
		await sandbox.resume();
	}
	for (const {exitCode} of await within(Promise.all(runs), 'their ends')) t.is(exitCode, 0);
});

kernelTest('a paused sandbox can be destroyed, with a program in it', async (t) => {
	const sandbox = await fixture().create(t);
	const {result} = await startReady(sandbox, 'echo ready; exec sleep 600');
	await sandbox.pause();
	await within(sandbox.destroy(), 'its end');
	t.is((await within(result, 'the end of the run')).error?.code, 'Killed');
});

kernelTest('after its end every method says SandboxDead and why', async (t) => {
	const sandbox = await fixture().create(t);
	await sandbox.destroy('it was Tuesday');
	const methods = {
		exec: () => sandbox.exec(['true']),
		pause: () => sandbox.pause(),
		resume: () => sandbox.resume(),
		stats: async () => sandbox.stats(),
	};
	for (const [name, method] of Object.entries(methods)) {
		const error = await t.throwsAsync(method, {instanceOf: SandboxDeadError, code: 'SandboxDead'}, name);
		t.like(error, {sandbox: sandbox.id, reason: 'it was Tuesday'});
	}
	await t.notThrowsAsync(() => sandbox.destroy());
	t.false(fixture().pool.list().has(sandbox.id));
});

kernelTest('calls that are under way when it ends say SandboxDead or Killed, and all come to an end', async (t) => {
	const sandbox = await fixture().create(t);
	const calls = [sandbox.pause(), sandbox.resume(), sandbox.pause(), sandbox.exec(['true']), sandbox.resume()];
	const ended = sandbox.destroy();
	for (const each of await within(Promise.allSettled(calls), 'the end of all')) {
		if (each.status === 'rejected') t.true(each.reason instanceof SandboxDeadError, String(each.reason));
		else if (each.value !== undefined) t.is(each.value.error?.code, 'Killed');
	}
	await ended;
});

kernelTest('a sandbox whose first process is killed from outside is gone, and says so', async (t) => {
	const sandbox = await fixture().create(t);
	const {first} = await seenByHost(fixture().stateDir, sandbox);
	const {result} = await startReady(sandbox, 'echo ready; exec sleep 600');
	const reasons: string[] = [];
	const destroyed = new Promise<void>((resolve) => {
		sandbox.on('destroyed', ({reason}) => {
			reasons.push(reason);
			resolve();
		});
	});
	process.kill(first, 'SIGKILL');
	t.is((await within(result, 'the end of the run')).error?.code, 'Killed');
	await within(destroyed, 'the event');
	t.deepEqual(reasons, ['its first process ended']);
	await t.throwsAsync(sandbox.exec(['true']), {instanceOf: SandboxDeadError, message: /its first process ended/});
	t.false(fixture().pool.list().has(sandbox.id));
});

kernelTest('events: created first and destroyed last, the pool’s with the id, each on a real change', async (t) => {
	const {pool} = fixture();
	const told: string[] = [];
	const listeners = [...names, 'created' as const].map((name) => {
		const listener = (id: string, ...details: unknown[]) => told.push([id, name, ...details.map(shape)].join(' '));
		pool.on(name, listener);
		return () => pool.off(name, listener);
	});
	t.teardown(() => {
		for (const remove of listeners) remove();
	});
	const sandbox = await pool.create({limits: {memoryMb: 24}});
	await sandbox.exec(['sh', '-c', 'exit 3']);
	await sandbox.exec(['sleep', '600'], {timeoutMs: 20});
	await sandbox.exec(['tail', '/dev/zero']);
	await sandbox.pause();
	await sandbox.resume();
	const {result} = await startReady(sandbox, 'echo ready; exec sleep 600');
	await sandbox.destroy();
	await result;
	await new Promise((resolve) => setImmediate(resolve));
	const expected = [
		'created',
		'forked {"argv":["sh","-c","exit 3"]}',
		'childExited {"exitCode":3}',
		'forked {"argv":["sleep","600"]}',
		'childExited {"signal":"SIGKILL"}',
		'limit {"limit":"Timeout"}',
		'forked {"argv":["tail","/dev/zero"]}',
		'oom {"kills":1}',
		'childExited {"signal":"SIGKILL"}',
		'limit {"limit":"OutOfMemory"}',
		'paused',
		'resumed',
		'forked {"argv":["sh","-c","echo ready; exec sleep 600"]}',
		'destroyed {"reason":"it was destroyed"}',
	];
	t.deepEqual(
		told,
		expected.map((each) => `${sandbox.id} ${each}`),
	);
});

function shape(details: unknown): string {
	return JSON.stringify(details);
}

kernelTest('stats: what is alone is within what is shared in proportion, and all of it grows', async (t) => {
	const sandbox = await fixture().create(t);
	const idle = sandbox.stats();
	t.is(idle.processes, 0);
	const input = new PassThrough();
	const {result} = await startReady(sandbox, 'echo ready; read line', {stdin: input});
	const running = sandbox.stats();
	t.is(running.processes, 1);
	t.true(running.privateMiB > idle.privateMiB && running.cpuMs > idle.cpuMs, JSON.stringify({idle, running}));
	for (const each of [idle, running]) {
		t.true(each.privateMiB <= each.proportionalMiB, JSON.stringify(each));
		t.true(each.proportionalMiB <= each.privateMiB + each.sharedMiB, JSON.stringify(each));
		t.true((each.currentMiB ?? Number.NaN) <= (each.peakMiB ?? Number.POSITIVE_INFINITY), JSON.stringify(each));
		t.true((each.currentMiB ?? Number.NaN) <= limits.memoryMb);
	}
	input.end('\n');
	t.is((await within(result, 'its end')).exitCode, 0);
});

kernelTest('a sandbox is destroyed by await using', async (t) => {
	let kept: Sandbox;
	{
		await using sandbox = await fixture().pool.create();
		t.is((await sandbox.exec(['true'])).exitCode, 0);
		kept = sandbox;
	}
	await t.throwsAsync(kept.exec(['true']), {instanceOf: SandboxDeadError});
});
