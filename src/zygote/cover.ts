/**
 * Which zygotes a function may be forked from, and which of these saves it the most.
 *
 * The subset rule is a matter of security: a zygote that has loaded anything which the function's lock does not name
 * would run code in the function that it did not ask for. So a node is usable only when all that its path loads is
 * wanted, at the same version.
 */

/** A node as the index needs it. */
export type CoverNode = {
	readonly id: number;
	/** Undefined for the root alone. */
	readonly parentId: number | undefined;
	/** What it loads beyond its parent, each as `name==version`; anything else is never wanted. */
	readonly packages: readonly string[];
};

/** Answers in a walk over nodes below usable ones only; makes no garbage. */
export class CoverIndex {
	/** Numbers of all packages that any node loads. */
	readonly #numbers = new Map<string, number>();
	/** Per package the last look-up that wanted it. Wide enough never to start anew: an old mark would break the rule. */
	readonly #wanted: Float64Array;
	#lookups = 0;
	// Per node, each directly before all that is below it.
	readonly #ids: Float64Array;
	/** The first node that is not below it. */
	readonly #next: Int32Array;
	/** Where its packages begin in `#packages`; those of the next node follow. */
	readonly #starts: Int32Array;
	readonly #packages: Int32Array;
	readonly #weights: Float64Array;
	readonly #loadedCounts: Int32Array;

	/**
	 * @param nodes a tree, in any order; children of one node stay in this order
	 * @param weightOf what it saves when that package is loaded already, in any unit; less than zero counts as zero
	 * @throws {RangeError} when the nodes are no tree
	 */
	constructor(nodes: readonly CoverNode[], weightOf: (pkg: string) => number) {
		const ordered = inOrder(nodes);
		this.#ids = new Float64Array(nodes.length);
		this.#next = new Int32Array(nodes.length);
		this.#starts = new Int32Array(nodes.length + 1);
		this.#weights = new Float64Array(nodes.length);
		this.#loadedCounts = new Int32Array(nodes.length);
		const packages: number[] = [];
		for (const [index, {node, parent, next}] of ordered.entries()) {
			this.#ids[index] = node.id;
			this.#next[index] = next;
			let weight = this.#weights[parent] ?? 0;
			for (const pkg of node.packages) {
				const number = this.#numbers.get(pkg) ?? this.#numbers.size;
				this.#numbers.set(pkg, number);
				packages.push(number);
				const own = weightOf(pkg);
				if (own > 0) weight += own;
			}
			this.#starts[index + 1] = packages.length;
			this.#weights[index] = weight;
			this.#loadedCounts[index] = (this.#loadedCounts[parent] ?? 0) + node.packages.length;
		}
		this.#packages = Int32Array.from(packages);
		this.#wanted = new Float64Array(this.#numbers.size);
	}

	/**
	 * The usable node whose loaded packages weigh the most; of equal ones that with the fewest packages, then that with
	 * the lowest id.
	 * @param request the function's lock, each package as `name==version`
	 * @returns its id; the root's when no other node is usable
	 */
	find(request: readonly string[]): number {
		const lookup = this.#mark(request);
		let best = 0;
		for (let index = 0; index < this.#next.length; ) {
			if (!this.#isWanted(index, lookup)) {
				index = this.#next[index] as number;
				continue;
			}
			if (this.#isBetter(index, best)) best = index;
			index++;
		}
		return this.#ids[best] as number;
	}

	/** The ids of all nodes that a function with these packages may be forked from; the root's is the first. */
	usable(request: readonly string[]): number[] {
		const lookup = this.#mark(request);
		const ids: number[] = [];
		for (let index = 0; index < this.#next.length; ) {
			const isUsable = this.#isWanted(index, lookup);
			if (isUsable) ids.push(this.#ids[index] as number);
			index = isUsable ? index + 1 : (this.#next[index] as number);
		}
		return ids;
	}

	/** Marks what is wanted, with a number that no earlier look-up had. */
	#mark(request: readonly string[]): number {
		const lookup = ++this.#lookups;
		for (const pkg of request) {
			const number = this.#numbers.get(pkg);
			if (number !== undefined) this.#wanted[number] = lookup;
		}
		return lookup;
	}

	/** Whether all that a node adds is wanted; for its path, all above it must have been asked before. */
	#isWanted(index: number, lookup: number): boolean {
		const end = this.#starts[index + 1] as number;
		for (let at = this.#starts[index] as number; at < end; at++) {
			if (this.#wanted[this.#packages[at] as number] !== lookup) return false;
		}
		return true;
	}

	#isBetter(index: number, than: number): boolean {
		const byWeight = (this.#weights[index] as number) - (this.#weights[than] as number);
		if (byWeight !== 0) return byWeight > 0;
		const byCount = (this.#loadedCounts[index] as number) - (this.#loadedCounts[than] as number);
		return byCount === 0 ? (this.#ids[index] as number) < (this.#ids[than] as number) : byCount < 0;
	}
}

type Ordered = {readonly node: CoverNode /** Its index; -1 for the root. */; readonly parent: number; next: number};

/** The nodes with each directly before all that is below it. */
function inOrder(nodes: readonly CoverNode[]): Ordered[] {
	const children = new Map<number | undefined, CoverNode[]>();
	const ids = new Set<number>();
	for (const node of nodes) {
		ids.add(node.id);
		const siblings = children.get(node.parentId);
		if (siblings === undefined) children.set(node.parentId, [node]);
		else siblings.push(node);
	}
	const ordered: Ordered[] = [];
	const visit = (node: CoverNode, parent: number): void => {
		const entry = {node, parent, next: 0};
		const index = ordered.push(entry) - 1;
		for (const child of children.get(node.id) ?? []) visit(child, index);
		entry.next = ordered.length;
	};
	const roots = children.get(undefined) ?? [];
	if (ids.size === nodes.length && roots.length === 1) visit(roots[0] as CoverNode, -1);
	if (ordered.length !== nodes.length || nodes.length === 0) {
		throw new RangeError('CoverIndex: expected a tree: one root, a parent for each other node, and no id twice');
	}
	return ordered;
}
