import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {flattenTree, nameOf, readTree, type TreeNode, treeLimits, writeTree} from '../../src/zygote/tree.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const leaf = (...packages: unknown[]): unknown => ({packages, children: []});
const root = (...children: unknown[]): unknown => ({packages: [], children});

test('a tree of OpenLambda', (t) => {
	const file = {
		packages: [],
		children: [
			{
				packages: ['Foo_Bar.baz==1.0RC1', 'numpy'],
				children: [{packages: ['pandas==2.1.0'], children: null}],
				split_generation: 1,
				direct: ['numpy'],
				count: 3,
			},
			{packages: ['a==1!2.0.post1+local-1']},
		],
		split_generation: 0,
	};
	const pandas: TreeNode = {packages: ['pandas==2.1.0'], children: [], extra: {}};
	t.deepEqual(readTree(file), {
		packages: [],
		children: [
			{
				packages: ['foo-bar-baz==1.0RC1', 'numpy'],
				children: [pandas],
				extra: {split_generation: 1, direct: ['numpy'], count: 3},
			},
			{packages: ['a==1!2.0.post1+local-1'], children: [], extra: {}},
		],
		extra: {split_generation: 0},
	});
});

test('what the root may leave out', (t) => {
	const empty: TreeNode = {packages: [], children: [], extra: {}};
	for (const value of [{}, {packages: null}, {packages: [], children: null}]) t.deepEqual(readTree(value), empty);
});

test('other keys are written in their order, between packages and children', (t) => {
	const text = '{"packages":[],"zeta":1,"alpha":{"b":1,"a":[null]},"__proto__":2,"children":[]}';
	t.is(JSON.stringify(writeTree(readTree(JSON.parse(text)))), text);
});

test('other keys are copied, without those that are undefined', (t) => {
	const direct = ['a'];
	const tree = readTree({packages: [], direct, count: undefined});
	direct.push('b');
	t.deepEqual(tree.extra, {direct: ['a']});
});

test('flattened: parents before children, the first child’s children before the second child', (t) => {
	const nodes = flattenTree(
		readTree(root({packages: ['a'], children: [leaf('b', 'c'), leaf('d')]}, {packages: ['e'], children: [leaf('a')]})),
	);
	t.deepEqual(
		nodes.map(({id, parent, depth, loaded}) => [id, parent?.id, depth, loaded]),
		[
			[0, undefined, 0, []],
			[1, 0, 1, ['a']],
			[2, 1, 2, ['a', 'b', 'c']],
			[3, 1, 2, ['a', 'd']],
			[4, 0, 1, ['e']],
			[5, 4, 2, ['e', 'a']],
		],
	);
});

test('the name of a pin', (t) => {
	t.is(nameOf('numpy==1.2'), 'numpy');
	t.is(nameOf('numpy'), 'numpy');
});

/** A chain so deep. */
function chain(depth: number): unknown {
	let below: unknown[] = [];
	for (let level = depth; level > 0; level--) below = [{packages: [`p${level}`], children: below}];
	return root(...below);
}

const cyclic: Record<string, unknown> = {packages: []};
cyclic.self = cyclic;
const looped = {packages: [], children: [] as unknown[]};
looped.children.push({packages: ['a'], children: looped.children});

const refused: ReadonlyArray<readonly [title: string, value: unknown, message: RegExp]> = [
	['no object', [], /^the tree: expected an object with packages and children, got a list$/],
	['null', null, /^the tree: expected an object with packages and children, got null$/],
	['a root that loads something', leaf('numpy'), /^the tree at packages: expected none/],
	['a root whose packages are no list', {packages: 'a'}, /^the tree at packages: expected none.*got "a"$/],
	[
		'children that are no list',
		root({packages: ['a'], children: {}}),
		/^the tree at children\[0\]\.children: .*an object$/,
	],
	['a child that is no object', root(leaf('a'), 7), /^the tree at children\[1\]: expected an object .*, got 7$/],
	[
		'a node without packages',
		root({children: []}),
		/^the tree at children\[0\]\.packages: expected a list of at least one/,
	],
	['a node that loads nothing', root(leaf()), /^the tree at children\[0\]\.packages: expected a list of at least one/],
	[
		'a number as a package',
		root(leaf('a', 1)),
		/^the tree at children\[0\]\.packages\[1\]: expected a package.*, got 1$/,
	],
	...['', ' a', 'a ', 'a>=1', 'a==', 'a==1.*', 'a==1,==2', 'a[b]', '-a', 'a-', 'a===1', 'a==1 ; b', 'ä', 'a\n'].map(
		(text) =>
			[
				`the package ${JSON.stringify(text)}`,
				root(leaf(text)),
				/children\[0\]\.packages\[0\]: expected a package as in numpy or numpy==1\.26\.4, got "/,
			] as const,
	),
	['a long package', root(leaf('a'.repeat(treeLimits.packageCharacters + 1))), /expected a package .*, got "a{100}"$/],
	[
		'a package twice in a node',
		root(leaf('a==1', 'A==1')),
		/packages\[1\]: expected a package that children\[0\]\.packages\[0\] does not load already, got "A==1"/,
	],
	[
		'another version on the path',
		root({packages: ['a-b==1'], children: [leaf('c'), leaf('c', 'a.b==2')]}),
		/^the tree at children\[0\]\.children\[1\]\.packages\[1\]: expected a package that children\[0\]\.packages\[0\] does not/,
	],
	['a pin of an unpinned one on the path', root({packages: ['a'], children: [leaf('a==2')]}), /does not load already/],
	[
		'a chain that is too deep',
		chain(treeLimits.depth + 1),
		/^the tree at (children\[0\]\.?){29}: expected at most 28 levels/,
	],
	['a tree that holds itself', looped, /does not load already/],
	[
		'too many nodes',
		root(...Array.from({length: treeLimits.nodes}, () => leaf('a'))),
		/^the tree at children\[9999\]: expected at most 10000 nodes$/,
	],
	[
		'too many packages on a path',
		root({
			packages: Array.from({length: treeLimits.pathPackages}, (_, index) => `p${index}`),
			children: [leaf('a')],
		}),
		/^the tree at children\[0\]\.children\[0\]\.packages\[0\]: expected at most 1000 packages/,
	],
	['much in other keys', {packages: [], note: 'a'.repeat(treeLimits.extraCharacters)}, /at most 65536 characters$/],
	['a circle in other keys', cyclic, /^the tree: expected keys whose values can be written as JSON$/],
	[
		'a big integer in other keys',
		root({packages: ['a'], count: 1n}),
		/^the tree at children\[0\]: expected keys whose/,
	],
];

for (const [title, value, message] of refused) {
	test(`refuses ${title}`, (t) => {
		const error = t.throws(() => readTree(value), {instanceOf: ForktreeError, message});
		t.is(error?.code, 'InvalidTree');
	});
}

test('takes what is just within the limits', (t) => {
	t.is(flattenTree(readTree(chain(treeLimits.depth))).length, treeLimits.depth + 1);
	const many = root(...Array.from({length: treeLimits.nodes - 1}, () => leaf('a')));
	t.is(flattenTree(readTree(many)).length, treeLimits.nodes);
	t.notThrows(() => readTree(root(leaf('a'.repeat(treeLimits.packageCharacters)))));
	t.notThrows(() => readTree(root(leaf(...Array.from({length: treeLimits.pathPackages}, (_, index) => `p${index}`)))));
});

/** Trees as they are after reading: values of other keys are JSON, and no name is twice on a path. */
const trees = fc
	.letrec<{node: unknown}>((tie) => ({
		node: fc.record({
			packages: fc.array(fc.tuple(fc.nat(), fc.constantFrom('', '==1.0', '==2!3.0b1+x.y')), {
				minLength: 1,
				maxLength: 3,
			}),
			children: fc.oneof({maxDepth: 6, depthSize: 'small'}, fc.constant([]), fc.array(tie('node'), {maxLength: 3})),
			extra: fc.dictionary(
				fc.string().filter((key) => key !== 'packages' && key !== 'children'),
				fc.jsonValue(),
				{maxKeys: 3},
			),
		}),
	}))
	.node.map((drawn) => {
		type Drawn = {packages: Array<[number, string]>; children: Drawn[]; extra: Record<string, unknown>};
		let count = 0;
		const build = ({packages, children, extra}: Drawn, isRoot: boolean): TreeNode => ({
			packages: isRoot ? [] : packages.map(([number, version]) => `p${count++}-${number}${version}`),
			children: children.map((child) => build(child, false)),
			// As JSON has it: no negative zero, and __proto__ a key like others.
			extra: JSON.parse(JSON.stringify(extra)) as Record<string, unknown>,
		});
		return build(drawn as Drawn, true);
	});

test('what is written is read as it was', (t) => {
	fc.assert(
		fc.property(trees, (tree) => {
			const text = JSON.stringify(writeTree(tree));
			const read = readTree(JSON.parse(text));
			t.deepEqual(read, tree);
			t.is(JSON.stringify(writeTree(read)), text);
		}),
		fuzzParameters(2),
	);
});

test('whatever JSON is read, the answer is a tree or InvalidTree', (t) => {
	const nodes = fc.letrec((tie) => ({
		node: fc.oneof(
			fc.jsonValue(),
			fc.record(
				{
					packages: fc.oneof(fc.jsonValue(), fc.array(fc.constantFrom('a', 'b', 'B', 'a==1', 'c==2', '', 'c d', null))),
					children: fc.oneof(fc.jsonValue(), fc.array(tie('node'), {maxLength: 3})),
					count: fc.jsonValue(),
				},
				{requiredKeys: []},
			),
		),
	})).node;
	const roots = fc.oneof(
		nodes,
		fc.array(nodes, {maxLength: 3}).map((children) => ({packages: [], children})),
	);
	fc.assert(
		fc.property(roots, (value) => {
			let tree: TreeNode;
			try {
				tree = readTree(value);
			} catch (error) {
				t.is((error as ForktreeError).code, 'InvalidTree');
				return;
			}
			for (const {loaded} of flattenTree(tree)) t.is(new Set(loaded.map(nameOf)).size, loaded.length);
		}),
		fuzzParameters(2),
	);
});
