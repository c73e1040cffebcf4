/** Whether it pays to prepare what is made ahead for its first call: now and then one goes without, and is compared. */

/** Each so many-th is done the other way, once there is something to compare it with. */
const otherEach = 8;
/** So many of the last ones of each kind are compared; while there are fewer than these, preparing is taken to pay. */
const lookBack = 9;
const least = 3;
/** A millisecond that a call is spared is worth so many that are spent while nobody waits. */
const worth = 4;

/** Milliseconds that the first call took, and took what prepared it, and how many ever got one. */
export class Trial {
	readonly #preparedMs: number[] = [];
	readonly #plainMs: number[] = [];
	readonly #costsMs: number[] = [];
	readonly #wereUsed: boolean[] = [];
	#count = 0;

	/** Whether the next one is to be prepared. */
	choose(): boolean {
		this.#count += 1;
		const isOther = this.#count % otherEach === 0 && this.#preparedMs.length >= least;
		return this.pays !== isOther;
	}

	/**
	 * Whether what calls are spared is worth what is spent: on a machine whose pages are costly to copy that is about twice as much.
	 */
	get pays(): boolean {
		if (this.#preparedMs.length < least || this.#plainMs.length < least) return true;
		const savedMs = median(this.#plainMs) - median(this.#preparedMs);
		const share = this.#wereUsed.filter(Boolean).length / this.#wereUsed.length;
		return median(this.#costsMs) <= worth * savedMs * share;
	}

	/** One was prepared, which took so long. */
	noteCost(durationMs: number): void {
		keep(this.#costsMs, durationMs);
	}

	/** One had its first call, which took so long. */
	noteCall(isPrepared: boolean, durationMs: number): void {
		keep(isPrepared ? this.#preparedMs : this.#plainMs, durationMs);
		keep(this.#wereUsed, true);
	}

	/** One ended before it was called. */
	noteUnused(): void {
		keep(this.#wereUsed, false);
	}
}

function keep<T>(list: T[], value: T): void {
	list.push(value);
	if (list.length > lookBack) list.shift();
}

/** The lower one of an even number. */
function median(values: readonly number[]): number {
	return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? 0;
}
