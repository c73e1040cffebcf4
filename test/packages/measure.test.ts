import {chmod, mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {createMeasure, type MeasureOptions} from '../../src/packages/measure.ts';
import type {ImportCost} from '../../src/packages/metadata.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {makeBench, useWorkshop} from '../helpers/workshop.ts';

const workshop = useWorkshop();

/** Folders of distributions: the last one is measured. */
async function measure(
	t: ExecutionContext,
	modules: readonly string[],
	distributions: ReadonlyArray<Readonly<Record<string, string>>>,
	options?: MeasureOptions,
): Promise<ImportCost> {
	const {archives} = await makeBench(t);
	const folders: string[] = [];
	for (const [index, files] of distributions.entries()) {
		const folder = path.join(archives, `${index}`);
		folders.push(folder);
		await mkdir(folder);
		for (const [file, text] of Object.entries(files)) {
			await mkdir(path.dirname(path.join(folder, file)), {recursive: true});
			await writeFile(path.join(folder, file), text);
		}
		await chmod(folder, 0o755);
	}
	const others = distributions
		.slice(0, -1)
		.map((files) => [...new Set(Object.keys(files).map((file) => file.split(/[/.]/)[0] ?? ''))]);
	const step = createMeasure(workshop(), options);
	return step({modules, others, folders, ofIndex: folders.length - 1}, {signal: new AbortController().signal});
}

const dependency = {
	'dependency/__init__.py': 'import time\ntime.sleep(0.2)\nmemory = bytearray(b"x" * (40 << 20))\nfrom . import part\n',
	'dependency/part.py': '',
};
const own = {
	'own/__init__.py': 'import dependency.part, _own\n',
	'_own.py': 'import time\ntime.sleep(0.05)\nmemory = bytearray(b"x" * (8 << 20))\n',
};

kernelTest('what a distribution requires is not counted as its own', async (t) => {
	const {exclusiveMs, inclusiveMs, privateMiB, runs} = await measure(t, ['own'], [dependency, own]);
	t.is(runs, 5);
	t.true(exclusiveMs >= 50 && exclusiveMs < inclusiveMs - 100, `${exclusiveMs} of ${inclusiveMs}`);
	t.true(inclusiveMs >= 250, `${inclusiveMs}`);
	t.true(privateMiB > 7.5 && privateMiB < 12, `${privateMiB}`);
});

const slow = 'import time\ntime.sleep(0.05)\n';

kernelTest('what a zygote that has the others would not have imported is counted', async (t) => {
	const unused = {'unused.py': 'import own\n'};
	const other = {'other/__init__.py': '', 'other/part.py': slow};
	const {exclusiveMs, inclusiveMs} = await measure(t, ['own'], [unused, other, {'own.py': 'import other.part\n'}]);
	t.true(exclusiveMs >= 50 && inclusiveMs >= 50, `${exclusiveMs} of ${inclusiveMs}`);
});

kernelTest('a module of another distribution may have a name below its own', async (t) => {
	const alias = 'import sys, other\nsys.modules["own.other"] = other\n';
	const {exclusiveMs, inclusiveMs} = await measure(
		t,
		['own'],
		[{'other.py': slow}, {'own/__init__.py': `${slow}${alias}`}],
	);
	t.true(exclusiveMs >= 50 && inclusiveMs >= 100, `${exclusiveMs} of ${inclusiveMs}`);
});

kernelTest('every run is a fresh interpreter, with threads kept few', async (t) => {
	const files = {
		'own.py':
			'import os, sys, time\nassert "own" in sys.modules and os.environ["OMP_NUM_THREADS"] == "1"\ntime.sleep(0.02)\n',
	};
	const {exclusiveMs, runs} = await measure(t, ['own'], [files]);
	t.is(runs, 5);
	t.true(exclusiveMs >= 20, `${exclusiveMs}`);
});

kernelTest('modules that can’t be imported are left out, however they fail', async (t) => {
	const sleep = 'import time; time.sleep(0.1)\n';
	const files = {
		'raises.py': `${sleep}raise ValueError`,
		'exits.py': `${sleep}raise SystemExit(0)`,
		'ends.py': `${sleep}import os; os._exit(0)`,
		'dies.py': `${sleep}import os; os.kill(os.getpid(), 11)`,
		'prints.py': 'import sys; print("{}"); sys.stdout.close(); sys.stderr.close()',
	};
	const {exclusiveMs, runs} = await measure(t, ['dies', 'ends', 'exits', 'missing', 'prints', 'raises'], [files]);
	t.is(runs, 5);
	t.true(exclusiveMs < 100, `${exclusiveMs}`);
	const none = await measure(t, [], [files]);
	t.deepEqual([none.runs, none.privateMiB < 1], [5, true]);
});

kernelTest('a module that never ends, takes too much memory or lies, is an error', async (t) => {
	const late = await t.throwsAsync(measure(t, ['own'], [{'own.py': 'while True: pass'}], {timeoutMs: 1000}), {
		instanceOf: ForktreeError,
	});
	t.is(late.code, 'InstallTimeout');
	const bytes = {'own.py': 'memory = bytearray(b"x" * (400 << 20))'};
	const large = await t.throwsAsync(measure(t, ['own'], [bytes], {memoryMb: 128}), {instanceOf: ForktreeError});
	t.is(large.code, 'InstallFailed');
	t.regex(large.message, /memory/);
	const lies =
		'import json, os\nopen("/tmp/answer", "w").write(json.dumps({"ms": -1, "kib": 0, "dependencies": []}))\nos._exit(0)\n';
	const lie = await t.throwsAsync(measure(t, ['own'], [{'own.py': lies}]), {instanceOf: ForktreeError});
	t.is(lie.code, 'InstallFailed');
	t.regex(lie.message, /expected a number from 0 as exclusiveMs, got -1/);
});
