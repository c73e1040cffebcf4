/** Where the sandboxes of one node are forked: its zygote, a second one while forks queue, and children that were forked ahead. */
import {availableParallelism} from 'node:os';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {ForkQueue} from './fork-queue.ts';
import {makeNodeSpares, type NodeSpare, type NodeSpares, type NodeSparesOptions} from './node-spares.ts';
import type {Zygote} from './zygote.ts';

/** What a zygote has ahead of a fresh interpreter. */
export type Origin = {
	/** Packages that it has imported, as `name==version`. */
	readonly preloaded: readonly string[];
	/** Whether it is for one function alone, whose module it has loaded. */
	readonly isLoaded: boolean;
};

/** A place to fork from, and the packages if they have still to be attached in the leaf. */
export type ForkPlace = {
	readonly zygote: Zygote;
	readonly packages: LockedFolder | undefined;
	readonly origin: Origin;
	/** A child of it that was forked ahead, if there is one; whoever takes it hands it over, at once. */
	readonly takeSpare: () => NodeSpare | undefined;
	/** Makes what the next starts need. To be called when a start is over. */
	readonly refill: () => void;
	/** Nothing is forked from there any more for this start: to be called once, in any case. */
	readonly leave: () => void;
};

export type ForkPointOptions = NodeSparesOptions & {
	readonly origin: Origin;
	/** Forks a process like it from the zygote; undefined when it can't be. */
	readonly makeSecond: (zygote: Zygote) => Promise<Zygote | undefined>;
};

/** Owns both zygotes and the spares of the first. */
export class ForkPoint {
	readonly zygote: Zygote;
	readonly #spares: NodeSpares;
	readonly #queue = new ForkQueue();
	readonly #options: ForkPointOptions;
	#second: Zygote | undefined;
	/** `failed`: until it is calm again, it would fail again. */
	#secondIs: 'none' | 'making' | 'there' | 'failed' = 'none';
	#usedMs = performance.now();
	#closed = false;

	constructor(zygote: Zygote, options: ForkPointOptions) {
		this.zygote = zygote;
		this.#spares = makeNodeSpares(zygote, options);
		this.#options = options;
	}

	/** Whether it has no ids for another sandbox. */
	get isFull(): boolean {
		return this.zygote.isFull && this.#second?.isFull !== false;
	}

	/** For one start. */
	place(packages: LockedFolder | undefined): Omit<ForkPlace, 'leave'> {
		this.#usedMs = performance.now();
		const zygote = this.#pick();
		return {
			zygote,
			packages,
			origin: this.#options.origin,
			takeSpare: () => {
				this.#spares.note();
				// One in the making is no help: it rehearses, which takes longer than a fork.
				const taken = this.#spares.takeReady();
				taken?.release();
				return taken;
			},
			refill: () => {
				zygote.refill();
				this.#spares.refill();
				if (this.#queue.isBusy) void this.#addSecond();
			},
		};
	}

	/** The one that has fewer forks to do. */
	#pick(): Zygote {
		const {zygote} = this;
		const second = this.#second ?? zygote;
		const isSecond = zygote.isFull || (second.forking < zygote.forking && !second.isFull);
		const chosen = isSecond ? second : zygote;
		this.#queue.note(chosen.forking, performance.now());
		return chosen;
	}

	async #addSecond(): Promise<void> {
		if (this.#secondIs !== 'none' || availableParallelism() === 1 || this.#closed) return;
		this.#secondIs = 'making';
		const second = await this.#options.makeSecond(this.zygote).catch(() => undefined);
		this.#queue.reset();
		if (second === undefined || this.#closed) {
			second?.release();
			this.#secondIs = 'failed';
			return;
		}
		this.#second = second;
		this.#secondIs = 'there';
		void second.gone.then(() => {
			if (this.#second === second) this.#dropSecond();
		});
	}

	#dropSecond(): void {
		this.#second?.release();
		this.#second = undefined;
		this.#secondIs = 'none';
	}

	get origin(): Origin {
		return this.#options.origin;
	}

	/** Both, or the one that there is. */
	get zygotes(): Zygote[] {
		return this.#second === undefined ? [this.zygote] : [this.zygote, this.#second];
	}

	/** Ends one spare; false when there is none. */
	evictSpare(): boolean {
		return this.#spares.evict();
	}

	/**
	 * Lets a second process go that nothing waits for any more, and pauses what was not used for so long.
	 * @param nowMs as `performance.now()` counts
	 */
	calmDown(nowMs: number, pauseAfterMs: number): void {
		if (this.#secondIs !== 'making' && this.#queue.isCalm(nowMs)) this.#dropSecond();
		if (nowMs - this.#usedMs > pauseAfterMs) for (const each of this.zygotes) each.pauseIfIdle();
	}

	/** Lets its zygotes end. The sandboxes forked from them live on. */
	release(): void {
		this.#closed = true;
		this.zygote.release();
		this.#dropSecond();
		void this.#spares.close();
	}

	/** Kills its zygotes, and its spares with them. */
	async kill(): Promise<void> {
		this.#closed = true;
		for (const each of this.zygotes) each.kill();
		await this.#spares.close(); // afterwards: one in the making need not be waited for
	}
}
