import test from 'ava';
import fc from 'fast-check';
import {readTrials} from '../../bench/reqbench-data.ts';
import {evaluateTree} from '../../src/zygote/evaluate.ts';
import {flattenTree, readTree} from '../../src/zygote/tree.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

for (const [number, {test: calls, costs, trees, expected}] of readTrials().entries()) {
	for (const name of ['multi-uniform-40', 'multi-uniform-160'] as const) {
		test(`${name} of split ${number}: what it was published to leave`, (t) => {
			const ones = new Map([...costs.keys()].map((pin) => [pin, {ms: 1, mib: 1}]));
			const {test_missing: missing, test_ms_per_call: msPerCall} = expected[name];
			for (const [lookup, key] of [
				['best-cover', 'best_cover'],
				['left-most', 'leftmost'],
			] as const) {
				const counted = evaluateTree(trees[name], {calls, costs: ones}, lookup);
				t.is(counted.missingPackages, missing[key]);
				t.is(counted.missingMs, missing[key]);
				const timed = evaluateTree(trees[name], {calls, costs}, lookup);
				t.is(Number((timed.missingMs / timed.calls).toFixed(4)), msPerCall[key]);
			}
		});
	}
}

const costs = new Map([
	['a==1', {ms: 1, mib: 0}],
	['b==1', {ms: 2, mib: 0}],
	['c==1', {ms: 10, mib: 0}],
]);
const call = (count: number, ...packages: string[]) => ({packages, count});
const node = (packages: string[], ...children: unknown[]) => ({packages, children});

test('left-most takes the first child, best cover what saves most', (t) => {
	const tree = readTree(node([], node(['a==1'], node(['b==1'])), node(['c==1'])));
	const calls = [call(2, 'a==1', 'b==1', 'c==1'), call(1, 'x==1')];
	t.deepEqual(evaluateTree(tree, {calls, costs}, 'left-most'), {
		missingPackages: 3,
		missingMs: 20,
		calls: 3,
		perNode: [
			{calls: 1, savedMs: 0},
			{calls: 0, savedMs: 2},
			{calls: 2, savedMs: 4},
			{calls: 0, savedMs: 0},
		],
	});
	t.deepEqual(evaluateTree(tree, {calls, costs}, 'best-cover'), {
		missingPackages: 5,
		missingMs: 6,
		calls: 3,
		perNode: [
			{calls: 1, savedMs: 0},
			{calls: 0, savedMs: 0},
			{calls: 0, savedMs: 0},
			{calls: 2, savedMs: 20},
		],
	});
});

test('a name without a version stands for the one that most calls need', (t) => {
	const tree = readTree(node([], node(['a'])));
	const savedBy = (...calls: Array<ReturnType<typeof call>>) =>
		evaluateTree(tree, {calls, costs: new Map()}, 'left-most').perNode[1]?.calls;
	t.is(savedBy(call(2, 'a==2'), call(1, 'a==1'), call(1, 'a==1', 'b==1'), call(1, 'a==1')), 3);
	t.is(savedBy(call(3, 'a==2'), call(1, 'a==1'), call(1, 'a==1')), 3);
	t.is(savedBy(call(2, 'a==2'), call(2, 'a==1')), 2);
	t.is(savedBy(call(2, 'b==2')), 0);
	t.is(savedBy(call(1, 'a==1', 'a==1', 'a==1'), call(2, 'a==2')), 2);
	for (const pins of [
		['a==1', 'a==2'],
		['a==2', 'a==1'],
	]) {
		const calls = pins.map((pin) => call(1, pin));
		t.is(evaluateTree(tree, {calls, costs}, 'left-most').perNode[1]?.savedMs, 1);
	}
});

test('a cost that is none counts as zero', (t) => {
	for (const ms of [-1, Number.NaN]) {
		const {missingMs} = evaluateTree(
			readTree({}),
			{calls: [call(1, 'a==1')], costs: new Map([['a==1', {ms, mib: 0}]])},
			'best-cover',
		);
		t.is(missingMs, 0);
	}
});

test('a package that a call lists twice counts once', (t) => {
	const {missingPackages, missingMs} = evaluateTree(
		readTree({}),
		{calls: [call(1, 'c==1', 'c==1')], costs},
		'best-cover',
	);
	t.deepEqual([missingPackages, missingMs], [1, 10]);
});

test('no calls', (t) => {
	const nothing = {missingPackages: 0, missingMs: 0, calls: 0, perNode: [{calls: 0, savedMs: 0}]};
	t.deepEqual(evaluateTree(readTree({}), {calls: [], costs}, 'best-cover'), nothing);
});

const pins = ['a==1', 'b==1', 'c==1', 'd==1', 'e==1'];
const packageSets = fc.subarray(pins);
/** Each node below any before it, with what its path has not loaded. */
const trees = fc
	.array(fc.tuple(fc.nat(), fc.shuffledSubarray(pins, {minLength: 1, maxLength: 2})), {maxLength: 12})
	.map((drawn) => {
		type Growing = {packages: string[]; children: Growing[]; loaded: string[]};
		const made: Growing[] = [{packages: [], children: [], loaded: []}];
		for (const [number, some] of drawn) {
			const parent = made[number % made.length] as Growing;
			const packages = some.filter((pin) => !parent.loaded.includes(pin));
			if (packages.length === 0) continue;
			const child = {packages, children: [], loaded: [...parent.loaded, ...packages]};
			parent.children.push(child);
			made.push(child);
		}
		const plain = ({packages, children}: Growing): unknown => ({packages, children: children.map(plain)});
		return readTree(plain(made[0] as Growing));
	});

test('best cover never leaves more than left-most; what is saved and what is left are all', (t) => {
	const calls = fc.array(fc.record({packages: packageSets, count: fc.integer({min: 1, max: 5})}), {maxLength: 8});
	const weights = fc.array(fc.integer({min: 0, max: 9}), {minLength: 5, maxLength: 5});
	fc.assert(
		fc.property(trees, calls, weights, (tree, traced, drawn) => {
			const table = new Map(pins.map((pin, index) => [pin, {ms: drawn[index] as number, mib: 0}]));
			const msOf = (packages: readonly string[]) => packages.reduce((sum, pin) => sum + (table.get(pin)?.ms ?? 0), 0);
			const all = traced.reduce((sum, {packages, count}) => sum + count * msOf(packages), 0);
			const [cover, left] = (['best-cover', 'left-most'] as const).map((lookup) => {
				const {missingMs, calls: count, perNode} = evaluateTree(tree, {calls: traced, costs: table}, lookup);
				t.is(perNode.length, flattenTree(tree).length);
				t.is(perNode.reduce((sum, each) => sum + each.savedMs, 0) + missingMs, all);
				t.is(
					perNode.reduce((sum, each) => sum + each.calls, 0),
					count,
				);
				return missingMs;
			}) as [number, number];
			t.true(cover <= left);
		}),
		fuzzParameters(1),
	);
});
