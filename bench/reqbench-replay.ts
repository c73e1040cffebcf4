/** Calls functions as a trace says, and tells what the calls took and what the runtime had of the machine's memory. */
import {existsSync, readFileSync} from 'node:fs';
import path from 'node:path';
import type {Runtime} from 'forktree';
import {groupsOf, processesOf} from './leftovers.ts';

const patienceMs = 120_000;

/** What a trace came to. Times in milliseconds, a series each. */
export type Replay = {
	/** From the call to its outcome. */
	readonly latency: readonly number[];
	/** Until the handler could take the event. */
	readonly start: readonly number[];
	/** Of it: importing what the zygote had not imported. */
	readonly load: readonly number[];
	/** Calls a second. */
	readonly rate: number;
	/** How many of the calls found something imported that they wanted. */
	readonly hits: number;
	/** How many of the starts were from a spare, by kind. */
	readonly spares: Readonly<Record<string, number>>;
};

/** @param outstanding how many calls are under way at any time @throws naming the function whose call failed */
export async function replay(runtime: Runtime, names: readonly string[], outstanding: number): Promise<Replay> {
	const latency: number[] = [];
	const start: number[] = [];
	const load: number[] = [];
	let hits = 0;
	const spares: Record<string, number> = {};
	const waiting = names[Symbol.iterator]();
	const callInTurn = async () => {
		for (const name of waiting) {
			const asked = performance.now();
			const outcome = await runtime.invoke(name, null, {timeoutMs: patienceMs});
			latency.push(performance.now() - asked);
			if (!outcome.ok)
				throw new Error(`${name}: ${outcome.error.code}: ${outcome.error.message}\n${outcome.error.traceback}`);
			if (outcome.start === 'warm') throw new Error(`${name}: expected a fresh sandbox`);
			start.push(outcome.timings.startMs);
			load.push(outcome.timings.loadMs);
			if (outcome.preloaded.length > 0) hits += 1;
			if (outcome.spare !== undefined) spares[outcome.spare] = (spares[outcome.spare] ?? 0) + 1;
		}
	};
	const began = performance.now();
	await Promise.all(Array.from({length: outstanding}, callInTurn));
	return {latency, start, load, rate: names.length / ((performance.now() - began) / 1000), hits, spares};
}

/** Of a live runtime, in MiB. */
export type RuntimeMemory = {
	/** What the kernel charges to the runtime's groups: pages of files that they were the first to read as well. */
	readonly chargedMiB: number;
	/** The most that it charged. */
	readonly peakMiB: number;
	/** Of its processes, shared pages in proportion. */
	readonly pssMiB: number;
};

/** @param stateDir of the runtime */
export function readRuntimeMemory(stateDir: string): RuntimeMemory {
	const names = [
		['memory.usage_in_bytes', 'memory.max_usage_in_bytes'],
		['memory.current', 'memory.peak'],
	] as const;
	const read = (file: string) => Number(readFileSync(file, 'latin1')) / 2 ** 20;
	const pssMiB = processesOf(stateDir).reduce((sum, pid) => sum + pssOf(pid), 0);
	for (const group of groupsOf(stateDir)) {
		for (const [usage, peak] of names) {
			const file = path.join(group, usage);
			if (!existsSync(file)) continue;
			const peakFile = path.join(group, peak);
			// Linux keeps the peak of a v2 group since 5.19.
			const chargedMiB = read(file);
			return {chargedMiB, peakMiB: existsSync(peakFile) ? read(peakFile) : chargedMiB, pssMiB};
		}
	}
	throw new Error(`expected a group with a memory controller in ${stateDir}/cgroups.json`);
}

/** 0 when the process has ended meanwhile. */
function pssOf(pid: number): number {
	try {
		return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))?.[1] ?? 0) / 1024;
	} catch {
		return 0;
	}
}
