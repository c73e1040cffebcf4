/** A list of things to undo, run in reverse; it goes on when one fails and reports every failure. */
export class Undo {
	readonly #steps: Array<() => unknown> = [];

	/** Remembers how to undo what was just done. */
	push(...steps: ReadonlyArray<() => unknown>): void {
		this.#steps.push(...steps);
	}

	/** Forgets every step: what was built now belongs to someone else. */
	release(): void {
		this.#steps.length = 0;
	}

	/**
	 * Runs the steps in reverse order, each at most once.
	 * @throws {AggregateError} after the last step, if any of them failed.
	 */
	async run(): Promise<void> {
		const failures: unknown[] = [];
		for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
			try {
				await step();
			} catch (error) {
				failures.push(error);
			}
		}
		if (failures.length > 0)
			throw new AggregateError(
				failures,
				`${failures.length} undo step(s) failed: ${failures.map(messageOf).join('; ')}`,
			);
	}
}

function messageOf(failure: unknown): string {
	return failure instanceof Error ? failure.message : String(failure);
}
