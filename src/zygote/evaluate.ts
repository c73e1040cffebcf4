/** What a tree is worth for calls: what each would still have to import. */
import {CoverIndex} from './cover.ts';
import {bindTree, type FlatNode, flattenTree, type TreeNode} from './tree.ts';
import {costOf, type FitInput, mostCalled} from './workload.ts';

/** How a node is found for a call. */
export type Lookup = 'best-cover' | 'left-most';

export type Evaluation = {
	/** Packages that nodes had not loaded, over all calls. */
	readonly missingPackages: number;
	/** What importing these takes. */
	readonly missingMs: number;
	readonly calls: number;
	/** Of each node, in the order of {@link flattenTree}. */
	readonly perNode: ReadonlyArray<{
		/** Forked from it, not from a node below it. */
		readonly calls: number;
		/** What its own packages save the calls of it and of all nodes below it. */
		readonly savedMs: number;
	}>;
};

/**
 * Looks up every call in a tree.
 * @param tree a name without a version stands for the version of it that most calls need
 * @param lookup `best-cover`: the usable node that saves the most milliseconds; `left-most`: from the root on, the first
 * child that is usable
 */
export function evaluateTree(
	tree: TreeNode,
	{calls, costs}: Pick<FitInput, 'calls' | 'costs'>,
	lookup: Lookup,
): Evaluation {
	const nodes = flattenTree(bindTree(tree, mostCalled(calls)));
	const msOf = (pin: string) => costOf(costs.get(pin)?.ms);
	const find = lookup === 'best-cover' ? bestCover(nodes, msOf) : leftMost(nodes);
	const loaded = nodes.map((node) => new Set(node.loaded));
	const own = nodes.map(({node}) => node.packages.reduce((total, pin) => total + msOf(pin), 0));
	const perNode = nodes.map(() => ({calls: 0, savedMs: 0}));
	const total = {missingPackages: 0, missingMs: 0, calls: 0};
	for (const {packages, count} of calls) {
		const id = find(packages);
		for (const pin of new Set(packages)) {
			if (loaded[id]?.has(pin)) continue;
			total.missingPackages += count;
			total.missingMs += count * msOf(pin);
		}
		total.calls += count;
		(perNode[id] as {calls: number}).calls += count;
		for (let node = nodes[id]; node !== undefined; node = node.parent) {
			(perNode[node.id] as {savedMs: number}).savedMs += count * (own[node.id] as number);
		}
	}
	return {...total, perNode};
}

type Find = (packages: readonly string[]) => number;

function bestCover(nodes: readonly FlatNode[], msOf: (pin: string) => number): Find {
	const index = new CoverIndex(
		nodes.map(({id, parent, node}) => ({id, parentId: parent?.id, packages: node.packages})),
		msOf,
	);
	return (packages) => index.find(packages);
}

function leftMost(nodes: readonly FlatNode[]): Find {
	const children: FlatNode[][] = nodes.map(() => []);
	for (const node of nodes) if (node.parent !== undefined) children[node.parent.id]?.push(node);
	return (packages) => {
		const wanted = new Set(packages);
		let id = 0;
		for (;;) {
			const next = children[id]?.find(({node}) => node.packages.every((pin) => wanted.has(pin)));
			if (next === undefined) return id;
			id = next.id;
		}
	};
}
