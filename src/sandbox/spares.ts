/** Things that were made ahead for starts of one kind and wait to be taken, as many as there is demand for. */
import {performance} from 'node:perf_hooks';
import {areProcessorsTaken} from './awaited-starts.ts';
import {coolMs, Demand} from './demand.ts';

export type SparesOptions<T> = {
	/** So many at the most. */
	readonly most: number;
	/** Takes the memory for one into account; undefined when it has no place now. */
	readonly reserve: () => (() => void) | undefined;
	/**
	 * Undefined: it could not be made, which whoever needs one then finds out by himself.
	 * @param release gives back what was reserved: when it ends, or could not be made
	 */
	readonly make: (release: () => void) => Promise<T | undefined>;
	readonly isUsable: (thing: T) => boolean;
	readonly dispose: (thing: T) => Promise<unknown>;
};

type Spare<T> = {
	readonly made: Promise<T | undefined>;
	readonly begunMs: number;
	thing: T | undefined;
	/** What making it took, once that is known. */
	makingMs: number;
};

/** Owns them until they are taken. */
export class Spares<T> {
	readonly #options: SparesOptions<T>;
	readonly #demand: Demand;
	/** Oldest first. */
	readonly #spares: Array<Spare<T>> = [];
	#cooling: NodeJS.Timeout | undefined;
	#closed = false;

	constructor(options: SparesOptions<T>) {
		this.#options = options;
		this.#demand = new Demand(options.most);
	}

	/** How many there are, those in the making included. */
	get size(): number {
		return this.#spares.length;
	}

	/** One that is ready; it is the caller's now. */
	takeReady(): T | undefined {
		for (const [index, {thing, makingMs}] of this.#spares.entries()) {
			if (thing === undefined || !this.#options.isUsable(thing)) continue;
			this.#spares.splice(index, 1);
			this.#demand.noteTaken(makingMs);
			return thing;
		}
		return undefined;
	}

	/** One that is ready or in the making, which is further than one that is begun now; it is the caller's now. */
	take(): Promise<T | undefined> | undefined {
		const ready = this.takeReady();
		if (ready !== undefined) return Promise.resolve(ready);
		const spare = this.#spares.shift();
		if (spare !== undefined) this.#demand.noteTaken(performance.now() - spare.begunMs);
		return spare?.made;
	}

	/** Somebody needs one. */
	note(): void {
		if (this.#closed || this.#options.most === 0) return;
		this.#demand.noteStart(performance.now());
		clearTimeout(this.#cooling);
		this.#cooling = setTimeout(() => this.dropAll(), coolMs).unref();
	}

	/** Makes what is wanting. To be called when a start is over. */
	refill(): void {
		const wanted = this.#closed || areProcessorsTaken() ? 0 : this.#demand.wanted(performance.now());
		while (this.#spares.length < wanted) {
			const release = this.#options.reserve();
			if (release === undefined) return;
			this.#spares.push(this.#make(release));
		}
	}

	/** Ends one; false when there is none. */
	evict(): boolean {
		const victim = this.#spares.shift();
		if (victim === undefined) return false;
		void this.#end(victim);
		return true;
	}

	dropAll(): void {
		while (this.evict());
	}

	/** Ends all, also those that are still in the making. */
	async close(): Promise<void> {
		this.#closed = true;
		clearTimeout(this.#cooling);
		await Promise.all(this.#spares.splice(0).map((spare) => this.#end(spare)));
	}

	async #end(spare: Spare<T>): Promise<void> {
		const thing = await spare.made;
		if (thing === undefined) return;
		this.#demand.noteWasted(spare.makingMs, spare.begunMs, performance.now());
		await this.#options.dispose(thing);
	}

	#make(release: () => void): Spare<T> {
		const begunMs = performance.now();
		const spare: Spare<T> = {thing: undefined, begunMs, makingMs: 0, made: this.#options.make(release)};
		void spare.made.then((thing) => {
			spare.thing = thing;
			const nowMs = performance.now();
			spare.makingMs = nowMs - begunMs;
			if (thing !== undefined) {
				this.#demand.noteMaking(spare.makingMs);
				return;
			}
			this.#demand.noteWasted(spare.makingMs, begunMs, nowMs);
			const index = this.#spares.indexOf(spare);
			if (index >= 0) this.#spares.splice(index, 1);
		});
		return spare;
	}
}
