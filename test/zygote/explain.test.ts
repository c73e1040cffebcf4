import test from 'ava';
import fc from 'fast-check';
import {explainNode} from '../../src/zygote/explain.ts';
import {flattenTree, readTree} from '../../src/zygote/tree.ts';

const tree = readTree({
	children: [
		{packages: ['numpy==1.26.4'], children: [{packages: ['pandas==2.1.0', 'pytz==2023.3']}, {packages: ['scipy']}]},
		{packages: ['requests==2.31.0', 'idna==3.4']},
		{packages: ['flask']},
	],
});
const cost = (ms: number) => ({ms, mib: 1});
const costs = new Map([
	['numpy==1.26.4', cost(80)],
	['numpy==2.0.0', cost(90)],
	['pandas==2.1.0', cost(200)],
	['pytz==2023.3', cost(5)],
	['scipy==1.11.2', cost(150)],
	['requests==2.31.0', cost(30)],
	['idna==3.4', cost(1)],
	['flask==2.3.3', cost(40)],
]);

test('the node, what it covers, and what is left', (t) => {
	t.deepEqual(explainNode(tree, ['idna==3.4', 'numpy==1.26.4', 'scipy==1.11.2'], costs), {
		node: {
			id: 3,
			path: [['numpy==1.26.4'], ['scipy==1.11.2']],
			covered: ['numpy==1.26.4', 'scipy==1.11.2'],
			coveredMs: 230,
		},
		missing: ['idna==3.4'],
		missingMs: 1,
		nextBest: undefined,
		notUsable: [],
		unmeasured: [],
	});
});

test('the next best is none that is above the node', (t) => {
	const {node, nextBest} = explainNode(
		tree,
		['flask==2.3.3', 'idna==3.4', 'numpy==1.26.4', 'requests==2.31.0', 'scipy==1.11.2'],
		costs,
	);
	t.is(node.id, 3);
	t.deepEqual(nextBest, {id: 5, path: [['flask==2.3.3']], covered: ['flask==2.3.3'], coveredMs: 40});
});

test('what is in the way: other versions, and what was not asked for', (t) => {
	const {node, notUsable} = explainNode(tree, ['numpy==2.0.0', 'pandas==2.1.0', 'requests==2.31.0'], costs);
	t.is(node.id, 0);
	t.deepEqual(
		notUsable.map(({id, obstacles}) => ({id, obstacles})),
		[
			{id: 1, obstacles: [{loaded: 'numpy==1.26.4', asked: 'numpy==2.0.0'}]},
			{
				id: 2,
				obstacles: [
					{loaded: 'numpy==1.26.4', asked: 'numpy==2.0.0'},
					{loaded: 'pytz==2023.3', asked: undefined},
				],
			},
		],
	);
	t.deepEqual(notUsable[1]?.covered, ['pandas==2.1.0']);
	t.is(notUsable[1]?.coveredMs, 200);
});

test('a node that would save no more than the one it is forked from is of no interest', (t) => {
	const {node, notUsable} = explainNode(tree, ['flask==2.3.3', 'requests==2.31.0'], costs);
	t.is(node.id, 5);
	t.deepEqual(notUsable, []);
});

test('a name without version is in the way only when it is not asked for', (t) => {
	const {node, notUsable} = explainNode(tree, ['numpy==1.26.4', 'pandas==2.1.0'], costs);
	t.is(node.id, 1);
	t.deepEqual(
		notUsable.map(({obstacles}) => obstacles),
		[[{loaded: 'pytz==2023.3', asked: undefined}]],
	);
	const without = explainNode(readTree({children: [{packages: ['flask', 'click']}]}), ['flask==1'], new Map());
	t.deepEqual(without.notUsable[0]?.obstacles, [{loaded: 'click', asked: undefined}]);
});

test('without costs each package counts the same', (t) => {
	const request = ['idna==3.4', 'numpy==1.26.4', 'requests==2.31.0'];
	t.is(explainNode(tree, request, costs).node.id, 1);
	const {node, missingMs, unmeasured} = explainNode(tree, request, new Map());
	t.deepEqual([node.id, node.coveredMs, missingMs, unmeasured], [4, 0, 0, request]);
});

test('a cost below nothing is none', (t) => {
	const plan = readTree({children: [{packages: ['a'], children: [{packages: ['b']}]}, {packages: ['c']}]});
	const {node, notUsable} = explainNode(
		plan,
		['a==1', 'b==1', 'c==1'],
		new Map([
			['a==1', cost(-5)],
			['b==1', cost(10)],
			['c==1', cost(7)],
		]),
	);
	t.deepEqual([node.id, node.coveredMs, notUsable], [2, 10, []]);
});

test('nothing is asked for', (t) => {
	const {node, missing, notUsable} = explainNode(tree, [], costs);
	t.deepEqual([node.id, node.path, missing, notUsable], [0, [], [], []]);
});

const names = ['a', 'b', 'c', 'd', 'e'];
const pins = names.flatMap((name) => [`${name}==1`, `${name}==2`]);
/** Small trees over few packages, with each name once on a path. */
const trees = fc.array(fc.tuple(fc.nat(), fc.constantFrom(...pins, ...names)), {maxLength: 12}).map((steps) => {
	const nodes: Array<{packages: string[]; children: object[]; path: string[]}> = [
		{packages: [], children: [], path: []},
	];
	for (const [at, pin] of steps) {
		const parent = nodes[at % nodes.length];
		const name = pin.slice(0, 1);
		if (parent === undefined || parent.path.includes(name)) continue;
		const node = {packages: [pin], children: [], path: [...parent.path, name]};
		parent.children.push(node);
		nodes.push(node);
	}
	const strip = ({packages, children}: {packages: string[]; children: object[]}): object => ({
		packages,
		children: children.map((child) => strip(child as never)),
	});
	return readTree(strip(nodes[0] as never));
});
const requests = fc.uniqueArray(fc.constantFrom(...pins), {selector: (pin) => pin.slice(0, 1)});

test('it says of every node what a plain look at it says', (t) => {
	fc.assert(
		fc.property(trees, requests, (tree, request) => {
			const {node, missing, nextBest, notUsable} = explainNode(tree, request, new Map());
			const wanted = (pkg: string) => request.some((pin) => pin === pkg || pin.startsWith(`${pkg}==`));
			const flats = flattenTree(tree);
			const usable = flats.filter(({loaded}) => loaded.every(wanted));
			const most = Math.max(...usable.map(({loaded}) => loaded.length));
			t.is(node.covered.length, most);
			t.deepEqual([...node.covered, ...missing].sort(), [...request].sort());
			t.true(nextBest === undefined || usable.some(({id}) => id === nextBest.id && id !== node.id));
			for (const {id, obstacles, covered} of notUsable) {
				t.false(usable.some((flat) => flat.id === id));
				t.is(flats[id]?.loaded.length, obstacles.length + covered.length);
				for (const {loaded, asked} of obstacles) t.true(!wanted(loaded) && asked !== loaded);
			}
		}),
	);
});
