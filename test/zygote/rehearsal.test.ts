import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import {execa} from 'execa';
import {LockedFolder} from '../../src/sandbox/mounts.ts';
import type {Zygote} from '../../src/zygote/zygote.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {py, python} from '../helpers/runtime.ts';
import {useZygote} from '../helpers/zygote.ts';

const fixture = useZygote();
let nodes = 0;

/** A node with one package that consists of that module. */
async function node(
	t: Parameters<ReturnType<typeof fixture>['spare']>[0],
	module: string,
	text: string,
): Promise<Zygote> {
	nodes += 1;
	const folder = path.join(fixture().stateDir, `packages-${nodes}`);
	await mkdir(folder);
	await writeFile(path.join(folder, `${module}.py`), text);
	const packages = await LockedFolder.create(fixture().host.keeper, `packages-${nodes}`, folder);
	const zygote = await (await fixture().root()).forkZygote({modules: [module]}, packages, 4096);
	t.teardown(async () => {
		zygote.kill();
		await zygote.gone;
		await packages.close();
	});
	return zygote;
}

kernelTest('a spare has gone through a start and a call, and nothing of that failed', async (t) => {
	const spare = await fixture().spare(t);
	t.deepEqual(spare.rehearsal.failed, []);
	t.true(spare.rehearsal.ms > 0);
});

kernelTest(
	'what a package puts off is done in its zygote, and again in each spare, without a trace for the handler',
	async (t) => {
		const zygote = await node(
			t,
			'yaml',
			py`
			import os, random, sys
			calls = []
			def safe_load(text):
				calls.append(os.getpid())
				print('printed', flush=True)
				sys.stderr.write('and told')
				os.write(1, b'written')
				random.seed(1)
			safe_dump = str
		`,
		);
		const code = await fixture().code(
			t,
			'import yaml, random\ndef f(event):\n\treturn [yaml.calls, random.random()]\n',
		);
		const drawn = new Set<number>();
		for (let i = 0; i < 2; i += 1) {
			const spare = await fixture().spare(t, zygote);
			t.deepEqual(spare.rehearsal.failed, []);
			const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
			const printed: string[] = [];
			for (const stream of [talk.leaf.streams?.stdout, talk.leaf.streams?.stderr]) {
				stream?.direct({write: (data: Buffer) => void printed.push(String(data))} as never);
			}
			const [calls, random] = (await talk.call(null)) as [number[], number];
			t.deepEqual(calls, [2, 1]);
			t.deepEqual(printed, []);
			drawn.add(random);
		}
		t.is(drawn.size, 2);
	},
);

for (const [title, text] of [
	['raises', 'raise ValueError("not as it was")'],
	['exits', 'raise SystemExit(3)'],
] as const) {
	kernelTest(`a warm-up that ${title} is passed over and named`, async (t) => {
		const zygote = await node(t, 'yaml', `def safe_load(text):\n\t${text}\nsafe_dump = str\n`);
		t.deepEqual(zygote.report.threaded, []);
		const spare = await fixture().spare(t, zygote);
		t.deepEqual(spare.rehearsal.failed, ['yaml: document']);
		const code = await fixture().code(t, 'import yaml\ndef f(event):\n\treturn event\n');
		t.is(await (await fixture().talk(t, await spare.handOver(fixture().spec(code)))).call(5), 5);
	});
}

kernelTest('a warm-up that leaves a thread behind makes its module one that leaves a thread behind', async (t) => {
	const text =
		'import threading\ndef safe_load(text):\n\tthreading.Thread(target=threading.Event().wait, daemon=True).start()\nsafe_dump = str\n';
	t.like((await node(t, 'yaml', text)).report, {failed: [], threaded: ['yaml']});
});

kernelTest('a spare can be made without warm-ups', async (t) => {
	const zygote = await node(t, 'yaml', 'calls = []\nsafe_load = calls.append\nsafe_dump = str\n');
	const code = await fixture().code(t, 'import yaml\ndef f(event):\n\treturn len(yaml.calls)\n');
	for (const [warmUps, calls] of [
		[true, 2],
		[false, 1],
	] as const) {
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
	assert all(0 < each for each in warmups.measure().values())
`;

test('warm-ups of the standard library leave only modules and caches behind', async (t) => {
	const file = path.join(import.meta.dirname, '..', '..', 'src', 'guest', 'warmups.py');
	const {exitCode, all} = await execa(python, ['-B', '-c', compare, file], {all: true, reject: false});
	t.is(exitCode, 0, all);
});
