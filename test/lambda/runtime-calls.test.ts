import type {JsonValue} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {failure, makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';

const fixture = useRuntime();

const echo = 'def f(event):\n\treturn event\n';

/** Prints a line, then waits for ever. */
const waiting = py`
	import time
	def f(event):
		print('here', flush=True)
		time.sleep(600)
`;

const counter = py`
	count = 0
	def f(event):
		global count
		count += 1
		return count
`;

kernelTest('what is JSON comes back as it went in', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(echo);
	const deep = (levels: number): JsonValue => (levels === 0 ? 'deep' : [deep(levels - 1)]);
	for (const event of [
		null,
		true,
		0,
		-1.5,
		1e300,
		Number.MAX_SAFE_INTEGER,
		'',
		'Grüße 🎈 \u0000 \u2028',
		'\ud800',
		['\udfff', '\ud83c\udf88'],
		[],
		{},
		{'': {}},
		{a: [1, {b: null}]},
		{__proto__x: 1, constructor: 'x'},
		deep(500),
	]) {
		t.deepEqual(value(t, await runtime.invoke(name, event)), event, JSON.stringify(event).slice(0, 80));
	}
});

kernelTest('bytes come back as bytes', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('def f(event):\n\tassert type(event) is bytes\n\treturn event[::-1]\n');
	for (const event of [
		new Uint8Array(),
		new Uint8Array([0, 255, 10]),
		Buffer.from('buffer'),
		new Uint8Array(3 << 20).fill(7),
	]) {
		const back = value(t, await runtime.invoke(name, event));
		t.true(back instanceof Uint8Array && !Buffer.isBuffer(back));
		t.deepEqual(back, new Uint8Array(event).reverse());
	}
	const others = 'def f(event):\n\treturn bytearray(b"a") if event == 1 else memoryview(b"b")\n';
	t.deepEqual(value(t, await fixture().run(others, 1)), new Uint8Array([97]));
	t.deepEqual(value(t, await fixture().run(others, 2)), new Uint8Array([98]));
});

kernelTest('integers beyond what a double holds arrive rounded, tuples as arrays, keys as text', async (t) => {
	const code = 'def f(event):\n\treturn [10 ** 400 if event else 2 ** 64, (1, 2), {1: True, None: 0, False: 1}]\n';
	t.deepEqual(value(t, await fixture().run(code, false)), [2 ** 64, [1, 2], {1: true, null: 0, false: 1}]);
	t.deepEqual((value(t, await fixture().run(code, true)) as JsonValue[])[0] as number, Number.POSITIVE_INFINITY);
	const huge = 'def f(event):\n\treturn 10 ** 10000\n';
	t.is(failure(t, await fixture().run(huge)).code, 'ResultNotSerializable');
});

kernelTest('what is nested too deeply to be encoded is ResultNotSerializable, and the instance goes on', async (t) => {
	const {runtime} = fixture();
	const code = 'def f(event):\n\tx = []\n\tfor _ in range(event):\n\t\tx = [x]\n\treturn x\n';
	const name = await fixture().deploy(code);
	const outcome = await runtime.invoke(name, 100_000);
	t.is(failure(t, outcome).code, 'ResultNotSerializable');
	t.regex(failure(t, outcome).message, /nested too deeply/);
	t.deepEqual(value(t, await runtime.invoke(name, 0)), []);
});

kernelTest('an event that is too large or no JSON is the caller’s mistake', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(echo, {limits: {eventMb: 1}});
	const error = await t.throwsAsync(() => runtime.invoke(name, 'x'.repeat(1 << 20)), {instanceOf: RangeError});
	t.regex(error.message, /1 MiB \(limits\.eventMb\)/);
	await t.throwsAsync(() => runtime.invoke(name, new Uint8Array((1 << 20) + 1)), {instanceOf: RangeError});
	await t.throwsAsync(() => runtime.invoke(name, undefined as never), {instanceOf: TypeError});
	for (const timeoutMs of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31]) {
		await t.throwsAsync(() => runtime.invoke(name, 1, {timeoutMs}), {instanceOf: RangeError, message: /timeoutMs/});
	}
	t.is(value(t, await runtime.invoke(name, 'x'.repeat((1 << 20) - 2))), 'x'.repeat((1 << 20) - 2));
});

kernelTest('an async handler is awaited', async (t) => {
	const code = py`
		import asyncio
		async def f(event):
			await asyncio.sleep(0)
			if event == 'raise':
				raise KeyError('async')
			return {'event': event}
	`;
	t.deepEqual(value(t, await fixture().run(code, 1)), {event: 1});
	const error = failure(t, await fixture().run(code, 'raise'));
	t.like(error, {code: 'HandlerError', type: 'KeyError'});
	t.regex(error.traceback, /f\.py", line 5, in f/);
});

kernelTest('a generator’s chunks are the value, async or not', async (t) => {
	const plain = 'def f(event):\n\tfor number in range(event):\n\t\tyield {"n": number}\n\tyield b"end"\n';
	t.deepEqual(value(t, await fixture().run(plain, 2)), [{n: 0}, {n: 1}, new Uint8Array(Buffer.from('end'))]);
	const asynchronous = 'async def f(event):\n\tfor number in range(event):\n\t\tyield number\n';
	t.deepEqual(value(t, await fixture().run(asynchronous, 3)), [0, 1, 2]);
});

kernelTest('a generator that yields nothing gives an empty array', async (t) => {
	t.deepEqual(value(t, await fixture().run('def f(event):\n\tif event:\n\t\tyield 1\n', false)), []);
	t.deepEqual(value(t, await fixture().run('async def f(event):\n\tif event:\n\t\tyield 1\n', false)), []);
});

kernelTest('a generator that raises or yields what is not JSON is a failure', async (t) => {
	const raises = 'def f(event):\n\tyield 1\n\traise ValueError("mid-way")\n';
	t.like(failure(t, await fixture().run(raises)), {code: 'HandlerError', message: 'mid-way'});
	t.is(failure(t, await fixture().run('def f(event):\n\tyield {1}\n')).code, 'ResultNotSerializable');
});

kernelTest('a stream gives chunks as they come', async (t) => {
	const {runtime} = fixture();
	// The second chunk is only made once the first has arrived: it is what the handler is sent a sign for.
	const code = py`
		import time
		def f(event):
			yield 'first'
			print('between', flush=True)
			time.sleep(600)
	`;
	const name = await fixture().deploy(code);
	const stream = runtime.stream(name, null);
	for await (const chunk of stream) {
		t.is(chunk, 'first');
		break;
	}
	await t.throwsAsync(stream.outcome, {code: 'Aborted'});
	const chunks = [];
	const whole = runtime.stream(await fixture().deploy('def f(event):\n\tyield from range(event)\n'), 200);
	for await (const chunk of whole) chunks.push(chunk);
	t.deepEqual(chunks, [...Array(200).keys()]);
	t.true((await whole.outcome).ok);
});

kernelTest('a slow consumer holds the generator back', async (t) => {
	const {runtime} = fixture();
	const code = py`
		def f(event):
			for number in range(100):
				print(number, flush=True)
				yield b'x' * 200_000
	`;
	const name = await fixture().deploy(code, {limits: {resultMb: 64}});
	let printed = 0;
	const stream = runtime.stream(name, null, {
		onStdout(text) {
			printed += text.split('\n').length - 1;
		},
	});
	let taken = 0;
	for await (const chunk of stream) {
		taken += 1;
		t.is((chunk as Uint8Array).length, 200_000);
		// What waits in between: the chunk offered, one read with it, and what the socket and a write hold.
		if (printed > taken + 10) t.fail(`the handler is ${printed - taken} chunks ahead`);
		await new Promise((resolve) => setImmediate(resolve));
	}
	t.is(taken, 100);
	t.is(printed, 100);
});

kernelTest('a stream of a handler that fails ends, and its outcome says why', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('def f(event):\n\tyield 1\n\traise ValueError("mid-way")\n');
	const stream = runtime.stream(name, null);
	const chunks = [];
	for await (const chunk of stream) chunks.push(chunk);
	t.deepEqual(chunks, [1]);
	t.is(failure(t, await stream.outcome).code, 'HandlerError');
	const unknown = runtime.stream('nobody', null);
	await t.throwsAsync(unknown.outcome, {code: 'UnknownFunction'});
});

kernelTest('many small chunks that arrive at once are all given, in order', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('def f(event):\n\tfor n in range(5000):\n\t\tyield n\n');
	const stream = runtime.stream(name, null);
	const chunks: unknown[] = [];
	for await (const chunk of stream) {
		chunks.push(chunk);
		if (chunks.length % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
	}
	t.deepEqual(chunks, [...Array(5000).keys()]);
});

kernelTest('what a handler prints is heard as it comes', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(py`
		import sys, time
		def f(event):
			print('to stdout')
			print('to stderr', file=sys.stderr)
			time.sleep(600)
	`);
	const controller = new AbortController();
	const heard = {stdout: '', stderr: ''};
	const check = () => {
		if (heard.stdout !== '' && heard.stderr !== '') controller.abort();
	};
	const call = runtime.invoke(name, null, {
		signal: controller.signal,
		onStdout(text) {
			heard.stdout += text;
			check();
		},
		onStderr(text) {
			heard.stderr += text;
			check();
		},
	});
	await t.throwsAsync(call, {code: 'Aborted'});
	t.deepEqual(heard, {stdout: 'to stdout\n', stderr: 'to stderr\n'});
});

kernelTest('logs belong to the call that printed them', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('print("loading")\ndef f(event):\n\tprint(event)\n');
	t.is((await runtime.invoke(name, 'one')).logs.stdout, 'loading\none\n');
	t.is((await runtime.invoke(name, 'two')).logs.stdout, 'two\n');
});

kernelTest('calls at once run at once, each in an instance of its own', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('import time\ndef f(event):\n\ttime.sleep(0.2)\n\treturn event\n');
	const events = [...Array(8).keys()];
	const outcomes = await Promise.all(events.map((event) => runtime.invoke(name, event)));
	t.deepEqual(
		outcomes.map((outcome) => value(t, outcome)),
		events,
	);
	t.is(new Set(outcomes.map((outcome) => outcome.sandbox)).size, events.length);
});

kernelTest('with concurrency 1 calls wait in line', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(counter, {concurrency: 1});
	const outcomes = await Promise.all([1, 2, 3, 4, 5].map((event) => runtime.invoke(name, event)));
	t.deepEqual(
		outcomes.map((outcome) => value(t, outcome)),
		[1, 2, 3, 4, 5],
	);
	t.is(new Set(outcomes.map((outcome) => outcome.sandbox)).size, 1);
	t.true(outcomes.every((outcome, index) => index === 0 || outcome.timings.queueMs > 0));
});

/** Its starts take half a second, its calls nothing, unless they are to last. */
const slowToStart = py`
	import time
	time.sleep(0.5)
	def f(event):
		if event == 'last':
			print('here', flush=True)
			time.sleep(600)
		return event
`;

kernelTest('a call whose turn comes sooner than a start waits for that instance', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(slowToStart);
	const first = await runtime.invoke(name, 'first');
	const outcomes = await Promise.all([1, 2, 3].map((event) => runtime.invoke(name, event)));
	t.deepEqual(
		outcomes.map((outcome) => [value(t, outcome), outcome.start, outcome.sandbox]),
		[1, 2, 3].map((event) => [event, 'warm', first.sandbox]),
	);
});

kernelTest('a call that has waited as long as a start takes gets an instance of its own', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(slowToStart);
	const first = await runtime.invoke(name, 'first');
	const controller = new AbortController();
	const lasting = runtime.invoke(name, 'last', {signal: controller.signal});
	const waiting = runtime.invoke(name, 'other');
	t.like(
		(await runtime.stats()).functions.find((each) => each.name === name),
		{running: 1, waiting: 1},
	);
	const other = await waiting;
	t.is(value(t, other), 'other');
	t.is(other.start, 'forked');
	t.not(other.sandbox, first.sandbox);
	controller.abort();
	await t.throwsAsync(lasting, {code: 'Aborted'});
});

kernelTest('a call beyond those that may wait is refused at once, and the others are not', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(waiting, {concurrency: 1, maxQueue: 1});
	const controller = new AbortController();
	let started: () => void;
	const running = new Promise<void>((resolve) => {
		started = resolve;
	});
	const {signal} = controller;
	const holding = runtime.invoke(name, null, {signal, onStdout: () => started()});
	await running;
	const queued = runtime.invoke(name, null, {timeoutMs: 1000});
	await t.throwsAsync(() => runtime.invoke(name, null), {code: 'QueueFull', message: /at most 1 .*\(maxQueue\)/});
	t.like(
		(await runtime.stats()).functions.find((each) => each.name === name),
		{running: 1, waiting: 1},
	);
	controller.abort();
	await t.throwsAsync(holding, {code: 'Aborted'});
	t.is((await queued).logs.stdout, 'here\n', 'it got its turn');
	t.is(failure(t, await runtime.invoke(name, null, {timeoutMs: 100})).code, 'Timeout', 'and there is room again');
});

kernelTest('a call that waits in line times out, aborts, and makes way', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(waiting, {concurrency: 1});
	const first = new AbortController();
	let started: () => void;
	const running = new Promise<void>((resolve) => {
		started = resolve;
	});
	const holding = runtime.invoke(name, null, {signal: first.signal, onStdout: () => started()});
	await running;
	const late = await runtime.invoke(name, null, {timeoutMs: 50});
	t.is(failure(t, late).code, 'Timeout');
	t.is(late.sandbox, '');
	const second = new AbortController();
	const aborted = runtime.invoke(name, null, {signal: second.signal});
	const third = runtime.invoke(name, null, {timeoutMs: 1000});
	const counts = async () => (await runtime.stats()).functions.find((each) => each.name === name);
	t.like(await counts(), {running: 1, waiting: 2});
	second.abort();
	await t.throwsAsync(aborted, {code: 'Aborted'});
	t.like(await counts(), {running: 1, waiting: 1});
	first.abort();
	await t.throwsAsync(holding, {code: 'Aborted'});
	const outcome = await third;
	t.is(failure(t, outcome).code, 'Timeout');
	t.not(outcome.sandbox, '', 'it got its turn');
	t.is(outcome.logs.stdout, 'here\n');
	t.like(await counts(), {running: 0, waiting: 0});
});

kernelTest('an abort before the call keeps it from starting', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(echo);
	let created = 0;
	const count = () => {
		created += 1;
	};
	runtime.on('created', count);
	const reason = new Error('no more');
	const error = await t.throwsAsync(() => runtime.invoke(name, 1, {signal: AbortSignal.abort(reason)}), {
		code: 'Aborted',
	});
	t.is(error.cause, reason);
	runtime.off('created', count);
	t.is(created, 0);
});

kernelTest('an abort during the call ends its instance', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(waiting);
	const destroyed = new Promise<void>((resolve) => {
		runtime.on('destroyed', (event) => event.function === name && resolve());
	});
	const controller = new AbortController();
	const call = runtime.invoke(name, null, {signal: controller.signal, onStdout: () => controller.abort()});
	await t.throwsAsync(call, {code: 'Aborted'});
	await destroyed;
	t.like(
		(await runtime.stats()).functions.find((each) => each.name === name),
		{running: 0, idle: 0},
	);
});

kernelTest('an abort in any of the moments of a start ends the call in one way', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(echo, {reuse: false});
	for (let turn = 0; turn < 40; turn += 1) {
		const controller = new AbortController();
		const call = runtime.invoke(name, turn, {signal: controller.signal}).then(
			(outcome) => value(t, outcome),
			(error: {code: string}) => error.code,
		);
		const abort = (turns: number): void => {
			if (turns === 0) controller.abort();
			else setImmediate(() => abort(turns - 1));
		};
		abort(turn);
		t.true([turn, 'Aborted'].includes((await call) as string | number));
	}
	t.like(
		(await runtime.stats()).functions.find((each) => each.name === name),
		{running: 0, waiting: 0},
	);
});

kernelTest('a function that nobody deployed is UnknownFunction', async (t) => {
	const {runtime} = fixture();
	await t.throwsAsync(() => runtime.invoke('nobody', null), {code: 'UnknownFunction', message: /"nobody"/});
	await t.throwsAsync(() => runtime.remove('nobody'), {code: 'UnknownFunction'});
	await t.throwsAsync(() => runtime.prewarm('nobody'), {code: 'UnknownFunction'});
});

kernelTest('an instance is used again, and with reuse false never', async (t) => {
	const {runtime} = fixture();
	const kept = await fixture().deploy(counter);
	const kinds = [];
	for (const expected of [1, 2, 3]) {
		const outcome = await runtime.invoke(kept, null);
		t.is(value(t, outcome), expected);
		kinds.push(outcome.start);
	}
	t.deepEqual(kinds, ['forked', 'warm', 'warm']);
	const fresh = await fixture().deploy(counter, {reuse: false});
	for (let turn = 0; turn < 3; turn += 1) {
		const outcome = await runtime.invoke(fresh, null);
		t.is(value(t, outcome), 1);
		t.is(outcome.start, 'forked');
	}
});

kernelTest('with zygote false each start is a cold one', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(counter, {zygote: false, reuse: false});
	for (let turn = 0; turn < 2; turn += 1) {
		const outcome = await runtime.invoke(name, null);
		t.is(value(t, outcome), 1);
		t.is(outcome.start, 'cold');
	}
});

kernelTest('the first two calls of a function count up from one each time it is deployed', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(counter);
	t.is(value(t, await runtime.invoke(name, null)), 1);
	await runtime.deploy(name, {'f.py': `${counter}# changed\n`});
	t.is(value(t, await runtime.invoke(name, null)), 1);
	t.is(value(t, await runtime.invoke(name, null)), 2);
});

kernelTest('a call goes on with the version that it began with', async (t) => {
	const {runtime} = fixture();
	const old = py`
		import time
		def f(event):
			print('here', flush=True)
			time.sleep(0.3)
			return 'old'
	`;
	const name = await fixture().deploy(old);
	let replaced: Promise<unknown> | undefined;
	const outcome = await runtime.invoke(name, null, {
		onStdout() {
			replaced ??= runtime.deploy(name, {'f.py': 'def f(event):\n\treturn "new"\n'});
		},
	});
	t.is(value(t, outcome), 'old');
	await replaced;
	t.is(value(t, await runtime.invoke(name, null)), 'new');
});

kernelTest('created comes before destroyed for every sandbox, and each comes once', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(echo, {reuse: false, spares: 0});
	const events: string[] = [];
	const note = (kind: string) => (event: {function: string; sandbox: string}) => {
		if (event.function === name) events.push(`${kind} ${event.sandbox}`);
	};
	const listeners = {created: note('created'), forked: note('forked'), destroyed: note('destroyed')};
	runtime.on('created', listeners.created).on('forked', listeners.forked).on('destroyed', listeners.destroyed);
	const first = await runtime.invoke(name, 1);
	const second = await runtime.invoke(name, 1);
	await runtime.remove(name);
	runtime.off('created', listeners.created).off('forked', listeners.forked).off('destroyed', listeners.destroyed);
	for (const {sandbox} of [first, second]) {
		t.deepEqual(
			events.filter((event) => event.endsWith(` ${sandbox}`)),
			[`created ${sandbox}`, `forked ${sandbox}`, `destroyed ${sandbox}`],
		);
	}
	t.is(events.length, 6);
});

kernelTest('a budget that is taken makes calls wait, evicts what is idle, and ends in BudgetExceeded', async (t) => {
	const leaks = new LeakCheck();
	const {runtime, stateDir} = await makeRuntime(t, {memoryBudgetMb: 128});
	leaks.track(stateDir);
	await runtime.deploy('idle', {'f.py': echo}, {limits: {memoryMb: 100}});
	await runtime.deploy('waiting', {'f.py': waiting}, {limits: {memoryMb: 100}});
	await runtime.deploy('huge', {'f.py': echo}, {limits: {memoryMb: 200}});
	t.is(value(t, await runtime.invoke('idle', 1)), 1);
	t.like((await runtime.stats()).memory, {budgetMb: 128, reservedMb: 100});
	const controller = new AbortController();
	let started: () => void;
	const running = new Promise<void>((resolve) => {
		started = resolve;
	});
	const call = runtime.invoke('waiting', null, {signal: controller.signal, onStdout: () => started()});
	await running; // the idle instance has made room
	await t.throwsAsync(() => runtime.invoke('idle', 1, {timeoutMs: 100}), {code: 'BudgetExceeded'});
	await t.throwsAsync(() => runtime.invoke('huge', 1), {instanceOf: RangeError, message: /memoryBudgetMb/});
	const next = runtime.invoke('idle', 2);
	controller.abort();
	await t.throwsAsync(call, {code: 'Aborted'});
	t.is(value(t, await next), 2);
	await runtime.close();
	leaks.verify(t);
});

kernelTest('an abort reaches a call that waits for memory', async (t) => {
	const {runtime} = await makeRuntime(t, {memoryBudgetMb: 128});
	await runtime.deploy('waiting', {'f.py': waiting}, {limits: {memoryMb: 100}});
	const holder = new AbortController();
	let started: () => void;
	const running = new Promise<void>((resolve) => {
		started = resolve;
	});
	const holding = runtime.invoke('waiting', null, {signal: holder.signal, onStdout: () => started()});
	await running;
	const waiter = new AbortController();
	const call = runtime.invoke('waiting', null, {signal: waiter.signal, timeoutMs: 5000});
	setImmediate(() => waiter.abort());
	const began = performance.now();
	await t.throwsAsync(call, {code: 'Aborted'});
	t.true(performance.now() - began < 1000);
	t.is((await runtime.stats()).memory.reservedMb, 100);
	holder.abort();
	await t.throwsAsync(holding, {code: 'Aborted'});
	await runtime.close();
});

kernelTest('everything after close() is RuntimeClosed, and close() may be called twice', async (t) => {
	const leaks = new LeakCheck();
	const {runtime, stateDir} = await makeRuntime(t);
	leaks.track(stateDir);
	await runtime.deploy('echo', {'f.py': echo});
	t.is(value(t, await runtime.invoke('echo', 1)), 1);
	await Promise.all([runtime.close(), runtime.close()]);
	await runtime.close();
	const closed = {code: 'RuntimeClosed'};
	await t.throwsAsync(() => runtime.invoke('echo', 1), closed);
	await t.throwsAsync(() => runtime.deploy('echo', {'f.py': echo}), closed);
	await t.throwsAsync(() => runtime.remove('echo'), closed);
	await t.throwsAsync(() => runtime.prewarm('echo'), closed);
	await t.throwsAsync(() => runtime.stats(), closed);
	await t.throwsAsync(runtime.stream('echo', 1).outcome, closed);
	t.throws(() => runtime.list(), closed);
	leaks.verify(t);
});

kernelTest('close() lets a running call finish, and refuses the ones that wait in line', async (t) => {
	const {runtime} = await makeRuntime(t);
	const code = 'import time\ndef f(event):\n\tprint("here", flush=True)\n\ttime.sleep(0.3)\n\treturn event\n';
	await runtime.deploy('slow', {'f.py': code}, {concurrency: 1});
	let closing: Promise<void> | undefined;
	let queued: Promise<unknown> | undefined;
	const outcome = await runtime.invoke('slow', 'done', {
		onStdout() {
			if (closing !== undefined) return;
			queued = t.throwsAsync(() => runtime.invoke('slow', 2), {code: 'RuntimeClosed'});
			closing = runtime.close();
		},
	});
	t.is(value(t, outcome), 'done');
	await queued;
	await closing;
});

kernelTest('what was deployed is there for the next runtime of the same state folder', async (t) => {
	const {runtime: first, stateDir} = await makeRuntime(t);
	const {version} = await first.deploy(
		'kept',
		{'f.py': echo},
		{env: {A: '1'}, limits: {timeoutMs: 1234}, concurrency: 3},
	);
	await first.close();
	const {runtime: second} = await makeRuntime(t, {stateDir});
	t.like(second.list()[0], {name: 'kept', version, concurrency: 3, reuse: true, zygote: true, packages: []});
	t.is(second.list()[0]?.limits.timeoutMs, 1234);
	t.is(value(t, await second.invoke('kept', 'again')), 'again');
});

kernelTest('what nobody called for long is ended, and comes again when it is called', async (t) => {
	const {runtime} = await makeRuntime(t, {instanceIdleMs: 50});
	await runtime.deploy('idle', {'f.py': echo});
	const destroyed = new Promise((resolve) => runtime.once('destroyed', resolve));
	t.is(value(t, await runtime.invoke('idle', 1)), 1);
	await destroyed;
	t.is((await runtime.stats()).functions[0]?.idle, 0);
	const again = await runtime.invoke('idle', 2);
	t.deepEqual([value(t, again), again.start], [2, 'forked']);
});
