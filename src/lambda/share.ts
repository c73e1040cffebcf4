/** What one instance has of the memory budget: its limit, or no more than it uses while it is parked. */
import type {MemoryBudget} from '../sandbox/memory-budget.ts';

/** Owns what was reserved. */
export class Share {
	readonly #budget: MemoryBudget;
	#megabytes: number;
	#release: () => void;

	/** @param release gives back what was reserved */
	constructor(budget: MemoryBudget, megabytes: number, release: () => void) {
		this.#budget = budget;
		this.#megabytes = megabytes;
		this.#release = release;
	}

	get megabytes(): number {
		return this.#megabytes;
	}

	/** Keeps just that much. */
	shrink(megabytes: number): void {
		if (megabytes >= this.#megabytes) return;
		const before = this.#release;
		this.#release = this.#budget.charge(megabytes);
		this.#megabytes = megabytes;
		before();
	}

	/** Has that much more, which was reserved for it. */
	grow(megabytes: number, release: () => void): void {
		const before = this.#release;
		this.#megabytes += megabytes;
		this.#release = () => {
			before();
			release();
		};
	}

	/** Gives everything back; calling it again does nothing. */
	release(): void {
		this.#megabytes = 0;
		this.#release();
	}
}
