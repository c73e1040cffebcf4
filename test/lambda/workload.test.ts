import test from 'ava';
import {Workload} from '../../src/lambda/workload.ts';
import type {PackageSet} from '../../src/packages/package-store.ts';

/** Of `name==version`s. */
function setOf(...packages: string[]): PackageSet {
	const distributions = packages.map((each) => {
		const [name = '', version = ''] = each.split('==');
		return {name, version, modules: [name]};
	});
	return {key: packages.join(' '), folders: packages.map((each) => `/store/${each}`), distributions};
}

const cost = (ms: number) => ({exclusiveMs: ms, privateMiB: ms / 10}) as never;

const described: Record<string, {requires: string[]; cost: never}> = {
	'/store/a==1': {requires: ['b', 'elsewhere'], cost: cost(10)},
	'/store/b==1': {requires: ['c'], cost: cost(20)},
	'/store/b==2': {requires: [], cost: undefined as never},
	'/store/c==1': {requires: ['a'], cost: cost(30)},
};

const workload = () => new Workload((folder) => described[folder]);
const [first, second] = [setOf('a==1', 'b==1', 'c==1'), setOf('a==1', 'b==2')];

test('sets with their counts, costs of what was measured, and what each package needed in which set', (t) => {
	const all = workload();
	for (const set of [first, second, first]) all.note(set);
	t.deepEqual(all.recorded(), {
		calls: [
			{packages: ['a==1', 'b==1', 'c==1'], count: 2},
			{packages: ['a==1', 'b==2'], count: 1},
		],
		costs: {'a==1': {ms: 10, mib: 1}, 'b==1': {ms: 20, mib: 2}, 'c==1': {ms: 30, mib: 3}},
		closures: {
			'a==1': [
				['a==1', 'b==1', 'c==1'],
				['a==1', 'b==2'],
			],
			'b==1': [['b==1', 'c==1', 'a==1']],
			'c==1': [['c==1', 'a==1', 'b==1']],
			'b==2': [['b==2']],
		},
	});
});

test('what was started lately of sets that are meant: what was told before counts half', (t) => {
	const all = workload();
	const counts = () => all.takeRecent(({key}) => key !== second.key).calls.map(({count}) => count);
	for (let i = 0; i < 5; i += 1) all.note(first);
	all.note(second);
	t.deepEqual(counts(), [5]);
	all.note(first);
	t.deepEqual(counts(), [3]);
	t.deepEqual(counts(), [1]);
	t.deepEqual(counts(), [], 'it is as if it had never been');
	t.deepEqual(
		all.recorded().calls.map(({count}) => count),
		[6, 1],
	);
	const {costs, closures} = all.takeRecent(() => true);
	t.deepEqual(costs.get('b==1'), {ms: 20, mib: 2});
	t.deepEqual(closures.get('b==2'), [['b==2']]);
});
