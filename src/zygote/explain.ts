/** Says which node of a tree a function is forked from, and why from no other. */
import {CoverIndex} from './cover.ts';
import type {PackageCost} from './fit.ts';
import {bindTree, type FlatNode, flattenTree, nameOf, type TreeNode} from './tree.ts';

/** A node, as it is for the function. */
export type NodeMatch = {
	/** As `flattenTree` counts; the root's is 0. */
	readonly id: number;
	/** What each level loads, from the first below the root. A name without version has that which is asked for. */
	readonly path: ReadonlyArray<readonly string[]>;
	/** Packages that are asked for and that it has loaded, at the same version. */
	readonly covered: readonly string[];
	/** Milliseconds that these take to import. What was never measured counts as nothing. */
	readonly coveredMs: number;
};

/** A package because of which a node is not usable. */
export type Obstacle = {
	readonly loaded: string;
	/** The version that is asked for; undefined when the package isn't asked for at all. */
	readonly asked: string | undefined;
};

/** Why a function is forked from the node that it is forked from. */
export type NodeExplanation = {
	readonly node: NodeMatch;
	/** What is still to import after the fork. */
	readonly missing: readonly string[];
	readonly missingMs: number;
	/** The best one besides, unless there are only those above the node. */
	readonly nextBest: NodeMatch | undefined;
	/** Nodes that would save more, were it not for what else they have loaded; those with the least in the way first. */
	readonly notUsable: ReadonlyArray<NodeMatch & {readonly obstacles: readonly Obstacle[]}>;
	/** Packages of the request whose cost is not known. */
	readonly unmeasured: readonly string[];
};

const MAX_NOT_USABLE = 3;

type Candidate = {
	readonly flat: FlatNode;
	readonly match: NodeMatch;
	readonly obstacles: readonly Obstacle[];
	/** Of what is covered, and of what would be if the version were the one that is asked for. */
	readonly weight: number;
};

/**
 * Looks for the node with the best cover, as a runtime does, and at those that it was preferred to.
 * @param request exact packages, as `name==version`
 * @param costs by `name==version`; without any, each package counts the same
 */
export function explainNode(
	tree: TreeNode,
	request: readonly string[],
	costs: ReadonlyMap<string, PackageCost>,
): NodeExplanation {
	const asked = new Map(request.map((pin) => [nameOf(pin), pin]));
	const msOf = (pin: string) => Math.max(0, costs.get(pin)?.ms ?? 0);
	const weightOf = costs.size === 0 ? () => 1 : msOf;
	const sum = (pins: readonly string[], of: (pin: string) => number) => pins.reduce((total, pin) => total + of(pin), 0);
	const flats = flattenTree(bindTree(tree, (name) => asked.get(name)));
	const candidates = flats.map((flat): Candidate => {
		const {id, loaded} = flat;
		const covered = loaded.filter((pin) => asked.get(nameOf(pin)) === pin);
		return {
			flat,
			match: {id, path: pathOf(flat).map(({node}) => node.packages), covered, coveredMs: sum(covered, msOf)},
			obstacles: loaded
				.filter((pin) => asked.get(nameOf(pin)) !== pin)
				.map((pin) => ({loaded: pin, asked: asked.get(nameOf(pin))})),
			weight: sum(
				loaded.flatMap((pin) => asked.get(nameOf(pin)) ?? []),
				weightOf,
			),
		};
	});
	const index = new CoverIndex(
		flats.map(({id, parent, node}) => ({id, parentId: parent?.id, packages: node.packages})),
		weightOf,
	);
	const chosen = candidates[index.find(request)];
	if (chosen === undefined) throw new RangeError('expected a tree with a root');
	const above = new Set([flats[0], ...pathOf(chosen.flat)]);
	const [nextBest] = index
		.usable(request)
		.flatMap((id) => candidates[id] ?? [])
		.filter(({flat}) => !above.has(flat))
		.sort((one, other) => other.weight - one.weight);
	const covered = new Set(chosen.match.covered);
	const missing = request.filter((pin) => !covered.has(pin));
	return {
		node: chosen.match,
		missing,
		missingMs: sum(missing, msOf),
		nextBest: nextBest?.match,
		notUsable: nearest(candidates, chosen.weight),
		unmeasured: request.filter((pin) => !costs.has(pin)),
	};
}

/** Of the nodes that would weigh more than the usable ones, those of interest: each next one weighs more, and has more in the way. */
function nearest(candidates: readonly Candidate[], weight: number): NodeExplanation['notUsable'] {
	const sorted = [...candidates].sort(
		(one, other) => one.obstacles.length - other.obstacles.length || other.weight - one.weight,
	);
	let heaviest = weight;
	const kept = sorted.filter((candidate) => {
		const isHeavier = candidate.weight > heaviest;
		if (isHeavier) heaviest = candidate.weight;
		return isHeavier;
	});
	return kept.slice(0, MAX_NOT_USABLE).map(({match, obstacles}) => ({...match, obstacles}));
}

/** From the first level below the root to the node. */
function pathOf(flat: FlatNode): FlatNode[] {
	return flat.parent === undefined ? [] : [...pathOf(flat.parent), flat];
}
