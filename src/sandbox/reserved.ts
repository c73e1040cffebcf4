/** A sandbox's share of the memory budget, smaller while it is paused. */
import type {MemoryBudget} from './memory-budget.ts';

/** Owns what it has reserved. */
export class Reserved {
	readonly #budget: MemoryBudget;
	readonly #waitMs: number;
	readonly #makeRoom: (missingMb: number) => void;
	/** What was given back while it is paused. */
	#missingMb = 0;
	#held: Array<() => void>;
	#released = false;
	/** How much it has when it is not paused. */
	readonly megabytes: number;

	private constructor(
		budget: MemoryBudget,
		megabytes: number,
		waitMs: number,
		makeRoom: (missingMb: number) => void,
		release: () => void,
	) {
		this.#budget = budget;
		this.megabytes = megabytes;
		this.#waitMs = waitMs;
		this.#makeRoom = makeRoom;
		this.#held = [release];
	}

	/** @throws {ForktreeError} `BudgetExceeded` after the deadline; {RangeError} for more than the whole budget */
	static async take(
		budget: MemoryBudget,
		megabytes: number,
		waitMs: number,
		makeRoom: (missingMb: number) => void,
	): Promise<Reserved> {
		return new Reserved(budget, megabytes, waitMs, makeRoom, await budget.reserve(megabytes, waitMs, makeRoom));
	}

	/** Keeps just that much. */
	shrink(megabytes: number): void {
		if (this.#released || megabytes >= this.megabytes) return;
		this.#replace([this.#budget.charge(megabytes)]);
		this.#missingMb = this.megabytes - megabytes;
	}

	/** Takes all of it again, in turn. @throws {ForktreeError} `BudgetExceeded` after the deadline */
	async grow(): Promise<void> {
		if (this.#missingMb === 0) return;
		const release = await this.#budget.reserve(this.#missingMb, this.#waitMs, this.#makeRoom);
		if (this.#released) release();
		else this.#held.push(release);
		this.#missingMb = 0;
	}

	/** Gives everything back; calling it again does nothing. */
	release(): void {
		this.#released = true;
		this.#replace([]);
	}

	#replace(held: Array<() => void>): void {
		const before = this.#held;
		this.#held = held;
		for (const release of before) release();
	}
}
