import test from 'ava';
import fc from 'fast-check';
import {readTrials} from '../../bench/reqbench-data.ts';
import {evaluateTree} from '../../src/zygote/evaluate.ts';
import {type FitInput, type FitOptions, fitTree} from '../../src/zygote/fit.ts';
import {flattenTree, nameOf, readTree, type TreeNode, treeLimits, writeTree} from '../../src/zygote/tree.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const uniform: FitOptions = {weights: 'uniform', multiPackage: true, maxDepth: 28};
const byTime: FitOptions = {...uniform, weights: 'time'};

/** Calls as text: `2 a b` are two calls that need a==1 and b==1; `a=2` is a==2. */
function callsOf(...lines: string[]): FitInput['calls'] {
	return lines.map((line) => {
		const [count, ...packages] = line.split(' ');
		return {count: Number(count), packages: packages.map(pinOf)};
	});
}

function pinOf(text: string): string {
	const [name, version = '1'] = text.split('=');
	return `${name}==${version}`;
}

function closuresOf(...lines: string[]): FitInput['closures'] {
	const closures = new Map<string, string[][]>();
	for (const line of lines) {
		const pins = line.split(' ').map(pinOf);
		const pin = pins[0] as string;
		closures.set(pin, [...(closures.get(pin) ?? []), pins]);
	}
	return closures;
}

/** By name, milliseconds and MiB. */
function costsOf(costs: Record<string, readonly [ms: number, mib: number]>): FitInput['costs'] {
	return new Map(Object.entries(costs).map(([name, [ms, mib]]) => [pinOf(name), {ms, mib}]));
}

/** A tree as text: `a b (c, d), e`. */
function textOf({packages, children}: TreeNode): string {
	const below = children.map(textOf).join(', ');
	const own = packages.map((pin) => pin.replace(/==1$/, '').replace('==', '=')).join(' ');
	if (own === '') return below;
	return below === '' ? own : `${own} (${below})`;
}

function treeText(input: Partial<FitInput> & Pick<FitInput, 'calls'>, options: Partial<FitOptions> = {}): string {
	return textOf(fitTree({costs: new Map(), closures: new Map(), ...input}, {...uniform, ...options}));
}

const sorted = (loaded: readonly string[]) => [...loaded].sort().join(' ');
const ones = (calls: FitInput['calls']) =>
	new Map(calls.flatMap(({packages}) => packages.map((pin) => [pin, {ms: 1, mib: 1}] as const)));

for (const [number, trial] of readTrials().entries()) {
	const {train, publishedClosures: closures, trees, expected} = trial;
	const input = {calls: train, costs: new Map(), closures};

	test(`split ${number} of Forklift: the 40 nodes that were published`, (t) => {
		const loadedBy = (tree: TreeNode) =>
			flattenTree(tree)
				.map(({loaded}) => sorted(loaded))
				.sort();
		const fitted = fitTree(input, {...uniform, nodes: 40});
		t.deepEqual(loadedBy(fitted), loadedBy(trees['multi-uniform-40']));
		const {missingPackages} = evaluateTree(fitted, {calls: train, costs: new Map()}, 'left-most');
		t.is(missingPackages, expected['multi-uniform-40'].train_missing);
	});

	test(`split ${number} of Forklift: 160 nodes leave as little as those that were published`, (t) => {
		const fitted = fitTree(input, {...uniform, nodes: 160});
		t.is(flattenTree(fitted).length, 160);
		const {missingPackages} = evaluateTree(fitted, {calls: train, costs: new Map()}, 'left-most');
		t.is(missingPackages, expected['multi-uniform-160'].train_missing);
	});

	test(`split ${number} of Forklift: the true dependencies and time make a better tree of 40 nodes`, (t) => {
		const fitted = fitTree({...trial, calls: train}, {...byTime, nodes: 40});
		for (const lookup of ['best-cover', 'left-most'] as const) {
			const left = (tree: TreeNode) => evaluateTree(tree, {calls: trial.test, costs: trial.costs}, lookup).missingMs;
			t.true(left(fitted) < left(trees['multi-uniform-40']));
		}
	});
}

test('a node is made for the most calls times packages, and takes these calls', (t) => {
	const calls = callsOf('3 a', '2 a b c d', '1 c d');
	t.is(treeText({calls}, {nodes: 2}), 'a');
	// b, c and d have two calls each left below a; above it only one needs c or d.
	t.is(treeText({calls}, {nodes: 3}), 'a (b)');
	t.is(treeText({calls}, {nodes: 4}), 'a (b (c))');
	t.is(treeText({calls}), 'a (b (c (d))), c (d)');
});

test('with what a package requires, when all of it is missing', (t) => {
	const calls = callsOf('2 a b c', '3 c');
	const closures = closuresOf('a b c', 'b c');
	t.is(treeText({calls, closures}, {nodes: 2}), 'a b c');
	t.is(treeText({calls, closures}), 'a b c, c');
	t.is(treeText({calls: callsOf('2 a b c', '9 c'), closures}), 'c (a b)');
});

test('one package a node: not before what it requires', (t) => {
	const calls = callsOf('2 a b c', '3 c');
	const closures = closuresOf('a b c', 'b c');
	t.is(treeText({calls, closures}, {multiPackage: false}), 'c (b (a))');
});

test('each set of packages that was seen to come with one is a candidate', (t) => {
	const calls = callsOf('2 a b', '3 a c d', '1 a');
	const closures = closuresOf('a b', 'a c d', 'a e');
	t.is(treeText({calls, closures}), 'a c d, a b');
});

test('a package that is not in its own closure counts as in it', (t) => {
	t.is(treeText({calls: callsOf('1 a b'), closures: new Map([['a==1', [['b==1']]]])}), 'a b');
});

test('weights: by time, or each the same', (t) => {
	const input = {calls: callsOf('5 a', '2 b'), costs: costsOf({a: [1, 1], b: [10, 1]})};
	t.is(treeText(input, {weights: 'time'}), 'b, a');
	t.is(treeText(input, {weights: 'uniform'}), 'a, b');
});

test('what costs nothing by time, or was not measured, gets no node of its own', (t) => {
	const costs = new Map([
		['a==1', {ms: 0, mib: 1}],
		['b==1', {ms: -1, mib: 1}],
		['c==1', {ms: Number.NaN, mib: 1}],
		['d==1', {ms: Number.POSITIVE_INFINITY, mib: 1}],
		['f==1', {ms: 1, mib: 1}],
	]);
	t.is(treeText({calls: callsOf('9 a b c d e f'), costs}, {weights: 'time'}), 'f');
});

test('ties: the older node first, then by name, whatever the order of calls and names', (t) => {
	for (const calls of [callsOf('2 a b', '1 c', '1 d'), callsOf('1 d', '1 c', '2 b a')]) {
		t.is(treeText({calls}, {nodes: 2}), 'a');
		t.is(treeText({calls}, {nodes: 3}), 'a (b)');
		t.is(treeText({calls}, {nodes: 4}), 'a (b), c');
	}
	// One call below a that needs b, one of the root's that needs z.
	t.is(treeText({calls: callsOf('2 a', '1 a b', '1 z')}, {nodes: 3}), 'a, z');
});

test('a version that contradicts one on the path is not loaded', (t) => {
	const packages = ['a==1', 'a==2', 'b==1'];
	// No lock has two versions of a package; if a call does, no node may.
	const calls = [{count: 3, packages}, ...callsOf('1 a')];
	const tree = fitTree({calls, costs: new Map(), closures: new Map([['b==1', [['b==1', 'a==2'], ['b==1']]]])}, uniform);
	for (const {loaded} of flattenTree(tree)) t.is(new Set(loaded.map(nameOf)).size, loaded.length);
	t.is(treeText({calls: callsOf('1 a', '1 a=2'), closures: closuresOf('a a=2')}), 'a=2');
	t.is(treeText({calls: [{count: 1, packages}], closures: closuresOf('a a', 'a=2 a', 'b a a=2')}), 'a');
});

test('depth', (t) => {
	const calls = callsOf('1 a b c');
	t.is(treeText({calls}, {maxDepth: 2}), 'a (b)');
	t.is(treeText({calls}, {maxDepth: 0}), '');
	const many = Array.from({length: 40}, (_, index) => `p${index}`);
	const deep = fitTree({calls: callsOf(`1 ${many.join(' ')}`), costs: new Map(), closures: new Map()}, uniform);
	t.is(flattenTree(deep).length, 29);
	t.deepEqual(readTree(writeTree(deep)), deep);
});

test('no path has more packages than a tree may have', (t) => {
	const many = Array.from({length: treeLimits.pathPackages}, (_, index) => `p${index}`);
	const made = (...names: string[]) => {
		const input = {calls: callsOf(`1 ${names.join(' ')}`), closures: closuresOf(names.join(' '))};
		return fitTree({costs: new Map(), ...input}, {...uniform, nodes: 2}).children[0]?.packages.length;
	};
	t.is(made(...many), treeLimits.pathPackages);
	t.is(made(...many, 'q'), 1);
});

test('within a memory limit nodes compete by what they save for each MiB, 2 more than what they load', (t) => {
	const input = {
		calls: callsOf('10 heavy', '10 light', '1 tiny'),
		costs: costsOf({heavy: [100, 98], light: [50, 8], tiny: [1, 0]}),
	};
	t.is(treeText(input, {weights: 'time', memoryMb: 110}), 'light, heavy');
	t.is(treeText(input, {weights: 'time', memoryMb: 109.9}), 'light, tiny');
	t.is(treeText(input, {weights: 'time', memoryMb: 10}), 'light');
	t.is(treeText(input, {weights: 'time', memoryMb: 2}), 'tiny');
	t.is(treeText(input, {weights: 'time', memoryMb: 1.9}), '');
	t.is(treeText(input, {weights: 'time', memoryMb: 0}), '');
	t.is(treeText(input, {weights: 'time', memoryMb: 110, nodes: 2}), 'light');
	t.is(treeText(input, {weights: 'time', nodes: 2}), 'heavy');
});

test('a node’s second best candidate is made when its best does not fit', (t) => {
	const input = {calls: callsOf('10 a b', '1 a'), costs: costsOf({a: [10, 10], b: [100, 100]})};
	t.is(treeText(input, {weights: 'time', memoryMb: 20}), 'a');
	t.is(treeText(input, {weights: 'time', memoryMb: 114}), 'b (a)');
});

test('figures of each node', (t) => {
	const input = {
		calls: callsOf('3 a', '2 a b', '1 c'),
		costs: costsOf({a: [10, 1], b: [5, 4], c: [1, 0]}),
		closures: new Map(),
	};
	const figures = (options: FitOptions) =>
		flattenTree(fitTree(input, options)).map(({node: {packages, extra}}) => [packages, extra]);
	const expected = [
		[[], {count: 6, ms: 0, mib: 0}],
		[['a==1'], {count: 5, ms: 50, mib: 3}],
		[['b==1'], {count: 2, ms: 10, mib: 6}],
		[['c==1'], {count: 1, ms: 1, mib: 2}],
	];
	t.deepEqual(figures(byTime), expected);
	t.deepEqual(figures(uniform), expected);
});

test('no calls, and calls without packages', (t) => {
	t.is(treeText({calls: []}), '');
	t.is(treeText({calls: callsOf('3')}), '');
	t.is(treeText({calls: callsOf('3', '1 a')}, {nodes: 1}), '');
});

const misuses: ReadonlyArray<readonly [options: object, message: RegExp]> = [
	[{nodes: 0}, /^nodes: expected a whole number from 1 to 10000, got 0$/],
	[{nodes: 1.5}, /^nodes: /],
	[{nodes: 10_001}, /^nodes: /],
	[{maxDepth: 29}, /^maxDepth: expected a whole number from 0 to 28, got 29$/],
	[{maxDepth: -1}, /^maxDepth: /],
	[{maxDepth: undefined}, /^maxDepth: /],
	[{memoryMb: -1}, /^memoryMb: expected MiB, zero or more, got -1$/],
	[{memoryMb: Number.NaN}, /^memoryMb: /],
	[{weights: 'size'}, /^weights: expected 'time' or 'uniform', got "size"$/],
	[{multiPackage: 'no'}, /^multiPackage: expected true or false, got "no"$/],
];

for (const [options, message] of misuses) {
	test(`refuses ${JSON.stringify(options)}`, (t) => {
		t.throws(() => treeText({calls: []}, options as Partial<FitOptions>), {instanceOf: RangeError, message});
	});
}

for (const pin of ['a', 'A==1', 'a_b==1', 'a>=1', '', 'a==1,b==1', `a==${'1'.repeat(300)}`]) {
	test(`refuses a call of ${JSON.stringify(pin.slice(0, 10))}`, (t) => {
		const calls = [...callsOf('1 c'), {count: 1, packages: ['b==1', pin]}];
		t.throws(() => treeText({calls}), {
			instanceOf: RangeError,
			message: /^calls\[1\]\.packages\[1\]: expected name==version with the name as PEP 503 has it, got "/,
		});
	});
}

for (const count of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
	test(`refuses a count of ${count}`, (t) => {
		t.throws(() => treeText({calls: [{count, packages: []}]}), {
			instanceOf: RangeError,
			message: /^calls\[0\]\.count: expected a whole number above zero/,
		});
	});
}

/** Small inputs with many ties; every package in two versions, closures of which few fit the calls. */
const pins = ['a==1', 'a==2', 'b==1', 'c==1', 'd==1', 'e==1', 'f==1', 'f==2'];
const locks = fc
	.subarray(pins)
	.map((some) => some.filter((pin, index) => some.findIndex((other) => nameOf(other) === nameOf(pin)) === index));
const inputs = fc.record({
	calls: fc.array(fc.record({packages: locks, count: fc.integer({min: 1, max: 4})}), {maxLength: 12}),
	costs: fc
		.dictionary(
			fc.constantFrom(...pins),
			fc.record({ms: fc.integer({min: 0, max: 4}), mib: fc.integer({min: 0, max: 6})}),
		)
		.map((costs) => new Map(Object.entries(costs))),
	closures: fc
		.array(fc.tuple(fc.constantFrom(...pins), fc.array(locks, {minLength: 1, maxLength: 3})), {maxLength: 6})
		.map((entries) => new Map(entries.map(([pin, sets]) => [pin, sets.map((set) => [...set, pin])]))),
});
const options = fc.record(
	{
		nodes: fc.integer({min: 1, max: 12}),
		memoryMb: fc.integer({min: 0, max: 40}),
		weights: fc.constantFrom('time' as const, 'uniform' as const),
		multiPackage: fc.boolean(),
		maxDepth: fc.integer({min: 0, max: 4}),
	},
	{requiredKeys: ['weights', 'multiPackage', 'maxDepth']},
);

/** The algorithm as its description reads, without any of what makes it fast. */
function plainFit(
	{calls, costs, closures}: FitInput,
	{nodes = 99, memoryMb, weights, multiPackage, maxDepth}: FitOptions,
) {
	type Plain = {packages: string[]; loaded: string[]; calls: string[][]; children: Plain[]; depth: number};
	const traced = calls.flatMap(({packages, count}) => Array.from({length: count}, () => [...packages]));
	const root: Plain = {packages: [], loaded: [], calls: traced, children: [], depth: 0};
	const made = [root];
	const weightOf = (pin: string) => (weights === 'uniform' ? 1 : (costs.get(pin)?.ms ?? 0));
	const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);
	const mibOf = (packages: string[]) => 2 + sum(packages.map((pin) => costs.get(pin)?.mib ?? 0));
	for (;;) {
		const room = (memoryMb ?? Number.POSITIVE_INFINITY) - sum(made.slice(1).map(({packages}) => mibOf(packages)));
		let best: {node: Plain; packages: string[]; rank: number} | undefined;
		for (const node of made) {
			for (const pin of [...new Set(node.calls.flat())].sort()) {
				if (node.loaded.includes(pin) || node.depth === maxDepth) continue;
				for (const closure of closures.get(pin) ?? [[pin]]) {
					const packages = [pin, ...closure.filter((each) => each !== pin && !node.loaded.includes(each)).sort()];
					const all = [...node.loaded, ...packages];
					if (new Set(all.map(nameOf)).size < all.length) continue;
					if ((packages.length > 1 && !multiPackage) || mibOf(packages) > room) continue;
					const count = node.calls.filter((call) => packages.every((each) => call.includes(each))).length;
					const saved = count * sum(packages.map(weightOf));
					const rank = memoryMb === undefined ? saved : saved / mibOf(packages);
					if (rank > (best?.rank ?? 0)) best = {node, packages, rank};
				}
			}
		}
		if (best === undefined || made.length >= nodes) return made;
		const {node, packages} = best;
		const takes = (call: string[]) => packages.every((each) => call.includes(each));
		const child: Plain = {
			packages,
			loaded: [...node.loaded, ...packages],
			calls: node.calls.filter(takes),
			children: [],
			depth: node.depth + 1,
		};
		node.calls = node.calls.filter((call) => !takes(call));
		node.children.push(child);
		made.push(child);
	}
}

test('every tree is that of the plain algorithm', (t) => {
	fc.assert(
		fc.property(inputs, options, (input, drawn) => {
			const fitted = fitTree(input, drawn);
			const shape = ({packages, children}: Pick<TreeNode, 'packages'> & {children: readonly unknown[]}): unknown => [
				packages,
				children.map((child) => shape(child as TreeNode)),
			];
			t.deepEqual(shape(fitted), shape(plainFit(input, drawn)[0] as never));
			t.deepEqual(readTree(writeTree(fitted)), fitted);
		}),
		fuzzParameters(2),
	);
});

test('equal calls are the same as one with their sum, in whatever order and with whatever repeats', (t) => {
	fc.assert(
		fc.property(inputs, options, fc.infiniteStream(fc.nat()), (input, drawn, numbers) => {
			const traced = input.calls.flatMap(({packages, count}) =>
				Array.from({length: count}, () => ({packages: [...packages, ...packages.slice(1)].reverse(), count: 1})),
			);
			const shuffled = traced
				.map((call) => [numbers.next().value as number, call] as const)
				.sort(([a], [b]) => a - b)
				.map(([, call]) => call);
			t.deepEqual(fitTree({...input, calls: shuffled}, drawn), fitTree(input, drawn));
		}),
		fuzzParameters(2),
	);
});

test('costs of one give the packages saved', (t) => {
	const calls = callsOf('3 a b', '2 b c', '1 a c');
	const tree = fitTree({calls, costs: ones(calls), closures: new Map()}, {...uniform, nodes: 3});
	const {missingPackages, missingMs} = evaluateTree(tree, {calls, costs: ones(calls)}, 'left-most');
	t.is(missingPackages, missingMs);
	const saved = flattenTree(tree).reduce((total, {node}) => total + (node.extra.ms as number), 0);
	t.is(saved + missingMs, 12);
});
