/** The subset rule: nothing is forked from a zygote that holds what was not asked for. */
import test from 'ava';
import fc from 'fast-check';
import {CoverIndex, type CoverNode} from '../../src/zygote/cover.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

/** A node's path, written down: the plain reference for all that is below. */
function loadedBy(nodes: readonly CoverNode[], node: CoverNode): string[] {
	const parent = nodes.find(({id}) => id === node.parentId);
	return [...(parent === undefined ? [] : loadedBy(nodes, parent)), ...node.packages];
}

function usableIn(nodes: readonly CoverNode[], request: readonly string[]): CoverNode[] {
	return nodes.filter((node) => loadedBy(nodes, node).every((pkg) => request.includes(pkg)));
}

function bestIn(
	nodes: readonly CoverNode[],
	request: readonly string[],
	weightOf: (pkg: string) => number,
): number | undefined {
	const rated = usableIn(nodes, request).map((node) => {
		const loaded = loadedBy(nodes, node);
		return {
			id: node.id,
			weight: loaded.reduce((sum, pkg) => sum + Math.max(0, weightOf(pkg)), 0),
			count: loaded.length,
		};
	});
	return rated.sort((a, b) => b.weight - a.weight || a.count - b.count || a.id - b.id)[0]?.id;
}

const one = () => 1;
const root: CoverNode = {id: 0, parentId: undefined, packages: []};
const node = (id: number, parentId: number, ...packages: string[]): CoverNode => ({id, parentId, packages});

test('a node is usable only when its whole path is wanted', (t) => {
	const index = new CoverIndex([root, node(1, 0, 'a==1'), node(2, 1, 'b==1'), node(3, 0, 'b==1')], one);
	t.deepEqual(index.usable(['a==1', 'b==1']), [0, 1, 2, 3]);
	t.deepEqual(index.usable(['b==1']), [0, 3]);
	t.deepEqual(index.usable(['a==1']), [0, 1]);
	t.deepEqual(index.usable([]), [0]);
	t.is(index.find(['a==1', 'b==1']), 2);
	t.is(index.find(['b==1']), 3);
	t.is(index.find([]), 0);
});

test('a node is not usable when one of many packages is not wanted', (t) => {
	const all = Array.from({length: 50}, (_, number) => `p${number}==1`);
	const index = new CoverIndex([root, node(1, 0, ...all)], one);
	t.is(index.find(all), 1);
	for (const missing of all) t.is(index.find(all.filter((pkg) => pkg !== missing)), 0, missing);
});

test('another version is another package, and so is one without a version', (t) => {
	const index = new CoverIndex([root, node(1, 0, 'a==1'), node(2, 0, 'a'), node(3, 0, 'b')], one);
	t.is(index.find(['a==2', 'b==1']), 0);
	t.is(index.find(['a==1.0']), 0);
	t.is(index.find(['A==1']), 0);
	t.is(index.find(['a==1']), 1);
});

test('what an earlier look-up wanted is forgotten', (t) => {
	const index = new CoverIndex([root, node(1, 0, 'a==1', 'b==1')], one);
	t.is(index.find(['a==1']), 0);
	t.is(index.find(['b==1']), 0);
	t.is(index.find(['a==1', 'b==1']), 1);
	t.is(index.find([]), 0);
	t.deepEqual(index.usable(['b==1']), [0]);
});

test('names that objects have are packages like others', (t) => {
	const index = new CoverIndex([root, node(1, 0, '__proto__'), node(2, 0, 'constructor')], one);
	t.is(index.find(['toString']), 0);
	t.is(index.find(['__proto__']), 1);
	t.is(index.find(['constructor']), 2);
});

test('the largest weight wins over the most packages, the first node and the deepest one', (t) => {
	const weights: Record<string, number> = {'a==1': 1, 'b==1': 1, 'c==1': 3};
	const nodes = [root, node(1, 0, 'a==1'), node(2, 1, 'b==1'), node(3, 0, 'c==1')];
	t.is(new CoverIndex(nodes, (pkg) => weights[pkg] ?? 0).find(['a==1', 'b==1', 'c==1']), 3);
});

test('of equal weights: fewest packages, then the lowest id, whatever the order', (t) => {
	const nodes = [
		root,
		node(7, 0, 'a==1', 'light==1'),
		node(5, 0, 'b==1'),
		node(4, 0, 'c==1'),
		node(3, 0, 'a==1', 'heavy==1', 'light==1'),
	];
	const weightOf = (pkg: string) => (/^(?:light|heavy)/.test(pkg) ? 0 : 1);
	const request = ['a==1', 'b==1', 'c==1', 'light==1', 'heavy==1'];
	for (const ordered of [nodes, [...nodes].reverse()]) t.is(new CoverIndex(ordered, weightOf).find(request), 4);
});

test('weights that are none do not make a node better', (t) => {
	for (const weight of [Number.NaN, -1, 0]) {
		const weightOf = (pkg: string) => (pkg === 'a==1' ? weight : 1);
		const index = new CoverIndex([root, node(1, 0, 'a==1'), node(2, 1, 'b==1')], weightOf);
		t.is(index.find(['a==1']), 0);
		t.is(index.find(['a==1', 'b==1']), 2);
	}
});

const noTrees: ReadonlyArray<readonly [title: string, nodes: CoverNode[]]> = [
	['nothing', []],
	['no root', [node(1, 2), node(2, 1)]],
	['two roots', [root, {...root, id: 1}]],
	['an id twice', [root, node(1, 0, 'a==1'), node(1, 0, 'b==1')]],
	['an unknown parent', [root, node(1, 5)]],
	['its own parent', [root, node(1, 1)]],
	['a circle beside the root', [root, node(1, 2), node(2, 1)]],
];

for (const [title, nodes] of noTrees) {
	test(`refuses what is no tree: ${title}`, (t) => {
		t.throws(() => new CoverIndex(nodes, one), {instanceOf: RangeError, message: /expected a tree/});
	});
}

const pins = ['a==1', 'a==2', 'b==1', 'b==2', 'c==1', 'd==1', 'e==1', 'f==1', 'g==1', 'h==1', 'a', '__proto__'];
/** Trees of few packages, so that look-ups often go deep; ids in no order. */
const trees = fc
	.tuple(
		fc.array(fc.tuple(fc.nat(), fc.uniqueArray(fc.constantFrom(...pins), {maxLength: 3})), {maxLength: 40}),
		fc.infiniteStream(fc.nat({max: 1_000_000})),
	)
	.map(([drawn, numbers]) => {
		const ids = [...new Set(numbers.take(drawn.length + 1))];
		while (ids.length < drawn.length + 1) ids.push(2_000_000 + ids.length);
		const nodes: CoverNode[] = [{id: ids[0] as number, parentId: undefined, packages: []}];
		for (const [index, [parent, packages]] of drawn.entries()) {
			nodes.push({id: ids[index + 1] as number, parentId: ids[parent % (index + 1)], packages});
		}
		return nodes;
	});
const requests = fc.array(fc.subarray(pins), {minLength: 1, maxLength: 10});
const weights = fc.dictionary(fc.constantFrom(...pins), fc.integer({min: -1, max: 4}));

test('every answer is that of the plain reference', (t) => {
	fc.assert(
		fc.property(trees, requests, weights, fc.boolean(), (nodes, lookups, weightTable, isReversed) => {
			const weightOf = (pkg: string) => (Object.hasOwn(weightTable, pkg) ? (weightTable[pkg] ?? 0) : 0);
			const index = new CoverIndex(isReversed ? [...nodes].reverse() : nodes, weightOf);
			for (const request of lookups) {
				t.is(index.find(request), bestIn(nodes, request, weightOf) as number);
				const sorted = (ids: number[]) => ids.sort((a, b) => a - b);
				t.deepEqual(sorted(index.usable(request)), sorted(usableIn(nodes, request).map(({id}) => id)));
			}
		}),
		fuzzParameters(1),
	);
});
