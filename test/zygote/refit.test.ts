import test from 'ava';
import fc from 'fast-check';
import {readTrials} from '../../bench/reqbench-data.ts';
import {evaluateTree} from '../../src/zygote/evaluate.ts';
import {type FitInput, type FitOptions, fitTree} from '../../src/zygote/fit.ts';
import {refitTree} from '../../src/zygote/refit.ts';
import {flattenTree, readTree, type TreeNode, writeTree} from '../../src/zygote/tree.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const options: FitOptions = {weights: 'time', multiPackage: true, maxDepth: 28};
const costs: FitInput['costs'] = new Map([
	['a==1', {ms: 10, mib: 1}],
	['a==2', {ms: 10, mib: 1}],
	['b==1', {ms: 20, mib: 8}],
	['c==1', {ms: 40, mib: 2}],
	['d==1', {ms: 30, mib: 2}],
]);
const call = (count: number, ...packages: string[]) => ({packages, count});
const node = (packages: string[], ...children: unknown[]) => ({packages, children});

function textOf({packages, children}: TreeNode): string {
	const below = children.map(textOf).join(', ');
	if (packages.length === 0) return below;
	return below === '' ? packages.join(' ') : `${packages.join(' ')} (${below})`;
}

function refitted(tree: unknown, calls: FitInput['calls'], changed: Partial<FitOptions> = {}): string {
	return textOf(refitTree(readTree(tree), {calls, costs, closures: new Map()}, {...options, ...changed}));
}

test('what no call is forked from goes, with all below it; the rest keeps its place', (t) => {
	const tree = node([], node(['x==1'], node(['y==1'])), node(['b==1'], node(['c==1']), node(['a==1'])), node(['a==1']));
	t.is(refitted(tree, [call(1, 'a==1', 'b==1'), call(1, 'a==1')]), 'b==1 (a==1), a==1');
});

test('of two nodes that load the same one stays', (t) => {
	const tree = node([], node(['a==1'], node(['b==1'])), node(['b==1'], node(['a==1'])));
	t.is(refitted(tree, [call(1, 'a==1', 'b==1')]), 'a==1 (b==1)');
});

test('a node from which no call is forked stays for the sake of one below it', (t) => {
	t.is(refitted(node([], node(['a==1'], node(['b==1']))), [call(1, 'a==1', 'b==1')]), 'a==1 (b==1)');
});

test('a node is added when it saves more than making it takes', (t) => {
	const tree = node([], node(['a==1']));
	const calls = (count: number) => [call(3, 'a==1'), call(count, 'a==1', 'c==1'), call(count, 'b==1')];
	t.is(refitted(tree, calls(1)), 'a==1');
	t.is(refitted(tree, calls(2)), 'a==1 (c==1), b==1');
});

test('when all are made that may be, one that saves less gives way, if that pays for making the new one', (t) => {
	const tree = node([], node(['a==1']), node(['b==1']));
	const calls = (count: number) => [call(9, 'b==1'), call(5, 'a==1'), call(count, 'c==1')];
	// 40 ms to make it, and 50 that a==1 saves.
	t.is(refitted(tree, calls(2), {nodes: 3}), 'a==1, b==1');
	t.is(refitted(tree, calls(3), {nodes: 3}), 'b==1, c==1');
	t.is(refitted(tree, calls(9), {nodes: 2}), 'c==1');
	t.is(refitted(tree, calls(9), {nodes: 1}), '');
});

test('the node that saves the most is the first to be added, and of equal ones the youngest gives way', (t) => {
	const calls = [call(2, 'a==1', 'c==1'), call(3, 'b==1')];
	t.is(refitted(node([], node(['a==1'])), calls, {nodes: 3}), 'a==1 (c==1)');
	const tree = node([], node(['a==1']), node(['a==2']));
	t.is(refitted(tree, [call(1, 'a==1'), call(1, 'a==2'), call(9, 'c==1')], {nodes: 3}), 'a==1, c==1');
});

test('the calls of a node that gave way are their parent’s, which may get another child for them', (t) => {
	const tree = node([], node(['b==1'], node(['a==1'])), node(['a==2']));
	const calls = [call(5, 'a==1', 'b==1', 'c==1'), call(6, 'a==2'), call(4, 'd==1')];
	// First d==1 is made instead of b==1 a==1, then b==1 c==1 instead of a==2.
	t.is(refitted(tree, calls, {nodes: 4, maxDepth: 2}), 'b==1 (c==1), d==1');
});

test('a node does not give way to one below itself', (t) => {
	const tree = node([], node(['a==1']));
	t.is(refitted(tree, [call(9, 'a==1', 'c==1')], {nodes: 2}), 'a==1');
	t.is(refitted(tree, [call(9, 'a==1', 'c==1')], {nodes: 3}), 'a==1 (c==1)');
});

test('several may give way to one, from below upward', (t) => {
	const tree = node([], node(['a==1'], node(['b==1'])));
	const calls = [call(1, 'a==1', 'b==1'), call(9, 'c==1')];
	// 3 MiB and 10 are taken, 4 are wanted.
	t.is(refitted(tree, calls, {memoryMb: 17}), 'a==1 (b==1), c==1');
	t.is(refitted(tree, calls, {memoryMb: 13}), 'a==1, c==1');
	t.is(refitted(tree, calls, {memoryMb: 6}), 'c==1');
	t.is(refitted(tree, calls, {memoryMb: 3}), 'a==1');
	const light = node([], node(['a==1'], node(['c==1'])));
	t.is(refitted(light, [call(1, 'a==1', 'c==1'), call(9, 'b==1')], {memoryMb: 10}), 'b==1');
});

test('a limit that the old tree exceeds', (t) => {
	const tree = node([], node(['a==1'], node(['b==1'], node(['c==1']))), node(['a==2']));
	const calls = [call(5, 'a==1', 'b==1', 'c==1'), call(1, 'a==2')];
	t.is(refitted(tree, calls, {maxDepth: 2}), 'a==1 (b==1), a==2');
	t.is(refitted(tree, calls, {nodes: 4}), 'a==1 (b==1 (c==1))');
	t.is(refitted(tree, calls, {memoryMb: 17}), 'a==1 (b==1 (c==1))');
	t.is(refitted(tree, calls, {memoryMb: 0}), '');
});

test('other keys and names without versions are kept, figures are new', (t) => {
	const tree = readTree({
		...node([], {packages: ['a'], count: 99, direct: ['a'], children: []}),
		split_generation: 3,
	});
	const calls = [call(2, 'a==2', 'c==1'), call(1, 'a==1')];
	const anew = refitTree(tree, {calls, costs, closures: new Map()}, options);
	t.deepEqual(anew, {
		packages: [],
		extra: {split_generation: 3, count: 3, ms: 0, mib: 0},
		children: [
			{
				packages: ['a'],
				extra: {count: 2, direct: ['a'], ms: 20, mib: 3},
				children: [{packages: ['c==1'], extra: {count: 2, ms: 80, mib: 4}, children: []}],
			},
		],
	});
});

test('an empty tree grows to what is worth making', (t) => {
	const calls = [call(3, 'a==1', 'b==1'), call(2, 'c==1'), call(1, 'a==2')];
	t.is(refitted({}, calls), 'c==1, b==1 (a==1)');
});

test('no calls', (t) => {
	t.is(refitted(node([], node(['a==1'])), []), '');
});

test('refuses what fitTree refuses', (t) => {
	t.throws(() => refitted({}, [], {nodes: 0}), {instanceOf: RangeError});
	t.throws(() => refitted({}, [call(0)]), {instanceOf: RangeError});
});

test('ReqBench: fitted to one half, then to the other, the old tree stays for the most part and leaves less', (t) => {
	for (const {train, test: calls, costs: table, closures} of readTrials()) {
		const limits = {...options, nodes: 40};
		const old = fitTree({calls: train, costs: table, closures}, limits);
		const anew = refitTree(old, {calls, costs: table, closures}, limits);
		const left = (tree: TreeNode) => evaluateTree(tree, {calls, costs: table}, 'best-cover').missingMs;
		t.true(left(anew) < left(old));
		const paths = (tree: TreeNode) => new Set(flattenTree(tree).map(({loaded}) => loaded.join()));
		const kept = [...paths(old)].filter((path) => paths(anew).has(path)).length;
		t.true(kept >= 20, `${kept} of 40 kept`);
		t.true(flattenTree(anew).length <= 40);
	}
});

const pins = ['a==1', 'a==2', 'b==1', 'c==1', 'd==1', 'e==1', 'f==1'];
const calls = fc.array(
	fc.record({
		packages: fc.subarray(pins).map((some) => some.filter((pin) => pin !== 'a==2' || !some.includes('a==1'))),
		count: fc.integer({min: 1, max: 5}),
	}),
	{maxLength: 10},
);
const inputs = fc.record({
	calls,
	costs: fc
		.array(fc.record({ms: fc.integer({min: 0, max: 5}), mib: fc.integer({min: 0, max: 9})}), {
			minLength: 7,
			maxLength: 7,
		})
		.map((drawn) => new Map(drawn.map((cost, index) => [pins[index] as string, cost]))),
	closures: fc.constantFrom(
		new Map(),
		new Map([
			[
				'c==1',
				[
					['c==1', 'b==1'],
					['c==1', 'b==1', 'd==1'],
				],
			],
		]),
	),
});
const limits = fc.record(
	{
		nodes: fc.integer({min: 1, max: 12}),
		memoryMb: fc.integer({min: 0, max: 60}),
		weights: fc.constantFrom('time' as const, 'uniform' as const),
		multiPackage: fc.boolean(),
		maxDepth: fc.integer({min: 0, max: 5}),
	},
	{requiredKeys: ['weights', 'multiPackage', 'maxDepth']},
);

function takes(tree: TreeNode, table: FitInput['costs']): {nodes: number; mib: number; depth: number} {
	const nodes = flattenTree(tree).slice(1);
	const mibOf = (packages: readonly string[]) => packages.reduce((sum, pin) => sum + (table.get(pin)?.mib ?? 0), 2);
	return {
		nodes: nodes.length + 1,
		mib: nodes.reduce((sum, each) => sum + mibOf(each.node.packages), 0),
		depth: Math.max(0, ...nodes.map(({depth}) => depth)),
	};
}

test('never beyond the limits, and never worse than the old tree if that was within them', (t) => {
	fc.assert(
		fc.property(inputs, calls, limits, limits, (input, earlier, drawn, before) => {
			const old = fitTree({...input, calls: earlier}, before);
			const anew = refitTree(old, input, drawn);
			t.deepEqual(readTree(writeTree(anew)), anew);
			const within = (tree: TreeNode) => {
				const {nodes, mib, depth} = takes(tree, input.costs);
				return nodes <= (drawn.nodes ?? 99) && mib <= (drawn.memoryMb ?? 999) && depth <= drawn.maxDepth;
			};
			t.true(within(anew));
			const table =
				drawn.weights === 'time' ? input.costs : new Map(pins.map((pin) => [pin, {ms: 1, mib: 0}] as const));
			const left = (tree: TreeNode) => evaluateTree(tree, {calls: input.calls, costs: table}, 'best-cover').missingMs;
			if (within(old)) t.true(left(anew) <= left(old));
		}),
		fuzzParameters(2),
	);
});

test('without limits nothing goes that a call is forked from', (t) => {
	fc.assert(
		fc.property(inputs, calls, (input, earlier) => {
			const old = fitTree({...input, calls: earlier}, options);
			const {perNode} = evaluateTree(old, input, 'best-cover');
			const used = flattenTree(old).filter(({id}) => (perNode[id]?.calls ?? 0) > 0);
			const paths = flattenTree(refitTree(old, input, options)).map(({loaded}) => loaded.join());
			for (const {loaded} of used) t.true(paths.includes(loaded.join()));
		}),
		fuzzParameters(2),
	);
});
