/** Removes what a store no longer needs, now and then, for as long as somebody has it open. */
import {ForktreeError} from '../errors.ts';
import type {GarbageReport} from './garbage.ts';

export type CollectorOptions = {
	readonly everyMs: number;
	readonly collect: () => Promise<GarbageReport>;
	readonly onCollected: (report: GarbageReport) => void;
	readonly onFailed: (error: ForktreeError) => void;
};

/** Collects from when it is made until it is closed. It keeps no process alive. */
export class Collector {
	readonly #options: CollectorOptions;
	#timer: NodeJS.Timeout | undefined;
	#isClosed = false;

	constructor(options: CollectorOptions) {
		this.#options = options;
		this.#wait();
	}

	/** Nothing is begun or told any more; what is under way belongs to who closes the store. */
	close(): void {
		this.#isClosed = true;
		clearTimeout(this.#timer);
	}

	/** From the end of one to the beginning of the next, so that they never overlap. */
	#wait(): void {
		this.#timer = setTimeout(() => void this.#run(), this.#options.everyMs).unref();
	}

	async #run(): Promise<void> {
		const {collect, onCollected, onFailed} = this.#options;
		const told = await collect().then(
			(report) => () => onCollected(report),
			(error: unknown) => () => onFailed(asOurs(error)),
		);
		if (this.#isClosed) return;
		this.#wait();
		told();
	}
}

function asOurs(error: unknown): ForktreeError {
	if (error instanceof ForktreeError) return error;
	return new ForktreeError('InstallFailed', `could not remove packages: ${(error as Error).message}`, {cause: error});
}
