/** Bounds how much is done at once. */

/** A number of slots; work takes one, in the order of asking. */
export class Slots {
	#free: number;
	readonly #waiting = new Set<() => void>();

	constructor(count: number) {
		this.#free = count;
	}

	/**
	 * Runs work when there is a slot.
	 * @throws the signal's reason when it fires before that; else whatever the work throws
	 */
	async run<Result>(signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
		await this.#take(signal);
		try {
			return await work();
		} finally {
			this.#giveBack();
		}
	}

	#take(signal: AbortSignal): Promise<void> {
		return new Promise((resolve, reject) => {
			signal.throwIfAborted();
			if (this.#free > 0) {
				this.#free -= 1;
				resolve();
				return;
			}
			const leave = (): void => {
				this.#waiting.delete(enter);
				reject(signal.reason);
			};
			const enter = (): void => {
				signal.removeEventListener('abort', leave);
				resolve();
			};
			this.#waiting.add(enter);
			signal.addEventListener('abort', leave, {once: true});
		});
	}

	#giveBack(): void {
		const [next] = this.#waiting;
		if (next === undefined) {
			this.#free += 1;
			return;
		}
		this.#waiting.delete(next);
		next();
	}
}
