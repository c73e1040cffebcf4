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
	/** Ends its wait for what is missing. */
	#leave: AbortController | undefined;
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

	/** @throws {ForktreeError} `BudgetExceeded` after the deadline, `Aborted`; {RangeError} for more than the whole budget */
	static async take(
		budget: MemoryBudget,
		megabytes: number,
		waitMs: number,
		makeRoom: (missingMb: number) => void,
		signal?: AbortSignal,
	): Promise<Reserved> {
		const release = await budget.reserve(megabytes, waitMs, makeRoom, signal);
		return new Reserved(budget, megabytes, waitMs, makeRoom, release);
	}

	/** Keeps just that much. */
	shrink(megabytes: number): void {
		if (this.#released || megabytes >= this.megabytes) return;
		this.#replace([this.#budget.charge(megabytes)]);
		this.#missingMb = this.megabytes - megabytes;
	}

	/** Takes all of it again, in turn; nothing when it was released. @throws {ForktreeError} `BudgetExceeded` after the deadline */
	async grow(): Promise<void> {
		if (this.#missingMb === 0 || this.#released) return;
		this.#leave = new AbortController();
		let release: () => void;
		try {
			release = await this.#budget.reserve(this.#missingMb, this.#waitMs, this.#makeRoom, this.#leave.signal);
		} catch (error) {
			if (this.#released) return;
			throw error;
		}
		if (this.#released) return release();
		this.#held.push(release);
		this.#missingMb = 0;
	}

	/** Gives everything back; calling it again does nothing. */
	release(): void {
		this.#released = true;
		this.#leave?.abort();
		this.#replace([]);
	}

	#replace(held: Array<() => void>): void {
		const before = this.#held;
		this.#held = held;
		for (const release of before) release();
	}
}
