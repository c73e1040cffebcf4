/** What does a tree of zygotes give functions of real projects, against one zygote and none? As in the paper on Forklift. */
import path from 'node:path';
import {createRuntime, type Runtime, type RuntimeOptions} from 'forktree';
import {evaluateTree} from '../src/zygote/evaluate.ts';
import {type FitCall, type FitInput, fitTree} from '../src/zygote/fit.ts';
import {flattenTree, type TreeNode, writeTree} from '../src/zygote/tree.ts';
import {
	type BenchResult,
	describeHost,
	type Mark,
	mark,
	mean,
	percentile,
	type Row,
	round,
	summarize,
} from './report.ts';
import {coldName, costsOf, deployFunctions, listInstalled} from './reqbench-deploy.ts';
import {
	distinct,
	type ReqBench,
	type ReqFunction,
	readReqBench,
	selectFunctions,
	spread,
	zipf,
} from './reqbench-functions.ts';
import {plotReqBench} from './reqbench-plot.ts';
import {type Replay, type RuntimeMemory, readRuntimeMemory, replay} from './reqbench-replay.ts';

/** The kernel's namespaces nest no deeper, with some to spare. */
const maxDepth = 28;
const outstanding = [1, 5] as const;
/** What the marks are against: forks when it is asked to, and nothing ahead. */
const plainTitle = 'one plain zygote';

type Sizes = {
	/** Of trees, in nodes with the root; the last one: as many as save something. */
	readonly trees: readonly number[];
	/** Which of them the marks are of. */
	readonly marked: number;
	/** Each with runtimes of its own, which know nothing of earlier calls. */
	readonly rounds: number;
	/** Calls without a zygote, in each round. */
	readonly cold: number;
	readonly zipfCalls: number;
};

const long: Sizes = {trees: [1, 10, 40, Infinity], marked: 40, rounds: 2, cold: 40, zipfCalls: 200};
const short: Sizes = {trees: [1, 10], marked: 10, rounds: 1, cold: 4, zipfCalls: 30};
/** The short form's functions, and the largest package that they may have: all is installed in seconds. */
const few = {functions: 12, packageKib: 600};

/** Calls in order, each by the name of a deployed function. */
type Trace = {readonly name: 'test half' | 'zipf'; readonly outstanding: number; readonly calls: readonly string[]};

/** What became of a trace. */
type Run = {
	readonly trace: Trace;
	readonly replay: Replay;
	readonly memory: RuntimeMemory;
	/** How many zygotes were alive at the end, the root included. */
	readonly alive: number;
};

/** One way of starting, and what became of the traces with it. */
type Contender = {
	readonly title: string;
	/** The root is one; 0: fresh interpreters. */
	readonly nodes: number;
	/** Undefined: as many spares as by default. */
	readonly spares: 0 | undefined;
	readonly tree: TreeNode;
	/** By the costs: what a call of the test half has left to import. */
	readonly residualMs: number;
	readonly traces: readonly Trace[];
	readonly runs: Run[];
};

/**
 * @param stateDir keeps the packages between runs
 * @param plotFile where the pictures go, as .svg and .png; by default into the state folder
 */
export async function benchReqBench(stateDir: string, isShort: boolean, plotFile?: string): Promise<BenchResult> {
	const sizes = isShort ? short : long;
	const data = isShort ? smallFunctions(await readReqBench()) : await readReqBench();
	const dirs = {stateDir: path.join(stateDir, 'reqbench'), packagesDir: path.join(stateDir, 'packages')};
	const test = distinct(data.test);
	const cold = spread(test, sizes.cold);
	const {costs, host} = await withRuntime(dirs, async (runtime) => {
		await deployFunctions(runtime, [...data.functions.values()], cold);
		const {isolation, python} = await runtime.stats();
		const installed = await listInstalled(runtime);
		return {costs: costsOf(data, installed), host: describeHost(isolation.cgroup, {python: python.version})};
	});
	const contenders = planContenders(data, costs, sizes, cold);
	for (let turn = 0; turn < sizes.rounds; turn += 1) {
		// There and back, so that what changes on the machine meanwhile is nobody's advantage.
		const inOrder = turn % 2 === 0 ? contenders : [...contenders].reverse();
		for (const contender of inOrder) for (const trace of contender.traces) await runTrace(dirs, contender, trace);
	}
	const rows = contenders.flatMap(rowsOf);
	const subtitle = `ReqBench: ${test.length} functions of the test half, each called once in a fresh sandbox; trees fitted on the train half`;
	const pictures = await plotReqBench(rows, subtitle, plotFile ?? path.join(stateDir, 'reqbench'));
	return {
		bench: 'reqbench',
		host,
		marks: marksOf(contenders, sizes),
		samples: Object.fromEntries(contenders.flatMap(samplesOf)),
		rows,
		notes: notesOf(data, pictures),
	};
}

function smallFunctions(data: ReqBench): ReqBench {
	const isSmall = ({requirements}: ReqFunction) =>
		requirements.every((pin) => (data.packages.get(pin)?.sizeKib ?? Infinity) <= few.packageKib);
	const small = [...data.functions.values()].filter(isSmall);
	const chosen = new Set(spread(small, few.functions));
	return selectFunctions(data, (each) => chosen.has(each));
}

async function withRuntime<T>(options: RuntimeOptions, work: (runtime: Runtime) => Promise<T>): Promise<T> {
	const runtime = await createRuntime(options);
	try {
		return await work(runtime);
	} finally {
		await runtime.close();
	}
}

function planContenders(
	data: ReqBench,
	costs: FitInput['costs'],
	sizes: Sizes,
	cold: readonly ReqFunction[],
): Contender[] {
	const test = distinct(data.test);
	const calls = test.map(({requirements}) => ({packages: requirements, count: 1}));
	const input = {calls: countCalls(data.train), costs, closures: seenClosures(data)};
	const popular = zipf([...data.functions.keys()], sizes.zipfCalls);
	const traces = [
		...outstanding.map((atOnce) => ({name: 'test half', outstanding: atOnce, calls: test.map(({id}) => id)}) as const),
		{name: 'zipf', outstanding: Math.max(...outstanding), calls: popular} as const,
	];
	const trees = sizes.trees.map((nodes) =>
		fitTree(input, {
			...(Number.isFinite(nodes) ? {nodes} : {}),
			weights: 'time',
			multiPackage: true,
			maxDepth,
		}),
	);
	const contend = (tree: TreeNode): Contender => {
		const {missingMs} = evaluateTree(tree, {calls, costs}, 'best-cover');
		const nodes = flattenTree(tree).length;
		const title = nodes === 1 ? 'one zygote with spares' : `tree of ${nodes}`;
		return {title, nodes, spares: undefined, tree, residualMs: missingMs / calls.length, traces, runs: []};
	};
	const root = contend({packages: [], children: [], extra: {}});
	const coldTraces = outstanding.map((atOnce) => {
		return {name: 'test half', outstanding: atOnce, calls: cold.map(({id}) => coldName(id))} as const;
	});
	// The last tree may be no larger than the one before it.
	const fitted = trees.map(contend).filter((each, index, all) => each.nodes !== all[index - 1]?.nodes);
	return [
		{...root, title: 'no zygote', nodes: 0, traces: coldTraces, runs: []},
		{...root, title: plainTitle, spares: 0, runs: []},
		...fitted,
	];
}

function countCalls(calls: readonly ReqFunction[]): FitCall[] {
	return distinct(calls).map((each) => ({
		packages: each.requirements,
		count: calls.filter((call) => call === each).length,
	}));
}

/** Of each package the closures that functions of the train half have. */
function seenClosures(data: ReqBench): FitInput['closures'] {
	const sets = distinct(data.train).map(({requirements}) => new Set(requirements));
	const isSeen = (closure: readonly string[]) => sets.some((set) => closure.every((pin) => set.has(pin)));
	return new Map([...data.packages].map(([pin, {closures}]) => [pin, closures.filter(isSeen)] as const));
}

/** With a runtime of its own, whose zygotes are made before the first call: those of the tree and no others. */
async function runTrace(
	dirs: {readonly stateDir: string; readonly packagesDir: string},
	{tree, spares, runs}: Contender,
	trace: Trace,
): Promise<void> {
	const options = {...dirs, tree: writeTree(tree), promote: false, ...(spares === undefined ? {} : {spares})};
	await withRuntime(options, async (runtime) => {
		await runtime.prewarm();
		const result = await replay(runtime, trace.calls, trace.outstanding);
		const {zygotes} = await runtime.stats();
		runs.push({trace, replay: result, memory: readRuntimeMemory(dirs.stateDir), alive: zygotes.length});
	});
}

/** What all runs of a trace came to. */
function pool({runs}: Contender, trace: Trace) {
	const own = runs.filter((each) => each.trace === trace);
	const series = (pick: (each: Replay) => readonly number[]) => own.flatMap(({replay}) => pick(replay));
	const most = (pick: (each: RuntimeMemory) => number) => Math.max(...own.map(({memory}) => pick(memory)));
	return {
		latency: series(({latency}) => latency),
		loadMs: mean(series(({load}) => load)),
		hits: own.reduce((sum, {replay}) => sum + replay.hits, 0),
		spares: own.reduce((sum, {replay}) => sum + Object.values(replay.spares).reduce((a, b) => a + b, 0), 0),
		alive: Math.min(...own.map(({alive}) => alive)),
		rate: own.length / own.reduce((sum, {replay}) => sum + 1 / replay.rate, 0),
		chargedMiB: most((each) => each.chargedMiB),
		peakMiB: most((each) => each.peakMiB),
		pssMiB: most((each) => each.pssMiB),
	};
}

function rowsOf(contender: Contender): Row[] {
	return contender.traces.map((trace) => {
		const {latency, loadMs, hits, spares, alive, rate, ...memory} = pool(contender, trace);
		return {
			contender: contender.title,
			nodes: contender.nodes,
			alive,
			trace: trace.name,
			outstanding: trace.outstanding,
			calls: latency.length,
			p50Ms: round(percentile(latency, 50)),
			p95Ms: round(percentile(latency, 95)),
			p99Ms: round(percentile(latency, 99)),
			meanMs: round(mean(latency)),
			perSecond: round(rate),
			loadMs: round(loadMs),
			residualMs: trace.name === 'test half' ? round(contender.residualMs) : '',
			hitPercent: round((hits / latency.length) * 100),
			sparePercent: round((spares / latency.length) * 100),
			...Object.fromEntries(Object.entries(memory).map(([name, value]) => [name, Math.round(value)])),
		};
	});
}

function samplesOf(contender: Contender) {
	return contender.traces.map((trace) => {
		const name = `${contender.title}, ${trace.name}, ${trace.outstanding} at once`;
		return [name, summarize(pool(contender, trace).latency)] as const;
	});
}

function marksOf(contenders: readonly Contender[], {marked}: Sizes): Mark[] {
	const one = contenders.find(({title}) => title === plainTitle);
	const tree = contenders.find(({nodes}) => nodes === marked);
	if (one === undefined || tree === undefined) throw new Error(`expected a tree of ${marked} nodes and a plain zygote`);
	const marks = tree.traces
		.filter(({name}) => name === 'test half')
		.flatMap((trace) => {
			const [ours, theirs] = [pool(tree, trace), pool(one, trace)];
			const what = `one zygote / ${tree.title}, ${trace.outstanding} at once`;
			return [
				mark(`p50, ${what}`, percentile(theirs.latency, 50) / percentile(ours.latency, 50), '>=', 5, '×'),
				mark(`mean, ${what}`, mean(theirs.latency) / mean(ours.latency), '>=', 4, '×'),
				mark(`throughput, ${what.replace(/^(.*) \/ (.*),/, '$2 / $1,')}`, ours.rate / theirs.rate, '>=', 3, '×'),
			];
		});
	const peakGb = (Math.max(...tree.traces.map((trace) => pool(tree, trace).peakMiB)) * 2 ** 20) / 1e9;
	return [...marks, mark(`memory, ${tree.title}, most that was charged`, peakGb, '<=', 1.5, 'GB')];
}

function notesOf(data: ReqBench, pictures: readonly string[]): string[] {
	const packages = new Set([...data.functions.values()].flatMap(({requirements}) => requirements));
	return [
		`${data.functions.size} functions on ${packages.size} packages; trees fitted on ${data.train.length} calls of the train half by measured import time; test half: each of its ${distinct(data.test).length} functions once`,
		'nodes: of the tree, alive: zygotes at the end of the trace; both with the root',
		'loadMs: measured, until the handler’s module was imported; residualMs: what all that a call requires and its node lacks would take, by the costs',
		'hitPercent: calls that found something imported; sparePercent: calls that were handed to a spare',
		...pictures.map((file) => `picture: ${file}`),
	];
}
