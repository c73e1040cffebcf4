/** The chunks of a generator as an async iterator. */
import type {JsonValue, Outcome} from './outcome.ts';

type Chunk = JsonValue | Uint8Array;
type OnChunk = (chunk: Chunk) => Promise<void>;

/** Chunks as they come; while any is held the handler waits. Those that arrived together are held together. */
export class ChunkStream implements AsyncIterable<Chunk> {
	/** What became of the call; rejects as `invoke` does. */
	readonly outcome: Promise<Outcome>;
	readonly #abort = new AbortController();
	readonly #offers: Array<{readonly chunk: Chunk; taken(): void}> = [];
	#wake: (() => void) | undefined;
	#done = false;

	/** @param run makes the call */
	constructor(signal: AbortSignal | undefined, run: (onChunk: OnChunk, signal: AbortSignal) => Promise<Outcome>) {
		const both = signal === undefined ? this.#abort.signal : AbortSignal.any([signal, this.#abort.signal]);
		this.outcome = run(async (chunk) => this.#put(chunk), both).finally(() => {
			this.#done = true;
			this.#wake?.();
		});
		this.outcome.catch(() => undefined); // who does not look at it is not told twice
	}

	async *[Symbol.asyncIterator](): AsyncGenerator<Chunk, void, void> {
		try {
			for (;;) {
				const offer = this.#offers.shift();
				if (offer !== undefined) {
					yield offer.chunk;
					offer.taken();
				} else if (this.#done) {
					return;
				} else {
					await new Promise<void>((resolve) => {
						this.#wake = resolve;
					});
				}
			}
		} finally {
			if (!this.#done) this.#abort.abort();
		}
	}

	async #put(chunk: Chunk): Promise<void> {
		await new Promise<void>((resolve) => {
			this.#offers.push({chunk, taken: resolve});
			this.#wake?.();
		});
	}
}
