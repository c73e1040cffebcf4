/** The plan of zygotes for the functions that are deployed: which node each of them is forked from. Nothing here is alive. */
import {createHash} from 'node:crypto';
import type {PackageSet} from '../packages/package-store.ts';
import {CoverIndex} from './cover.ts';
import {type FlatNode, flattenTree, type TreeNode} from './tree.ts';

/** A node that some deployed function can be forked from. */
export type PlanNode = {
	readonly id: number;
	/** Undefined: the root zygote, which has loaded nothing. */
	readonly parent: PlanNode | undefined;
	/** All that it has loaded. */
	readonly set: PackageSet;
	/** What of that its parent has not. */
	readonly added: PackageSet['distributions'];
	/** A function's whole set, which nobody else shares by design: no part of the tree. */
	readonly isOwn: boolean;
};

/** Where a set is forked from, and the milliseconds that it then has still to import. */
type Choice = {readonly node: PlanNode | undefined; readonly missingMs: number};

/** Milliseconds that importing a distribution takes by itself, as far as that was measured. */
export type CostOf = (folder: string) => number | undefined;

/** What is not measured yet counts so many milliseconds, and what is counts at least so many. */
const unknownMs = 1;
const leastMs = 0.01;

/**
 * With a tree, a function is forked from that node of it which saves the most import time; without one, from a node of its
 * own set. The subset rule: a node is only ever chosen when each folder that it has loaded is in the function's lock. A folder
 * stands for one archive, so that the same version from another index is another package.
 */
export class ZygotePlan {
	readonly #tree: readonly FlatNode[];
	readonly #hasTree: boolean;
	readonly #costOf: CostOf;
	/** Of deployed functions. */
	readonly #sets = new Map<string, PackageSet>();
	/** Nodes of the tree that were bound to folders, by the tree's ids. */
	readonly #bound = new Map<number, PlanNode>();
	/** By the set's key. */
	readonly #own = new Map<string, PlanNode>();
	readonly #chosen = new Map<string, Choice>();
	/** Nodes of the tree below each, by the tree's ids. */
	readonly #below: number[] = [];
	#index: CoverIndex | undefined;
	#lastId: number;

	/** @param tree undefined: each set gets a node of its own */
	constructor(tree: TreeNode | undefined, costOf: CostOf) {
		this.#tree = tree === undefined ? [] : flattenTree(tree).slice(1);
		this.#hasTree = tree !== undefined;
		this.#costOf = costOf;
		this.#lastId = this.#tree.length;
		for (const {id, parent} of [...this.#tree].reverse()) {
			if (parent !== undefined) this.#below[parent.id] = (this.#below[parent.id] ?? 0) + (this.#below[id] ?? 0) + 1;
		}
	}

	/** Nodes that functions can be forked from, parents first. */
	nodes(): PlanNode[] {
		return [...[...this.#bound.values()].sort((a, b) => a.id - b.id), ...this.#own.values()];
	}

	/**
	 * A function with this set can come. A node of the tree that names no version gets the first function's that could be forked
	 * from it, and keeps it for as long as any has it.
	 */
	use(set: PackageSet): void {
		if (this.#sets.has(set.key)) return;
		this.#sets.set(set.key, set);
		if (!this.#hasTree && set.folders.length > 0) this.adopt(this.propose(set));
		for (const each of this.#tree) this.#bind(each, set);
		this.reweigh();
	}

	/** No function has this set any more. @returns nodes that nobody can be forked from now */
	forget({key}: PackageSet): PlanNode[] {
		this.#sets.delete(key);
		const own = this.#own.get(key);
		this.#own.delete(key);
		const left = [...this.#sets.values()].map(({folders}) => new Set(folders));
		const useless = [...this.#bound].filter(
			([, {set}]) => !left.some((folders) => set.folders.every((each) => folders.has(each))),
		);
		for (const [id] of useless) this.#bound.delete(id);
		for (const set of this.#sets.values()) for (const each of this.#tree) this.#bind(each, set);
		this.reweigh();
		return [...(own === undefined ? [] : [own]), ...useless.map(([, node]) => node)];
	}

	/** How many nodes the tree has below it, whether functions can be forked from them now or not. */
	countBelow(node: PlanNode): number {
		return node.isOwn ? 0 : (this.#below[node.id] ?? 0);
	}

	/** Of the whole tree, but for the root. */
	get treeSize(): number {
		return this.#tree.length;
	}

	/** Costs have changed: what was chosen by them is chosen anew. */
	reweigh(): void {
		this.#index = undefined;
		this.#chosen.clear();
	}

	/** The node that saves the most; undefined: the root zygote. */
	find(set: PackageSet): PlanNode | undefined {
		return this.#choose(set).node;
	}

	/** Milliseconds that are still to be imported by a function with this set, forked from where {@link find} says. */
	missingMs(set: PackageSet): number {
		return this.#choose(set).missingMs;
	}

	#choose(set: PackageSet): Choice {
		let choice = this.#chosen.get(set.key);
		if (choice === undefined) {
			const node = this.#own.get(set.key) ?? this.#cover(set);
			const loaded = new Set(node?.set.folders);
			const missing = set.folders.filter((folder) => !loaded.has(folder));
			choice = {node, missingMs: missing.reduce((sum, folder) => sum + this.#weight(folder), 0)};
			this.#chosen.set(set.key, choice);
		}
		return choice;
	}

	/** A node for this set alone, below the one that it is forked from until now. It counts once it is {@link adopt}ed. */
	propose(set: PackageSet): PlanNode {
		const parent = this.#cover(set);
		this.#lastId += 1;
		const loaded = new Set(parent?.set.folders);
		const added = set.distributions.filter((_each, index) => !loaded.has(set.folders[index] ?? ''));
		return {id: this.#lastId, parent, set, added, isOwn: true};
	}

	/** @returns false when no function has that set any more, or its parent is no part of the plan any more */
	adopt(node: PlanNode): boolean {
		const {set, parent} = node;
		if (!this.#sets.has(set.key) || (parent !== undefined && this.#bound.get(parent.id) !== parent)) return false;
		this.#own.set(set.key, node);
		this.#chosen.delete(set.key);
		return true;
	}

	#cover(set: PackageSet): PlanNode | undefined {
		this.#index ??= new CoverIndex(
			[
				{id: 0, parentId: undefined, packages: []},
				...this.nodes()
					.filter(({isOwn}) => !isOwn)
					.map(({id, parent, set: {folders}}) => ({
						id,
						parentId: parent?.id ?? 0,
						packages: folders.slice(parent?.set.folders.length ?? 0),
					})),
			],
			(folder) => this.#weight(folder),
		);
		return this.#bound.get(this.#index.find(set.folders));
	}

	#weight(folder: string): number {
		return Math.max(leastMs, this.#costOf(folder) ?? unknownMs);
	}

	#bind({id, parent, node: {packages}}: FlatNode, set: PackageSet): void {
		if (this.#bound.has(id)) return;
		const above = parent === undefined || parent.id === 0 ? undefined : this.#bound.get(parent.id);
		if (above === undefined && parent?.id !== 0) return;
		const own = new Set(set.folders);
		if (above?.set.folders.some((folder) => !own.has(folder)) === true) return;
		const places = packages.map((wanted) => set.distributions.findIndex((each) => isMeant(wanted, each)));
		if (places.includes(-1)) return;
		const pick = <T>(list: readonly T[]) => places.map((place) => list[place] as T);
		const added = pick(set.distributions);
		const folders = [...(above?.set.folders ?? []), ...pick(set.folders)];
		const distributions = [...(above?.set.distributions ?? []), ...added];
		this.#bound.set(id, {id, parent: above, set: {key: keyOf(folders), folders, distributions}, added, isOwn: false});
	}
}

function isMeant(wanted: string, {name, version}: {readonly name: string; readonly version: string}): boolean {
	return wanted === name || wanted === `${name}==${version}`;
}

function keyOf(folders: readonly string[]): string {
	return createHash('sha256').update(folders.join('\0')).digest('hex').slice(0, 32);
}
