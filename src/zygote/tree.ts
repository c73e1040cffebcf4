/** The plan of zygotes as data: which packages each node loads beyond its parent. The form of the file is OpenLambda's. */
import {ForktreeError} from '../errors.ts';
import {normaliseName} from '../packages/requirements.ts';

/** A node with all below it. */
export type TreeNode = {
	/**
	 * What it loads beyond its parent, each as `name==version` or `name`, with the name normalised as PEP 503 says. The
	 * root loads none.
	 */
	readonly packages: readonly string[];
	readonly children: readonly TreeNode[];
	/** Other keys of the file (`direct`, `split_generation`, `count`, `depth`, `benefit`, …), in order, kept as they are. */
	readonly extra: Readonly<Record<string, unknown>>;
};

/** A node with what its path says of it. */
export type FlatNode = {
	/** Its index among all nodes; the root's is 0. */
	readonly id: number;
	readonly parent: FlatNode | undefined;
	/** How many nodes are above it. */
	readonly depth: number;
	readonly node: TreeNode;
	/** Packages of the whole path, the root's first. */
	readonly loaded: readonly string[];
};

/** Bounds of a tree. */
export const treeLimits = {
	/** Each level is a pid namespace, which the kernel nests 32 deep; those of the host, the root and leaves are among them. */
	depth: 28,
	nodes: 10_000,
	/** Together on the path from the root to a node. */
	pathPackages: 1000,
	packageCharacters: 256,
	/** Of a node's other keys, as JSON. */
	extraCharacters: 64 * 1024,
} as const;

const PACKAGE = /^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(==[A-Za-z0-9](?:[A-Za-z0-9.+!_-]*[A-Za-z0-9])?)?$/;

/**
 * Reads a tree.
 * @param value what `JSON.parse` made of a file, or an object of that form: `{packages, children, …}`, where a node
 * without children may leave them out
 * @throws {ForktreeError} `InvalidTree` naming the place, for example `children[2].packages[0]`, and what was expected
 * there. That a package is twice on a path, in whichever versions, is an error as well.
 */
export function readTree(value: unknown): TreeNode {
	return new TreeReader().read(value, '', 0);
}

/** The tree as an object for `JSON.stringify`, from which {@link readTree} makes it again. */
export function writeTree({packages, children, extra}: TreeNode): object {
	return {packages: [...packages], ...extra, children: children.map(writeTree)};
}

/** All nodes, the root first, and each directly before all that is below it. */
export function flattenTree(tree: TreeNode): FlatNode[] {
	const nodes: FlatNode[] = [];
	const visit = (node: TreeNode, parent: FlatNode | undefined): void => {
		const flat: FlatNode = {
			id: nodes.length,
			parent,
			depth: parent === undefined ? 0 : parent.depth + 1,
			node,
			loaded: [...(parent?.loaded ?? []), ...node.packages],
		};
		nodes.push(flat);
		for (const child of node.children) visit(child, flat);
	};
	visit(tree, undefined);
	return nodes;
}

/**
 * The tree with a version for each name that has none. A name for which `pinOf` knows none stays as it is.
 * @param pinOf answers `name==version`
 */
export function bindTree({packages, children, extra}: TreeNode, pinOf: (name: string) => string | undefined): TreeNode {
	return {
		packages: packages.map((pin) => (isPinned(pin) ? pin : (pinOf(pin) ?? pin))),
		children: children.map((child) => bindTree(child, pinOf)),
		extra,
	};
}

/** Whether a package of a node has a version. */
export function isPinned(pin: string): boolean {
	return pin.includes('==');
}

/** The name in `name==version` or `name`. */
export function nameOf(pin: string): string {
	return pin.split('==', 1)[0] ?? pin;
}

/** A package as nodes have it; undefined when the text is not `name==version` or `name`. */
export function normalisePackage(text: unknown): string | undefined {
	if (typeof text !== 'string' || text.length > treeLimits.packageCharacters) return undefined;
	const [, name, pinned = ''] = PACKAGE.exec(text) ?? [];
	return name === undefined ? undefined : `${normaliseName(name)}${pinned}`;
}

class TreeReader {
	#nodeCount = 0;
	/** Of the packages on the path to the node that is read, where they are. */
	readonly #path = new Map<string, string>();

	/** @param place path of the node, with a point at its end; empty for the root */
	read(value: unknown, place: string, depth: number): TreeNode {
		if (depth > treeLimits.depth) {
			throw invalid(place, `at most ${treeLimits.depth} levels below the root: pid namespaces don't nest deeper`);
		}
		this.#nodeCount++;
		if (this.#nodeCount > treeLimits.nodes) throw invalid(place, `at most ${treeLimits.nodes} nodes`);
		if (typeof value !== 'object' || value === null || Array.isArray(value)) {
			throw invalid(place, 'an object with packages and children', value);
		}
		const {packages: listed, children: below, ...rest} = value as Record<string, unknown>;
		const packages = this.#readPackages(listed, place, depth === 0);
		const extra = readExtra(rest, place);
		// Go writes an empty list as null.
		const list = below ?? [];
		if (!Array.isArray(list)) throw invalid(`${place}children`, 'a list of nodes', list);
		const children = list.map((child, index) => this.read(child, `${place}children[${index}].`, depth + 1));
		for (const pin of packages) this.#path.delete(nameOf(pin));
		return {packages, children, extra};
	}

	#readPackages(listed: unknown, place: string, isRoot: boolean): string[] {
		if (isRoot) {
			const list = listed ?? [];
			if (Array.isArray(list) && list.length === 0) return [];
			throw invalid('packages', 'none: the root is for functions with any packages', list);
		}
		if (!Array.isArray(listed) || listed.length === 0) {
			throw invalid(`${place}packages`, 'a list of at least one package', listed);
		}
		return listed.map((text: unknown, index) => {
			const here = `${place}packages[${index}]`;
			const pin = normalisePackage(text);
			if (pin === undefined) throw invalid(here, 'a package as in numpy or numpy==1.26.4', text);
			const other = this.#path.get(nameOf(pin));
			if (other !== undefined) throw invalid(here, `a package that ${other} does not load already`, text);
			this.#path.set(nameOf(pin), here);
			if (this.#path.size > treeLimits.pathPackages) {
				throw invalid(here, `at most ${treeLimits.pathPackages} packages from the root to a node`);
			}
			return pin;
		});
	}
}

/** A copy of a node's other keys that holds nothing but JSON. */
function readExtra(rest: Record<string, unknown>, place: string): Record<string, unknown> {
	const entries = Object.entries(rest).filter(([, value]) => value !== undefined);
	let text: string;
	try {
		text = JSON.stringify(entries);
	} catch (cause) {
		throw invalid(place, 'keys whose values can be written as JSON', undefined, cause);
	}
	if (text.length > treeLimits.extraCharacters) {
		throw invalid(place, `other keys than packages and children of at most ${treeLimits.extraCharacters} characters`);
	}
	return Object.fromEntries(JSON.parse(text) as typeof entries);
}

/** @param got shown if it is there */
function invalid(place: string, expected: string, got?: unknown, cause?: unknown): ForktreeError {
	const shown = got === undefined ? '' : `, got ${show(got)}`;
	const where = place === '' ? '' : ` at ${place.replace(/\.$/, '')}`;
	return new ForktreeError('InvalidTree', `the tree${where}: expected ${expected}${shown}`, {cause});
}

function show(value: unknown): string {
	if (typeof value === 'string') return JSON.stringify(value.slice(0, 100));
	if (Array.isArray(value)) return 'a list';
	return value === null || typeof value !== 'object' ? String(value) : 'an object';
}
