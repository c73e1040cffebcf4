/** What memory sandboxes of one kind use in their first call: those who come later can have its page faults ahead. */
import {ForktreeError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import type {WorkingSet} from '../native.ts';
import type {Leaf} from './leaf.ts';

/** The first calls that are looked at, and then each so many: looking takes a millisecond, and what functions do changes. */
const firstLooks = 2;
const looksEach = 50;
const populateDeadlineMs = 10_000;

/**
 * Of one function, or of what a zygote's own code does in its spares. Never of several functions: what one says that it uses would
 * be memory that another one is charged for.
 */
export class SharedWorkingSet {
	#seen: WorkingSet | undefined;
	#calls = 0;

	/** Whether there is something to have ahead. */
	get isKnown(): boolean {
		return this.#seen !== undefined;
	}

	/** Whether a sandbox that has just had its first call is to be looked at. */
	noteCall(): boolean {
		this.#calls += 1;
		return this.#calls <= firstLooks || this.#calls % looksEach === 0;
	}

	/** Of a sandbox that did not have this ahead. */
	async look(leaf: Leaf): Promise<void> {
		this.#seen = (await leaf.workingSet()) ?? this.#seen;
	}

	/** Of one that waits. @throws {ForktreeError} when it does not do so; then it is no use */
	async populate(leaf: Leaf): Promise<void> {
		if (this.#seen === undefined) return;
		const late = () => new ForktreeError('ZygoteFailed', 'a leaf did not populate its pages');
		await withDeadline(leaf.populate(this.#seen), populateDeadlineMs, late);
	}
}
