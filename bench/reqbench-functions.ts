/** The real-run subset of ReqBench: functions of public projects on pinned packages, in two halves. Origin: bench/data/README.md. */
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import {gunzipSync} from 'node:zlib';

const file = path.join(import.meta.dirname, 'data', 'reqbench311.json.gz');

/** A function: what it pins, dependencies first, and the modules that its handler imports. */
export type ReqFunction = {
	readonly id: string;
	/** As `name==version`. */
	readonly requirements: readonly string[];
	readonly imports: readonly string[];
};

/** What the data says of a package version. */
export type ReqPackage = {
	/** Lists of packages in import order that it came with, itself included. */
	readonly closures: ReadonlyArray<readonly string[]>;
	readonly sizeKib: number;
	/** Of its own modules, measured elsewhere: for want of a figure of this machine. */
	readonly cost: {readonly ms: number; readonly mib: number};
};

/** Functions and, in `train` and `test`, the calls of them: of each half, in order. */
export type ReqBench = {
	readonly packages: ReadonlyMap<string, ReqPackage>;
	readonly functions: ReadonlyMap<string, ReqFunction>;
	readonly train: readonly ReqFunction[];
	readonly test: readonly ReqFunction[];
};

type File = {
	readonly packages: Readonly<
		Record<string, {closures: string[][]; size_kib: number; cost: {ms: number; anon: number}}>
	>;
	readonly functions: ReadonlyArray<ReqFunction & Record<string, unknown>>;
	readonly train: readonly string[];
	readonly test: readonly string[];
};

/** All of it. */
export async function readReqBench(): Promise<ReqBench> {
	const data = JSON.parse(gunzipSync(await readFile(file)).toString()) as File;
	const packages = Object.entries(data.packages).map(
		([pin, {closures, size_kib: sizeKib, cost}]) =>
			[pin, {closures, sizeKib, cost: {ms: cost.ms, mib: cost.anon}}] as const,
	);
	const functions = new Map(
		data.functions.map(({id, requirements, imports}) => [id, {id, requirements, imports}] as const),
	);
	const find = (id: string): ReqFunction => {
		const found = functions.get(id);
		if (found === undefined) throw new Error(`${file}: no function ${id}`);
		return found;
	};
	return {packages: new Map(packages), functions, train: data.train.map(find), test: data.test.map(find)};
}

/** The functions that pass, and the calls of them. */
export function selectFunctions(data: ReqBench, isWanted: (each: ReqFunction) => boolean): ReqBench {
	return {
		packages: data.packages,
		functions: new Map([...data.functions].filter(([, each]) => isWanted(each))),
		train: data.train.filter(isWanted),
		test: data.test.filter(isWanted),
	};
}

/** Each once, in the order of its first call. */
export function distinct(calls: readonly ReqFunction[]): ReqFunction[] {
	return [...new Set(calls)];
}

/** That many of them, evenly spaced, or all. */
export function spread<T>(all: readonly T[], count: number): T[] {
	const step = (index: number) => Math.floor((index * count) / all.length);
	return all.filter((_each, index) => step(index) !== step(index - 1));
}

/** Calls of them by Zipf's law, always the same: who is popular is drawn as well. */
export function zipf<T>(all: readonly T[], calls: number): T[] {
	const random = generator(20_240_601);
	const ranked = all.map((each) => ({each, order: random()})).sort((a, b) => a.order - b.order);
	const sums: number[] = [];
	for (const rank of ranked.keys()) sums.push((sums.at(-1) ?? 0) + 1 / (rank + 1));
	const draw = () => {
		const drawn = random() * (sums.at(-1) ?? 0);
		return ranked[sums.findIndex((sum) => drawn < sum)]?.each as T;
	};
	return Array.from({length: calls}, draw);
}

/** Numbers from 0 to 1 that follow from the seed: mulberry32. */
function generator(seed: number): () => number {
	let state = seed;
	return () => {
		state = (state + 0x6d_2b_79_f5) | 0;
		let mixed = Math.imul(state ^ (state >>> 15), state | 1);
		mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
		return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
	};
}
