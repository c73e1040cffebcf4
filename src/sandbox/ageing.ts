/** Which of the things that could be made again is to go first when memory is short. */

/**
 * Greedy-dual-size-frequency (Cherkasova, HPL-98-69R1): what goes first is what takes the fewest milliseconds to make again, for each MiB
 * that it frees and counted as often as it was used. What has not been used for long falls behind, since whatever is used
 * later begins with the priority of what went last. One for all that share a budget.
 */
export class Ageing {
	#age = 0;

	/** What is used now is as old as this. */
	get age(): number {
		return this.#age;
	}

	/** To be asked for anew at each use. @param age when it was used, for something whose size has changed since */
	priority(uses: number, rebuildMs: number, mebibytes: number, age = this.#age): number {
		return age + (uses * rebuildMs) / Math.max(1, mebibytes);
	}

	/** Something with that priority went. */
	noteEvicted(priority: number): void {
		this.#age = Math.max(this.#age, priority);
	}
}
