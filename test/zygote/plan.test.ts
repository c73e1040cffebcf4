import test from 'ava';
import fc from 'fast-check';
import type {PackageSet} from '../../src/packages/package-store.ts';
import type {FitInput} from '../../src/zygote/fit.ts';
import {type PlanNode, ZygotePlan} from '../../src/zygote/plan.ts';
import {refitTree} from '../../src/zygote/refit.ts';
import {readTree, type TreeNode} from '../../src/zygote/tree.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

/** Of `name==version`s; a third part stands for another archive of the same version. */
function setOf(...packages: string[]): PackageSet {
	const distributions = packages.map((each) => {
		const [name = '', version = ''] = each.split('@')[0]?.split('==') ?? [];
		return {name, version, modules: [name]};
	});
	return {key: packages.join(' '), folders: packages.map((each) => `/store/${each}`), distributions};
}

const costs: Record<string, number> = {'/store/pandas==2': 300, '/store/numpy==1': 90, '/store/requests==2': 40};
const costOf = (folder: string) => costs[folder];

function planOf(tree: object, ...sets: PackageSet[]): ZygotePlan {
	const plan = new ZygotePlan(readTree(tree), costOf);
	for (const set of sets) plan.use(set);
	return plan;
}

function loadedOf(plan: ZygotePlan, set: PackageSet): string[] {
	return (plan.find(set)?.set.folders ?? []).map((folder) => folder.slice('/store/'.length));
}

const usual = {
	packages: [],
	children: [
		{packages: ['requests']},
		{packages: ['numpy==1'], children: [{packages: ['pandas'], children: [{packages: ['scipy']}]}]},
	],
};

test('without a tree each set is a node of its own, below the root', (t) => {
	const plan = new ZygotePlan(undefined, costOf);
	const [one, two, none] = [setOf('a==1', 'b==1'), setOf('a==1'), setOf()];
	for (const set of [one, two, none]) plan.use(set);
	t.deepEqual(loadedOf(plan, one), ['a==1', 'b==1']);
	t.deepEqual(loadedOf(plan, two), ['a==1']);
	t.is(plan.find(none), undefined);
	t.deepEqual(
		plan.nodes().map(({parent, isOwn}) => [parent, isOwn]),
		[
			[undefined, true],
			[undefined, true],
		],
	);
	t.deepEqual(
		plan.forget(one).map(({set}) => set),
		[one],
	);
	t.is(plan.find(one), undefined);
});

test('the node that saves the most is chosen, not the first one', (t) => {
	const set = setOf('numpy==1', 'pandas==2', 'requests==2');
	t.deepEqual(loadedOf(planOf(usual, set), set), ['numpy==1', 'pandas==2']);
	t.is(planOf(usual, set).missingMs(set), 40);
});

test('a package without measured costs counts one millisecond', (t) => {
	const set = setOf('numpy==1', 'other==1', 'requests==2');
	const plan = planOf(usual, set);
	t.is(plan.missingMs(set), 41);
});

test('a node is never used by a function that does not want all that it has, at that version, from that archive', (t) => {
	const [first, other, archive] = [
		setOf('numpy==1', 'pandas==2', 'scipy==1'),
		setOf('numpy==2', 'pandas==2'),
		setOf('numpy==1@other', 'pandas==2'),
	];
	const plan = planOf(usual, first, other, archive, setOf('pandas==2'));
	t.deepEqual(loadedOf(plan, first), ['numpy==1', 'pandas==2', 'scipy==1']);
	t.deepEqual(loadedOf(plan, other), []);
	t.deepEqual(loadedOf(plan, archive), []);
	t.deepEqual(loadedOf(plan, setOf('pandas==2')), []);
});

test('a name without a version is the version that the first function wanted, and is free again when nobody has that', (t) => {
	const [two, three] = [setOf('numpy==1', 'pandas==2'), setOf('numpy==1', 'pandas==3')];
	const plan = planOf(usual, two, three);
	t.deepEqual(loadedOf(plan, two), ['numpy==1', 'pandas==2']);
	t.deepEqual(loadedOf(plan, three), ['numpy==1']);
	t.deepEqual(
		plan.forget(two).map(({set}) => set.folders.at(-1)),
		['/store/pandas==2'],
	);
	t.deepEqual(loadedOf(plan, three), ['numpy==1', 'pandas==3']);
});

test('costs that change change what is chosen', (t) => {
	const tree = {packages: [], children: [{packages: ['a==1']}, {packages: ['b==1']}]};
	const set = setOf('a==1', 'b==1');
	const changing: Record<string, number> = {'/store/a==1': 5, '/store/b==1': 1};
	const plan = new ZygotePlan(readTree(tree), (folder) => changing[folder]);
	plan.use(set);
	t.deepEqual(loadedOf(plan, set), ['a==1']);
	changing['/store/b==1'] = 50;
	t.deepEqual(loadedOf(plan, set), ['a==1'], 'nothing was said');
	plan.reweigh();
	t.deepEqual(loadedOf(plan, set), ['b==1']);
});

test('a proposed node counts once it is adopted, below the node that was best', (t) => {
	const [set, wider] = [
		setOf('numpy==1', 'pandas==2', 'requests==2'),
		setOf('numpy==1', 'pandas==2', 'requests==2', 'six==1'),
	];
	const plan = planOf(usual, set, wider);
	const node = plan.propose(set);
	t.deepEqual(loadedOf(plan, set), ['numpy==1', 'pandas==2']);
	t.deepEqual(node.parent?.set.folders, ['/store/numpy==1', '/store/pandas==2']);
	t.deepEqual(
		node.added.map(({name}) => name),
		['requests'],
	);
	t.true(plan.adopt(node));
	t.is(plan.find(set), node);
	t.is(plan.missingMs(set), 0);
	t.deepEqual(loadedOf(plan, wider), ['numpy==1', 'pandas==2'], 'it is that set’s own');
	t.deepEqual(plan.forget(set), [node]);
	t.false(plan.adopt(plan.propose(set)), 'nobody has the set');
});

/** The plan's own tree with other nodes in it, as a fit answers it. */
function refitted(plan: ZygotePlan, change: (children: readonly TreeNode[]) => unknown[]): TreeNode {
	const {children} = plan.tree;
	return {packages: [], extra: {}, children: change(children) as TreeNode[]};
}

const leaf = (...packages: string[]) => ({packages, children: [], extra: {}});

test('another tree takes the place of the old one: what both have stays the same node', (t) => {
	const set = setOf('numpy==1', 'pandas==2', 'requests==2');
	const plan = planOf(usual, set);
	const [requests, numpy, pandas] = plan.nodes() as [PlanNode, PlanNode, PlanNode];
	const old = plan.tree;
	const [first, second] = old.children as [TreeNode, TreeNode];
	t.deepEqual([first.packages, second.packages], [['requests==2'], ['numpy==1']]);
	const fitted = refitted(plan, () => [{...second, children: [...second.children, leaf('requests==2')]}]);
	plan.prepare(old, fitted);
	t.deepEqual(plan.nodes(), [requests, numpy, pandas], 'nobody is sent elsewhere before it is settled');
	t.is(plan.find(set), pandas);
	t.deepEqual(plan.newlyChosen(), []);
	t.deepEqual(plan.settle(), {nodes: 4, added: 1, removed: 1, gone: [requests]});
	t.deepEqual(plan.nodes().slice(0, 2), [numpy, pandas]);
	t.is(plan.nodes()[2]?.parent, numpy);
	t.is(plan.countBelow(numpy), 3);
});

test('what functions are newly sent to is told before they are', (t) => {
	const [set, other] = [setOf('numpy==1', 'pandas==2', 'requests==2'), setOf('requests==2')];
	const plan = planOf(usual, set, other);
	const before = plan.find(set);
	plan.prepare(
		plan.tree,
		refitted(plan, ([requests, numpy]) => [
			requests,
			{...(numpy as TreeNode), children: [leaf('pandas==2', 'requests==2')]},
		]),
	);
	const [node, ...more] = plan.newlyChosen();
	t.deepEqual(more, []);
	t.deepEqual(node?.set.folders, ['/store/numpy==1', '/store/pandas==2', '/store/requests==2']);
	t.is(plan.find(set), before);
	t.deepEqual(plan.settle().gone, [before as PlanNode]);
	t.is(plan.find(set), node);
});

test('a node that is for one set alone is taken in by the tree, for all, or goes', (t) => {
	const [one, two] = [setOf('numpy==1', 'requests==2'), setOf('numpy==1', 'six==1')];
	const wider = setOf('numpy==1', 'requests==2', 'six==1');
	const plan = planOf(usual, one, two, wider);
	const [kept, lost] = [plan.propose(one), plan.propose(two)];
	t.true(plan.adopt(kept) && plan.adopt(lost));
	const old = plan.tree;
	const [requests, numpy] = old.children as [TreeNode, TreeNode];
	const children = numpy.children.filter(({extra}) => extra.id !== lost.id);
	plan.prepare(
		old,
		refitted(plan, () => [requests, {...numpy, children}]),
	);
	t.is(plan.find(one), kept);
	t.is(plan.find(two), lost);
	t.deepEqual(plan.settle().gone, [lost]);
	t.is(plan.find(one), kept);
	t.false(kept.isOwn);
	t.is(plan.find(wider), kept, 'it is everybody’s now');
	t.deepEqual(loadedOf(plan, two), ['numpy==1']);
	t.deepEqual(plan.forget(one), []);
	t.true(plan.forget(wider).includes(kept));
	t.false(plan.isNeeded(one.key));
});

test('what was prepared and is given up leaves the plan as it was', (t) => {
	const set = setOf('numpy==1', 'pandas==2', 'requests==2');
	const plan = planOf(usual, set);
	const own = plan.propose(set);
	plan.adopt(own);
	const before = plan.nodes();
	plan.prepare(
		plan.tree,
		refitted(plan, ([, numpy]) => [numpy, leaf('pandas==2')]),
	);
	t.deepEqual(
		plan.abandon().gone.map(({set: {folders}}) => folders),
		[['/store/pandas==2']],
	);
	t.deepEqual(plan.nodes(), before);
	t.is(plan.find(set), own);
	t.is(plan.treeSize, 4);
});

test('nodes that nobody can be forked from yet stay in the tree, below what stays', (t) => {
	const plan = planOf(usual, setOf('numpy==1', 'requests==2'));
	plan.prepare(
		plan.tree,
		refitted(plan, ([, numpy]) => [numpy]),
	);
	t.deepEqual(plan.settle().removed, 1);
	const later = setOf('numpy==1', 'pandas==2', 'scipy==1');
	plan.use(later);
	t.deepEqual(loadedOf(plan, later), ['numpy==1', 'pandas==2', 'scipy==1']);
	plan.prepare(
		plan.tree,
		refitted(plan, () => []),
	);
	t.is(plan.settle().nodes, 0);
});

const names = ['a==1', 'a==2', 'b==1', 'c==1', 'd==1'];
const packageLists = fc.subarray(names).map((some) => some.filter((each) => each !== 'a==2' || !some.includes('a==1')));
const anySets = fc.uniqueArray(packageLists, {minLength: 1, maxLength: 8, selector: (list) => list.join(' ')});
const anyTree = fc.constantFrom(
	{},
	{
		children: [
			{packages: ['a'], children: [{packages: ['b']}]},
			{packages: ['b==1'], children: [{packages: ['c']}]},
		],
	},
	{children: [{packages: ['b', 'c'], children: [{packages: ['a==2', 'd']}]}, {packages: ['d==1']}]},
);
const anyCosts = fc.array(fc.integer({min: 0, max: 9}), {minLength: 5, maxLength: 5});
/** What happens while another tree is prepared: each set is deployed or removed. */
const anyChanges = fc.array(fc.nat({max: 7}), {maxLength: 6});

test('whatever the new tree is, functions are sent to the best node that they may be, old nodes stay themselves', (t) => {
	fc.assert(
		fc.property(
			anyTree,
			anySets,
			anyCosts,
			fc.array(fc.nat({max: 6}), {minLength: 8, maxLength: 8}),
			anyChanges,
			fc.integer({min: 1, max: 8}),
			fc.boolean(),
			(tree, lists, ms, counts, changes, nodes, isSettled) => {
				const sets = lists.map((list) => setOf(...list));
				const msOf = (name: string) => ms[names.indexOf(name)] ?? 0;
				const plan = new ZygotePlan(readTree(tree), (folder) => msOf(folder.slice('/store/'.length)));
				const deployed = new Set(sets);
				for (const set of sets) plan.use(set);
				for (const [index, set] of sets.entries()) {
					if ((counts[index] ?? 0) < 4 || plan.missingMs(set) === 0 || set.folders.length === 0) continue;
					t.true(plan.adopt(plan.propose(set)));
				}
				const before = plan.nodes();
				const idOf = ({extra}: TreeNode) => extra.id as number;
				const all = ({children}: TreeNode): TreeNode[] => children.flatMap((child) => [child, ...all(child)]);
				const input: FitInput = {
					calls: lists.flatMap((packages, index) =>
						(counts[index] ?? 0) > 0 ? [{packages, count: counts[index] ?? 0}] : [],
					),
					costs: new Map(names.map((name) => [name, {ms: msOf(name), mib: 1}])),
					closures: new Map(),
				};
				const old = plan.tree;
				const fitted = refitTree(old, input, {nodes, weights: 'time', multiPackage: true, maxDepth: 28});
				plan.prepare(old, fitted);
				const gone = new Set<PlanNode>();
				for (const change of changes) {
					const set = sets[change % sets.length] as PackageSet;
					if (deployed.delete(set)) for (const node of plan.forget(set)) gone.add(node);
					else {
						plan.use(set);
						deployed.add(set);
					}
				}
				const sentBefore = new Map([...deployed].map((set) => [set, plan.find(set)]));
				const between = plan.nodes();
				const chosen = plan.newlyChosen();
				const change = isSettled ? plan.settle() : plan.abandon();
				for (const node of change.gone) gone.add(node);
				for (const set of deployed) {
					const node = plan.find(set);
					const has = new Set(set.folders);
					const usable = plan.nodes().filter((each) => each.set.folders.every((folder) => has.has(folder)));
					const weigh = (each: PlanNode | undefined) =>
						(each?.set.folders ?? []).reduce(
							(sum, folder) => sum + Math.max(0.01, msOf(folder.slice('/store/'.length))),
							0,
						);
					t.true(node === undefined || usable.includes(node), 'the subset rule');
					t.true(
						usable.every((each) => (each.isOwn && each.set !== set) || weigh(each) <= weigh(node) + 1e-9),
						'the best',
					);
					t.true(
						node === sentBefore.get(set) || (isSettled && (node === undefined || chosen.includes(node))),
						'told before',
					);
				}
				for (const node of plan.nodes()) {
					t.false(gone.has(node));
					t.true(node.parent === undefined || plan.nodes().includes(node.parent), 'none without its parent');
					t.deepEqual(
						[...node.set.folders].sort(),
						[
							...(node.parent?.set.folders ?? []),
							...node.added.map(({name, version}) => `/store/${name}==${version}`),
						].sort(),
					);
				}
				for (const node of between) t.true(plan.nodes().includes(node) !== gone.has(node), 'there, or gone');
				if (!isSettled) t.deepEqual(plan.nodes(), between);
				const kept = new Set(all(fitted).map(idOf));
				for (const node of before) {
					if (isSettled && kept.has(node.id) && !gone.has(node)) t.true(plan.nodes().includes(node), 'the same node');
				}
			},
		),
		fuzzParameters(1),
	);
});
