/** What memory sandboxes of one kind use in their first call: those who come later can have its page faults ahead. */
import {ForktreeError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import type {WorkingSet} from '../native.ts';
import type {Leaf} from './leaf.ts';
import {Trial} from './trial.ts';

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
	readonly #trial = new Trial();
	/** Those that wait for a call, and whether they have this ahead. */
	readonly #waiting = new WeakMap<Leaf, boolean>();
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

	/** Of one that waits; as long as that pays. @throws {ForktreeError} when it does not do so; then it is no use */
	async populate(leaf: Leaf): Promise<void> {
		if (this.#seen === undefined) return;
		const isPrepared = this.#trial.choose();
		this.#waiting.set(leaf, isPrepared);
		if (!isPrepared) return;
		const late = () => new ForktreeError('ZygoteFailed', 'a leaf did not populate its pages');
		const {ms} = await withDeadline(leaf.populate(this.#seen), populateDeadlineMs, late);
		this.#trial.noteCost(ms); // its own word, with which it fools nobody but itself
	}

	/** One that waited has had its first call, which took so long. */
	noteFirstCall(leaf: Leaf, durationMs: number): void {
		const isPrepared = this.#waiting.get(leaf);
		if (isPrepared !== undefined) this.#trial.noteCall(isPrepared, durationMs);
		this.#waiting.delete(leaf);
	}

	/** One that waited is to end without a call. */
	noteUnused(leaf: Leaf): void {
		if (this.#waiting.delete(leaf)) this.#trial.noteUnused();
	}
}
