/** What fitting a tree takes, what finding a node in it takes, and what trees leave to import. No sandbox is made. */
import {performance} from 'node:perf_hooks';
import {CoverIndex} from '../src/zygote/cover.ts';
import {evaluateTree, type Lookup} from '../src/zygote/evaluate.ts';
import {type FitCall, type FitInput, type FitOptions, fitTree} from '../src/zygote/fit.ts';
import {refitTree} from '../src/zygote/refit.ts';
import {flattenTree, nameOf, type TreeNode} from '../src/zygote/tree.ts';
import {type BenchResult, mark, percentile, type Summary, summarize} from './report.ts';
import {readSubset, readTrials, type Split, type Trial} from './reqbench-data.ts';

type Measured = Pick<BenchResult, 'marks' | 'samples'> & {readonly notes: readonly string[]};

const published = ['multi-uniform-40', 'multi-uniform-160'] as const;
const byTime: FitOptions = {weights: 'time', multiPackage: true, maxDepth: 28};
const callCount = 100_000;
const distinctCount = 10_000;
const lookupPackages = 100;

export function benchFit(isShort: boolean): Measured {
	const trials = readTrials();
	const subset = readSubset();
	const trial = trials[0] as Trial;
	const trace = {calls: manyCalls(trial), costs: trial.costs, closures: trial.closures};
	const half = {calls: trial.train, costs: trial.costs, closures: trial.closures};
	const runs = isShort ? 3 : 11;
	const fitTimes = (input: FitInput, nodes: number) => series(runs, () => fitTree(input, {...byTime, nodes}));
	const times = {large: fitTimes(trace, 640), small: fitTimes(trace, 40), half: fitTimes(half, 640)};
	const tree = fitTree(trace, {...byTime, nodes: 640});
	const again = series(runs, () =>
		refitTree(tree, {...trace, calls: trace.calls.slice(callCount / 2)}, {...byTime, nodes: 640}),
	);
	const lookups = lookupSeries(tree, trial, isShort ? 20 : 200);
	const samples: Record<string, Summary> = {
		[`fit 640 nodes, ${callCount} calls, ${distinctCount} distinct`]: summarize(times.large),
		[`fit 40 nodes, ${callCount} calls, ${distinctCount} distinct`]: summarize(times.small),
		'fit 640 nodes, half of ReqBench': summarize(times.half),
		'fit anew 640 nodes, another half of the calls': summarize(again),
		[`find a node of 640, ${lookupPackages} packages`]: summarize(lookups),
	};
	const marks = [
		mark(
			`fit 640 nodes, ${distinctCount} distinct of ${callCount} calls`,
			percentile(times.large, 50),
			'<=',
			5000,
			'ms',
		),
		mark(
			`fit 40 nodes, ${distinctCount} distinct of ${callCount} calls`,
			percentile(times.small, 50),
			'<=',
			1000,
			'ms',
		),
		mark('fit 640 nodes, half of ReqBench', percentile(times.half, 50), '<=', 500, 'ms'),
		mark('find a node of 640, 100 packages', percentile(lookups, 50) * 1000, '<=', 20, 'µs'),
		...trials.flatMap((each, index) =>
			published.map((name) => {
				const ratio =
					residualMs(each.trees[name], each, 'best-cover') / residualMs(each.trees[name], each, 'left-most');
				return mark(`left to import, best cover / left-most, ${name}, split ${index}`, ratio, '<=', 1, '×');
			}),
		),
	];
	return {marks, samples, notes: [...publishedNotes(trials), ...sizeNotes(trial, subset), ...memoryNotes(subset)]};
}

/** How long each of `runs` takes, in milliseconds. */
function series(runs: number, run: () => unknown): number[] {
	return Array.from({length: runs}, () => {
		const start = performance.now();
		run();
		return performance.now() - start;
	});
}

/** How long one look-up takes, as means over passes through requests of exactly {@link lookupPackages}. */
function lookupSeries(tree: TreeNode, {train, test, costs}: Split, passes: number): number[] {
	const random = randomFrom(2);
	const locks = [...train, ...test].map(({packages}) => packages);
	const requests = Array.from({length: 1000}, () => {
		for (;;) {
			const lock = Array.from({length: 12}, () => pick(locks, random)).reduce((all, each) => join(all, each) ?? all);
			if (lock.length >= lookupPackages) return lock.slice(0, lookupPackages);
		}
	});
	const nodes = flattenTree(tree).map(({id, parent, node}) => ({id, parentId: parent?.id, packages: node.packages}));
	const index = new CoverIndex(nodes, (pin) => costs.get(pin)?.ms ?? 0);
	const pass = () => {
		for (const request of requests) index.find(request);
	};
	pass();
	return series(passes, pass).map((ms) => ms / requests.length);
}

/**
 * A trace of functions that each need what one, two or three functions of the data need together, so that there are
 * many different ones. Few are called often: the n-th has a share of 1/n, but each is called once.
 */
function manyCalls({train, test}: Split): FitCall[] {
	const random = randomFrom(1);
	const locks = [...train, ...test].map(({packages}) => packages);
	const functions = new Map<string, readonly string[]>();
	while (functions.size < distinctCount) {
		const parts = Array.from({length: 1 + Math.floor(random() * 3)}, () => pick(locks, random));
		const lock = parts.reduce<readonly string[] | undefined>((all, each) => all && join(all, each), []);
		if (lock !== undefined) functions.set([...lock].sort().join(), lock);
	}
	const distinct = [...functions.values()];
	const calls = [...distinct];
	while (calls.length < callCount) {
		calls.push(distinct[Math.floor(distinct.length ** random()) - 1] as readonly string[]);
	}
	return calls.map((packages) => ({packages, count: 1}));
}

/** What two functions need together; undefined when that is two versions of something. */
function join(some: readonly string[], others: readonly string[]): readonly string[] | undefined {
	const all = [...new Set([...some, ...others])];
	return new Set(all.map(nameOf)).size === all.length ? all : undefined;
}

function pick<Item>(items: readonly Item[], random: () => number): Item {
	return items[Math.floor(random() * items.length)] as Item;
}

/** Numbers from 0 to 1, the same in each run: Lehmer's generator, with Park's and Miller's factor. */
function randomFrom(seed: number): () => number {
	let state = seed;
	return () => {
		state = (state * 48_271) % 2_147_483_647;
		return state / 2_147_483_647;
	};
}

/** Milliseconds that a call of the half for tests has left to import. */
function residualMs(tree: TreeNode, {test, costs}: Split, lookup: Lookup): number {
	const {missingMs, calls} = evaluateTree(tree, {calls: test, costs}, lookup);
	return missingMs / calls;
}

function both(tree: TreeNode, split: Split): string {
	const [cover, left] = [residualMs(tree, split, 'best-cover'), residualMs(tree, split, 'left-most')];
	return `${cover.toFixed(2)} ms a call by best cover, ${left.toFixed(2)} left-most`;
}

function publishedNotes(trials: readonly Trial[]): string[] {
	return trials.flatMap((trial, index) =>
		published.map(
			(name) =>
				`published ${name}, split ${index}, test half, Forklift’s costs: ${both(trial.trees[name], trial)} left`,
		),
	);
}

function sizeNotes(trial: Trial, subset: Split): string[] {
	const splits = {'split 0, Forklift’s costs': trial, 'subset for CPython 3.11, its own costs': subset};
	return Object.entries(splits).flatMap(([title, split]) =>
		[1, 10, 40, 160, 640].map((nodes) => {
			const tree = fitTree({...split, calls: split.train}, {...byTime, nodes});
			return `fitted by time, ${title}, at most ${nodes} nodes (made ${flattenTree(tree).length}), test half: ${both(tree, split)} left`;
		}),
	);
}

function memoryNotes(subset: Split): string[] {
	return [64, 128, 256, 512].map((memoryMb) => {
		const tree = fitTree({...subset, calls: subset.train}, {...byTime, memoryMb});
		const nodes = flattenTree(tree).length;
		const ofSize = fitTree({...subset, calls: subset.train}, {...byTime, nodes});
		const mib = flattenTree(ofSize).reduce((total, {node}) => total + (node.extra.mib as number), 0);
		return `fitted by time within ${memoryMb} MiB, subset for CPython 3.11, ${nodes} nodes, test half: ${both(tree, subset)} left; as many nodes without a limit take ${mib.toFixed(0)} MiB and leave ${residualMs(ofSize, subset, 'best-cover').toFixed(2)} ms`;
	});
}
