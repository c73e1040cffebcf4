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
	/** A function's whole set, for that alone: no part of the tree, until that is fitted anew and takes it in. */
	isOwn: boolean;
};

/** A node of the tree, whether functions can be forked from it now or not. */
type Entry = {
	readonly id: number;
	/** Undefined: the root. */
	readonly parent: Entry | undefined;
	/** What it loads beyond its parent, each as `name==version` or `name`. */
	readonly packages: readonly string[];
	/** Of a change that is prepared: functions are sent there only after it, or only until then. */
	state: 'stays' | 'comes' | 'goes';
};

/** What a change of the tree came to. */
export type PlanChange = {
	/** How many the tree has now, whether functions can be forked from them or not. */
	readonly nodes: number;
	readonly added: number;
	readonly removed: number;
	/** Nodes that nobody is sent to any more. */
	readonly gone: readonly PlanNode[];
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
	readonly #hasTree: boolean;
	readonly #costOf: CostOf;
	/** Nodes of the tree by their ids, parents first. */
	readonly #entries = new Map<number, Entry>();
	/** Of deployed functions. */
	readonly #sets = new Map<string, PackageSet>();
	/** Of each of these, where in it something is. */
	readonly #places = new Map<string, ReadonlyMap<string, number>>();
	/** Nodes of the tree that were bound to folders, by their ids. */
	readonly #bound = new Map<number, PlanNode>();
	/** By the set's key. */
	readonly #own = new Map<string, PlanNode>();
	readonly #chosen = new Map<string, Choice>();
	/** Of the tree without what comes, and without what goes. */
	#indexes: {now?: CoverIndex; later?: CoverIndex} = {};
	#newlyChosen: readonly PlanNode[] | undefined;
	#lastId = 0;

	/** @param tree undefined: each set gets a node of its own */
	constructor(tree: TreeNode | undefined, costOf: CostOf) {
		this.#hasTree = tree !== undefined;
		this.#costOf = costOf;
		for (const {parent, node} of tree === undefined ? [] : flattenTree(tree).slice(1)) {
			this.#enter(this.#nextId(), this.#entries.get(parent?.id ?? 0), node.packages, 'stays');
		}
	}

	/** Nodes that functions can be forked from, parents first. */
	nodes(): PlanNode[] {
		return [...this.#without('comes'), ...this.#own.values()];
	}

	/**
	 * A function with this set can come. A node of the tree that names no version gets the first function's that could be forked
	 * from it, and keeps it for as long as any has it.
	 */
	use(set: PackageSet): void {
		if (this.#sets.has(set.key)) return;
		this.#sets.set(set.key, set);
		this.#places.set(set.key, placesOf(set));
		if (!this.#hasTree && set.folders.length > 0) this.adopt(this.propose(set));
		this.#bindAll([set]);
	}

	/** No function has this set any more. @returns nodes that nobody can be forked from now */
	forget({key}: PackageSet): PlanNode[] {
		this.#sets.delete(key);
		this.#places.delete(key);
		const own = this.#own.get(key);
		this.#own.delete(key);
		const left = [...this.#sets.values()].map(({folders}) => new Set(folders));
		const useless = [...this.#bound].filter(
			([, {set}]) => !left.some((folders) => set.folders.every((each) => folders.has(each))),
		);
		for (const [id] of useless) this.#bound.delete(id);
		this.#bindAll(this.#sets.values());
		const isAlone = own !== undefined && !this.#entries.has(own.id);
		return [...(isAlone ? [own] : []), ...useless.map(([, node]) => node)];
	}

	/** Whether a function with this set can come. */
	has({key}: PackageSet): boolean {
		return this.#sets.has(key);
	}

	/** Whether a deployed function or a node has the set with this key. */
	isNeeded(key: string): boolean {
		const nodes = [...this.#bound.values(), ...this.#own.values()];
		return this.#sets.has(key) || nodes.some(({set}) => set.key === key);
	}

	/** How many nodes the tree has below it, whether functions can be forked from them now or not. */
	countBelow({id}: PlanNode): number {
		const path = new Set([id]);
		for (const entry of this.#entries.values()) if (path.has(entry.parent?.id ?? 0)) path.add(entry.id);
		return path.size - 1;
	}

	/** Of the whole tree, but for the root. */
	get treeSize(): number {
		return this.#entries.size;
	}

	/** Costs have changed: what was chosen by them is chosen anew. */
	reweigh(): void {
		this.#indexes = {};
		this.#newlyChosen = undefined;
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
			const missing = beyond(node, set.folders);
			choice = {node, missingMs: missing.reduce((sum, folder) => sum + this.#weight(folder), 0)};
			this.#chosen.set(set.key, choice);
		}
		return choice;
	}

	/** A node for this set alone, below the one that it is forked from until now. It counts once it is {@link adopt}ed. */
	propose(set: PackageSet): PlanNode {
		const parent = this.#cover(set);
		const missing = new Set(beyond(parent, set.folders));
		const added = set.distributions.filter((_each, index) => missing.has(set.folders[index] ?? ''));
		return {id: this.#nextId(), parent, set, added, isOwn: true};
	}

	/** @returns false when no function has that set any more, or its parent is no part of the plan any more */
	adopt(node: PlanNode): boolean {
		const {set, parent} = node;
		if (!this.#sets.has(set.key) || (parent !== undefined && this.#bound.get(parent.id) !== parent)) return false;
		this.#own.set(set.key, node);
		this.#chosen.delete(set.key);
		this.#newlyChosen = undefined;
		return true;
	}

	/** What functions can be forked from, nodes for one set alone among it. The key `id` of a node says which it is. */
	get tree(): TreeNode {
		const children = new Map<PlanNode | undefined, PlanNode[]>();
		for (const node of this.nodes()) children.set(node.parent, [...(children.get(node.parent) ?? []), node]);
		const treesBelow = (parent: PlanNode | undefined): TreeNode[] =>
			(children.get(parent) ?? []).map((node) => ({
				packages: node.added.map(({name, version}) => `${name}==${version}`),
				children: treesBelow(node),
				extra: {id: node.id},
			}));
		return {packages: [], children: treesBelow(undefined), extra: {}};
	}

	/**
	 * Another tree is to take this one's place. Nodes that both have are the same ones; what nobody can be forked from now stays
	 * if its parent does. Until it is {@link settle}d, functions are sent where they were.
	 * @param old the {@link tree} that it was made of
	 * @param fitted a node of it without the `id` of an old one is new
	 */
	prepare(old: TreeNode, fitted: TreeNode): void {
		const kept = new Set(flattenTree(fitted).map(idOf));
		const lost = new Set(
			flattenTree(old)
				.map(idOf)
				.filter((id) => !kept.has(id)),
		);
		for (const entry of this.#entries.values()) {
			if (lost.has(entry.id) || entry.parent?.state === 'goes') entry.state = 'goes';
		}
		const own = new Map([...this.#own.values()].map((node) => [node.id, node]));
		const entered = new Map<number, Entry | undefined>([[0, undefined]]);
		for (const flat of flattenTree(fitted).slice(1)) {
			const known = idOf(flat) ?? 0;
			const promoted = own.get(known);
			const parent = entered.get(flat.parent?.id ?? 0);
			const entry =
				this.#entries.get(known) ?? this.#enter(promoted?.id ?? this.#nextId(), parent, flat.node.packages, 'comes');
			if (promoted !== undefined) this.#bound.set(entry.id, promoted);
			entered.set(flat.id, entry);
		}
		this.#bindAll(this.#sets.values());
	}

	/** Nodes that functions are sent to by what is prepared, and are not yet; parents first. */
	newlyChosen(): readonly PlanNode[] {
		if (this.#newlyChosen !== undefined) return this.#newlyChosen;
		const nodes = new Set<PlanNode>();
		for (const set of this.#sets.values()) {
			const node = this.#cover(set, 'later');
			if (node !== undefined && node !== this.find(set)) nodes.add(node);
		}
		this.#newlyChosen = [...nodes].sort((a, b) => a.id - b.id);
		return this.#newlyChosen;
	}

	/** What is prepared is the tree from now on. Nodes for one set alone are part of it, or gone. */
	settle(): PlanChange {
		const added = [...this.#entries.values()].filter(({state}) => state === 'comes').length;
		const before = this.#entries.size;
		const removed = this.#remove('goes');
		const covered = [...this.#own.values()].filter(({id}) => !this.#entries.has(id));
		this.#own.clear();
		for (const node of this.#bound.values()) node.isOwn = false;
		return {nodes: this.#entries.size, added, removed: before - this.#entries.size, gone: [...removed, ...covered]};
	}

	/** The tree stays as it was before something was prepared. */
	abandon(): PlanChange {
		const gone = this.#remove('comes').filter((node) => this.#own.get(node.set.key) !== node);
		return {nodes: this.#entries.size, added: 0, removed: 0, gone};
	}

	/** Nodes that were bound; all others stay. */
	#remove(state: 'comes' | 'goes'): PlanNode[] {
		const removed: PlanNode[] = [];
		for (const entry of this.#entries.values()) {
			if (entry.state === state) {
				const node = this.#bound.get(entry.id);
				if (node !== undefined) removed.push(node);
				this.#bound.delete(entry.id);
				this.#entries.delete(entry.id);
			}
			entry.state = 'stays';
		}
		this.reweigh();
		return removed;
	}

	#cover(set: PackageSet, when: 'now' | 'later' = 'now'): PlanNode | undefined {
		this.#indexes[when] ??= new CoverIndex(
			[
				{id: 0, parentId: undefined, packages: []},
				...this.#without(when === 'now' ? 'comes' : 'goes').map(({id, parent, set: {folders}}) => ({
					id,
					parentId: parent?.id ?? 0,
					packages: beyond(parent, folders),
				})),
			],
			(folder) => this.#weight(folder),
		);
		return this.#bound.get(this.#indexes[when].find(set.folders));
	}

	/** Nodes of the tree that functions can be forked from, parents first. */
	#without(unmeant: Entry['state']): PlanNode[] {
		const meant = [...this.#entries.values()].filter(({state}) => state !== unmeant);
		return meant.flatMap(({id}) => this.#bound.get(id) ?? []);
	}

	#weight(folder: string): number {
		return Math.max(leastMs, this.#costOf(folder) ?? unknownMs);
	}

	#nextId(): number {
		this.#lastId += 1;
		return this.#lastId;
	}

	#enter(id: number, parent: Entry | undefined, packages: readonly string[], state: Entry['state']): Entry {
		const entry = {id, parent, packages, state};
		this.#entries.set(id, entry);
		return entry;
	}

	#bindAll(sets: Iterable<PackageSet>): void {
		for (const set of sets) {
			const places = this.#places.get(set.key) ?? new Map();
			for (const each of this.#entries.values()) this.#bind(each, set, places);
		}
		this.reweigh();
	}

	#bind({id, parent, packages}: Entry, set: PackageSet, placeOf: ReadonlyMap<string, number>): void {
		if (this.#bound.has(id)) return;
		const above = parent === undefined ? undefined : this.#bound.get(parent.id);
		if (above === undefined && parent !== undefined) return;
		if (above?.set.folders.some((folder) => !placeOf.has(folder)) === true) return;
		const places = packages.flatMap((wanted) => placeOf.get(wanted) ?? []);
		if (places.length < packages.length) return;
		const pick = <T>(list: readonly T[]) => places.map((place) => list[place] as T);
		const added = pick(set.distributions);
		const folders = [...(above?.set.folders ?? []), ...pick(set.folders)];
		const distributions = [...(above?.set.distributions ?? []), ...added];
		this.#bound.set(id, {id, parent: above, set: {key: keyOf(folders), folders, distributions}, added, isOwn: false});
	}
}

/** What of these folders it has not loaded. */
function beyond(node: PlanNode | undefined, folders: readonly string[]): string[] {
	const loaded = new Set(node?.set.folders);
	return folders.filter((folder) => !loaded.has(folder));
}

function idOf({node: {extra}}: FlatNode): number | undefined {
	return typeof extra.id === 'number' ? extra.id : undefined;
}

/** Where in the set something is, by its folder, its name, or its name and version. */
function placesOf({folders, distributions}: PackageSet): Map<string, number> {
	const places = new Map(folders.map((folder, place) => [folder, place]));
	for (const [place, {name, version}] of distributions.entries())
		places.set(name, place).set(`${name}==${version}`, place);
	return places;
}

function keyOf(folders: readonly string[]): string {
	return createHash('sha256').update(folders.join('\0')).digest('hex').slice(0, 32);
}
