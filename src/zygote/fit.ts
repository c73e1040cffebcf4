/** Which zygotes are worth having: Forklift's greedy algorithm, on what calls needed and what imports cost. */
import {type GrowingNode, Growth} from './growth.ts';
import {type TreeNode, treeLimits} from './tree.ts';
import {type FitInput, Workload} from './workload.ts';

export type {FitCall, FitInput, PackageCost} from './workload.ts';

export type FitOptions = {
	/** At most so many, the root included. */
	readonly nodes?: number;
	/**
	 * At most so much for all nodes but the root, in MiB: of each the measured memory of what it adds, and 2 for its
	 * process. Given, nodes compete by what they save for each MiB instead of by what they save.
	 */
	readonly memoryMb?: number;
	/** Whether packages count by the time that their import takes, or each the same. */
	readonly weights: 'time' | 'uniform';
	/** Whether a node may load with a package all that this requires. Otherwise each gets a node of its own, below those. */
	readonly multiPackage: boolean;
	/** How many nodes may be on a path, without the root: at most 28. */
	readonly maxDepth: number;
};

/**
 * Fits a tree to calls. Again and again the node is made that saves the most: so many of its parent's calls as need all
 * of a package and of what that requires, times the weight of those of them that are not loaded yet. These calls are the
 * new node's from then on. It ends when nothing more fits, or nothing more is saved.
 *
 * Its time depends on the number of different calls, not on how often each was made.
 * @returns each node's `extra` holds `count` (calls that are forked from it or below it), `ms` (what its own packages
 * save these) and `mib` (what it takes); its first package is the one that it was made for
 * @throws {RangeError} when an option, a package or a count is not usable as one
 */
export function fitTree(input: FitInput, options: FitOptions): TreeNode {
	const resolved = resolveFit(options);
	const workload = new Workload(input);
	const growth = new Growth(workload, growthOptions(workload, resolved));
	while (growth.nodes.size < resolved.nodes) {
		const best = growth.best(resolved.memoryMb - growth.mib);
		if (best === undefined) break;
		growth.split(best);
	}
	return treeOf(workload, growth.root, (node) => ({
		packages: node.packages.map((pkg) => workload.pinOf(pkg)),
		extra: {},
	}));
}

/** Options without gaps. */
export function resolveFit(options: FitOptions): Required<FitOptions> {
	const {nodes = treeLimits.nodes, memoryMb = Number.POSITIVE_INFINITY, weights, multiPackage, maxDepth} = options;
	checkWhole('nodes', nodes, 1, treeLimits.nodes);
	checkWhole('maxDepth', maxDepth, 0, treeLimits.depth);
	if (!(memoryMb >= 0)) throw new RangeError(`memoryMb: expected MiB, zero or more, got ${memoryMb}`);
	if (weights !== 'time' && weights !== 'uniform') {
		throw new RangeError(`weights: expected 'time' or 'uniform', got ${JSON.stringify(weights)}`);
	}
	if (typeof multiPackage !== 'boolean') {
		throw new RangeError(`multiPackage: expected true or false, got ${JSON.stringify(multiPackage)}`);
	}
	return {nodes, memoryMb, weights, multiPackage, maxDepth};
}

/** How a tree of these options grows. */
export function growthOptions(workload: Workload, {memoryMb, weights, multiPackage, maxDepth}: Required<FitOptions>) {
	return {
		weights: weights === 'uniform' ? new Float64Array(workload.pins.length).fill(1) : workload.ms,
		multiPackage,
		maxDepth,
		isPerMib: memoryMb !== Number.POSITIVE_INFINITY,
	};
}

/** The tree that has grown, with its figures. */
export function treeOf(
	workload: Workload,
	node: GrowingNode,
	textsOf: (node: GrowingNode) => Pick<TreeNode, 'packages' | 'extra'>,
): TreeNode {
	const {packages, extra} = textsOf(node);
	const ms = node.packages.reduce((total, pkg) => total + (workload.ms[pkg] as number), 0);
	return {
		packages,
		children: [...node.children].map((child) => treeOf(workload, child, textsOf)),
		extra: {...extra, count: node.calls, ms: node.calls * ms, mib: node.mib},
	};
}

function checkWhole(name: string, value: number, least: number, most: number): void {
	if (Number.isInteger(value) && value >= least && value <= most) return;
	throw new RangeError(`${name}: expected a whole number from ${least} to ${most}, got ${value}`);
}
