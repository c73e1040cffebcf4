/** Lets concurrent callers share one piece of work, which is aborted only when none of them wants it any more. */
import {ForktreeError} from '../errors.ts';

type Job<Result> = {readonly controller: AbortController; readonly result: Promise<Result>; waiters: number};

/** Jobs by key. Nothing is remembered of a job that has ended. */
export class SharedJobs<Result> {
	readonly #jobs = new Map<string, Job<Result>>();

	/**
	 * Joins the job of that key, or starts it. The last caller to abort waits until the job has cleaned up.
	 * @throws {ForktreeError} `Aborted` when the caller's signal fires; otherwise whatever the job throws.
	 */
	async run(key: string, start: (signal: AbortSignal) => Promise<Result>, signal?: AbortSignal): Promise<Result> {
		if (signal?.aborted === true) throw aborted(signal);
		const job = this.#jobs.get(key) ?? this.#start(key, start);
		job.waiters += 1;
		return signal === undefined ? job.result : this.#wait(key, job, signal);
	}

	#wait(key: string, job: Job<Result>, signal: AbortSignal): Promise<Result> {
		return new Promise((resolve, reject) => {
			const leave = (): void => {
				job.waiters -= 1;
				if (job.waiters > 0) {
					reject(aborted(signal));
					return;
				}
				// Forgotten at once, so that a later caller does not join a job that is going down.
				this.#forget(key, job);
				job.controller.abort(signal.reason);
			};
			signal.addEventListener('abort', leave, {once: true});
			const settle = (end: () => void): void => {
				signal.removeEventListener('abort', leave);
				end();
			};
			job.result.then(
				(result) => settle(() => resolve(result)),
				(error: unknown) => settle(() => reject(signal.aborted ? aborted(signal, error) : error)),
			);
		});
	}

	#start(key: string, start: (signal: AbortSignal) => Promise<Result>): Job<Result> {
		const controller = new AbortController();
		const job: Job<Result> = {
			controller,
			result: start(controller.signal).finally(() => this.#forget(key, job)),
			waiters: 0,
		};
		this.#jobs.set(key, job);
		return job;
	}

	#forget(key: string, job: Job<Result>): void {
		if (this.#jobs.get(key) === job) this.#jobs.delete(key);
	}
}

function aborted(signal: AbortSignal, cause: unknown = signal.reason): ForktreeError {
	return new ForktreeError('Aborted', 'the installation was aborted', {cause});
}
