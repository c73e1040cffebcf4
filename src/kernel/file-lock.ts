/** Locks on files and folders that the kernel frees when their process dies: flock(2), waited for away from Node's threads. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {closeSync, constants, fstatSync, lstatSync, openSync, rmSync} from 'node:fs';
import {ForktreeError} from '../errors.ts';
import {flock} from '../native.ts';

/** Several may hold a lock shared, or one exclusively; each open file counts, also within a process. */
export type LockKind = 'shared' | 'exclusive';

/** How long to wait for a lock. */
export type WaitOptions = {
	readonly signal?: AbortSignal | undefined;
	readonly timeoutMs: number;
};

const TIMED_OUT = 75;
const openFlags = {
	file: constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
	folder: constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
};

/** A lock that is held. */
export class FileLock {
	readonly #path: string;
	readonly #fd: number;
	#held = true;

	private constructor(path: string, fd: number) {
		this.#path = path;
		this.#fd = fd;
	}

	/**
	 * Takes the lock of what is at a path, if nobody else has it.
	 * @param what a `file` is made when missing (0600); a `folder` must be there
	 * @throws Node's own error when it can't be opened; a link is not followed
	 */
	static try(path: string, what: 'file' | 'folder', kind: LockKind): FileLock | undefined {
		for (;;) {
			const fd = openSync(path, openFlags[what], 0o600);
			let isOurs = false;
			try {
				if (!flock(fd, kind)) return undefined;
				isOurs = isAt(path, fd); // else somebody removed it between our opening and our locking
				if (isOurs) return new FileLock(path, fd);
			} finally {
				if (!isOurs) closeSync(fd);
			}
		}
	}

	/**
	 * As {@link try}, waiting for the others; undefined when they keep it until the deadline.
	 * @throws {ForktreeError} `Aborted`; `NotSupported` where there is no `flock` of util-linux to wait with
	 */
	static async take(
		path: string,
		what: 'file' | 'folder',
		kind: LockKind,
		{signal, timeoutMs}: WaitOptions,
	): Promise<FileLock | undefined> {
		const deadline = performance.now() + timeoutMs;
		for (;;) {
			const fd = openSync(path, openFlags[what], 0o600);
			let isOurs = false;
			try {
				const hasLock = flock(fd, kind) || (await waitFor(fd, path, kind, deadline, signal));
				if (!hasLock) return undefined;
				isOurs = isAt(path, fd); // else it was removed while we waited
				if (isOurs) return new FileLock(path, fd);
			} finally {
				if (!isOurs) closeSync(fd);
			}
		}
	}

	/** Removes the file of an exclusive lock, and gives it back: those who wait for it make a new one. */
	remove(): void {
		if (this.#held) rmSync(this.#path, {force: true});
		this.release();
	}

	/** Gives it back; once is enough. */
	release(): void {
		if (!this.#held) return;
		this.#held = false;
		closeSync(this.#fd);
	}
}

/** Whether a path still leads to what was opened by it. */
function isAt(path: string, fd: number): boolean {
	const there = lstatSync(path, {throwIfNoEntry: false});
	const open = fstatSync(fd);
	return there?.ino === open.ino && there.dev === open.dev;
}

/**
 * A lock belongs to the open file, not to who asked for it: so a child that shares it can wait in the kernel, where a
 * thread of Node's pool would be missing elsewhere, and be killed, which a thread could not be. It outlives us by no
 * more than the deadline, and holds nothing then. Answers whether the lock was taken before the deadline.
 */
async function waitFor(
	fd: number,
	path: string,
	kind: LockKind,
	deadline: number,
	signal: AbortSignal | undefined,
): Promise<boolean> {
	if (signal?.aborted) throw aborted(path, signal);
	const seconds = (Math.max(deadline - performance.now(), 1) / 1000).toFixed(3);
	const args = [`--${kind}`, '--timeout', seconds, '--conflict-exit-code', String(TIMED_OUT), '0'];
	const child = spawn('flock', args, {stdio: [fd, 'ignore', 'ignore']});
	const kill = (): void => void child.kill('SIGKILL');
	signal?.addEventListener('abort', kill, {once: true});
	try {
		const [code] = (await once(child, 'exit')) as [number | null];
		if (code === 0) return true;
		if (code === TIMED_OUT) return false;
		if (code === null && signal?.aborted) throw aborted(path, signal);
		throw new Error(`it ended with ${code ?? child.signalCode}`);
	} catch (error) {
		if (error instanceof ForktreeError) throw error;
		throw new ForktreeError('NotSupported', 'expected flock of util-linux on PATH, to wait for a lock', {cause: error});
	} finally {
		signal?.removeEventListener('abort', kill);
	}
}

function aborted(path: string, signal: AbortSignal): ForktreeError {
	return new ForktreeError('Aborted', `waiting for the lock of ${path} was aborted`, {cause: signal.reason});
}
