/** What drawings of a tree say of its nodes. */
import {evaluateTree, type FitInput, flattenTree, type TreeNode} from '../index.ts';

/** Undefined is what is not known. */
export type NodeFigures = {
	/** Calls that are forked from it or from a node below it. */
	readonly calls: number | undefined;
	/** Milliseconds of importing that what it loads saves these calls, all together. */
	readonly savedMs: number | undefined;
	/** Memory that what it loads takes. */
	readonly mib: number | undefined;
};

/** What is still to import of an average call. */
export type Residue = {
	readonly calls: number;
	readonly packages: number;
	/** Undefined when no costs are known. */
	readonly ms: number | undefined;
};

/**
 * Figures of all nodes, in the order of `flattenTree`.
 * @param input what the tree is measured by; otherwise the figures are those that its fit has left in it
 */
export function figuresOf(tree: TreeNode, input: FitInput | undefined): NodeFigures[] {
	const flats = flattenTree(tree);
	if (input === undefined) {
		return flats.map(({node: {extra}}) => ({
			calls: readAmount(extra.count),
			savedMs: readAmount(extra.ms),
			mib: readAmount(extra.mib),
		}));
	}
	const isTimed = input.costs.size > 0;
	const {perNode} = evaluateTree(tree, weighable(input), 'best-cover');
	const calls = perNode.map((each) => each.calls);
	// Those below a node come after it.
	for (const {id, parent} of [...flats].reverse()) {
		if (parent !== undefined) calls[parent.id] = (calls[parent.id] ?? 0) + (calls[id] ?? 0);
	}
	return flats.map(({id, node: {packages, extra}}) => {
		const mib = packages.flatMap((pin) => input.costs.get(pin)?.mib ?? []);
		return {
			calls: calls[id],
			savedMs: isTimed ? perNode[id]?.savedMs : undefined,
			mib: readAmount(extra.mib) ?? (isTimed ? mib.reduce((sum, each) => sum + each, 0) : undefined),
		};
	});
}

/** What a tree leaves to import. */
export function residueOf(tree: TreeNode, input: FitInput): Residue {
	const {calls, missingMs, missingPackages} = evaluateTree(tree, weighable(input), 'best-cover');
	return {
		calls,
		packages: missingPackages / calls,
		ms: input.costs.size === 0 ? undefined : missingMs / calls,
	};
}

/** Without costs each package weighs the same: else no node would be better than another. */
function weighable(input: FitInput): FitInput {
	if (input.costs.size > 0) return input;
	const pins = input.calls.flatMap(({packages}) => packages);
	return {...input, costs: new Map(pins.map((pin) => [pin, {ms: 1, mib: 0}]))};
}

/** The sum over all nodes; undefined when no node has it. */
export function totalOf(figures: readonly NodeFigures[], key: keyof NodeFigures): number | undefined {
	const known = figures.flatMap((each) => each[key] ?? []);
	return known.length === 0 ? undefined : known.reduce((sum, each) => sum + each, 0);
}

/** For people: `9.5 ms`, `640 ms`, `12.3 s`. */
export function formatTime(milliseconds: number): string {
	if (milliseconds >= 999.5) return `${formatAmount(milliseconds / 1000)} s`;
	return `${formatAmount(milliseconds)} ms`;
}

/** Up to three digits, and no more than one after the point. */
export function formatAmount(amount: number): string {
	return amount >= 99.95 || amount === 0 ? amount.toFixed(0) : amount.toFixed(1);
}

/** `1 call`, `2 calls`. */
export function count(amount: number, noun: string): string {
	return `${amount} ${noun}${amount === 1 ? '' : 's'}`;
}

/** From a file that anybody may have written. */
function readAmount(value: unknown): number | undefined {
	return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
}
