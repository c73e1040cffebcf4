import process from 'node:process';
import type {ExecutionContext} from 'ava';
import type {Outcome, RuntimeEvents} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';
import {provideWheels} from '../helpers/wheels.ts';

function told(module: string, more = ''): Record<string, string> {
	return {[`${module}.py`]: `import os\nIMPORTED_BY = os.getpid()\n${more}`};
}

provideWheels({
	tree_low: told('tree_low'),
	tree_mid: told('tree_mid', 'import tree_low\n'),
	tree_top: told('tree_top', 'import tree_mid\n'),
	tree_side: told('tree_side', 'import importlib.metadata\nimportlib.metadata.version("tree_side")\n'),
	tree_broken: {'tree_broken.py': 'raise RuntimeError("at import")\n'},
	tree_killer: {'tree_killer.py': 'import os\nos._exit(3)\n'},
	tree_writer: told('tree_writer', 'import tempfile\nKEPT = tempfile.mkdtemp()\n'),
	// Two distributions that share a folder.
	tree_shared_one: {'tree_shared/one.py': 'ONE = 1\n', 'tree_shared_one.py': 'import tree_shared.one\n'},
	tree_shared_two: {'tree_shared/two.py': 'TWO = 2\n'},
	tree_slow: told('tree_slow', 'import time\ntime.sleep(0.04)\n'),
});

const tree = {
	packages: [],
	children: [
		{packages: ['tree_side']},
		{
			packages: ['tree_low==1.0'],
			children: [
				{packages: ['tree_mid'], children: [{packages: ['tree_top']}]},
				{packages: ['tree_broken']},
				{packages: ['tree_killer']},
			],
		},
		{packages: ['tree_shared_one']},
		{packages: ['tree_writer']},
	],
};

const fixture = useRuntime({tree, promote: false});

/** Which of the modules its zygote has imported. */
const code = py`
	import importlib, os
	def f(event):
		modules = [importlib.import_module(name) for name in event]
		return [module.__name__ for module in modules if module.IMPORTED_BY != os.getpid()]
`;

async function call(
	t: ExecutionContext,
	requirements: readonly string[],
	modules = requirements,
): Promise<[unknown, Outcome]> {
	const name = await fixture().deploy(code, {requirements, reuse: false});
	const outcome = await fixture().runtime.invoke(name, [...modules]);
	return [value(t, outcome), outcome];
}

function all<Name extends keyof RuntimeEvents>(name: Name): Array<RuntimeEvents[Name][0]> {
	const events: Array<RuntimeEvents[Name][0]> = [];
	fixture().runtime.on(name, ((event: RuntimeEvents[Name][0]) => events.push(event)) as never);
	return events;
}

kernelTest(
	'a function is forked from the node that has most of what it wants; the rest it imports itself',
	async (t) => {
		const [imported, outcome] = await call(t, ['tree_low', 'tree_mid', 'tree_side']);
		t.deepEqual(imported, ['tree_low', 'tree_mid']);
		t.deepEqual(outcome.preloaded, ['tree-low==1.0', 'tree-mid==1.0']);
		t.is(outcome.start, 'forked');
	},
);

kernelTest('a function that wants none of it is forked from the root', async (t) => {
	const [imported, outcome] = await call(t, ['tree_shared_two'], []);
	t.deepEqual(imported, []);
	t.deepEqual(outcome.preloaded, []);
});

kernelTest('a node is forked from its nearest ancestor that is alive, and imports what that lacks', async (t) => {
	const created = all('zygoteCreated');
	await call(t, ['tree_low', 'tree_mid', 'tree_top']);
	t.deepEqual(
		created.map(({modules}) => modules),
		[['tree_top']],
		'the first test made the node above',
	);
	const {runtime} = await makeRuntime(t, {tree, promote: false});
	const modules: unknown[] = [];
	runtime.on('zygoteCreated', (event) => modules.push(event.modules));
	await runtime.deploy('top', {'f.py': code}, {requirements: ['tree_low', 'tree_mid', 'tree_top']});
	t.deepEqual(value(t, await runtime.invoke('top', ['tree_low', 'tree_top'])), ['tree_low', 'tree_top']);
	t.deepEqual(modules, [['tree_low', 'tree_mid', 'tree_top']]);
	await runtime.prewarm();
	t.deepEqual(modules.slice(1), [['tree_low'], ['tree_mid']], 'nodes that there are no functions for are not made');
});

kernelTest(
	'a leaf sees all packages of its function, also those that share a folder with what was imported',
	async (t) => {
		const text = py`
		import os, importlib.metadata as metadata
		from tree_shared import one
		def f(event):
			from tree_shared import two
			names = sorted(found.metadata['Name'] for found in metadata.distributions(path=['/packages']))
			return [one.ONE + two.TWO, names, metadata.version('tree_shared_two'), sorted(os.listdir('/packages/tree_shared'))]
	`;
		const name = await fixture().deploy(text, {requirements: ['tree_shared_one', 'tree_shared_two'], reuse: false});
		const outcome = await fixture().runtime.invoke(name, null);
		const [sum, names, version, files] = value(t, outcome) as unknown[];
		t.deepEqual([sum, names, version], [3, ['tree_shared_one', 'tree_shared_two'], '1.0']);
		t.deepEqual(
			(files as string[]).filter((file) => file.endsWith('.py')),
			['one.py', 'two.py'],
		);
		t.deepEqual(outcome.preloaded, ['tree-shared-one==1.0']);
	},
);

kernelTest('a module may write files when a node imports it; sandboxes have their own /tmp all the same', async (t) => {
	const text = py`
		import os, tree_writer
		def f(event):
			return [tree_writer.IMPORTED_BY != os.getpid(), os.path.exists(tree_writer.KEPT), os.listdir('/tmp')]
	`;
	const name = await fixture().deploy(text, {requirements: ['tree_writer'], reuse: false});
	t.deepEqual(value(t, await fixture().runtime.invoke(name, null)), [true, false, []]);
});

kernelTest(
	'an import that fails in a node is told with its traceback, and the call is served by the parent',
	async (t) => {
		const failed = all('importFailed');
		const [imported, outcome] = await call(t, ['tree_low', 'tree_broken'], ['tree_low']);
		t.deepEqual(imported, ['tree_low']);
		t.deepEqual(outcome.preloaded, ['tree-low==1.0']);
		t.deepEqual(
			failed.map(({module}) => module),
			['tree_broken'],
		);
		t.regex(failed[0]?.traceback ?? '', /RuntimeError: at import/);
	},
);

kernelTest('a node whose process dies while it is made is tried again once, and then the parent serves', async (t) => {
	const destroyed = all('zygoteCreated');
	const [imported, outcome] = await call(t, ['tree_low', 'tree_killer'], ['tree_low']);
	t.deepEqual(imported, ['tree_low']);
	t.deepEqual(outcome.preloaded, ['tree-low==1.0']);
	t.is(outcome.start, 'forked');
	t.false(destroyed.some(({modules}) => modules.includes('tree_killer')));
});

kernelTest('a node that dies is made again, by its ancestors that live; its sandboxes go on', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(code, {requirements: ['tree_low', 'tree_mid']});
	t.deepEqual(value(t, await runtime.invoke(name, ['tree_mid'])), ['tree_mid']);
	const [mid] = (await runtime.stats()).zygotes.filter(({modules}) => modules.at(-1) === 'tree_mid');
	const destroyed = new Promise((resolve) => runtime.once('zygoteDestroyed', resolve));
	process.kill(mid?.pid ?? 0, 'SIGKILL');
	await destroyed;
	const warm = await runtime.invoke(name, ['tree_mid']);
	t.deepEqual([value(t, warm), warm.start], [['tree_mid'], 'warm']);
	const [again] = await call(t, ['tree_low', 'tree_mid']);
	t.deepEqual(again, ['tree_low', 'tree_mid']);
});

kernelTest('a set that is started again and again gets a node of its own, and no call waits for that', async (t) => {
	const {runtime} = await makeRuntime(t, {tree});
	await runtime.deploy('often', {'f.py': code}, {requirements: ['tree_low', 'tree_slow'], reuse: false, spares: 0});
	await runtime.packages.measured();
	const created: string[][] = [];
	const promoted = new Promise<void>((resolve) => {
		runtime.on('zygoteCreated', ({modules}) => {
			created.push([...modules]);
			if (modules.includes('tree_slow')) resolve();
		});
	});
	// Each of them imports what takes 40 ms.
	for (let i = 0; i < 4; i += 1) t.deepEqual((await runtime.invoke('often', [])).preloaded, ['tree-low==1.0']);
	await promoted;
	const outcome = await runtime.invoke('often', []);
	t.deepEqual(outcome.preloaded, ['tree-low==1.0', 'tree-slow==1.0']);
	t.deepEqual(created, [['tree_low'], ['tree_slow']]);
});

kernelTest('what was started how often is recorded, with what each package needs', async (t) => {
	const {runtime} = await makeRuntime(t);
	await runtime.deploy('one', {'f.py': code}, {requirements: ['tree_low', 'tree_side'], reuse: false});
	await runtime.packages.measured();
	for (let i = 0; i < 3; i += 1) await runtime.invoke('one', []);
	const {calls, costs, closures} = runtime.recordedCalls();
	t.deepEqual(calls, [{packages: ['tree-low==1.0', 'tree-side==1.0'], count: 3}]);
	t.deepEqual(closures['tree-low==1.0'], [['tree-low==1.0']]);
	t.true((costs['tree-low==1.0']?.ms ?? -1) > 0);
});

kernelTest('a zygote that nothing was forked from for long is ended, and made again when it is needed', async (t) => {
	const {runtime} = await makeRuntime(t, {tree, zygoteIdleMs: 100});
	const ended = new Set<string>();
	const all = new Promise<void>((resolve) => {
		runtime.on('zygoteDestroyed', ({packages}) => {
			ended.add(packages);
			if (ended.size === 2) resolve();
		});
	});
	for (const requirements of [['tree_low'], ['tree_low', 'tree_mid']]) {
		await runtime.deploy(`f${requirements.length}`, {'f.py': code}, {requirements, reuse: false});
		t.deepEqual(value(t, await runtime.invoke(`f${requirements.length}`, requirements)), requirements);
	}
	await all;
	t.deepEqual(value(t, await runtime.invoke('f2', ['tree_low', 'tree_mid'])), ['tree_low', 'tree_mid']);
});
