import {existsSync, readFileSync} from 'node:fs';
import test from 'ava';
import type {DeployOptions, JsonValue, OutcomeCode, OutcomeError} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {failure, py, useRuntime, value} from '../helpers/runtime.ts';

// Some count processes: none shall be there that nobody asked for.
const fixture = useRuntime({spares: 0});

const counter = py`
	count = 0
	def f(event):
		global count
		count += 1
		return count
`;

let healthy: {readonly name: string; readonly sandbox: string; count: number} | undefined;

test.beforeEach(async (t) => {
	if (healthy !== undefined) return;
	const name = await fixture().deploy(counter);
	const outcome = await fixture().runtime.invoke(name, null);
	t.is(value(t, outcome), 1);
	healthy = {name, sandbox: outcome.sandbox, count: 1};
});

// Whatever a handler does: another function's sandbox is the one it was, with the memory it had.
test.afterEach.always(async (t) => {
	if (healthy === undefined) return;
	healthy.count += 1;
	const outcome = await fixture().runtime.invoke(healthy.name, null);
	t.is(value(t, outcome), healthy.count, 'the instance of another function was disturbed');
	t.is(outcome.sandbox, healthy.sandbox);
});

type Case = {
	readonly title: string;
	readonly code: string;
	readonly event?: JsonValue;
	readonly options?: DeployOptions;
	readonly error: Partial<OutcomeError> & {readonly code: OutcomeCode};
	readonly message?: RegExp;
	/** Whether the sandbox serves the next call. */
	readonly survives?: boolean;
};

function outcomeTest({title, code, event, options, error, message, survives = false}: Case): void {
	kernelTest(title, async (t) => {
		const {runtime} = fixture();
		const name = await fixture().deploy(code, options);
		const outcome = await runtime.invoke(name, event ?? 'bad');
		t.like(failure(t, outcome), error);
		if (message !== undefined) t.regex(failure(t, outcome).message, message);
		const next = await runtime.invoke(name, 'good');
		if (error.code === 'ImportFailed') t.is(failure(t, next).code, error.code);
		else t.is(value(t, next), 'good');
		t.is(next.sandbox === outcome.sandbox, survives, 'whether the instance is used again');
		t.is(next.start, survives ? 'warm' : 'forked');
		await runtime.remove(name);
	});
}

/** A handler that answers every event but `bad`, with which it does `body`. */
function onBad(body: string, before = ''): string {
	const indented = body.split('\n').map((line) => `\t\t${line}`);
	return `${before}\ndef f(event):\n\tif event == 'bad':\n${indented.join('\n')}\n\treturn event\n`;
}

kernelTest('what a handler raises arrives with type, message and its own traceback', async (t) => {
	const code = py`
		def inner():
			raise ValueError('of no use')

		def f(event):
			inner()
	`;
	const error = failure(t, await fixture().run(code));
	t.deepEqual(error, {
		code: 'HandlerError',
		type: 'ValueError',
		message: 'of no use',
		traceback: [
			'Traceback (most recent call last):',
			'  File "/handler/f.py", line 5, in f',
			'    inner()',
			'  File "/handler/f.py", line 2, in inner',
			"    raise ValueError('of no use')",
			'ValueError: of no use',
			'',
		].join('\n'),
	});
});

outcomeTest({
	title: 'a handler that raises can be called again',
	code: onBad('return 1 / 0'),
	error: {code: 'HandlerError', type: 'ZeroDivisionError', message: 'division by zero'},
	survives: true,
});
outcomeTest({
	title: 'an exception whose text raises is still told by its type',
	code: onBad('raise Silent()', 'class Silent(Exception):\n\tdef __str__(self):\n\t\traise RuntimeError("never")\n'),
	error: {code: 'HandlerError', type: 'f.Silent'},
	message: /could not be turned into text/,
	survives: true,
});
outcomeTest({
	title: 'an exception with lone surrogates in its text is told',
	code: onBad("raise ValueError('\\ud800')"),
	error: {code: 'HandlerError', message: '\ud800'},
	survives: true,
});
outcomeTest({
	title: 'endless recursion is an exception',
	code: onBad('return f(event)'),
	error: {code: 'HandlerError', type: 'RecursionError'},
	survives: true,
});
outcomeTest({
	title: 'sys.exit(3) is Exited with status 3',
	code: onBad('import sys\nsys.exit(3)'),
	error: {code: 'Exited', exitStatus: 3},
});
outcomeTest({
	title: 'os._exit(4) is Exited with status 4',
	code: onBad('import os\nos._exit(4)'),
	error: {code: 'Exited', exitStatus: 4},
});
outcomeTest({
	title: 'SIGKILL from the handler to itself does nothing, as it is process 1',
	code: 'import os, signal\ndef f(event):\n\tos.kill(os.getpid(), signal.SIGKILL)\n\tif event == "bad":\n\t\tos._exit(5)\n\treturn event\n',
	error: {code: 'Exited', exitStatus: 5},
});
outcomeTest({
	title: 'a segmentation fault is Killed by SIGSEGV',
	code: onBad('import ctypes\nctypes.string_at(0)'),
	error: {code: 'Killed', signal: 'SIGSEGV'},
});
outcomeTest({
	title: 'os.abort() is Killed by a signal',
	code: onBad('import os\nos.abort()'),
	error: {code: 'Killed'},
	message: /SIG(ABRT|SEGV|ILL|TRAP)/,
});
outcomeTest({
	title: 'allocating more than limits.memoryMb is OutOfMemory',
	code: onBad('x = bytearray(10 << 30) if event is None else [bytearray(1 << 20) for _ in range(200)]'),
	options: {limits: {memoryMb: 64}},
	error: {code: 'OutOfMemory'},
	message: /64 MiB \(limits\.memoryMb\)/,
});
outcomeTest({
	title: 'a grandchild that exceeds the memory limit ends the sandbox or itself, never the runtime',
	code: onBad(
		'import os\npid = os.fork()\nif pid == 0:\n\tx = bytearray(200 << 20)\n\tos._exit(0)\nraise MemoryError(os.waitpid(pid, 0)[1])',
	),
	options: {limits: {memoryMb: 64}},
	error: {code: 'HandlerError', message: '9'},
	survives: true,
});

for (const [title, expression, message] of [
	['NaN', "float('nan')", /^\$ is nan, which JSON lacks/],
	['infinity in a list', "[1, float('-inf')]", /^\$\[1\] is -inf/],
	['a set', '{1}', /^\$ is of type set, which is not JSON; use sorted\(value\)/],
	[
		'a nested object',
		"{'rows': [1, {'when': object()}]}",
		/^\$\['rows'\]\[1\]\['when'\] is of type object.*convert it/,
	],
	['a foreign scalar', 'float64(1)', /^\$ is of type numpy\.float64, which is not JSON; use \.item\(\)/],
	['a foreign array', "{'a': ndarray(1)}", /^\$\['a'\] is of type numpy\.ndarray, which is not JSON; use \.tolist\(\)/],
	['a circle', 'circle', /^\$\[0\] contains itself/],
	['a key that is no text', '{(1, 2): 3}', /^\$ has a key of type tuple; use str\(key\)/],
	['nested bytes', "{'body': b'x'}", /^\$\['body'\] is of type bytes/],
] as const) {
	outcomeTest({
		title: `an answer that is not JSON names the path and what to do: ${title}`,
		code: onBad(
			`return ${expression}`,
			py`
				circle = []
				circle.append(circle)
				float64 = type('float64', (), {'__module__': 'numpy', 'ndim': 0, '__init__': lambda self, value: None})
				ndarray = type('ndarray', (), {'__module__': 'numpy', 'ndim': 1, '__init__': lambda self, value: None})
			`,
		),
		error: {code: 'ResultNotSerializable'},
		message,
		survives: true,
	});
}

/** Gone, or a zombie: see proc(5). */
function isEnded(pid: number): boolean {
	try {
		return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
	} catch {
		return true;
	}
}

kernelTest('a loop that ignores every signal is a Timeout, and its process is gone by then', async (t) => {
	const {runtime, stateDir} = fixture();
	const code = py`
		import signal
		def f(event):
			for number in range(1, 65):
				try:
					signal.signal(number, signal.SIG_IGN)
				except (OSError, ValueError):
					pass
			print('spinning', flush=True)
			while True:
				pass
	`;
	const name = await fixture().deploy(code);
	const before = processesIn(cgroupsOf(stateDir));
	let during: number[] = [];
	const outcome = await runtime.invoke(name, null, {
		timeoutMs: 400,
		onStdout() {
			during = processesIn(cgroupsOf(stateDir)).filter((pid) => !before.includes(pid));
		},
	});
	t.is(failure(t, outcome).code, 'Timeout');
	t.regex(failure(t, outcome).message, /longer than 400 ms/);
	t.true(outcome.timings.totalMs >= 400 && outcome.timings.totalMs < 1400, `${outcome.timings.totalMs} ms`);
	t.is(outcome.logs.stdout, 'spinning\n');
	t.is(during.length, 1);
	// An ended process may wait a moment for its zygote to collect it.
	for (const pid of during) t.true(isEnded(pid), 'the process has ended');
});

kernelTest('output beyond limits.outputMb is cut with a mark, and the call goes on', async (t) => {
	const code = py`
		import sys
		def f(event):
			sys.stdout.write('x' * (5 << 20))
			sys.stderr.write('kept')
			return 'done'
	`;
	const outcome = await fixture().run(code, null, {limits: {outputMb: 1}});
	t.is(value(t, outcome), 'done');
	t.deepEqual(outcome.limitsHit, ['stdout']);
	t.is(outcome.logs.stdout, `${'x'.repeat(1 << 20)}\n[output cut after 1048576 bytes]\n`);
	t.is(outcome.logs.stderr, 'kept');
});

for (const [title, body, message] of [
	['a frame of giant length', "os.write(3, b'\\xff\\xff\\xff\\xff\\x63')", /^expected a frame of at most/],
	['a frame of a type that no answer has', "os.write(3, b'\\0\\0\\0\\0\\x63')", /type of an answer, got 99$/],
	['a birth that is none', "os.write(3, b'\\0\\0\\0\\0\\x01')", /type of an answer, got 1$/],
	['an answer that is not JSON', "os.write(3, b'\\x01\\0\\0\\0\\x84{')", /^expected strict JSON$/],
	['an error report that is not JSON', "os.write(3, b'\\x01\\0\\0\\0\\x86{')", /^expected an error report/],
	[
		'an error with a code of its own making',
		'text = b\'{"code":"Timeout"}\'\nos.write(3, bytes([len(text), 0, 0, 0, 0x86]) + text)',
		/^expected an error report/,
	],
] as const) {
	outcomeTest({
		title: `a handler that writes ${title} on its channel is a ProtocolError`,
		code: onBad(`import os, time\n${body}\ntime.sleep(60)`),
		error: {code: 'ProtocolError'},
		message,
	});
}

kernelTest('an instance that speaks between calls is not used again', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import os, threading
		def speak():
			os.write(3, b'\x04\x00\x00\x00\x84null')
		def f(event):
			threading.Timer(0.05, speak).start()
			return 'answered'
	`;
	const name = await fixture().deploy(code);
	const destroyed = new Promise<string>((resolve) => {
		runtime.on('destroyed', (event) => event.function === name && resolve(event.sandbox));
	});
	const first = await runtime.invoke(name, null);
	t.is(value(t, first), 'answered');
	t.is(await destroyed, first.sandbox);
	const next = await runtime.invoke(name, null);
	t.is(value(t, next), 'answered');
	t.is(next.start, 'forked');
});

const loaded = "os.write(3, b'\\0\\0\\0\\0\\x02')";
const early = 'os.write(3, b\'\\x07\\0\\0\\0\\x84"early"\')';

for (const [title, frames] of [
	['answers before its handler is loaded', early],
	['says twice that its handler is loaded', `${loaded}; ${loaded}`],
] as const) {
	kernelTest(`a module that ${title} is a ProtocolError`, async (t) => {
		const {code, message} = failure(t, await fixture().run(`import os\n${frames}\ndef f(event):\n\treturn event\n`));
		t.is(code, 'ProtocolError');
		t.regex(message, /once and before it answers$/);
	});
}

kernelTest('a first event is as large as it may be, and told apart from loading', async (t) => {
	const code = 'import time\ntime.sleep(0.2)\ndef f(event):\n\treturn len(event)\n';
	const event = 'x'.repeat(1024 * 1024 - 2);
	const outcome = await fixture().run(code, event, {limits: {eventMb: 1}});
	t.is(value(t, outcome), event.length);
	const {loadMs, startMs, handlerMs, totalMs} = outcome.timings;
	t.true(loadMs >= 200 && startMs >= loadMs);
	t.true(startMs + handlerMs <= totalMs);
});

kernelTest('a handler that closes its channel is a ProtocolError or Exited', async (t) => {
	const stays = await fixture().run('import os, time\ndef f(event):\n\tos.close(3)\n\ttime.sleep(60)\n');
	t.is(failure(t, stays).code, 'ProtocolError');
	const ends = await fixture().run('import os\ndef f(event):\n\tos.close(3)\n');
	t.is(failure(t, ends).code, 'Exited');
});

kernelTest('an answer larger than limits.resultMb is ResultTooLarge, also as chunks together', async (t) => {
	const whole = await fixture().run('def f(event):\n\treturn "x" * (1 << 20)\n', null, {limits: {resultMb: 1}});
	t.is(failure(t, whole).code, 'ResultTooLarge');
	t.regex(failure(t, whole).message, /1 MiB \(limits\.resultMb\)/);
	const chunks = 'def f(event):\n\tfor _ in range(11):\n\t\tyield b"x" * 100_000\n';
	t.is(failure(t, await fixture().run(chunks, null, {limits: {resultMb: 1}})).code, 'ResultTooLarge');
	const fits = await fixture().run('def f(event):\n\treturn b"x" * (1 << 20)\n', null, {limits: {resultMb: 1}});
	t.is((value(t, fits) as Uint8Array).length, 1 << 20);
});

kernelTest('an answer far beyond the limit of a frame is ResultTooLarge', async (t) => {
	const outcome = await fixture().run('def f(event):\n\treturn "x" * (8 << 20)\n', null, {limits: {resultMb: 1}});
	t.is(failure(t, outcome).code, 'ResultTooLarge');
});

outcomeTest({
	title: 'a module that raises is ImportFailed with its traceback',
	code: 'import nowhere_to_be_found\ndef f(event):\n\treturn 1\n',
	error: {
		code: 'ImportFailed',
		type: 'ModuleNotFoundError',
		traceback: [
			'Traceback (most recent call last):',
			'  File "/handler/f.py", line 1, in <module>',
			'    import nowhere_to_be_found',
			"ModuleNotFoundError: No module named 'nowhere_to_be_found'",
			'',
		].join('\n'),
	},
});
outcomeTest({
	title: 'a module without f is ImportFailed',
	code: 'def g(event):\n\treturn 1\n',
	error: {code: 'ImportFailed'},
	message: /f\.py defines no function 'f'/,
});

kernelTest('a module that exits is Exited with its status', async (t) => {
	t.like(failure(t, await fixture().run('import sys\nsys.exit(7)\n')), {code: 'Exited', exitStatus: 7});
	t.like(failure(t, await fixture().run('import os\nos._exit(8)\n')), {code: 'Exited', exitStatus: 8});
});

kernelTest('a module that takes too long to load is a Timeout', async (t) => {
	const outcome = await fixture().run('while True: pass\n', null, {limits: {timeoutMs: 300}});
	t.is(failure(t, outcome).code, 'Timeout');
});

kernelTest('a forked child that comes back from the handler answers nothing', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import os
		def f(event):
			pid = os.fork()
			if pid:
				os.waitpid(pid, 0)
				return 'parent'
			if event == 'raise':
				raise ValueError('child')
			if event == 'exit':
				raise SystemExit(9)
			return 'child'
	`;
	const name = await fixture().deploy(code);
	for (const event of ['return', 'raise', 'exit']) {
		t.is(value(t, await runtime.invoke(name, event)), 'parent');
	}
});

kernelTest('daemons that a handler leaves behind die with the sandbox', async (t) => {
	const {runtime, stateDir} = fixture();
	const code = py`
		import os, time
		def f(event):
			read, write = os.pipe()
			if os.fork() == 0:
				os.setsid()
				if os.fork() == 0:
					os.write(write, b'x')
					time.sleep(600)
				os._exit(0)
			os.wait()
			os.read(read, 1)
			return 'left'
	`;
	const before = processesIn(cgroupsOf(stateDir));
	const name = await fixture().deploy(code);
	t.is(value(t, await runtime.invoke(name, null)), 'left');
	const made = processesIn(cgroupsOf(stateDir)).filter((pid) => !before.includes(pid));
	t.is(made.length, 2, 'the sandbox and the daemon');
	await runtime.remove(name);
	for (const pid of made) t.false(existsSync(`/proc/${pid}`));
});

kernelTest('a handler may close, replace or delete its standard streams', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import os, sys
		def f(event):
			if event == 'close': sys.stdout.close()
			if event == 'delete': del sys.stdout, sys.stderr
			if event == 'replace': sys.stdout = 5
			if event == 'fds': os.close(1), os.close(2)
			return event
	`;
	const name = await fixture().deploy(code, {reuse: false});
	for (const event of ['close', 'delete', 'replace', 'fds']) {
		t.is(value(t, await runtime.invoke(name, event)), event, event);
		t.is(value(t, await runtime.invoke(name, event, {onStdout: () => undefined})), event, `${event}, listened to`);
	}
	const reused = await fixture().deploy(code);
	for (const event of ['delete', 'again', 'again']) {
		t.is(value(t, await runtime.invoke(reused, event, {onStdout: () => undefined})), event);
	}
});

kernelTest('a handler that deletes the modules it was given still answers', async (t) => {
	const code = py`
		import sys
		def f(event):
			sys.modules.clear()
			return 'fine'
	`;
	t.is(value(t, await fixture().run(code)), 'fine');
});
