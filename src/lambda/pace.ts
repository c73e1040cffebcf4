/**
 * How many instances a function is wanted to have: a call that finds all of them at work waits for one that should be free sooner than
 * another could be started, and else has another one started. Decided by the calls under way and the times measured so far.
 */

/** Weight of the newest time in an average. */
const weight = 0.3;

/** An instance at work. */
export type Work = {
	/** When it got its event, or is expected to, as `performance.now()` counts. */
	sinceMs: number;
};

function average(before: number | undefined, newest: number): number {
	return before === undefined ? newest : before * (1 - weight) + newest * weight;
}

/**
 * In how long a call can have an instance, if each of those ahead of it takes the one that is free first; told exactly only when that is
 * within `startMs`.
 * @param freeMs in how long each instance should be free
 */
function expectedMs(freeMs: readonly number[], callMs: number, ahead: number, startMs: number): number {
	const free = [...freeMs];
	for (let left = ahead; ; left -= 1) {
		const soonest = Math.min(...free);
		if (left === 0 || soonest >= startMs) return soonest;
		free[free.indexOf(soonest)] = soonest + callMs;
	}
}

/** Of one function. Times are in milliseconds. */
export class Pace {
	readonly #works = new Set<Work>();
	#callMs: number | undefined;
	#startMs: number | undefined;

	/** What a start takes; undefined before there was one. */
	get startMs(): number | undefined {
		return this.#startMs;
	}

	/** A start took so long. */
	noteStart(durationMs: number): void {
		this.#startMs = average(this.#startMs, durationMs);
	}

	/** An instance gets an event now. */
	begin(nowMs: number): Work {
		const work = {sinceMs: nowMs};
		this.#works.add(work);
		return work;
	}

	/** One is started, and gets its event then. */
	beginStart(nowMs: number): Work {
		return this.begin(nowMs + (this.#startMs ?? 0));
	}

	/** It can take the next event. */
	end(work: Work, nowMs: number): void {
		if (this.#works.delete(work)) this.#callMs = average(this.#callMs, nowMs - work.sinceMs);
	}

	/** It never got its event, so that the time it took says nothing. */
	abandon(work: Work): void {
		this.#works.delete(work);
	}

	/**
	 * How long a call should wait for an instance at work, before another one is started after all: as long as that takes; 0: start it now.
	 * @param ahead so many calls wait for one already
	 */
	patienceMs(ahead: number, nowMs: number): number {
		const [callMs, startMs] = [this.#callMs, this.#startMs];
		if (callMs === undefined || startMs === undefined) return 0;
		// One that takes longer than usual is expected to take as long again as it is late.
		const freeMs = [...this.#works].map(({sinceMs}) => Math.abs(sinceMs + callMs - nowMs));
		return expectedMs(freeMs, callMs, ahead, startMs) < startMs ? startMs : 0;
	}
}
