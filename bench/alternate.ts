/** Contestants in turn, so that what changes on the machine meanwhile changes for each. */
import {setTimeout as sleep} from 'node:timers/promises';

/** How benches pace what they measure: a machine that was idle for a moment behaves differently. */
export const paces = [
	{name: 'back-to-back', gapMs: 0},
	{name: 'gap-100ms', gapMs: 100},
] as const;

/** `n` samples of each, after `gapMs` of idling before each sample. */
export async function alternate<T extends ReadonlyArray<() => Promise<number>>>(
	n: number,
	gapMs: number,
	...contestants: T
): Promise<{[Index in keyof T]: number[]}> {
	const series = contestants.map((): number[] => []);
	for (let i = 0; i < n; i += 1) {
		for (const [index, measure] of contestants.entries()) {
			if (gapMs > 0) await sleep(gapMs);
			series[index]?.push(await measure());
		}
	}
	return series as {[Index in keyof T]: number[]};
}
