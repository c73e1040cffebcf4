/** The instances of one function that wait for a call. */
import {performance} from 'node:perf_hooks';
import {SyscallError} from '../errors.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {Instance} from './instance.ts';
import type {Share} from './share.ts';

/** An instance, and what it has of the memory budget. */
export type Kept = {readonly instance: Instance; readonly share: Share};

/** What an instance is worth, see {@link Ageing}: how often its function was called, and what a start takes. */
export type Worth = {readonly uses: number; readonly rebuildMs: number};

type Idle = Kept & {
	readonly worth: Worth & {readonly age: number};
	readonly sinceMs: number;
	state: 'awake' | 'paused' | 'parked';
	/** When it is to be paused, or parked. */
	dueMs: number;
};

export type IdleOptions = {
	readonly ageing: Ageing;
	readonly budget: MemoryBudget;
	/** Milliseconds after which one is paused, and after twice as many parked; infinite: never. */
	readonly pauseMs: number;
	/** What each has of the budget when it is at work, in MiB. */
	readonly memoryMb: number;
};

/** Pausing or parking so many takes about a millisecond. */
const restAtOnce = 8;

/** Owns them until they are taken. The one that was used last is taken first; the one that waits longest goes first. */
export class IdleInstances {
	readonly #options: IdleOptions;
	/** In the order in which they came. */
	readonly #idle: Idle[] = [];
	#resting: NodeJS.Timeout | undefined;

	constructor(options: IdleOptions) {
		this.#options = options;
	}

	/** How many there are, and how many of them are paused, and of those parked. */
	get counts(): {idle: number; paused: number; parked: number} {
		const parked = this.#idle.filter(({state}) => state === 'parked').length;
		const paused = this.#idle.filter(({state}) => state === 'paused').length + parked;
		return {idle: this.#idle.length, paused, parked};
	}

	/** @param worth as of now */
	keep(kept: Kept, worth: Worth): void {
		const {ageing, pauseMs} = this.#options;
		const sinceMs = performance.now();
		const {age} = ageing;
		this.#idle.push({...kept, worth: {...worth, age}, sinceMs, state: 'awake', dueMs: sinceMs + pauseMs});
		this.#restLater();
	}

	/** One that can take an event at once; it is the caller's now. Undefined also when there is no room for what it has given back. */
	take(): Instance | undefined {
		const {budget} = this.#options;
		const missingMb = this.missingMb;
		if (missingMb === undefined || (missingMb > 0 && !budget.hasRoom(missingMb))) return undefined;
		return this.takeWith(missingMb, missingMb > 0 ? budget.charge(missingMb) : () => undefined);
	}

	/** What the next one lacks to be taken, in MiB; undefined: there is none. */
	get missingMb(): number | undefined {
		while (this.#idle.at(-1)?.instance.usable === false) this.#idle.pop();
		const next = this.#idle.at(-1);
		return next === undefined ? undefined : this.#options.memoryMb - next.share.megabytes;
	}

	/** The next one, with what was reserved for it. When there is none that lacks just that much, it is given back. */
	takeWith(megabytes: number, release: () => void): Instance | undefined {
		const next = this.missingMb === megabytes ? this.#idle.pop() : undefined;
		if (next === undefined) {
			release();
			return undefined;
		}
		next.share.grow(megabytes, release);
		next.instance.resume();
		return next.instance;
	}

	/** The priority of the one that would go first; undefined when there is none. */
	get evictable(): number | undefined {
		const [first] = this.#idle;
		return first === undefined ? undefined : this.#priority(first);
	}

	#priority({worth: {uses, rebuildMs, age}, share}: Idle): number {
		return this.#options.ageing.priority(uses, rebuildMs, share.megabytes, age);
	}

	/** Ends one; answers the MiB that this will give back, undefined when there is none. */
	evict(): number | undefined {
		const victim = this.#idle.shift();
		if (victim === undefined) return undefined;
		const {megabytes} = victim.share;
		this.#options.ageing.noteEvicted(this.#priority(victim));
		void victim.instance.destroy();
		return megabytes;
	}

	/** Ends those that have waited since before then. */
	evictSince(sinceMs: number): void {
		while ((this.#idle[0]?.sinceMs ?? sinceMs) < sinceMs) this.evict();
	}

	/** Ends all. */
	close(): void {
		clearTimeout(this.#resting);
		while (this.evict() !== undefined);
	}

	/** One timer for all: a warm call takes less time than setting one for each would. */
	#restLater(): void {
		if (this.#resting !== undefined || this.#options.pauseMs === Number.POSITIVE_INFINITY) return;
		const dueMs = Math.min(...this.#idle.map((idle) => idle.dueMs));
		if (dueMs === Number.POSITIVE_INFINITY) return;
		this.#resting = setTimeout(
			() => {
				this.#resting = undefined;
				this.#rest();
				this.#restLater();
			},
			Math.max(1, dueMs - performance.now()),
		).unref();
	}

	/** Few at a time: calls are not to wait until all have been. */
	#rest(): void {
		const nowMs = performance.now();
		const due = this.#idle.filter(({dueMs}) => dueMs <= nowMs);
		for (const idle of due.slice(0, restAtOnce)) rest(idle, nowMs + this.#options.pauseMs);
	}
}

/** Pauses or parks it. One with which that can't be done is ended. @param nextMs when more is to be done */
function rest(idle: Idle, nextMs: number): void {
	idle.dueMs = nextMs;
	try {
		if (idle.state === 'awake') {
			idle.state = 'paused';
			idle.instance.pause();
		} else {
			park(idle);
		}
	} catch (error) {
		if (!(error instanceof SyscallError)) throw error;
		void idle.instance.destroy();
	}
}

/** One that has not stopped yet, since something in it can't be interrupted, is looked at again. */
function park(idle: Idle): void {
	const megabytes = idle.instance.park();
	if (megabytes === undefined) return;
	idle.state = 'parked';
	idle.dueMs = Number.POSITIVE_INFINITY;
	idle.share.shrink(megabytes);
}
