/** Fits a tree anew to what is called now, and keeps what is still worth having: its zygotes may be alive. */
import {CoverIndex} from './cover.ts';
import {type FitOptions, growthOptions, resolveFit, treeOf} from './fit.ts';
import {type Candidate, type GrowingNode, Growth} from './growth.ts';
import {bindTree, flattenTree, type TreeNode} from './tree.ts';
import {type FitInput, mostCalled, Workload} from './workload.ts';

/**
 * Fits an existing tree to new calls.
 *
 * - Nodes from which no call would be forked, nor below them, go; so do those that are more than the options allow, first
 *   the ones that save least.
 * - A node is added while it saves more than one import of what it loads, since that is what making it takes. When it
 *   does not fit, it must also save more than the nodes without children that save least, which then go in its place.
 * - All others stay where they are, with their other keys and the order among them.
 *
 * So with best cover the new tree never leaves more to import for these calls than the old one, provided that the
 * options allow the old one.
 * @param tree a name without a version stands for the version of it that most calls need
 * @returns figures of each node as {@link fitTree} gives them
 * @throws {RangeError} when an option, a package or a count is not usable as one
 */
export function refitTree(tree: TreeNode, input: FitInput, options: FitOptions): TreeNode {
	const limits = resolveFit(options);
	const workload = new Workload(input);
	const {weights, ...others} = growthOptions(workload, limits);
	const growth = new Growth(workload, {weights, ...others});
	const kept = plant(tree, growth, workload, weights, mostCalled(input.calls));
	const isOver = (nodes: number, mib: number) => nodes > limits.nodes || mib > limits.memoryMb;
	for (const node of [...growth.nodes].reverse()) {
		if (node.parent !== undefined && (node.calls === 0 || node.depth > limits.maxDepth)) growth.remove(node);
	}
	while (isOver(growth.nodes.size, growth.mib)) {
		const victim = cheapest(growth, new Set());
		if (victim === undefined) break;
		growth.remove(victim);
	}

	const improve = (candidate: Candidate): boolean => {
		const victims = new Set<GrowingNode>();
		let mib = growth.mib + candidate.mib;
		let rest = candidate.utility - candidate.weight;
		while (isOver(growth.nodes.size + 1 - victims.size, mib)) {
			const victim = cheapest(growth, victims, candidate.node);
			if (victim === undefined) return false;
			victims.add(victim);
			mib -= victim.mib;
			rest -= savedBy(victim);
		}
		if (rest <= 0) return false;
		for (const victim of victims) growth.remove(victim);
		growth.split(candidate);
		return true;
	};
	while (growth.candidates(limits.memoryMb).some(improve));

	return treeOf(
		workload,
		growth.root,
		(node) => kept.get(node) ?? {packages: node.packages.map((pkg) => workload.pinOf(pkg)), extra: {}},
	);
}

/** Grows what of the old tree any call can be forked from, and gives each node the calls that it is the best cover of. */
function plant(
	tree: TreeNode,
	growth: Growth,
	workload: Workload,
	weights: Float64Array,
	pinOfName: (name: string) => string | undefined,
): Map<GrowingNode, TreeNode> {
	const bound = flattenTree(bindTree(tree, pinOfName));
	const originals = flattenTree(tree);
	const grown = new Map([[0, growth.root]]);
	for (const {id, parent, node} of bound) {
		if (parent === undefined) continue;
		// One that loads what no call needs gets no calls.
		const packages = node.packages.flatMap((pin) => workload.numberOf(pin) ?? []);
		grown.set(id, growth.adopt(grown.get(parent.id) as GrowingNode, packages));
	}
	const index = new CoverIndex(
		bound.map(({id, parent, node}) => ({id, parentId: parent?.id, packages: node.packages})),
		(pin) => weights[workload.numberOf(pin) ?? -1] ?? 0,
	);
	const forked = new Map<number, number[]>();
	for (const [call, packages] of workload.calls.entries()) {
		const id = index.find(Array.from(packages, (pkg) => workload.pinOf(pkg)));
		const calls = forked.get(id);
		if (calls === undefined) forked.set(id, [call]);
		else calls.push(call);
	}
	for (const [id, calls] of forked) if (id !== 0) growth.assign(calls, grown.get(id) as GrowingNode);
	return new Map([...grown].map(([id, node]) => [node, (originals[id] as {node: TreeNode}).node]));
}

/** Of the nodes that have no children but `gone` ones, that which saves least; of equal ones the youngest. */
function cheapest(
	growth: Growth,
	gone: ReadonlySet<GrowingNode>,
	spared: GrowingNode = growth.root,
): GrowingNode | undefined {
	let least: {readonly node: GrowingNode; readonly rank: number} | undefined;
	for (const node of growth.nodes) {
		if (node === growth.root || node === spared || gone.has(node)) continue;
		if ([...node.children].some((child) => !gone.has(child))) continue;
		const rank = growth.rank(savedBy(node), node);
		if (least === undefined || rank <= least.rank) least = {node, rank};
	}
	return least?.node;
}

function savedBy(node: GrowingNode): number {
	return node.calls * node.weight;
}
