/** Fits the tree of a plan anew to what was called lately, and puts the new one in the old one's place while it is used. */
import {once} from 'node:events';
import {Worker} from 'node:worker_threads';
import type {FitInput} from './fit.ts';
import {processMib} from './growth.ts';
import type {PlanChange, PlanNode, ZygotePlan} from './plan.ts';
import type {RefitTask} from './refit-worker.ts';
import {flattenTree, type TreeNode, treeLimits} from './tree.ts';
import {costOf} from './workload.ts';

/** As built, also when we are not: whatever loads our TypeScript does not do so on other threads. */
const script = new URL('../../dist/zygote/refit-worker.js', import.meta.url);
const fitDeadlineMs = 60_000;
/** The new tree may have as many nodes as the old one, and so many in any case: for more, a root zygote would soon lack ids. */
const nodesInAnyCase = 256;
/** How often a node is tried that could not be made as it was to be; then its parent has to do, as for any other. */
const triesEach = 3;

/** What a plan's owner does for the change. */
export type ReplanHost = {
	/** What was called lately. */
	readonly calls: FitInput;
	/** MiB that the new tree may take beyond what the old one does. */
	readonly roomMb: number;
	/** Whether another zygote may be made. */
	readonly mayMake: () => boolean;
	readonly isAlive: (node: PlanNode) => boolean;
	/** Makes its zygote. */
	readonly make: (node: PlanNode) => Promise<unknown>;
	/** Ends the fit. */
	readonly signal: AbortSignal;
};

/**
 * Nodes that both trees have stay as they are. New ones are made before any function is sent to them; when they may not be made, the old
 * tree stays.
 * @returns what became of it, with the nodes whose zygotes can go
 */
export async function replan(plan: ZygotePlan, host: ReplanHost): Promise<PlanChange> {
	const old = plan.tree;
	plan.prepare(old, await refitApart(old, host));
	return (await makeAhead(plan, host)) ? plan.settle() : plan.abandon();
}

/** By a thread of its own, since with many calls it takes a second. */
async function refitApart(tree: TreeNode, {calls, roomMb, signal}: ReplanHost): Promise<TreeNode> {
	const nodes = flattenTree(tree);
	const takenMib = nodes
		.slice(1)
		.flatMap(({node: {packages}}) => [processMib, ...packages.map((pin) => costOf(calls.costs.get(pin)?.mib))]);
	const options = {
		nodes: Math.max(nodes.length, nodesInAnyCase),
		memoryMb: takenMib.reduce((sum, mib) => sum + mib, roomMb),
		weights: 'time',
		multiPackage: true,
		maxDepth: treeLimits.depth,
	} as const;
	const task: RefitTask = {tree, input: calls, options};
	const worker = new Worker(script, {execArgv: [], workerData: task});
	try {
		const [fitted] = await once(worker, 'message', {
			signal: AbortSignal.any([signal, AbortSignal.timeout(fitDeadlineMs)]),
		});
		return fitted as TreeNode;
	} finally {
		await worker.terminate();
	}
}

/** One after the other, those that functions are to be sent to; false when not all may be made. */
async function makeAhead(plan: ZygotePlan, {mayMake, isAlive, make}: ReplanHost): Promise<boolean> {
	const tries = new Map<PlanNode, number>();
	const triesOf = (node: PlanNode) => tries.get(node) ?? 0;
	const next = () => plan.newlyChosen().find((node) => !isAlive(node) && triesOf(node) < triesEach);
	for (let node = next(); node !== undefined; node = next()) {
		if (!mayMake()) return false;
		tries.set(node, triesOf(node) + 1);
		await make(node).catch(() => undefined);
	}
	return true;
}
