/** Accepts a sandbox's connections from the sockets that its set-up has left for the host, no faster than it may make them. */

import {constants} from 'node:os';
import {closeFd, isListener, type NativeEndpoint, watch} from '../../native.ts';

/** Of what the machine has for a moment too few. */
const passing: ReadonlySet<number> = new Set(
	[constants.errno.EMFILE, constants.errno.ENFILE, constants.errno.ENOBUFS, constants.errno.ENOMEM].map(
		(errno) => -errno,
	),
);
const passingMs = 100;

export type AcceptorOptions = {
	/** Connections in a second; so many at once when there were none before. */
	readonly perSecond: number;
	/** Takes each over. */
	readonly serve: (fd: number) => void;
};

/** Owns the listening sockets. */
export class Acceptor {
	readonly #options: AcceptorOptions;
	readonly #listeners = new Set<NativeEndpoint>();
	#allowance: number;
	#countedMs = performance.now();
	#resting: NodeJS.Timeout | undefined;

	/** @param fds which it takes over; they come from a sandbox: what is no listening socket is closed */
	constructor(fds: readonly number[], options: AcceptorOptions) {
		this.#options = options;
		this.#allowance = options.perSecond;
		for (const fd of fds) {
			if (isListener(fd)) this.#listen(fd);
			else closeFd(fd);
		}
	}

	close(): void {
		clearTimeout(this.#resting);
		for (const listener of this.#listeners) listener.close();
		this.#listeners.clear();
	}

	#listen(fd: number): void {
		const listener = watch(fd, 'listener', (event, data) => {
			if (event === 0) this.#take(data as number);
			else if (passing.has(data as number)) this.#rest(passingMs);
			else {
				listener.close();
				this.#listeners.delete(listener);
			}
		});
		this.#listeners.add(listener);
	}

	#take(fd: number): void {
		const {perSecond, serve} = this.#options;
		const nowMs = performance.now();
		this.#allowance = Math.min(perSecond, this.#allowance + ((nowMs - this.#countedMs) / 1000) * perSecond) - 1;
		this.#countedMs = nowMs;
		if (this.#allowance < 1) this.#rest(((1 - this.#allowance) / perSecond) * 1000);
		serve(fd);
	}

	/** Whoever connects meanwhile waits in the kernel's queue. */
	#rest(ms: number): void {
		if (this.#resting !== undefined) return;
		for (const listener of this.#listeners) listener.pause();
		this.#resting = setTimeout(() => {
			this.#resting = undefined;
			for (const listener of this.#listeners) listener.resume();
		}, ms);
	}
}
