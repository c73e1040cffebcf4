/** Which sandbox to end when there is no room for another: a decision, without effects. */

/** A sandbox as the evictor sees it. */
export type EvictionCandidate = {
	readonly id: string;
	/** Nothing runs in it. */
	readonly isIdle: boolean;
	readonly isPaused: boolean;
	/** When something last ran in it. */
	readonly lastUsedMs: number;
	/** Its share of the budget, in MiB, when it is not paused. */
	readonly reservedMb: number;
};

/** Decides which sandbox is to go, by its id; undefined: none, whoever waits goes on waiting. */
export type EvictionPolicy = (candidates: readonly EvictionCandidate[]) => string | undefined;

/** The id of the idle one that was used longest ago, paused ones first; undefined when all are busy. */
export function chooseVictim(candidates: readonly EvictionCandidate[]): string | undefined {
	const idle = candidates.filter((each) => each.isIdle);
	const [victim] = idle.sort((a, b) => Number(b.isPaused) - Number(a.isPaused) || a.lastUsedMs - b.lastUsedMs);
	return victim?.id;
}
