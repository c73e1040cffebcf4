import test from 'ava';
import type {PackageSet} from '../../src/packages/package-store.ts';
import type {FitInput} from '../../src/zygote/fit.ts';
import {type PlanNode, ZygotePlan} from '../../src/zygote/plan.ts';
import {type ReplanHost, replan} from '../../src/zygote/replan.ts';
import {readTree} from '../../src/zygote/tree.ts';

const costs: FitInput['costs'] = new Map([
	['a==1', {ms: 40, mib: 10}],
	['b==1', {ms: 30, mib: 10}],
	['c==1', {ms: 20, mib: 10}],
]);

function setOf(...packages: string[]): PackageSet {
	const distributions = packages.map((each) => ({name: each.slice(0, 1), version: '1', modules: [each]}));
	return {key: packages.join(' '), folders: packages.map((each) => `/store/${each}`), distributions};
}

function planOf(...sets: PackageSet[]): ZygotePlan {
	const plan = new ZygotePlan(readTree({children: [{packages: ['a']}]}), (folder) => costs.get(folder.slice(7))?.ms);
	for (const set of sets) plan.use(set);
	return plan;
}

/** Makes whatever it is asked for. */
class Host implements ReplanHost {
	readonly calls: FitInput;
	readonly alive = new Set<PlanNode>();
	readonly asked: string[] = [];
	readonly signal: AbortSignal = new AbortController().signal;
	roomMb = 1000;
	mayMake = (): boolean => true;
	isAlive = (node: PlanNode): boolean => this.alive.has(node);
	make = async (node: PlanNode): Promise<unknown> => {
		this.asked.push(loaded(node));
		return this.alive.add(node);
	};

	constructor(...calls: FitInput['calls']) {
		this.calls = {calls, costs, closures: new Map()};
	}
}

function loaded(node: PlanNode | undefined): string {
	return node?.set.distributions.map(({name}) => name).join('') ?? '';
}

const [ab, bc] = [setOf('a==1', 'b==1'), setOf('b==1', 'c==1')];
const called = [
	{packages: ['a==1', 'b==1'], count: 5},
	{packages: ['b==1', 'c==1'], count: 5},
];

test('new nodes are made one after the other, and functions are sent to them when all are there', async (t) => {
	const plan = planOf(ab, bc);
	const host = new Host(...called);
	const {make} = host;
	host.make = async (node) => {
		t.deepEqual([loaded(plan.find(ab)), loaded(plan.find(bc))], ['a', '']);
		return make(node);
	};
	const [a] = plan.nodes();
	t.deepEqual(await replan(plan, host), {nodes: 4, added: 3, removed: 0, gone: []});
	t.deepEqual(host.asked, ['ab', 'bc']);
	t.deepEqual([loaded(plan.find(ab)), loaded(plan.find(bc))], ['ab', 'bc']);
	t.is(plan.find(ab)?.parent, a);
});

test('a function that is deployed meanwhile has its node made, too', async (t) => {
	const plan = planOf(ab);
	const host = new Host(...called);
	const {make} = host;
	host.make = async (node) => {
		plan.use(bc);
		return make(node);
	};
	await replan(plan, host);
	t.deepEqual(host.asked, ['ab', 'bc']);
});

test('what is not called any more goes', async (t) => {
	const plan = planOf(ab, bc);
	const [a] = plan.nodes();
	const {nodes, removed, gone} = await replan(plan, new Host(...called.slice(1)));
	t.deepEqual([nodes, removed, gone], [2, 1, [a as PlanNode]]);
});

test('a node that can’t be made is tried a few times, and does not keep the tree from changing', async (t) => {
	const plan = planOf(ab, bc);
	const host = new Host(...called);
	const {make} = host;
	host.make = async (node) => {
		if (loaded(node) !== 'ab') return make(node);
		host.asked.push('ab');
		if (host.asked.length === 2) throw new Error('it died');
		return undefined;
	};
	t.is((await replan(plan, host)).added, 3);
	t.deepEqual(host.asked, ['ab', 'ab', 'ab', 'bc']);
});

test('when no more may be made the old tree stays, and what was made can go', async (t) => {
	const plan = planOf(ab, bc);
	const before = plan.nodes();
	const host = new Host(...called);
	host.mayMake = () => host.asked.length === 0;
	const {added, gone} = await replan(plan, host);
	t.is(added, 0);
	t.true(gone.map(loaded).includes('ab'));
	t.deepEqual(plan.nodes(), before);
});

test('the new tree takes no more memory than the old one and what there is room for', async (t) => {
	for (const [roomMb, added] of [
		[11, 0],
		[12, 1],
		[36, 3],
	] as const) {
		const host = new Host(...called);
		host.roomMb = roomMb;
		t.is((await replan(planOf(ab, bc), host)).added, added, `${roomMb} MiB`);
	}
});

test('a fit that is ended, or fails, leaves the plan as it was', async (t) => {
	const plan = planOf(ab, bc);
	const before = plan.nodes();
	const ended = new Host(...called);
	Object.assign(ended, {signal: AbortSignal.abort()});
	await t.throwsAsync(replan(plan, ended), {name: 'AbortError'});
	const refusal: unknown = await replan(plan, new Host({packages: ['a==1'], count: 0.5})).catch((error) => error);
	t.true(refusal instanceof RangeError);
	t.deepEqual(plan.nodes(), before);
	t.is(plan.treeSize, 1);
});
