import test from 'ava';
import type {PackageSet} from '../../src/packages/package-store.ts';
import {ZygotePlan} from '../../src/zygote/plan.ts';
import {readTree} from '../../src/zygote/tree.ts';

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
