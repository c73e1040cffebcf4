/** Reads bench/data: what is in it, and where it is from, says the README there. */
import {readFileSync} from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {gunzipSync} from 'node:zlib';
import type {FitCall, FitInput, PackageCost} from '../src/zygote/fit.ts';
import type {TreeNode} from '../src/zygote/tree.ts';

/** Half of the calls to fit a tree to, the other half to try it on. */
export type Split = {
	/** One entry a call, as a trace has them. */
	readonly train: readonly FitCall[];
	readonly test: readonly FitCall[];
	readonly costs: ReadonlyMap<string, PackageCost>;
	/** Of calls of `train`, as the packages' metadata have them. */
	readonly closures: FitInput['closures'];
};

/** What a published tree leaves to import, by look-up. */
export type Expected = {
	readonly train_missing: number;
	readonly test_missing: {readonly leftmost: number; readonly best_cover: number};
	readonly test_ms_per_call: {readonly leftmost: number; readonly best_cover: number};
};

/** A split of Forklift's, with the trees that were published for it. */
export type Trial = Split & {
	readonly publishedClosures: FitInput['closures'];
	readonly trees: Readonly<Record<'multi-uniform-40' | 'multi-uniform-160', TreeNode>>;
	readonly expected: Readonly<Record<'multi-uniform-40' | 'multi-uniform-160', Expected>>;
};

type TrialsFile = {
	readonly packages: readonly string[];
	readonly costs: {readonly ms: readonly number[]; readonly mb: readonly number[]};
	readonly functions: ReadonlyArray<{
		readonly packages: readonly number[];
		readonly deps: ReadonlyArray<readonly [pkg: number, required: number]>;
	}>;
	readonly trials: ReadonlyArray<{
		readonly train: readonly number[];
		readonly test: readonly number[];
		readonly closures: ReadonlyArray<readonly [pkg: number, closures: ReadonlyArray<readonly number[]>]>;
		readonly trees: Readonly<Record<string, ReadonlyArray<readonly [parent: number, packages: readonly number[]]>>>;
		readonly expected: Trial['expected'];
	}>;
};

type SubsetFile = {
	readonly packages: Readonly<
		Record<
			string,
			{
				readonly closures: ReadonlyArray<readonly string[]>;
				readonly cost: {readonly ms: number; readonly mb: number};
			}
		>
	>;
	readonly functions: ReadonlyArray<{readonly id: string; readonly requirements: readonly string[]}>;
	readonly train: readonly string[];
	readonly test: readonly string[];
};

function read(file: string): unknown {
	const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'data');
	return JSON.parse(gunzipSync(readFileSync(path.join(folder, file))).toString());
}

/** Splits 0 and 1 of all functions. */
export function readTrials(): Trial[] {
	const {packages, costs, functions, trials} = read('forklift-trials-0-1.json.gz') as TrialsFile;
	const pinsOf = (numbers: Iterable<number>) => Array.from(numbers, (number) => packages[number] as string);
	const locks = functions.map((each) => pinsOf(each.packages));
	const callsOf = (ids: readonly number[]) => ids.map((id) => ({packages: locks[id] ?? [], count: 1}));
	return trials.map(({train, test, closures, trees, expected}) => ({
		train: callsOf(train),
		test: callsOf(test),
		costs: new Map(packages.map((pin, number) => [pin, {ms: costs.ms[number] ?? 0, mib: costs.mb[number] ?? 0}])),
		closures: closuresOf(
			[...new Set(train)].map((id) => ({
				packages: locks[id] ?? [],
				requires: (functions[id]?.deps ?? []).map((edge) => pinsOf(edge) as [string, string]),
			})),
		),
		publishedClosures: new Map(closures.map(([pkg, lists]) => [packages[pkg] as string, lists.map(pinsOf)])),
		trees: Object.fromEntries(
			Object.entries(trees).map(([name, nodes]) => [
				name,
				treeOf(nodes.map(([parent, added]) => [parent, pinsOf(added)] as const)),
			]),
		) as Trial['trees'],
		expected,
	}));
}

/** The functions that really run, with memory as it was measured. */
export function readSubset(): Split {
	const {packages, functions, train, test} = read('reqbench311.json.gz') as SubsetFile;
	const locks = new Map(functions.map(({id, requirements}) => [id, requirements]));
	const callsOf = (ids: readonly string[]) => ids.map((id) => ({packages: locks.get(id) ?? [], count: 1}));
	const entries = Object.entries(packages);
	return {
		train: callsOf(train),
		test: callsOf(test),
		costs: new Map(entries.map(([pin, {cost}]) => [pin, {ms: cost.ms, mib: cost.mb}])),
		closures: new Map(entries.map(([pin, {closures}]) => [pin, closures])),
	};
}

type Locked = {
	readonly packages: readonly string[];
	readonly requires: ReadonlyArray<readonly [pkg: string, required: string]>;
};

/** Per package all that came with it: what it requires, and what that requires. */
function closuresOf(functions: readonly Locked[]): Map<string, string[][]> {
	const found = new Map<string, Map<string, string[]>>();
	for (const {packages, requires} of functions) {
		for (const pin of packages) {
			const closure = new Set([pin]);
			for (const reached of closure) {
				for (const [pkg, required] of requires) if (pkg === reached) closure.add(required);
			}
			const list = [...closure].sort();
			found.set(pin, (found.get(pin) ?? new Map<string, string[]>()).set(list.join(), list));
		}
	}
	return new Map([...found].map(([pin, lists]) => [pin, [...lists.values()]]));
}

/** @param nodes parents before children */
function treeOf(nodes: ReadonlyArray<readonly [parent: number, packages: readonly string[]]>): TreeNode {
	type Growing = {packages: readonly string[]; children: Growing[]; extra: Record<string, unknown>};
	const made: Growing[] = [];
	for (const [parent, packages] of nodes) {
		const node: Growing = {packages, children: [], extra: {}};
		made[parent]?.children.push(node);
		made.push(node);
	}
	return made[0] as Growing;
}
