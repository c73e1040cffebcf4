/** Draws a tree as lines of text. */
import {type FlatNode, flattenTree, type TreeNode} from '../index.ts';
import {formatAmount, type NodeFigures} from './tree-figures.ts';

/** What a label keeps when the branches before it leave no room. */
const minLabelWidth = 16;

const columns = [
	{key: 'calls', title: 'calls', format: (amount: number) => amount.toFixed(0)},
	{key: 'savedMs', title: 'saved ms', format: (amount: number) => amount.toFixed(0)},
	{key: 'mib', title: 'MiB', format: formatAmount},
] as const;

/**
 * The tree, a line a node, each below that which it is forked from.
 * @param figures of each node; those of which no node has any are left out
 * @param width in characters, to which lines are cut
 */
export function drawTree(tree: TreeNode, figures: readonly NodeFigures[], width: number): string {
	const flats = flattenTree(tree);
	const shown = columns
		.filter(({key}) => figures.some((each) => (each[key] ?? 0) > 0))
		.map(({key, title, format}) => {
			const cells = figures.map(({[key]: amount}) => (amount === undefined ? '-' : format(amount)));
			const length = Math.max(title.length, ...cells.map((cell) => cell.length));
			return {title: title.padStart(length), cells: cells.map((cell) => cell.padStart(length))};
		});
	const room = Math.max(width - shown.reduce((sum, {title}) => sum + title.length + 2, 0), minLabelWidth + 1);
	const labels = flats.map((flat) => join(branchesOf(flat), labelOf(flat.node), room));
	const labelWidth = Math.max('node'.length, ...labels.map(({length}) => length));
	const line = (label: string, cells: readonly string[]) =>
		cut([label.padEnd(labelWidth), ...cells].join('  ').trimEnd(), width);
	const cellsOf = (index: number) => shown.map(({cells}) => cells[index] ?? '');
	const titles = shown.map(({title}) => title);
	const head = titles.length === 0 ? [] : [line('node', titles)];
	const rows = labels.map((label, index) => line(label, cellsOf(index)));
	return `${[...head, ...rows].join('\n')}\n`;
}

/** What a node is called: its first package, and how many more. */
export function labelOf({packages: [first, ...more]}: Pick<TreeNode, 'packages'>): string {
	if (first === undefined) return 'root';
	return more.length === 0 ? first : `${first} +${more.length}`;
}

/** The first of a text's characters, with a sign that there are more. */
export function cut(text: string, length: number): string {
	return text.length <= length ? text : `${text.slice(0, Math.max(length - 1, 0))}…`;
}

/** Lines that lead to a node. */
function branchesOf({parent, node}: FlatNode): string {
	if (parent === undefined) return '';
	let branches = isLast(parent, node) ? '└─ ' : '├─ ';
	for (let above = parent; above.parent !== undefined; above = above.parent) {
		branches = (isLast(above.parent, above.node) ? '   ' : '│  ') + branches;
	}
	return branches;
}

function isLast(parent: FlatNode, node: TreeNode): boolean {
	return parent.node.children.at(-1) === node;
}

/** Of a deep node the branches are cut at their beginning, where they are the same for many lines. */
function join(branches: string, label: string, room: number): string {
	const keep = Math.max(room - Math.min(label.length, minLabelWidth), Math.floor(room / 2));
	const shown = branches.length <= keep ? branches : `…${branches.slice(branches.length - keep + 1)}`;
	return cut(shown + label, room);
}
