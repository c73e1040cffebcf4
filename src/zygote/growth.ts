/** A tree while it is fitted: which calls each node has, and what it could be split into. */
import {treeLimits} from './tree.ts';
import type {Workload} from './workload.ts';

/** A node of a tree that grows. */
export type GrowingNode = Load & {
	readonly parent: GrowingNode | undefined;
	readonly depth: number;
	readonly children: Set<GrowingNode>;
	/** Calls that are forked from it or from a node below it. */
	calls: number;
	/** Of closures that the calls forked from it hold, how many of these calls. */
	readonly closures: Map<number, number>;
	/** The child that it would best have; `null` when that has to be looked for anew. */
	best: Candidate | undefined | null;
};

/** A child that a node could have. */
export type Candidate = Load & {
	readonly node: GrowingNode;
	/** What it is made of; the first package is the one that it is made for. */
	readonly closure: number;
	/** What it would save: the calls that it would take, times its weight. */
	readonly utility: number;
	readonly rank: number;
};

/** What a node loads beyond its parent. */
type Load = {
	readonly packages: readonly number[];
	/** What a call is saved by it. */
	readonly weight: number;
	/** What it takes, its process included. */
	readonly mib: number;
};

export type GrowthOptions = {
	/** Of each package. */
	readonly weights: Float64Array;
	readonly multiPackage: boolean;
	readonly maxDepth: number;
	/**
	 * Whether candidates compete by what they save for each MiB, or by what they save. Within a limit of memory the former
	 * leaves less to import: in 26 of 30 trials with calls that the tree had not been fitted to, and more in 2.
	 */
	readonly isPerMib: boolean;
};

/**
 * What a node's process takes beside its packages, in MiB: page tables, kernel objects, and what it copies of its
 * parent's memory. A parked fork of a pandas process was measured to take 1.6, and a node has an init beside it.
 */
export const processMib = 2;

/** Grows by Forklift's rules: a child takes those of its parent's calls that need all it loads; the others stay. */
export class Growth {
	readonly root: GrowingNode;
	/** The older before the younger. */
	readonly nodes = new Set<GrowingNode>();
	/** What all nodes but the root take. */
	mib = 0;
	readonly #workload: Workload;
	readonly #options: GrowthOptions;
	/** Of each call, the node that it is forked from. */
	readonly #owners: GrowingNode[];
	/** By a package's name, which version the node at hand has loaded, or -1. */
	readonly #loaded: Int32Array;

	/** Starts with a root that has all calls. */
	constructor(workload: Workload, options: GrowthOptions) {
		this.#workload = workload;
		this.#options = options;
		this.#loaded = new Int32Array(workload.pins.length).fill(-1);
		this.root = this.#add(undefined, {packages: [], weight: 0, mib: 0});
		this.#owners = workload.calls.map(() => this.root);
		this.root.calls = this.#countOf(workload.calls.keys());
		for (const [closure, calls] of workload.callsOfClosure.entries()) {
			this.root.closures.set(closure, this.#countOf(calls));
		}
	}

	/**
	 * The highest of all nodes' best candidates, of equal ones that of the older node.
	 * @param roomMib they may take so much; never more than the time before
	 */
	best(roomMib: number): Candidate | undefined {
		let best: Candidate | undefined;
		for (const node of this.nodes) {
			const candidate = this.#candidate(node, roomMib);
			if (candidate !== undefined && (best === undefined || candidate.rank > best.rank)) best = candidate;
		}
		return best;
	}

	/** Each node's best candidate, the highest first, of equal ones that of the older node. */
	candidates(roomMib: number): Candidate[] {
		return [...this.nodes].flatMap((node) => this.#candidate(node, roomMib) ?? []).sort((a, b) => b.rank - a.rank);
	}

	/** Makes the child. */
	split(candidate: Candidate): GrowingNode {
		const {node, closure} = candidate;
		const held = this.#workload.callsOfClosure[closure] as Int32Array;
		const calls = held.filter((call) => this.#owners[call] === node);
		const child = this.#add(node, candidate);
		child.calls = this.#countOf(calls);
		this.#move(calls, node, child);
		return child;
	}

	/** A node that is there already, without calls. */
	adopt(parent: GrowingNode, packages: readonly number[]): GrowingNode {
		return this.#add(parent, this.#loadOf(packages));
	}

	/** Gives calls of the root to a node below it. */
	assign(calls: readonly number[], node: GrowingNode): void {
		this.#move(calls, this.root, node);
		const count = this.#countOf(calls);
		for (let above = node; above.parent !== undefined; above = above.parent) above.calls += count;
	}

	/** Takes away a node that has no children; its calls go to its parent. */
	remove(node: GrowingNode): void {
		const {parent} = node;
		if (parent === undefined || node.children.size > 0) throw new Error('only a node without children can be removed');
		const calls = [...this.#owners.keys()].filter((call) => this.#owners[call] === node);
		this.#move(calls, node, parent);
		parent.children.delete(node);
		this.nodes.delete(node);
		this.mib -= node.mib;
	}

	/** What nodes and candidates compete by. */
	rank(saved: number, {mib}: Load): number {
		return this.#options.isPerMib ? saved / mib : saved;
	}

	#add(parent: GrowingNode | undefined, {packages, weight, mib}: Load): GrowingNode {
		const node: GrowingNode = {
			packages,
			weight,
			mib,
			parent,
			depth: parent === undefined ? 0 : parent.depth + 1,
			children: new Set(),
			calls: 0,
			closures: new Map(),
			best: null,
		};
		parent?.children.add(node);
		this.nodes.add(node);
		this.mib += mib;
		return node;
	}

	#move(calls: Iterable<number>, from: GrowingNode, to: GrowingNode): void {
		const {counts, closuresOfCall} = this.#workload;
		const moved = new Map<number, number>();
		for (const call of calls) {
			this.#owners[call] = to;
			const count = counts[call] as number;
			for (const closure of closuresOfCall[call] as Int32Array) moved.set(closure, (moved.get(closure) ?? 0) + count);
		}
		for (const [closure, count] of moved) {
			const rest = (from.closures.get(closure) ?? 0) - count;
			if (rest > 0) from.closures.set(closure, rest);
			else from.closures.delete(closure);
			to.closures.set(closure, (to.closures.get(closure) ?? 0) + count);
		}
		from.best = null;
		to.best = null;
	}

	#candidate(node: GrowingNode, roomMib: number): Candidate | undefined {
		if (node.best === null || (node.best?.mib ?? 0) > roomMib) node.best = this.#bestOf(node, roomMib);
		return node.best;
	}

	#bestOf(node: GrowingNode, roomMib: number): Candidate | undefined {
		if (node.depth >= this.#options.maxDepth) return undefined;
		const {names, closures, closurePackages} = this.#workload;
		const path = pathOf(node);
		for (const pkg of path) this.#loaded[names[pkg] as number] = pkg;
		let best: Candidate | undefined;
		for (const [closure, calls] of node.closures) {
			const wanted = closurePackages[closure] as number;
			if (this.#loaded[names[wanted] as number] === wanted) continue;
			const packages = this.#missing(closures[closure] as Int32Array, wanted);
			if (packages === undefined || (packages.length > 1 && !this.#options.multiPackage)) continue;
			if (path.length + packages.length > treeLimits.pathPackages) continue;
			const load = this.#loadOf(packages);
			const utility = calls * load.weight;
			const rank = this.rank(utility, load);
			if (rank <= 0 || load.mib > roomMib) continue;
			// Closures are in the order of their packages' names.
			if (best !== undefined && (rank < best.rank || (rank === best.rank && closure > best.closure))) continue;
			best = {...load, node, closure, utility, rank};
		}
		for (const pkg of path) this.#loaded[names[pkg] as number] = -1;
		return best;
	}

	/** What of a closure is not loaded, the wanted package first; undefined when another version of one is loaded. */
	#missing(closure: Int32Array, wanted: number): number[] | undefined {
		const missing = [wanted];
		for (const pkg of closure) {
			const loaded = this.#loaded[this.#workload.names[pkg] as number] as number;
			if (loaded === pkg) continue;
			if (loaded !== -1) return undefined;
			if (pkg !== wanted) missing.push(pkg);
		}
		return missing;
	}

	#loadOf(packages: readonly number[]): Load {
		let weight = 0;
		let mib = processMib;
		for (const pkg of packages) {
			weight += this.#options.weights[pkg] as number;
			mib += this.#workload.mib[pkg] as number;
		}
		return {packages, weight, mib};
	}

	#countOf(calls: Iterable<number>): number {
		let count = 0;
		for (const call of calls) count += this.#workload.counts[call] as number;
		return count;
	}
}

/** The packages of a node and of all above it. */
function pathOf(node: GrowingNode): number[] {
	const packages = [...node.packages];
	for (let above = node.parent; above !== undefined; above = above.parent) packages.push(...above.packages);
	return packages;
}
