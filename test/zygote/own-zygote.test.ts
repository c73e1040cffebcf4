import {once} from 'node:events';
import process from 'node:process';
import type {ExecutionContext} from 'ava';
import type {DeployOptions, Outcome, RuntimeEvents} from '../../src/index.ts';
import {withDeadline} from '../../src/kernel/deadline.ts';
import {serialKernelTest as kernelTest, rootTest} from '../helpers/kernel-test.ts';
import {waitMs, within} from '../helpers/pool.ts';
import {makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';
import {likeNumpy, likeTorch, provideWheels} from '../helpers/wheels.ts';

provideWheels({
	own_lazy: {'own_lazy.py': 'import os\nIMPORTED_BY = os.getpid()\n'},
	numpy: likeNumpy,
	torch: likeTorch,
});

// Many sandboxes at once reserve more than a small machine has, and use little of it.
const fixture = useRuntime({promote: false, memoryBudgetMb: 8192});
const options: DeployOptions = {reuse: false, spares: 0};
/** Loading takes so long that one start makes a zygote worth it. */
const slow = 'import os, time\ntime.sleep(0.2)\nLOADED_BY = os.getpid()\nTHERE = os.getpid() != 1\n';

type Told = RuntimeEvents['zygoteCreated'][0] | RuntimeEvents['importFailed'][0];

/** Deploys and calls it; answers when its module has a zygote, or has been refused one. */
async function callUntilTold(
	t: ExecutionContext,
	code: string,
	own: DeployOptions = {},
	calls = 1,
): Promise<[string, Told]> {
	const {runtime} = fixture();
	const name = await fixture().deploy(code, {...options, ...own});
	t.teardown(() => runtime.remove(name));
	const told = withDeadline(
		new Promise<Told>((resolve) => {
			runtime.on('zygoteCreated', (event) => event.modules[0] === 'f.py' && resolve(event));
			runtime.on('importFailed', (event) => ['f.py', own.warmup].includes(event.module) && resolve(event));
		}),
		waitMs,
		() => new Error('expected word of its zygote'),
	);
	for (let each = 0; each < calls; each += 1) value(t, await runtime.invoke(name, null));
	const event = await told;
	runtime.removeAllListeners('zygoteCreated').removeAllListeners('importFailed');
	return [name, event];
}

async function call(t: ExecutionContext, name: string, event: string | null = null): Promise<unknown> {
	return value(t, await fixture().runtime.invoke(name, event));
}

kernelTest('a module that takes long to load is loaded once, in a zygote of its own', async (t) => {
	const code = `${slow}STATE = []\ndef f(event):\n\tSTATE.append(event)\n\treturn [LOADED_BY == os.getpid(), STATE, os.environ["WORD"], __file__]\n`;
	const [name, told] = await callUntilTold(t, code, {env: {WORD: 'kept'}});
	t.false('traceback' in told);
	t.deepEqual(await call(t, name, 'one'), [false, ['one'], 'kept', '/handler/f.py']);
	t.deepEqual(await call(t, name, 'two'), [false, ['two'], 'kept', '/handler/f.py'], 'sandboxes share nothing');
	const outcome = await fixture().runtime.invoke(name, null);
	t.like(outcome, {start: 'forked', ownZygote: true});
	const before = await fixture().runtime.stats();
	t.true(before.zygotes.some(({modules}) => modules[0] === 'f.py'));
	await fixture().runtime.deploy(name, {'f.py': 'def f(event):\n\tpass\n'}, options);
	await call(t, name);
	const after = await fixture().runtime.stats();
	t.false(
		after.zygotes.some(({modules}) => modules[0] === 'f.py'),
		'it goes with its function',
	);
});

kernelTest('so are packages that the module imports, if its node has not', async (t) => {
	const code = `${slow}import own_lazy\ndef f(event):\n\treturn [own_lazy.IMPORTED_BY == LOADED_BY, LOADED_BY == os.getpid()]\n`;
	const {runtime} = await makeRuntime(t, {tree: {packages: [], children: []}, promote: false});
	await runtime.deploy('lazy', {'f.py': code}, {...options, requirements: ['own_lazy']});
	const created = once(runtime, 'zygoteCreated');
	t.deepEqual(value(t, await runtime.invoke('lazy', null)), [true, true]);
	await created;
	t.deepEqual(value(t, await runtime.invoke('lazy', null)), [true, false]);
});

kernelTest('no two sandboxes of such a zygote draw the same random numbers', async (t) => {
	const code = `${slow}${py`
		import numpy.random, random, secrets, ssl, torch, uuid
		random.random(), numpy.random.rand(), ssl.RAND_bytes(1)
		def f(event):
			return [random.random(), numpy.random.rand(), secrets.token_hex(), str(uuid.uuid4()), ssl.RAND_bytes(8).hex(), torch.default_generator.drawn, THERE]
	`}`;
	const [name] = await callUntilTold(t, code, {requirements: ['numpy', 'torch']}, 4); // what takes more memory has to be worth more
	const answers = [];
	for (let i = 0; i < 4; i += 1) answers.push((await call(t, name)) as unknown[]);
	t.true(answers.every((answer) => answer.pop() === true));
	for (const column of [0, 1, 2, 3, 4, 5]) t.is(new Set(answers.map((answer) => answer[column])).size, 4);
});

kernelTest('a module may have its sandboxes open again what it had closed', async (t) => {
	const code = `${slow}${py`
		import forktree, threading
		done = []
		stop = threading.Event()
		thread = threading.Thread(target=stop.wait)
		if THERE:
			thread.start()
		@forktree.before_fork
		def close():
			stop.set()
			thread.join()
			done.append('before')
		@forktree.after_fork
		def reopen():
			done.append('after')
		def f(event):
			return done
	`}`;
	const [name, told] = await callUntilTold(t, code);
	t.false('traceback' in told);
	t.deepEqual(await call(t, name), ['before', 'after']);
});

kernelTest(
	'what a function does ahead is done once, in its own zygote, which it gets when it was called once',
	async (t) => {
		const code = py`
		import forktree, os
		done = []
		THERE = os.getpid() != 1
		class Cache:
			def fill():
				done.append('stated')
		@forktree.warmup
		def registered():
			done.append('registered')
		def f(event):
			return [THERE, done]
	`;
		const [name, told] = await callUntilTold(t, code, {warmup: 'f:Cache.fill'});
		t.false('traceback' in told);
		for (let i = 0; i < 2; i += 1) t.deepEqual(await call(t, name), [true, ['stated', 'registered']]);
		t.is(
			fixture()
				.runtime.list()
				.find((each) => each.name === name)?.warmup,
			'f:Cache.fill',
		);
	},
);

kernelTest(
	'where what is stated fails there is no such zygote, and where what is registered fails there is',
	async (t) => {
		const failing = 'import os\nTHERE = os.getpid() != 1\ndef ahead():\n\traise ValueError("why")\n';
		const [stated, refusal] = await callUntilTold(t, `${failing}def f(event):\n\treturn THERE\n`, {warmup: 'f:ahead'});
		t.regex('traceback' in refusal ? refusal.traceback : '', /ValueError: why/);
		t.false(await call(t, stated));
		const {runtime} = fixture();
		const registers = `${failing}import forktree\nforktree.warmup(ahead)\ndef f(event):\n\treturn THERE\ndef nothing():\n\tpass\n`;
		const failed = once(runtime, 'importFailed') as Promise<RuntimeEvents['importFailed']>;
		const [registered] = await callUntilTold(t, registers, {warmup: 'f:nothing'});
		const [{module, traceback}] = await failed;
		t.is(module, 'forktree.warmup: ahead');
		t.regex(traceback, /ValueError: why/);
		t.true(await call(t, registered));
	},
);

kernelTest('a function can have its module loaded in each sandbox', async (t) => {
	const name = await fixture().deploy(`${slow}def f(event):\n\treturn LOADED_BY == os.getpid()\n`, {
		...options,
		ownZygote: false,
	});
	for (let i = 0; i < 3; i += 1) t.true(await call(t, name));
	const {zygotes} = await fixture().runtime.stats();
	t.false(zygotes.some(({modules}) => modules[0] === 'f.py'));
});

const refused: Readonly<Record<string, readonly [string, RegExp]>> = {
	prints: ['print("loaded")', /prints/],
	'keeps a file open': ['FILE = open("/etc/passwd")', /file or a socket/],
	'keeps a socket open': ['import socket\nSOCKET = socket.socket()', /file or a socket/],
	'leaves a file': ['open("/tmp/left", "w").close()', /files in \/tmp/],
	'shares memory': ['import mmap\nSHARED = mmap.mmap(-1, 4096)', /memory that forks share/],
	'starts a process': ['if THERE and os.fork() == 0:\n\ttime.sleep(600)\n\tos._exit(0)', /started a process/],
	'starts a thread': [
		'import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()',
		/started a thread/,
	],
	'goes elsewhere': ['os.chdir("/")', /working folder/],
	'fails there': ['if THERE:\n\traise RuntimeError("not here")', /RuntimeError: not here/],
	'ends there': ['if THERE:\n\traise SystemExit(3)', /SystemExit: 3/],
};
for (const [what, [line, reason]] of Object.entries(refused)) {
	kernelTest(`a module that ${what} as it is loaded is loaded in each sandbox`, async (t) => {
		const [name, told] = await callUntilTold(t, `${slow}${line}\ndef f(event):\n\treturn LOADED_BY == os.getpid()\n`);
		t.regex('traceback' in told ? told.traceback : '', reason);
		t.true(await call(t, name));
		t.true(await call(t, name));
	});
}

kernelTest('one with more variables than a request has room for does no harm', async (t) => {
	const {runtime} = fixture();
	const root = async () => (await runtime.stats()).zygotes.find(({packages}) => packages === '')?.pid;
	const code = `${slow}def f(event):\n\treturn [LOADED_BY == os.getpid(), len(os.environ["LONG"])]\n`;
	const env = {LONG: 'x'.repeat(80_000)};
	const name = await fixture().deploy(code, {...options, env});
	const before = await root();
	for (let i = 0; i < 4; i += 1) t.deepEqual(await call(t, name), [true, env.LONG.length]);
	await runtime.remove(name);
	t.is(await root(), before);
});

kernelTest('a module has no more memory there than in a sandbox', async (t) => {
	// It keeps nothing of it, so that it would be worth a zygote.
	const code = `${slow}if THERE:\n\tlen(b"x" * (100 << 20))\ndef f(event):\n\treturn LOADED_BY == os.getpid()\n`;
	const name = await fixture().deploy(code, {...options, limits: {memoryMb: 64}});
	const outcomes: Outcome[] = [];
	for (let i = 0; i < 6; i += 1) outcomes.push(await fixture().runtime.invoke(name, null));
	t.true(outcomes.every((outcome) => outcome.ok && outcome.value === true && !outcome.ownZygote));
	await fixture().runtime.remove(name);
});

kernelTest('when the zygote dies its sandboxes live on, and calls come from elsewhere', async (t) => {
	const {runtime} = fixture();
	const code = `${slow}def f(event):\n\ttime.sleep(event or 0)\n\treturn LOADED_BY == os.getpid()\n`;
	const [name] = await callUntilTold(t, code);
	const calls = runtime.stream(name, 1);
	const zygote = (await runtime.stats()).zygotes.find(({modules}) => modules[0] === 'f.py');
	const forked = once(runtime, 'forked');
	const chunks = calls[Symbol.asyncIterator]().next();
	await forked;
	const gone = once(runtime, 'zygoteDestroyed');
	process.kill(zygote?.pid as number, 'SIGKILL');
	await gone;
	t.true(await call(t, name));
	await chunks;
	t.false(value(t, await calls.outcome));
});

/** Is called in place of what serves the host, with what the host sent and its descriptors. */
function takeOver(answer: string): string {
	return `${slow}${py`
		import os, socket, sys
		def f(event):
			return LOADED_BY == os.getpid()
		class Hostile:
			def __getattr__(self, name):
				return getattr(native, name)
			def forktree_serve(self, *args):
				control = socket.socket(fileno=3)
				while True:
					data, fds, *_ = socket.recv_fds(control, 1 << 17, 16)
					if not data:
						os._exit(0)
					answer(control, data, fds)
		${answer}
		if THERE:
			zygote = sys.modules['forktree_guest.zygote']
			native, zygote.native = zygote.native, Hostile()
	`}`;
}

const hostile: Readonly<Record<string, string>> = {
	'leaves a child in the groups of its sandboxes instead of forking': py`
		def answer(control, data, fds):
			if os.fork():
				return
			for fd in fds:
				try:
					os.write(fd, b'0')
				except OSError:
					pass
			time.sleep(600)
	`,
	'says that its sandboxes have ended': py`
		def answer(control, data, fds):
			if data[:1] == b'L':
				control.send(b'X' + bytes(3) + data[4:8] + bytes(4))
	`,
	'says what is no message': py`
		def answer(control, data, fds):
			control.send(b'?')
	`,
};
for (const [what, answer] of Object.entries(hostile)) {
	kernelTest(`a module that ${what} harms its own calls only`, async (t) => {
		const {runtime} = fixture();
		const code = takeOver(answer.split('\n').join('\n\t\t'));
		const other = await fixture().deploy('def f(event):\n\treturn event\n', options);
		const [name, told] = await callUntilTold(t, code);
		t.false('traceback' in told);
		const gone = once(runtime, 'zygoteDestroyed');
		const called = call(t, name);
		t.is(await call(t, other, 'well'), 'well');
		await gone;
		t.true(await called, 'its node has forked it');
	});
}

kernelTest('a function can be removed while its module hangs in its zygote', async (t) => {
	const code = `${slow}if THERE:\n\ttime.sleep(60)\ndef f(event):\n\treturn event\n`;
	const name = await fixture().deploy(code, {...options, limits: {timeoutMs: 100_000}});
	await call(t, name);
	await call(t, name);
	await within(fixture().runtime.remove(name), 'its removal');
	t.pass();
});

rootTest('such a zygote forks children ahead, too, for a function that has no spares', async (t) => {
	const code = `${slow}STATE = []\ndef f(event):\n\tSTATE.append(event)\n\treturn [STATE, LOADED_BY == os.getpid()]\n`;
	const [name] = await callUntilTold(t, code);
	const {runtime} = fixture();
	const kinds = new Set<string | undefined>();
	for (let i = 0; i < 50 && !kinds.has('node'); i += 1) {
		const outcome = await runtime.invoke(name, i);
		t.true(outcome.ownZygote);
		t.deepEqual(value(t, outcome), [[i], false]);
		kinds.add(outcome.spare);
		await new Promise(setImmediate);
	}
	t.true(kinds.has('node'));
});

rootTest('a function may have more sandboxes at once than its zygote has ids for', async (t) => {
	const count = 270;
	const {runtime} = fixture();
	const code = `${slow}def f(event):\n\tyield 1\n\ttime.sleep(event or 0)\n\tyield 2\n`;
	const [name] = await callUntilTold(t, code, {
		concurrency: count,
		limits: {memoryMb: 16},
	});
	const streams = [];
	for (let i = 0; i < count; i += 1) {
		// It goes on when its first chunk was taken, and that is when all others are there.
		const stream = runtime.stream(name, 0.1, {timeoutMs: 5 * waitMs});
		const chunks = stream[Symbol.asyncIterator]();
		await chunks.next();
		streams.push({stream, chunks});
	}
	const outcomes = await Promise.all(
		streams.map(async ({stream, chunks}) => {
			while ((await chunks.next()).done !== true);
			return stream.outcome;
		}),
	);
	t.true(outcomes.every(({ok}) => ok));
	const own = outcomes.filter(({ownZygote}) => ownZygote).length;
	t.true(own > 200 && own < count, `${own} of ${count}`);
});
