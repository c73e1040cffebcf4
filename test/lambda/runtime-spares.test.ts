import {once} from 'node:events';
import type {ExecutionContext} from 'ava';
import type {DeployOptions, Outcome} from '../../src/index.ts';
import {Leaf} from '../../src/sandbox/leaf.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {failure, makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';

const fixture = useRuntime();

/** Counts calls of one sandbox, and says which one it is. */
const counting = py`
	import os, sys
	print('loading')
	print('warning', file=sys.stderr)
	me = os.urandom(8).hex()
	count = 0
	def f(event):
		global count
		count += 1
		print(event)
		return [me, count]
`;

function spares(name: string): Promise<number> {
	return fixture()
		.runtime.stats()
		.then(({functions}) => functions.find((each) => each.name === name)?.spares ?? 0);
}

/** Calls it until a spare answers; the spare is made after a call, and is taken while it is being made as well. */
async function untilSpare(t: ExecutionContext, name: string, event = 'again'): Promise<Outcome> {
	for (let i = 0; i < 5; i += 1) {
		const outcome = await fixture().runtime.invoke(name, event);
		if (outcome.spare === 'function') return outcome;
		await new Promise(setImmediate);
	}
	throw t.fail('expected a spare to answer');
}

async function hot(t: ExecutionContext, code = counting, options: DeployOptions = {}): Promise<string> {
	const name = await fixture().deploy(code, {reuse: false, ...options});
	await untilSpare(t, name);
	return name;
}

kernelTest('a function that was started once has no spare, one that is started again has', async (t) => {
	const name = await fixture().deploy(counting, {reuse: false});
	t.not((await fixture().runtime.invoke(name, 'first')).spare, 'function');
	t.is(await spares(name), 0);
	await fixture().runtime.invoke(name, 'second');
	await new Promise(setImmediate);
	t.is(await spares(name), 1);
	const outcome = await fixture().runtime.invoke(name, 'third');
	t.is(outcome.spare, 'function');
	t.is(outcome.start, 'forked');
});

kernelTest('a spare serves one call, and its outcome is that of any fresh sandbox', async (t) => {
	const name = await hot(t);
	const seen = new Set<unknown>();
	for (let i = 0; i < 10; i += 1) {
		const outcome = await fixture().runtime.invoke(name, i);
		const [me, count] = value(t, outcome) as [string, number];
		t.is(count, 1);
		seen.add(me);
		t.deepEqual(outcome.logs, {stdout: `loading\n${i}\n`, stderr: 'warning\n'});
	}
	t.is(seen.size, 10);
});

kernelTest('what its module printed is heard by whoever listens to the call', async (t) => {
	const name = await hot(t);
	const heard: string[] = [];
	await new Promise(setImmediate);
	const outcome = await fixture().runtime.invoke(name, 'event', {onStdout: (text) => heard.push(text)});
	t.is(outcome.spare, 'function');
	t.is(heard.join(''), 'loading\nevent\n');
});

kernelTest('many calls at once get spares and other fresh sandboxes, each its own', async (t) => {
	const name = await hot(t);
	const outcomes = await Promise.all(Array.from({length: 20}, (_, i) => fixture().runtime.invoke(name, i)));
	t.is(new Set(outcomes.map((outcome) => (value(t, outcome) as unknown[])[0])).size, 20);
	t.true(outcomes.every(({start}) => start === 'forked'));
});

kernelTest('with spares 0 none is made', async (t) => {
	const name = await fixture().deploy(counting, {reuse: false, spares: 0});
	for (let i = 0; i < 4; i += 1) t.not((await fixture().runtime.invoke(name, i)).spare, 'function');
	t.is(await spares(name), 0);
});

kernelTest('a function that keeps its instances has spares for bursts', async (t) => {
	// Longer than a start, or calls would wait for each other's instances.
	const name = await fixture().deploy('import time\ndef f(event):\n\ttime.sleep(0.5)\n\treturn event\n');
	for (let i = 0; i < 2; i += 1) {
		await Promise.all([fixture().runtime.invoke(name, 1), fixture().runtime.invoke(name, 2)]);
		await new Promise(setImmediate);
	}
	t.true((await spares(name)) >= 1);
	const outcomes = await Promise.all(Array.from({length: 4}, (_, i) => fixture().runtime.invoke(name, i)));
	t.true(outcomes.filter(({start}) => start === 'warm').length >= 2);
	t.true(outcomes.some(({spare}) => spare === 'function'));
});

kernelTest('a spare that died is passed over', async (t) => {
	const code = py`
		import os, threading, time
		def f(event):
			return event
		if os.path.exists('/handler/die'):
			threading.Timer(0.01, lambda: os._exit(1)).start()
	`;
	const name = await fixture().deploy({'f.py': code, die: ''}, {reuse: false});
	for (let i = 0; i < 10; i += 1) {
		const outcome = await fixture().runtime.invoke(name, i);
		if (outcome.ok) t.is(outcome.value, i);
		else t.is(failure(t, outcome).code, 'Exited');
	}
});

kernelTest('what goes wrong in the module is told to the call', async (t) => {
	const code = py`
		import os
		if os.urandom(1)[0] >= 0:
			raise ValueError('always')
	`;
	const name = await fixture().deploy(code, {reuse: false});
	for (let i = 0; i < 4; i += 1) {
		const error = failure(t, await fixture().runtime.invoke(name, null));
		t.is(error.code, 'ImportFailed');
		t.is(error.message, 'always');
	}
});

kernelTest('spares give way to calls that need their memory', async (t) => {
	const {runtime} = await makeRuntime(t, {memoryBudgetMb: 128});
	const limits = {memoryMb: 32};
	await runtime.deploy('hot', {'f.py': counting}, {reuse: false, limits});
	await runtime.deploy('large', {'f.py': 'def f(event):\n\treturn event\n'}, {limits: {memoryMb: 96}});
	const count = async () => (await runtime.stats()).functions.find(({name}) => name === 'hot')?.spares ?? 0;
	// There is no place for one while a sandbox before is still ending.
	for (let i = 0; i < 20 && (await count()) === 0; i += 1) {
		t.true((await runtime.invoke('hot', i)).ok);
		await new Promise(setImmediate);
	}
	t.true((await count()) >= 1);
	t.is(value(t, await runtime.invoke('large', 1, {timeoutMs: 5000})), 1);
});

kernelTest('an instance that is kept is not made of a child that its zygote forked ahead', async (t) => {
	const {runtime} = await makeRuntime(t);
	await runtime.deploy('fresh', {'f.py': counting}, {reuse: false, spares: 0});
	const untilNode = async () => {
		for (let calls = 0; calls < 50; calls += 1) {
			if ((await runtime.invoke('fresh', null)).spare === 'node') return;
			await new Promise(setImmediate);
		}
		t.fail('expected a spare of the zygote');
	};
	for (const name of ['kept', 'kept-as-well']) {
		await untilNode();
		await runtime.deploy(name, {'f.py': counting}, {spares: 0});
		t.is((await runtime.invoke(name, null)).spare, undefined);
	}
	await untilNode();
});

/** Ids of the sandboxes that this is called of. */
function spyOn(t: ExecutionContext, method: 'destroy' | 'workingSet'): string[] {
	const ids: string[] = [];
	const original = Leaf.prototype[method] as (this: Leaf) => Promise<unknown>;
	t.teardown(() => {
		Object.assign(Leaf.prototype, {[method]: original});
	});
	Object.assign(Leaf.prototype, {
		[method](this: Leaf) {
			ids.push(this.id);
			return original.call(this);
		},
	});
	return ids;
}

kernelTest('an answer comes before its sandbox is ended', async (t) => {
	const ended = spyOn(t, 'destroy');
	for (const spares of [0, 4]) {
		const name = await fixture().deploy(counting, {reuse: false, spares});
		for (let i = 0; i < 6; i += 1) {
			const destroyed = once(fixture().runtime, 'destroyed');
			const {sandbox} = await fixture().runtime.invoke(name, i);
			t.false(ended.includes(sandbox));
			await destroyed;
			t.true(ended.includes(sandbox));
		}
	}
});

kernelTest('what a function uses is seen in sandboxes that were its zygote’s spares, too', async (t) => {
	const seen = spyOn(t, 'workingSet');
	const other = await fixture().deploy(counting, {reuse: false, spares: 0});
	for (let i = 0; (await fixture().runtime.invoke(other, i)).spare !== 'node'; i += 1) {
		if (i === 50) throw t.fail('expected a spare of the zygote');
		await new Promise(setImmediate);
	}
	let outcome: Outcome;
	for (let i = 0; ; i += 1) {
		outcome = await fixture().runtime.invoke(await fixture().deploy(counting, {reuse: false}), i);
		if (outcome.spare === 'node') break;
		if (i === 50) throw t.fail('expected a spare of the zygote');
	}
	t.true(seen.includes(outcome.sandbox));
});

kernelTest('a new version is never served by a spare of the old one', async (t) => {
	const name = await hot(t);
	await new Promise(setImmediate);
	await fixture().runtime.deploy(name, {'f.py': 'def f(event):\n\treturn "new"\n'}, {reuse: false});
	t.is(value(t, await fixture().runtime.invoke(name, 1)), 'new');
});

kernelTest(
	'a child of the zygote that was forked ahead becomes any function’s sandbox, with its limits, and only one',
	async (t) => {
		const {runtime} = await makeRuntime(t);
		const code = py`
		import os, resource
		def f(event):
			uid, status = os.getuid(), open('/proc/self/status').read()
			seccomp = [line for line in status.splitlines() if line.startswith(('Seccomp:', 'CapEff:', 'NoNewPrivs:'))]
			tmp = os.statvfs('/tmp')
			return [uid, seccomp, resource.getrlimit(resource.RLIMIT_NOFILE)[1], tmp.f_blocks * tmp.f_frsize, os.listdir('/proc/self/fd'), os.environ['NAME']]
	`;
		const seen: unknown[] = [];
		for (let i = 0; i < 6; i += 1) {
			const limits = {openFiles: 40 + i, scratchMb: 2 + i};
			await runtime.deploy(`f${i}`, {'f.py': code}, {spares: 0, reuse: false, limits, env: {NAME: `f${i}`}});
			let outcome = await runtime.invoke(`f${i}`, null);
			// The next one is made while nobody asks for one; the first two starts are no demand yet.
			for (let calls = 0; i > 1 && outcome.spare !== 'node' && calls < 50; calls += 1) {
				await new Promise(setImmediate);
				outcome = await runtime.invoke(`f${i}`, null);
			}
			const [uid, status, files, bytes, fds, name] = value(t, outcome) as unknown[];
			t.deepEqual(status, ['CapEff:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2']);
			t.deepEqual([files, bytes, name], [40 + i, (2 + i) * 1024 * 1024, `f${i}`]);
			t.deepEqual((fds as string[]).slice(0, 4), ['0', '1', '2', '3']);
			t.is((fds as string[]).length, 5, 'and that of the folder itself');
			t.true((uid as number) >= 1000, 'its own, not the zygote’s');
			seen.push(outcome.spare);
			await new Promise(setImmediate);
		}
		t.deepEqual(seen.slice(2), ['node', 'node', 'node', 'node']);
	},
);
