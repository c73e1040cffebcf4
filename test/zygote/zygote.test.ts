import process from 'node:process';
import type {ExecutionContext} from 'ava';
import type {RuntimeEvents} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {failure, py, useRuntime, value} from '../helpers/runtime.ts';
import {likeNumpy, provideWheels} from '../helpers/wheels.ts';

provideWheels({
	forktree_fixture_plain: {
		'forktree_fixture_plain.py': 'import os\nVALUE = 42\nIMPORTED_BY = os.getpid()\nprint("imported")\n',
	},
	numpy: likeNumpy,
	forktree_fixture_uses: {
		'forktree_fixture_uses.py':
			'import numpy.random, random, ssl, uuid, secrets, tempfile\nnumpy.random.rand(), random.random(), ssl.RAND_bytes(1)\n',
	},
	forktree_fixture_threaded: {
		'forktree_fixture_threaded.py': py`
			import os, threading
			IMPORTED_BY = os.getpid()
			threading.Thread(target=threading.Event().wait, daemon=True).start()
		`,
	},
	forktree_fixture_raises: {
		'forktree_fixture_raises.py': 'def fail():\n\traise RuntimeError("at import")\nfail()\n',
	},
	forktree_fixture_hooks: {
		'forktree_fixture_hooks.py': py`
			import os, threading
			import forktree
			done = []
			stop = threading.Event()
			thread = threading.Thread(target=stop.wait)
			thread.start()
			@forktree.before_fork
			def close():
				stop.set()
				thread.join()
				done.append('before')
			@forktree.warmup
			def warm():
				done.append('warm')
			@forktree.after_fork
			def reopen():
				done.append(['after', os.getpid(), os.getuid() != 0])
				if os.path.exists('/handler/raise'):
					raise ValueError('from a hook')
		`,
	},
	forktree_fixture_bad_hook: {
		'forktree_fixture_bad_hook.py': py`
			import forktree
			@forktree.before_fork
			def fail():
				raise RuntimeError('before any fork')
		`,
	},
	forktree_fixture_bad_warmup: {
		'forktree_fixture_bad_warmup.py': py`
			import forktree
			@forktree.warmup
			def fail():
				raise RuntimeError('too cold')
		`,
	},
	forktree_fixture_child: {
		'forktree_fixture_child.py': 'WORD = "found"\n',
		'forktree_fixture_child.pth': 'import sys; sys.path_file = "read"\n',
		'forktree_fixture_child-1.0.data/scripts/forktree-fixture':
			'#!python\nimport forktree_fixture_child\nprint(forktree_fixture_child.WORD)\n',
	},
	forktree_fixture_exits: {'forktree_fixture_exits.py': 'import sys\nsys.exit(3)\n'},
	forktree_fixture_kills: {'forktree_fixture_kills.py': 'import os\nos._exit(3)\n'},
});

const fixture = useRuntime();

async function zygote(t: ExecutionContext, module: string): Promise<{pid: number; packages: string}> {
	const {zygotes} = await fixture().runtime.stats();
	const found = zygotes.find(({modules}) => modules.includes(module));
	if (found?.pid === undefined) throw t.fail(`expected a zygote with ${module}, got ${JSON.stringify(zygotes)}`);
	return {pid: found.pid, packages: found.packages};
}

function next<Name extends keyof RuntimeEvents>(name: Name): Promise<RuntimeEvents[Name][0]> {
	return new Promise((resolve) => {
		fixture().runtime.once(name, ((event: RuntimeEvents[Name][0]) => resolve(event)) as never);
	});
}

kernelTest('a package is imported once, in the zygote, and what it printed is nobody’s output', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(
		'import os, forktree_fixture_plain as p\ndef f(event):\n\treturn [p.VALUE, p.IMPORTED_BY != os.getpid()]\n',
		{requirements: ['forktree_fixture_plain'], reuse: false},
	);
	const created = next('zygoteCreated');
	await runtime.prewarm(name);
	t.deepEqual((await created).modules, ['forktree_fixture_plain']);
	for (let turn = 0; turn < 2; turn += 1) {
		const outcome = await runtime.invoke(name, null);
		t.deepEqual(value(t, outcome), [42, true]);
		t.is(outcome.logs.stdout, '');
	}
	t.deepEqual(runtime.list().find((each) => each.name === name)?.packages, ['forktree-fixture-plain==1.0']);
	t.deepEqual(runtime.list().find((each) => each.name === name)?.importedInSandbox, {});
});

kernelTest('two sandboxes of one zygote draw different random numbers, and so do their children', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import forktree_fixture_uses, json, numpy.random, os, random, secrets, ssl, tempfile, uuid
		SOURCES = {
			'random': random.random, 'numpy': numpy.random.rand, 'uuid4': lambda: str(uuid.uuid4()), 'uuid1': lambda: str(uuid.uuid1()),
			'secrets': lambda: secrets.token_hex(), 'ssl': lambda: ssl.RAND_bytes(16).hex(), 'urandom': lambda: os.urandom(16).hex(),
		}
		def draw():
			return {name: source() for name, source in SOURCES.items()}
		def f(event):
			read, write = os.pipe()
			if os.fork() == 0:
				os.write(write, json.dumps(draw()).encode())
				os._exit(0)
			child = json.loads(os.read(read, 65536))
			os.wait()
			return [draw(), child, os.getpid()]
	`;
	const name = await fixture().deploy(code, {requirements: ['forktree_fixture_uses', 'numpy'], reuse: false});
	const drawn: Array<Record<string, unknown>> = [];
	const children: Array<Record<string, unknown>> = [];
	for (let turn = 0; turn < 3; turn += 1) {
		const outcome = await runtime.invoke(name, null);
		t.is(outcome.start, 'forked');
		const [own, child, pid] = value(t, outcome) as unknown as [
			Record<string, unknown>,
			Record<string, unknown>,
			number,
		];
		t.is(pid, 1, 'the pids are the same, and OpenSSL looks at no more');
		drawn.push(own);
		children.push(child);
	}
	t.truthy(await zygote(t, 'numpy'));
	for (const draws of [drawn, children]) {
		for (const source of Object.keys(drawn[0] ?? {})) t.is(new Set(draws.map((each) => each[source])).size, 3, source);
	}
});

kernelTest('the death of a zygote between calls loses nothing: warm instances answer, new ones start', async (t) => {
	const {runtime} = fixture();
	const code =
		'import forktree_fixture_plain\ncount = 0\ndef f(event):\n\tglobal count\n\tcount += 1\n\treturn count\n';
	const name = await fixture().deploy(code, {requirements: ['forktree_fixture_plain']});
	t.is(value(t, await runtime.invoke(name, null)), 1);
	const {pid, packages} = await zygote(t, 'forktree_fixture_plain');
	const destroyed = next('zygoteDestroyed');
	process.kill(pid, 'SIGKILL');
	t.is((await destroyed).packages, packages);
	const warm = await runtime.invoke(name, null);
	t.is(value(t, warm), 2);
	t.is(warm.start, 'warm');
	await runtime.deploy(name, {'f.py': `${code}# changed\n`}, {requirements: ['forktree_fixture_plain']});
	t.is(value(t, await runtime.invoke(name, null)), 1);
	t.not((await zygote(t, 'forktree_fixture_plain')).pid, pid);
});

kernelTest('the death of the root zygote, too, loses nothing', async (t) => {
	const {runtime} = fixture();
	const code = 'count = 0\ndef f(event):\n\tglobal count\n\tcount += 1\n\treturn count\n';
	const kept = await fixture().deploy(code);
	const fresh = await fixture().deploy(code, {reuse: false});
	const nodes = await fixture().deploy(`import forktree_fixture_plain\n${code}`, {
		requirements: ['forktree_fixture_plain'],
	});
	t.is(value(t, await runtime.invoke(kept, null)), 1);
	t.is(value(t, await runtime.invoke(nodes, null)), 1);
	const root = (await runtime.stats()).zygotes.find(({packages}) => packages === '');
	const destroyed = next('zygoteDestroyed');
	process.kill(root?.pid ?? 0, 'SIGKILL');
	t.is((await destroyed).packages, '');
	t.is(value(t, await runtime.invoke(kept, null)), 2);
	t.is(value(t, await runtime.invoke(nodes, null)), 2);
	t.is(value(t, await runtime.invoke(fresh, null)), 1);
});

kernelTest('the death of zygotes during calls loses no call', async (t) => {
	const {runtime} = fixture();
	const code = 'import forktree_fixture_plain\ndef f(event):\n\treturn event\n';
	const name = await fixture().deploy(code, {requirements: ['forktree_fixture_plain'], reuse: false, concurrency: 4});
	await runtime.prewarm(name);
	let kills = 0;
	const kill = async () => {
		const {zygotes} = await runtime.stats();
		for (const {pid} of zygotes.filter((each) => each.modules.length > 0)) {
			if (pid === undefined) continue;
			kills += 1;
			process.kill(pid, 'SIGKILL');
		}
	};
	const events = [...Array(24).keys()];
	const outcomes = await Promise.all(
		events.map(async (event) => {
			const outcome = await runtime.invoke(name, event);
			if (event % 8 === 3) await kill();
			return outcome;
		}),
	);
	t.deepEqual(
		outcomes.map((outcome) => value(t, outcome)),
		events,
	);
	t.true(kills >= 1);
});

kernelTest('a call that runs when its zygote dies goes on, and ends as it would have', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import os, time, forktree_fixture_plain
		def f(event):
			print('here', flush=True)
			time.sleep(0.2)
			if event is not None:
				os._exit(event)
			return 'done'
	`;
	const name = await fixture().deploy(code, {requirements: ['forktree_fixture_plain'], reuse: false});
	await runtime.prewarm(name);
	const {pid} = await zygote(t, 'forktree_fixture_plain');
	const outcome = await runtime.invoke(name, null, {onStdout: () => process.kill(pid, 'SIGKILL')});
	t.is(value(t, outcome), 'done');
	await runtime.prewarm(name);
	const again = await zygote(t, 'forktree_fixture_plain');
	const exited = await runtime.invoke(name, 7, {onStdout: () => process.kill(again.pid, 'SIGKILL')});
	t.is(failure(t, exited).code, 'Exited');
});

kernelTest('a package that leaves a thread behind is imported in the sandbox, and list() says so', async (t) => {
	const {runtime} = fixture();
	const code =
		'import os, forktree_fixture_threaded as p, forktree_fixture_plain as q\ndef f(event):\n\treturn [p.IMPORTED_BY == os.getpid(), q.VALUE]\n';
	const requirements = ['forktree_fixture_threaded', 'forktree_fixture_plain'];
	const name = await fixture().deploy(code, {requirements, reuse: false});
	const outcome = await runtime.invoke(name, null);
	t.deepEqual(value(t, outcome), [true, 42]);
	t.is(outcome.start, 'forked');
	t.deepEqual(runtime.list().find((each) => each.name === name)?.importedInSandbox, {
		forktree_fixture_threaded: 'threaded',
	});
	const modules = (await runtime.stats()).zygotes.map((each) => each.modules.join());
	t.true(modules.includes('forktree_fixture_plain'));
	t.false(modules.some((each) => each.includes('threaded')));
});

for (const [distribution, words] of [
	['forktree_fixture_raises', /RuntimeError: at import/],
	['forktree_fixture_exits', /SystemExit: 3/],
] as const) {
	kernelTest(`a package whose import ends in ${words.source} is told about, and calls are served`, async (t) => {
		const {runtime} = fixture();
		const requirements = [distribution, 'forktree_fixture_plain'];
		const name = await fixture().deploy('import forktree_fixture_plain as p\ndef f(event):\n\treturn p.VALUE\n', {
			requirements,
		});
		const failed = next('importFailed');
		t.is(value(t, await runtime.invoke(name, null)), 42);
		const event = await failed;
		t.is(event.module, distribution);
		t.regex(event.traceback, words);
		t.regex(event.traceback, new RegExp(`/packages/${distribution}\\.py`));
		t.deepEqual(runtime.list().find((each) => each.name === name)?.importedInSandbox, {[distribution]: 'failed'});
		const importing = await fixture().deploy(`import ${distribution}\ndef f(event):\n\treturn 1\n`, {requirements});
		const error = failure(t, await runtime.invoke(importing, null));
		t.true(['ImportFailed', 'Exited'].includes(error.code));
		t.regex(error.traceback, words);
	});
}

kernelTest('a package whose import kills the interpreter fails its own function’s calls only', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy('def f(event):\n\treturn event\n', {requirements: ['forktree_fixture_kills']});
	await t.throwsAsync(() => runtime.invoke(name, 1), {code: 'ZygoteFailed'});
	const other = await fixture().deploy('import forktree_fixture_plain\ndef f(event):\n\treturn event\n', {
		requirements: ['forktree_fixture_plain'],
	});
	t.is(value(t, await runtime.invoke(other, 2)), 2);
});

kernelTest('a function without packages is forked from a zygote without any', async (t) => {
	const code =
		'import sys, os\ndef f(event):\n\treturn [[name for name in sys.modules if "fixture" in name], os.listdir("/packages")]\n';
	t.deepEqual(value(t, await fixture().run(code)), [[], []]);
});

kernelTest('with zygote false packages are imported in the sandbox', async (t) => {
	const code = 'import os, forktree_fixture_plain as p\ndef f(event):\n\treturn p.IMPORTED_BY == os.getpid()\n';
	const outcome = await fixture().run(code, null, {requirements: ['forktree_fixture_plain'], zygote: false});
	t.true(value(t, outcome));
	t.is(outcome.start, 'cold');
	t.is(outcome.logs.stdout, 'imported\n');
});

kernelTest(
	'a package’s hooks run before its zygote forks, and in each sandbox before the code is loaded',
	async (t) => {
		const requirements = ['forktree_fixture_hooks'];
		const text =
			'import forktree_fixture_hooks as p\nLOADED = list(p.done)\ndef f(event):\n\treturn [LOADED, p.done]\n';
		const name = await fixture().deploy(text, {requirements, reuse: false});
		for (let i = 0; i < 4; i += 1) {
			const outcome = await fixture().runtime.invoke(name, null);
			const once = ['before', 'warm', ['after', 1, true]];
			t.deepEqual(value(t, outcome), [once, once]);
			t.deepEqual(outcome.preloaded, ['forktree-fixture-hooks==1.0']);
		}
		const raising = await fixture().deploy({'f.py': text, raise: ''}, {requirements});
		const error = failure(t, await fixture().runtime.invoke(raising, null));
		t.deepEqual([error.code, error.type, error.message], ['ImportFailed', 'ValueError', 'from a hook']);
	},
);

kernelTest('an interpreter that a handler starts is the same one, and finds the same packages', async (t) => {
	const code = py`
		import subprocess, sys
		def f(event):
			def run(*argv):
				return subprocess.run(argv, capture_output=True, text=True).stdout.split()
			program = 'import forktree_fixture_child as m, sys; print(m.WORD, sys.path_file, sys.version_info[:2] == (%d, %d))' % sys.version_info[:2]
			return [run('python3', '-c', program), run('forktree-fixture')]
	`;
	const name = await fixture().deploy(code, {requirements: ['forktree_fixture_child']});
	t.deepEqual(value(t, await fixture().runtime.invoke(name, null)), [['found', 'read', 'True'], ['found']]);
});

kernelTest('a warm-up of a package that raises is told, and the zygote serves all the same', async (t) => {
	const failed = next('importFailed');
	const requirements = ['forktree_fixture_bad_warmup'];
	const name = await fixture().deploy('import forktree_fixture_bad_warmup\ndef f(event):\n\tpass\n', {requirements});
	const {preloaded} = await fixture().runtime.invoke(name, null);
	t.deepEqual(preloaded, ['forktree-fixture-bad-warmup==1.0']);
	const {module, traceback} = await failed;
	t.is(module, 'forktree.warmup: fail');
	t.regex(traceback, /RuntimeError: too cold/);
});

kernelTest('a hook that raises in the zygote is told, and calls are served without that zygote', async (t) => {
	const failed = next('importFailed');
	const text = 'import forktree_fixture_bad_hook\ndef f(event):\n\treturn event\n';
	const name = await fixture().deploy(text, {requirements: ['forktree_fixture_bad_hook']});
	const outcome = await fixture().runtime.invoke(name, 1);
	t.is(value(t, outcome), 1);
	t.deepEqual(outcome.preloaded, []);
	const {module, traceback} = await failed;
	t.is(module, 'forktree.before_fork');
	t.regex(traceback, /RuntimeError: before any fork/);
	t.deepEqual(
		fixture()
			.runtime.list()
			.find((each) => each.name === name)?.importedInSandbox,
		{
			forktree_fixture_bad_hook: 'failed',
		},
	);
});
