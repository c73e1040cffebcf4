/** When a tree is worth fitting anew: when there were many starts since the last time, and something was left to import for them. */

/** The starts of a few seconds: a fit and what it has made take about as much CPU. */
const leastStarts = 500;
const mostStarts = 64 * leastStarts;
/** What is less is not worth a node either. */
const leastMissedMs = 100;
const leastPauseMs = 10 * 60_000;

/** Counts starts. Each fit that changes nothing has the next one wait for twice as many, up to a bound. */
export class RefitSchedule {
	#wantedStarts = leastStarts;
	#starts = 0;
	#missedMs = 0;
	#lastMs = Number.NEGATIVE_INFINITY;

	/**
	 * Something was started.
	 * @param missedMs what it had still to import
	 * @returns whether it is time; then counting begins anew
	 */
	noteStart(missedMs: number, nowMs: number): boolean {
		this.#starts += 1;
		this.#missedMs += missedMs;
		if (this.#starts < this.#wantedStarts || this.#missedMs < leastMissedMs) return false;
		if (nowMs - this.#lastMs < leastPauseMs) return false;
		this.#wantedStarts = Math.min(mostStarts, 2 * this.#wantedStarts);
		this.#starts = 0;
		this.#missedMs = 0;
		this.#lastMs = nowMs;
		return true;
	}

	/** What the last fit found was another tree. */
	noteChange(): void {
		this.#wantedStarts = leastStarts;
	}
}
