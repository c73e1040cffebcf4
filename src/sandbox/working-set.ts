/** What memory sandboxes of one kind use in their first call: those who come later can have its page faults ahead. */
import type {WorkingSet} from '../native.ts';
import type {Leaf} from './leaf.ts';

/** The first calls that are looked at, and then each so many: looking takes a millisecond, and what functions do changes. */
const firstLooks = 2;
const looksEach = 50;

/** Of a zygote, or of a function. */
export class SharedWorkingSet {
	#seen: WorkingSet | undefined;
	#calls = 0;

	/** Whether a sandbox that has just had its first call is to be looked at. */
	noteCall(): boolean {
		this.#calls += 1;
		return this.#calls <= firstLooks || this.#calls % looksEach === 0;
	}

	/** Of a sandbox that had nothing ahead. */
	async look(leaf: Leaf): Promise<void> {
		this.#seen = (await leaf.workingSet()) ?? this.#seen;
	}

	/** Of one that waits. What goes wrong shows when it is used. */
	async populate(leaf: Leaf): Promise<void> {
		if (this.#seen !== undefined) await leaf.populate(this.#seen).catch(() => undefined);
	}
}
