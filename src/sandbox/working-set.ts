/** The pages that sandboxes of one kind write to in their first call: those who come later can have them ahead. */
import type {PageRange} from '../native.ts';
import type {Leaf} from './leaf.ts';

/** The first calls that are looked at, and then each so many: looking takes a millisecond, and what functions do changes. */
const firstLooks = 2;
const looksEach = 50;

/** Fills with what was seen. */
export class WorkingSet {
	#pages: readonly PageRange[] = [];
	#calls = 0;

	/** Whether a sandbox that has just had its first call is to be looked at. */
	noteCall(): boolean {
		this.#calls += 1;
		return this.#calls <= firstLooks || this.#calls % looksEach === 0;
	}

	/** Of a sandbox that had its own pages made when it wrote to them, none ahead. */
	async look(leaf: Leaf): Promise<void> {
		this.#pages = (await leaf.workingSet()) ?? this.#pages;
	}

	/** Gives them to one that waits. What goes wrong shows when it is used. */
	async populate(leaf: Leaf): Promise<void> {
		if (this.#pages.length > 0) await leaf.populate(this.#pages).catch(() => undefined);
	}
}
