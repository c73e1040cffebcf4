/** Where the nodes of a tree stand in a picture. */
import {type HierarchyPointNode, hierarchy, tree as tidyTree} from 'd3-hierarchy';
import {type FlatNode, flattenTree, type TreeNode} from '../index.ts';

/** A box, and the gaps around it. */
export type Cell = {
	readonly width: number;
	readonly height: number;
	/** Between columns. */
	readonly gapX: number;
	/** Between rows. */
	readonly gapY: number;
	/** Besides, around stacks and between the children of different parents. */
	readonly gapFamily: number;
	/** Between the boxes of one stack. */
	readonly gapStack: number;
};

export type Placed = {
	readonly flat: FlatNode;
	/** The box's centre. */
	readonly x: number;
	readonly y: number;
	/** Undefined for the root. */
	readonly parent: Placed | undefined;
	/** Where it stands as seen from its parent. An only child stands below, so that long chains don't run out of sight. */
	readonly side: 'left' | 'right' | 'below';
};

/** Up to here a tree is drawn to one side, which is easier to read. */
const maxOneSidedRows = 24;

/** A node, the only child below it, the only child below that, and so on; and what is below the last of them. */
type Stack = {readonly flats: readonly FlatNode[]; readonly below: readonly Stack[]};

/** Tidy, from left to right; a tall tree to both sides of its root. */
export function placeNodes(tree: TreeNode, cell: Cell): Placed[] {
	const children = new Map<FlatNode, FlatNode[]>();
	const [root, ...flats] = flattenTree(tree);
	if (root === undefined) throw new RangeError('expected a tree with a root');
	for (const flat of flats) {
		const siblings = children.get(flat.parent ?? root);
		if (siblings === undefined) children.set(flat.parent ?? root, [flat]);
		else siblings.push(flat);
	}
	const stackFrom = (flat: FlatNode): Stack => {
		const chain = [flat];
		let below = children.get(flat) ?? [];
		for (; below.length === 1; below = children.get(below[0] as FlatNode) ?? []) chain.push(below[0] as FlatNode);
		return {flats: chain, below: below.map(stackFrom)};
	};
	const origin: Placed = {flat: root, x: 0, y: 0, parent: undefined, side: 'right'};
	const stacks = (children.get(root) ?? []).map(stackFrom);
	const [right, left] = halve(stacks);
	return [origin, ...placeSide(origin, right, 'right', cell), ...placeSide(origin, left, 'left', cell)];
}

/** What goes to the right and what to the left, in order, so that both come out about as tall. */
function halve(stacks: readonly Stack[]): [readonly Stack[], readonly Stack[]] {
	const heights = stacks.map(rowsOf);
	const total = heights.reduce((sum, height) => sum + height, 0);
	if (total <= maxOneSidedRows) return [stacks, []];
	let count = 0;
	let taken = 0;
	while (count < stacks.length && taken + (heights[count] ?? 0) / 2 <= total / 2) taken += heights[count++] ?? 0;
	return [stacks.slice(0, count), stacks.slice(count)];
}

function rowsOf({flats, below}: Stack): number {
	return Math.max(
		flats.length,
		below.reduce((sum, stack) => sum + rowsOf(stack), 0),
	);
}

function placeSide(origin: Placed, stacks: readonly Stack[], side: 'left' | 'right', cell: Cell): Placed[] {
	if (stacks.length === 0) return [];
	const pitch = cell.height + cell.gapStack;
	const rowHeight = cell.height + cell.gapY;
	const heightOf = ({data}: HierarchyPointNode<Stack>) => data.flats.length * pitch - cell.gapStack;
	const layout = tidyTree<Stack>()
		.nodeSize([rowHeight, cell.width + cell.gapX])
		.separation((one, other) => {
			const isPlain = one.data.flats.length + other.data.flats.length === 2 && one.parent === other.parent;
			const gap = isPlain ? cell.gapY : cell.gapY + cell.gapFamily;
			return (gap + (heightOf(one) + heightOf(other)) / 2) / rowHeight;
		});
	const placed = new Map<FlatNode, Placed>([[origin.flat, origin]]);
	const root = layout(hierarchy<Stack>({flats: [origin.flat], below: stacks}, ({below}) => [...below]));
	const nodes = root.descendants().slice(1);
	const top = Math.min(...nodes.map((node) => node.x - heightOf(node) / 2));
	const bottom = Math.max(...nodes.map((node) => node.x + heightOf(node) / 2));
	for (const node of nodes) {
		const x = side === 'right' ? node.y : -node.y;
		const first = node.x - (heightOf(node) - cell.height) / 2 - (top + bottom) / 2;
		for (const [index, flat] of node.data.flats.entries()) {
			const parent = placed.get(flat.parent ?? origin.flat);
			placed.set(flat, {flat, x, y: first + index * pitch, parent, side: index === 0 ? side : 'below'});
		}
	}
	return [...placed.values()].slice(1);
}
