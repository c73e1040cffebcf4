/** A process by its pidfd: it can be signalled and its end awaited, and never mistaken for another. */
import {readFileSync} from 'node:fs';
import {constants} from 'node:os';
import {closeFd, exitStatus, type NativeEndpoint, reapChild, signalProcess, watch} from '../native.ts';

/** How a process ended: by itself with a code, by a signal, or not known. */
export type ProcessEnd =
	| {readonly type: 'exited'; readonly code: number}
	| {readonly type: 'killed'; readonly signal: string}
	| {readonly type: 'unknown'};

/** Reads a wait status, see wait(2). */
export function readWaitStatus(status: number | undefined): ProcessEnd {
	if (status === undefined) return {type: 'unknown'};
	const signal = status & 0x7f;
	if (signal === 0) return {type: 'exited', code: (status >> 8) & 0xff};
	const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
	return {type: 'killed', signal: name ?? `signal ${signal}`};
}

/** Owns a pidfd until {@link Process.close}. */
export class Process {
	readonly #pidfd: number;
	#isOpen = true;
	#watcher: NativeEndpoint | undefined;
	#ended: Promise<void> | undefined;

	constructor(pidfd: number) {
		this.#pidfd = pidfd;
	}

	/**
	 * Settles once the process has ended (it may not have been reaped yet). Watched from when it is first asked for.
	 * @throws {SyscallError} when the fd can't be watched: then it was none of a process.
	 */
	get ended(): Promise<void> {
		this.#ended ??= new Promise((resolve) => {
			if (this.#isOpen) this.#watcher = watch(this.#pidfd, 'pidfd', () => resolve());
		});
		return this.#ended;
	}

	/** Sends a signal; false when the process has ended already. */
	signal(name: NodeJS.Signals): boolean {
		return this.#isOpen && signalProcess(this.#pidfd, constants.signals[name]);
	}

	/** How it ended, if the kernel still tells (Linux 6.15+, once it was reaped). */
	end(): ProcessEnd {
		return readWaitStatus(this.#isOpen ? exitStatus(this.#pidfd) : undefined);
	}

	/** Its pid in the host's namespace; undefined once it was reaped. */
	pid(): number | undefined {
		if (!this.#isOpen) return undefined;
		const info = readFileSync(`/proc/self/fdinfo/${this.#pidfd}`, 'latin1');
		const pid = Number(/^Pid:\s*(-?\d+)$/m.exec(info)?.[1]);
		return pid > 0 ? pid : undefined;
	}

	/** Collects it, when it is a child of ours that has ended. */
	reap(): void {
		if (this.#isOpen) reapChild(this.#pidfd);
	}

	/** Lets go of the pidfd. */
	close(): void {
		if (!this.#isOpen) return;
		this.#isOpen = false;
		if (this.#watcher === undefined) closeFd(this.#pidfd);
		else this.#watcher.close();
	}
}

/** True also when its process was reaped already. */
function isPidfd(fd: number): boolean {
	return /^Pid:/m.test(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
}

/** Opens a received pidfd; undefined, and the fd closed, when it is none. */
export function openProcess(pidfd: number): Process | undefined {
	if (!signalProcess(pidfd, 0) && !isPidfd(pidfd)) {
		closeFd(pidfd);
		return undefined;
	}
	return new Process(pidfd);
}
