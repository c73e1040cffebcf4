/** `forktree tree`: fits a tree of zygotes to calls, draws it, and says which node some requirements get. */
import path from 'node:path';
import process from 'node:process';
import {
	type CallsHalf,
	explainNode,
	type FitInput,
	type FitOptions,
	fitTree,
	flattenTree,
	type PackageCost,
	readPins,
	type TreeNode,
	writeTree,
} from '../index.ts';
import {exitCodes, print} from './terminal.ts';
import {describeNode} from './tree-check.ts';
import {count, figuresOf, formatAmount, formatTime, residueOf, totalOf} from './tree-figures.ts';
import {readCallsFile, readTreeFile, writeWhole} from './tree-files.ts';
import {drawTree} from './tree-text.ts';

/** What a tree is measured by. */
type CallsFlags = {readonly calls?: string; readonly half?: CallsHalf};

export type FitFlags = {
	readonly state?: string;
	readonly half?: CallsHalf;
	readonly nodes?: number;
	readonly memory?: number;
	readonly weights: FitOptions['weights'];
	readonly singlePackage?: boolean;
	readonly maxDepth: number;
	readonly output?: string;
};
export type ShowFlags = CallsFlags & {readonly json?: boolean};
export type CheckFlags = CallsFlags & {readonly json?: boolean};
export type PlotFlags = CallsFlags & {readonly output: string};

const defaultNodes = 40;
const noTree: TreeNode = {packages: [], children: [], extra: {}};

/** Answers the exit code. @throws what forktree itself fails at */
export async function fitToCalls(calls: string | undefined, flags: FitFlags): Promise<number> {
	const {state, half, nodes, memory, weights, maxDepth, output} = flags;
	if ((calls === undefined) === (state === undefined)) throw new TypeError('expected either CALLS or --state DIR');
	const input = await readCallsFile(calls ?? path.join(state ?? '', 'calls.json'), half);
	if (weights === 'time' && input.costs.size === 0) {
		throw new TypeError('--weights time: expected calls with the costs of their packages; without them use uniform');
	}
	const tree = fitTree(input, {
		weights,
		maxDepth,
		multiPackage: flags.singlePackage !== true,
		...(nodes === undefined && memory !== undefined ? {} : {nodes: nodes ?? defaultNodes}),
		...(memory === undefined ? {} : {memoryMb: memory}),
	});
	const text = `${JSON.stringify(writeTree(tree), null, '\t')}\n`;
	if (output === undefined) await print(process.stdout, text);
	else await writeWhole(output, text);
	await print(process.stderr, summarise(tree, input));
	return exitCodes.ok;
}

export async function show(file: string, {calls, half, json}: ShowFlags): Promise<number> {
	const [tree, input] = await readBoth(file, calls, half);
	const figures = figuresOf(tree, input);
	if (json === true) {
		const nodes = flattenTree(tree).map(({id, parent, depth, node}) => ({
			id,
			...(parent === undefined ? {} : {parent: parent.id}),
			depth,
			packages: node.packages,
			...figures[id],
		}));
		await print(process.stdout, `${JSON.stringify(nodes)}\n`);
	} else {
		await print(process.stdout, drawTree(tree, figures, terminalWidth()));
	}
	return exitCodes.ok;
}

export async function check(file: string, requirements: string, flags: CheckFlags): Promise<number> {
	const [tree, input] = await readBoth(file, flags.calls, flags.half);
	const {pins, conditional} = await readPins(requirements);
	const costs = input?.costs ?? new Map<string, PackageCost>();
	const explanation = explainNode(tree, pins, costs);
	if (flags.json === true) {
		await print(process.stdout, `${JSON.stringify({requirements: pins, conditional, ...explanation})}\n`);
	} else {
		await print(process.stdout, describeNode(explanation, pins, costs, conditional));
	}
	return exitCodes.ok;
}

export async function plot(file: string, {calls, half, output}: PlotFlags): Promise<number> {
	const extension = path.extname(output).toLowerCase();
	if (extension !== '.svg' && extension !== '.png') {
		throw new TypeError(`-o: expected a file that ends in .svg or .png, got ${JSON.stringify(output)}`);
	}
	const [tree, input] = await readBoth(file, calls, half);
	const {drawSvg} = await import('./tree-svg.ts');
	const picture = drawSvg(tree, figuresOf(tree, input), titleOf(tree, input));
	if (extension === '.svg') {
		await writeWhole(output, picture.svg);
	} else {
		const {renderPng} = await import('./tree-png.ts');
		await writeWhole(output, await renderPng(picture));
	}
	return exitCodes.ok;
}

async function readBoth(
	file: string,
	calls: string | undefined,
	half: CallsHalf | undefined,
): Promise<[TreeNode, FitInput | undefined]> {
	if (file === '-' && calls === '-') throw new TypeError('expected the tree or --calls on stdin, not both');
	if (calls === undefined && half !== undefined) throw new TypeError('--half: expected --calls, whose half it is');
	const tree = await readTreeFile(file);
	return [tree, calls === undefined ? undefined : await readCallsFile(calls, half)];
}

function summarise(tree: TreeNode, input: FitInput): string {
	const before = residueOf(noTree, input);
	const after = residueOf(tree, input);
	const mib = input.costs.size === 0 ? undefined : totalOf(figuresOf(tree, input), 'mib');
	const unmeasured = countUnmeasured(input);
	const lines = [
		`${count(flattenTree(tree).length, 'node')} for ${count(before.calls, 'call')}`,
		before.ms === undefined || after.ms === undefined
			? []
			: `still to import a call: ${formatTime(after.ms)}, without the tree ${formatTime(before.ms)}`,
		`packages still to import a call: ${after.packages.toFixed(1)}, without the tree ${before.packages.toFixed(1)}`,
		mib === undefined ? [] : `memory of the nodes: ${formatAmount(mib)} MiB`,
		before.ms === undefined || unmeasured === 0 ? [] : `${count(unmeasured, 'package')} without a known cost`,
	];
	return `${lines.flat().join('\n')}\n`;
}

/** How many packages of the calls have no cost, and so are not worth anything. */
function countUnmeasured({calls, costs}: FitInput): number {
	const pins = new Set<string>();
	for (const {packages} of calls) for (const pin of packages) if (!costs.has(pin)) pins.add(pin);
	return pins.size;
}

function titleOf(tree: TreeNode, input: FitInput | undefined): {readonly title: string; readonly subtitle: string} {
	const figures = figuresOf(tree, input);
	const mib = totalOf(figures, 'mib');
	const saved = totalOf(figures, 'savedMs');
	const calls = figures[0]?.calls ?? 0;
	const residue = input === undefined ? undefined : residueOf(tree, input);
	const words = [
		calls === 0 ? [] : count(calls, 'call'),
		calls === 0 || saved === undefined ? [] : `${formatTime(saved / calls)} of importing saved a call`,
		residue?.ms === undefined ? [] : `${formatTime(residue.ms)} left`,
		mib === undefined || mib === 0 ? [] : `${formatAmount(mib)} MiB`,
	];
	return {title: `Zygote tree of ${count(figures.length, 'node')}`, subtitle: words.flat().join(' · ')};
}

/** Lines go on to their end where nobody looks at them: in files and pipes. */
function terminalWidth(): number {
	const given = Number(process.env.COLUMNS);
	if (process.stdout.columns > 0) return process.stdout.columns;
	return Number.isSafeInteger(given) && given > 0 ? given : Number.POSITIVE_INFINITY;
}
