/** Things made ahead, a few of each kind that was asked for lately: making one takes time that a start need not wait for. */

/** How many of a kind wait ready, of how many kinds, and what becomes of those that nobody takes. */
export type StockOptions<T> = {
	readonly each: number;
	readonly kinds: number;
	readonly dispose: (thing: T) => unknown;
};

/** Things of one kind. */
type Shelf<T> = {readonly things: T[]; making: number};

/** Owns what waits. */
export class Stock<T> {
	readonly #options: StockOptions<T>;
	/** By kind; the one that was filled longest ago first. */
	readonly #shelves = new Map<string, Shelf<T>>();
	/** What is being made or disposed of, or could not be disposed of. */
	readonly #under = new Set<Promise<unknown>>();
	#closed = false;

	constructor(options: StockOptions<T>) {
		this.#options = options;
	}

	/** How many wait. */
	get size(): number {
		let size = 0;
		for (const {things} of this.#shelves.values()) size += things.length;
		return size;
	}

	/** One of that kind, which is the caller's now, if one waits. */
	take(kind: string): T | undefined {
		return this.#shelves.get(kind)?.things.pop();
	}

	/** Makes what is missing of a kind. To be called when a start is over. What can't be made, the next start tries again. */
	refill(kind: string, make: () => Promise<T>): void {
		const {each, kinds} = this.#options;
		if (this.#closed || each === 0) return;
		const shelf = this.#shelves.get(kind) ?? {things: [], making: 0};
		this.#shelves.delete(kind);
		this.#shelves.set(kind, shelf);
		while (shelf.things.length + shelf.making < each) this.#make(kind, shelf, make);
		for (const oldest of this.#shelves.keys()) {
			if (this.#shelves.size <= kinds) return;
			this.#drop(oldest);
		}
	}

	/** Disposes of those whose kind is meant. */
	drop(isMeant: (kind: string) => boolean): void {
		for (const kind of this.#shelves.keys()) if (isMeant(kind)) this.#drop(kind);
	}

	async close(): Promise<void> {
		this.#closed = true;
		this.drop(() => true);
		await Promise.all(this.#under);
	}

	#make(kind: string, shelf: Shelf<T>, make: () => Promise<T>): void {
		shelf.making += 1;
		this.#await(
			make().then(
				(thing) => {
					shelf.making -= 1;
					if (this.#shelves.get(kind) === shelf) shelf.things.push(thing);
					else return this.#options.dispose(thing);
				},
				() => {
					shelf.making -= 1;
				},
			),
		);
	}

	#drop(kind: string): void {
		const shelf = this.#shelves.get(kind);
		this.#shelves.delete(kind);
		for (const thing of shelf?.things.splice(0) ?? []) this.#await(this.#dispose(thing));
	}

	async #dispose(thing: T): Promise<void> {
		await this.#options.dispose(thing);
	}

	/** Waited for by {@link close}, which tells what went wrong. */
	#await(work: Promise<unknown>): void {
		this.#under.add(work);
		work.then(
			() => this.#under.delete(work),
			() => undefined,
		);
	}
}
