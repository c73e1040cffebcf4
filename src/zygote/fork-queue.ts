/** Whether forks of one node wait for each other: a process forks one child at a time. */

/** Weight of the newest look in the average. */
const weight = 0.1;
/** So many forks on average before each one: then a second process is worth its memory. */
const busy = 1;
/** When no fork has waited for so long, one process does. */
const calmMs = 10_000;

/** Told of each fork that is asked for. */
export class ForkQueue {
	#average = 0;
	#waitedMs = Number.NEGATIVE_INFINITY;

	/** @param ahead forks that the process has still to do before this one */
	note(ahead: number, nowMs: number): void {
		this.#average += (ahead - this.#average) * weight;
		if (ahead > 0) this.#waitedMs = nowMs;
	}

	/** Each fork waits for another one, on average. */
	get isBusy(): boolean {
		return this.#average > busy;
	}

	/** None has waited of late. */
	isCalm(nowMs: number): boolean {
		return nowMs - this.#waitedMs > calmMs;
	}

	/** What was seen with one process says nothing of two. */
	reset(): void {
		this.#average = 0;
	}
}
