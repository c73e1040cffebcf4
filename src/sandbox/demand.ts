/** How many spares there should be: by how often one is taken, how long making another takes, and how many were made in vain. */

/** So many starts are looked back on. */
const lookBack = 8;
/** What nobody asked for a fresh sandbox of for so long needs no spares. */
export const coolMs = 10_000;
/** Weight of the newest duration in the average. */
const weight = 0.3;
/** Spares are made after so many starts in a row; more and more, while they are made in vain. */
const leastRow = 2;
const mostRow = 64;
/** So many times the most that there can be at once, what became of spares is looked back on: else a busy time's last ones would count too much. */
const lookBackTimes = 4;

/**
 * Little's law: as many are in the making as are taken meanwhile. Twice that many are kept, since calls come in bunches, and none for
 * what was started once.
 *
 * Spares that nobody takes cost CPU. When making them took longer than making those that were taken, of the last ones, the next
 * are made only after twice as many starts in a row; after half as many, when they are taken again.
 */
export class Demand {
	readonly #startsMs: number[] = [];
	readonly #most: number;
	/** What remains of older spares' milliseconds with each that comes. */
	readonly #remaining: number;
	#makingMs: number | undefined;
	/** Starts of which none came {@link coolMs} after the one before. */
	#row = 0;
	#wantedRow = leastRow;
	#savedMs = 0;
	#wastedMs = 0;
	#judgedMs = Number.NEGATIVE_INFINITY;

	constructor(most: number) {
		this.#most = most;
		this.#remaining = 1 - 1 / (lookBackTimes * Math.max(1, most));
	}

	/** A fresh sandbox was asked for. */
	noteStart(nowMs: number): void {
		const lastMs = this.#startsMs.at(-1) ?? Number.NEGATIVE_INFINITY;
		this.#row = nowMs - lastMs < coolMs ? this.#row + 1 : 1;
		this.#startsMs.push(nowMs);
		if (this.#startsMs.length > lookBack) this.#startsMs.shift();
	}

	/** Making one took so long. */
	noteMaking(durationMs: number): void {
		this.#makingMs = this.#makingMs === undefined ? durationMs : this.#makingMs * (1 - weight) + durationMs * weight;
	}

	/** One was taken that it took so long to make. */
	noteTaken(makingMs: number): void {
		this.#account(makingMs, 0);
		if (this.#savedMs > this.#wastedMs) this.#wantedRow = Math.max(leastRow, this.#wantedRow / 2);
	}

	/** One that it took so long to make was not taken, or could not be made. */
	noteWasted(makingMs: number, begunMs: number, nowMs: number): void {
		if (begunMs < this.#judgedMs) return; // one more of those that were judged
		this.#account(0, makingMs);
		if (this.#wastedMs <= this.#savedMs) return;
		this.#wantedRow = Math.min(mostRow, this.#wantedRow * 2);
		this.#row = 0;
		this.#savedMs = 0;
		this.#wastedMs = 0;
		this.#judgedMs = nowMs;
	}

	#account(savedMs: number, wastedMs: number): void {
		this.#savedMs = this.#savedMs * this.#remaining + savedMs;
		this.#wastedMs = this.#wastedMs * this.#remaining + wastedMs;
	}

	wanted(nowMs: number): number {
		if (this.#row < this.#wantedRow) return 0;
		const recent = this.#startsMs.filter((startMs) => nowMs - startMs < coolMs);
		const [firstMs] = recent;
		if (firstMs === undefined || recent.length < 2) return 0;
		const eachMs = Math.max(0.01, nowMs - firstMs) / (recent.length - 1);
		return Math.min(this.#most, Math.max(1, Math.ceil((2 * (this.#makingMs ?? 0)) / eachMs)));
	}
}
