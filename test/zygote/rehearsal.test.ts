import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {LockedFolder} from '../../src/sandbox/mounts.ts';
import {OutputSink} from '../../src/sandbox/output.ts';
import {inside} from '../../src/sandbox/rootfs.ts';
import type {Zygote} from '../../src/zygote/zygote.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {py, python} from '../helpers/runtime.ts';
import {useZygote} from '../helpers/zygote.ts';

const fixture = useZygote();
let nodes = 0;

/** A node with one package that consists of that module. */
async function node(t: ExecutionContext, module: string, text: string): Promise<Zygote> {
	nodes += 1;
	const folder = path.join(fixture().stateDir, `packages-${nodes}`);
	await mkdir(folder);
	await writeFile(path.join(folder, `${module}.py`), text);
	const packages = await LockedFolder.create(fixture().host.keeper, `packages-${nodes}`, folder);
	const zygote = await (await fixture().root()).forkZygote(
		{modules: [module]},
		[{folder: packages, target: inside.packages}],
		4096,
	);
	t.teardown(async () => {
		zygote.kill();
		await zygote.gone;
		await packages.close();
	});
	return zygote;
}

/** A zygote with a module, named as one that there is a warm-up for, whose warm-up calls its `prepare()`. */
async function warmed(t: ExecutionContext, text: string): Promise<Zygote> {
	return node(
		t,
		'requests',
		`${text}\nclass Request:\n\tdef __init__(self, *words, **others):\n\t\tself.prepare = prepare\n`,
	);
}

kernelTest('a spare has gone through a start and a call, and nothing of that failed', async (t) => {
	const spare = await fixture().spare(t);
	t.deepEqual(spare.rehearsal.failed, []);
	t.true(spare.rehearsal.ms > 0);
});

kernelTest('what a package puts off is done in its zygote, and again in spares, without a trace', async (t) => {
	const zygote = await warmed(
		t,
		py`
			import os, random, sys
			calls = []
			def prepare():
				calls.append(os.getpid())
				print('printed', flush=True)
				sys.stderr.write('and told')
				os.write(1, b'written')
				random.seed(1)
		`,
	);
	const text = 'import requests, random\ndef f(event):\n\treturn [requests.calls, random.random()]\n';
	const code = await fixture().code(t, text);
	const drawn = new Set<number>();
	for (let i = 0; i < 2; i += 1) {
		const spare = await fixture().spare(t, zygote);
		t.deepEqual(spare.rehearsal.failed, []);
		const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
		const sink = new OutputSink(1024);
		talk.leaf.streams?.stdout.direct(sink);
		talk.leaf.streams?.stderr.direct(sink);
		const [calls, random] = (await talk.call(null)) as [number[], number];
		t.deepEqual(calls, [2, 1]);
		t.is(sink.text, '');
		drawn.add(random);
	}
	t.is(drawn.size, 2);
});

for (const [title, text] of [
	['raises', 'raise ValueError("not as it was")'],
	['exits', 'raise SystemExit(3)'],
] as const) {
	kernelTest(`a warm-up that ${title} is passed over and named`, async (t) => {
		const zygote = await warmed(t, `def prepare():\n\t${text}\n`);
		t.deepEqual(zygote.report.threaded, []);
		const spare = await fixture().spare(t, zygote);
		t.deepEqual(spare.rehearsal.failed, ['requests: prepared_request']);
		const code = await fixture().code(t, 'import requests\ndef f(event):\n\treturn event\n');
		t.is(await (await fixture().talk(t, await spare.handOver(fixture().spec(code)))).call(5), 5);
	});
}

kernelTest('a warm-up that leaves a thread behind makes its module one that leaves a thread behind', async (t) => {
	const text = py`
		import threading
		def prepare():
			threading.Thread(target=threading.Event().wait, daemon=True).start()
	`;
	t.like((await warmed(t, text)).report, {failed: [], threaded: ['requests']});
});

kernelTest('what takes long is done in the zygote only, and a spare can be made without warm-ups', async (t) => {
	const cheap = await warmed(t, 'calls = []\ndef prepare():\n\tcalls.append(1)\n');
	const long = await node(t, 'yaml', 'calls = []\nsafe_load, safe_dump = calls.append, str\n');
	for (const [zygote, module, warmUps, calls] of [
		[cheap, 'requests', true, 2],
		[cheap, 'requests', false, 1],
		[long, 'yaml', true, 1],
	] as const) {
		const code = await fixture().code(t, `import ${module}\ndef f(event):\n\treturn len(${module}.calls)\n`);
		const spare = await fixture().spare(t, zygote, {warmUps});
		t.is(await (await fixture().talk(t, await spare.handOver(fixture().spec(code)))).call(null), calls);
	}
});

/** Everything that a warm-up could leave behind, but modules and caches. */
const compare = py`
	import importlib.util, os, sys, threading, random, warnings, decimal, signal, locale, datetime, uuid, hashlib, urllib.parse, json
	spec = importlib.util.spec_from_file_location('warmups', sys.argv[1])
	warmups = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(warmups)
	def state():
		return [
			dict(os.environ), list(sys.path), os.getcwd(), os.listdir('/proc/self/fd'), threading.active_count(), random.getstate(),
			warnings.filters[:], str(decimal.getcontext()), locale.setlocale(locale.LC_ALL), sys.stdout, sys.stderr,
			[str(signal.getsignal(n)) for n in range(1, 32)], sys.getrecursionlimit(), sys.excepthook, sys.flags, os.listdir('/tmp'),
		]
	before = state()
	assert len(list(warmups.loaded())) >= 9, list(warmups.loaded())
	assert warmups.run() == [], warmups.run()
	after = state()
	assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
	assert '_strptime' in sys.modules and 'encodings.idna' in sys.modules
`;

test('warm-ups of the standard library leave only modules and caches behind', async (t) => {
	const file = path.join(import.meta.dirname, '..', '..', 'src', 'guest', 'warmups.py');
	const {exitCode, all} = await execa(python, ['-B', '-c', compare, file], {all: true, reject: false});
	t.is(exitCode, 0, all);
});
