/** Megabytes shared by all sandboxes: reserved before a start, given back after the end, waited for in fair order. */
import {ForktreeError} from '../errors.ts';

type Waiter = {readonly megabytes: number; resolve(): void};

/** A counter with a queue. The sum of what was reserved and released returns to zero. */
export class MemoryBudget {
	readonly totalMb: number;
	readonly #waiters: Waiter[] = [];
	readonly #readBesides: () => number;
	#reservedMb = 0;

	/** @param besidesMb what is in use besides that which is reserved, asked for at each decision; its changes are told by {@link recheck} */
	constructor(totalMb: number, besidesMb: () => number = () => 0) {
		this.totalMb = totalMb;
		this.#readBesides = besidesMb;
	}

	/** Whether somebody waits: then nothing should be kept idle. */
	get isShort(): boolean {
		return this.#waiters.length > 0;
	}

	/** How many wait for their turn. */
	get waiting(): number {
		return this.#waiters.length;
	}

	/** In use besides what is reserved. */
	get besidesMb(): number {
		return this.#readBesides();
	}

	/** What must be freed for all that wait. */
	get missingMb(): number {
		const waitingMb = this.#waiters.reduce((sum, {megabytes}) => sum + megabytes, 0);
		return Math.max(0, this.#reservedMb + this.besidesMb + waitingMb - this.totalMb);
	}

	/** What is in use besides may have become less: whoever can be served now is. */
	recheck(): void {
		this.#serve();
	}

	/** Whether that much could be had at once. */
	hasRoom(megabytes: number): boolean {
		return this.#waiters.length === 0 && this.#fits(megabytes);
	}

	/** Takes what is in use already, even beyond the budget; the result gives it back. */
	charge(megabytes: number): () => void {
		this.#reservedMb += megabytes;
		return this.#releaseOnce(megabytes);
	}

	get reservedMb(): number {
		return this.#reservedMb;
	}

	/**
	 * Waits until there is room, first come first served.
	 * @param makeRoom called with the missing megabytes when there is no room; frees what is idle, if it can
	 * @returns gives the megabytes back; calling it again does nothing
	 * @throws {RangeError} for more than the whole budget; {ForktreeError} `BudgetExceeded` after the deadline, or `Aborted`.
	 */
	async reserve(
		megabytes: number,
		deadlineMs: number,
		makeRoom: (missingMb: number) => void,
		signal?: AbortSignal,
	): Promise<() => void> {
		if (megabytes > this.totalMb) {
			throw new RangeError(`expected a memory limit of at most memoryBudgetMb (${this.totalMb}), got ${megabytes}`);
		}
		if (this.#waiters.length > 0 || !this.#fits(megabytes)) await this.#wait(megabytes, deadlineMs, makeRoom, signal);
		else this.#reservedMb += megabytes;
		return this.#releaseOnce(megabytes);
	}

	#releaseOnce(megabytes: number): () => void {
		let held = true;
		return () => {
			if (!held) return;
			held = false;
			this.#reservedMb -= megabytes;
			this.#serve();
		};
	}

	#fits(megabytes: number): boolean {
		return this.#reservedMb + this.besidesMb + megabytes <= this.totalMb;
	}

	async #wait(
		megabytes: number,
		deadlineMs: number,
		makeRoom: (missingMb: number) => void,
		signal: AbortSignal | undefined,
	): Promise<void> {
		let timer: NodeJS.Timeout | undefined;
		let onAbort = () => {};
		try {
			await new Promise<void>((resolve, reject) => {
				const waiter = {megabytes, resolve};
				this.#waiters.push(waiter);
				const leave = (error: ForktreeError) => {
					const index = this.#waiters.indexOf(waiter);
					if (index < 0) return; // its turn came in the same moment
					this.#waiters.splice(index, 1);
					this.#serve();
					reject(error);
				};
				timer = setTimeout(() => {
					leave(
						new ForktreeError(
							'BudgetExceeded',
							`${megabytes} MiB of the budget of ${this.totalMb} MiB did not become free within ${deadlineMs} ms`,
						),
					);
				}, deadlineMs);
				onAbort = () => leave(new ForktreeError('Aborted', 'the call was aborted', {cause: signal?.reason}));
				signal?.addEventListener('abort', onAbort, {once: true});
				makeRoom(this.#reservedMb + megabytes - this.totalMb);
			});
		} finally {
			clearTimeout(timer);
			signal?.removeEventListener('abort', onAbort);
		}
	}

	#serve(): void {
		for (let next = this.#waiters[0]; next !== undefined && this.#fits(next.megabytes); next = this.#waiters[0]) {
			this.#waiters.shift();
			this.#reservedMb += next.megabytes;
			next.resolve();
		}
	}
}
