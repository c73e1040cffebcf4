/** A call's deadline and signal: whichever comes first ends what the call is waiting for. */
import {performance} from 'node:perf_hooks';
import {ForktreeError} from '../errors.ts';
import {plainError} from './answer.ts';
import type {Instance} from './instance.ts';
import type {OutcomeError} from './outcome.ts';

/** Thrown inside when a call ends before an instance could take it. */
export class CallEnded extends Error {
	readonly error: OutcomeError;
	constructor(error: OutcomeError) {
		super(error.message);
		this.error = error;
	}
}

/** Owns a timer; to be closed. */
export class CallLimit {
	readonly #endsAt: number;
	readonly #timeoutMs: number;
	readonly #timer: NodeJS.Timeout;
	readonly #signal: AbortSignal | undefined;
	readonly #onAbort = () => this.#end(plainError('Killed', 'the caller aborted'));
	#instance: Instance | undefined;
	#reject: ((error: Error) => void) | undefined;
	#ended: OutcomeError | undefined;

	constructor(timeoutMs: number, signal: AbortSignal | undefined) {
		this.#timeoutMs = timeoutMs;
		this.#endsAt = performance.now() + timeoutMs;
		this.#timer = setTimeout(() => this.#end(this.#timeout()), timeoutMs);
		this.#signal = signal;
		signal?.addEventListener('abort', this.#onAbort, {once: true});
	}

	get signal(): AbortSignal | undefined {
		return this.#signal;
	}

	get remainingMs(): number {
		return Math.max(0, this.#endsAt - performance.now());
	}

	#timeout(): OutcomeError {
		return plainError('Timeout', `the call took longer than ${this.#timeoutMs} ms (limits.timeoutMs)`);
	}

	/** @throws {ForktreeError} `Aborted` */
	checkAborted(): void {
		if (this.#signal?.aborted === true) {
			throw new ForktreeError('Aborted', 'the call was aborted', {cause: this.#signal.reason});
		}
	}

	/** From now on, an end of the limit ends the instance. */
	guard(instance: Instance): void {
		this.#instance = instance;
		if (this.#ended !== undefined) void instance.destroy(this.#ended);
	}

	/** Waits, but no longer than the limit: then a {@link CallEnded} is thrown, and what was waited for goes on. */
	async race<T>(promise: Promise<T>): Promise<T> {
		const ended = new Promise<never>((_resolve, reject) => {
			this.#reject = reject;
			if (this.#ended !== undefined) reject(new CallEnded(this.#ended));
		});
		try {
			return await Promise.race([promise, ended]);
		} catch (error) {
			this.checkAborted();
			throw error;
		} finally {
			this.#reject = undefined;
			ended.catch(() => undefined);
		}
	}

	close(): void {
		clearTimeout(this.#timer);
		this.#signal?.removeEventListener('abort', this.#onAbort);
	}

	#end(error: OutcomeError): void {
		this.#ended ??= error;
		this.#reject?.(new CallEnded(error));
		void this.#instance?.destroy(error);
	}
}
