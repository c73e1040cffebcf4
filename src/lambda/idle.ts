/** The instances of one function that wait for a call. */
import {performance} from 'node:perf_hooks';
import {SyscallError} from '../errors.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {Instance} from './instance.ts';

type Idle = {readonly instance: Instance; readonly sinceMs: number; readonly priority: number; isPaused: boolean};

/** Owns them until they are taken. The one that was used last is taken first; the one that waits longest goes first. */
export class IdleInstances {
	readonly #ageing: Ageing;
	readonly #pauseMs: number;
	/** In the order in which they came. Those that are paused come before all others. */
	readonly #idle: Idle[] = [];
	#pausing: NodeJS.Timeout | undefined;

	/** @param pauseMs after which they are paused; infinite: never */
	constructor(ageing: Ageing, pauseMs: number) {
		this.#ageing = ageing;
		this.#pauseMs = pauseMs;
	}

	get size(): number {
		return this.#idle.length;
	}

	/** How many of them are paused. */
	get paused(): number {
		return this.#idle.filter(({isPaused}) => isPaused).length;
	}

	/** @param priority see {@link Ageing} */
	keep(instance: Instance, priority: number): void {
		this.#idle.push({instance, sinceMs: performance.now(), priority, isPaused: false});
		this.#pauseLater();
	}

	/** One that can take an event at once; it is the caller's now. */
	take(): Instance | undefined {
		for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
			if (!idle.instance.usable) continue;
			idle.instance.resume();
			return idle.instance;
		}
		return undefined;
	}

	/** The priority of the one that would go first; undefined when there is none. */
	get evictable(): number | undefined {
		return this.#idle[0]?.priority;
	}

	/** Ends one; false when there is none. */
	evict(): boolean {
		const victim = this.#idle.shift();
		if (victim === undefined) return false;
		this.#ageing.noteEvicted(victim.priority);
		void victim.instance.destroy();
		return true;
	}

	/** Ends those that have waited since before then. */
	evictSince(sinceMs: number): void {
		while ((this.#idle[0]?.sinceMs ?? sinceMs) < sinceMs) this.evict();
	}

	/** Ends all. */
	close(): void {
		clearTimeout(this.#pausing);
		while (this.evict());
	}

	/** One timer for all: a warm call takes less time than setting one for each would. */
	#pauseLater(): void {
		if (this.#pausing !== undefined || this.#pauseMs === Number.POSITIVE_INFINITY) return;
		const next = this.#idle.find(({isPaused}) => !isPaused);
		if (next === undefined) return;
		const leftMs = next.sinceMs + this.#pauseMs - performance.now();
		this.#pausing = setTimeout(
			() => {
				this.#pausing = undefined;
				this.#pauseDue();
				this.#pauseLater();
			},
			Math.max(1, leftMs),
		).unref();
	}

	#pauseDue(): void {
		const dueMs = performance.now() - this.#pauseMs;
		for (const idle of this.#idle) {
			if (idle.sinceMs > dueMs) return;
			if (!idle.isPaused) pause(idle);
		}
	}
}

/** One that can't be stopped is ended. */
function pause(idle: Idle): void {
	idle.isPaused = true;
	try {
		idle.instance.pause();
	} catch (error) {
		if (!(error instanceof SyscallError)) throw error;
		void idle.instance.destroy();
	}
}
