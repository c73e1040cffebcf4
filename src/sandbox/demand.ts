/** How many spares there should be: by how often one is taken, and how long making another takes. */

/** So many starts are looked back on. */
const lookBack = 8;
/** What nobody asked for a fresh sandbox of for so long needs no spares. */
export const coolMs = 10_000;
/** Weight of the newest duration in the average. */
const weight = 0.3;

/**
 * Little's law: as many are in the making as are taken meanwhile. Twice that many are kept, since calls come in bunches, and none for
 * what was started once.
 */
export class Demand {
	readonly #startsMs: number[] = [];
	readonly #most: number;
	#makingMs: number | undefined;

	constructor(most: number) {
		this.#most = most;
	}

	/** A fresh sandbox was asked for. */
	noteStart(nowMs: number): void {
		this.#startsMs.push(nowMs);
		if (this.#startsMs.length > lookBack) this.#startsMs.shift();
	}

	/** Making one took so long. */
	noteMaking(durationMs: number): void {
		this.#makingMs = this.#makingMs === undefined ? durationMs : this.#makingMs * (1 - weight) + durationMs * weight;
	}

	wanted(nowMs: number): number {
		const recent = this.#startsMs.filter((startMs) => nowMs - startMs < coolMs);
		const [firstMs] = recent;
		if (firstMs === undefined || recent.length < 2) return 0;
		const eachMs = Math.max(0.01, nowMs - firstMs) / (recent.length - 1);
		return Math.min(this.#most, Math.max(1, Math.ceil((2 * (this.#makingMs ?? 0)) / eachMs)));
	}
}
