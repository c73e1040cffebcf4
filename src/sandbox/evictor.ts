/** Which sandbox to end when there is no room for another: a decision, without effects. */

/** A sandbox as the evictor sees it. */
export type Candidate = {
	readonly id: string;
	/** Nothing runs in it. */
	readonly isIdle: boolean;
	readonly isPaused: boolean;
	/** When something last ran in it. */
	readonly lastUsedMs: number;
};

/** The id of the idle one that was used longest ago, paused ones first; undefined when all are busy. */
export function chooseVictim(candidates: readonly Candidate[]): string | undefined {
	const idle = candidates.filter((each) => each.isIdle);
	const [victim] = idle.sort((a, b) => Number(b.isPaused) - Number(a.isPaused) || a.lastUsedMs - b.lastUsedMs);
	return victim?.id;
}
