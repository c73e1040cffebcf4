/** What all that is done for something may ask for, without being handed it. */
import {AsyncLocalStorage} from 'node:async_hooks';

/** A value for all that work does, also later. Costs nothing while no work is done: as long as a storage is enabled, Node follows every promise of the process. */
export class Scope<Value> {
	readonly #storage = new AsyncLocalStorage<Value>();
	#running = 0;

	/** Undefined outside of any work. */
	get value(): Value | undefined {
		return this.#storage.getStore();
	}

	async run<Result>(value: Value, work: () => Promise<Result>): Promise<Result> {
		this.#running += 1;
		try {
			return await this.#storage.run(value, work);
		} finally {
			this.#running -= 1;
			if (this.#running === 0) this.#storage.disable();
		}
	}
}
