/**
 * Who may do what to the store at once, in whatever process: three kinds of flock(2) locks, which the kernel frees when
 * their process dies.
 *
 * 1. A *version's folder*, shared: by whoever needs a package that is or will be in it. Exclusively, and only if it is
 *    free at that moment: by whoever removes a package from it, for as long as a rename takes. It is not the package's
 *    own folder, since that may be replaced under those who need it (what they have mounted stays as it is).
 * 2. `locks/<hash>`, exclusive: by whoever puts the packages of an archive into the store, or replaces or reads the
 *    archive. Waited for while holding the first kind shared.
 * 3. `locks/users`, exclusive: by whoever changes `users/`, and by whoever removes packages, from before it looks there.
 *    Waited for while holding at most the first kind shared.
 *
 * Nobody waits for a lock while holding the first exclusively, or the second or the third: so nobody waits for ever.
 */
import {mkdir, rmdir} from 'node:fs/promises';
import {ForktreeError} from '../errors.ts';
import {FileLock} from '../kernel/file-lock.ts';
import {isCode} from './disk.ts';
import type {Layout, PackageId} from './layout.ts';

/** The lock is another installation's, of the same package: that may have to build it first. */
const ARCHIVE_DEADLINE_MS = 60 * 60_000;
/** Kept only while files are renamed. */
const SHORT_DEADLINE_MS = 60_000;

type Hold = {readonly lock: FileLock; count: number};

/** The locks of one store, as this process takes them. */
export class StoreLocks {
	readonly #layout: Layout;
	readonly #holds = new Map<string, Hold>();

	constructor(layout: Layout) {
		this.#layout = layout;
	}

	/**
	 * Holds the folder of a package's version, so that no process removes a package from it; makes it if `make`.
	 * @returns gives it back, once is enough; undefined when there is no such folder
	 * @throws {ForktreeError} `InstallFailed` when something else is in its place; `Aborted`, `InstallTimeout`
	 */
	async holdVersion(id: PackageId, make: boolean, signal?: AbortSignal): Promise<(() => void) | undefined> {
		const folder = this.#layout.version(id);
		for (;;) {
			try {
				const hold = this.#holds.get(folder) ?? (await this.#newHold(folder, signal));
				hold.count += 1;
				return once(() => this.#giveBack(folder, hold));
			} catch (error) {
				if (isCode(error, 'ENOTDIR', 'ELOOP')) {
					throw new ForktreeError('InstallFailed', `expected a folder at ${folder}; remove what is there`, {
						cause: error,
					});
				}
				if (!isCode(error, 'ENOENT')) throw error;
				if (!make) return undefined;
			}
			// Not recursive: that would fail when somebody who finds it empty removes it meanwhile.
			await mkdir(folder, {mode: 0o755}).catch((error: unknown) => {
				if (!isCode(error, 'EEXIST')) throw error;
			});
		}
	}

	/**
	 * Does something to a version's folder that nobody else, in whatever process, holds, and removes it when that leaves
	 * nothing in it. Answers whether it was done.
	 */
	async withFreeVersion(id: PackageId, work: () => Promise<void>): Promise<boolean> {
		const folder = this.#layout.version(id);
		let lock: FileLock | undefined;
		try {
			lock = FileLock.try(folder, 'folder', 'exclusive');
		} catch (error) {
			if (!isCode(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error;
		}
		if (lock === undefined) return false;
		try {
			await work();
			await rmdir(folder).catch((error: unknown) => {
				if (!isCode(error, 'ENOTEMPTY', 'EEXIST', 'ENOENT')) throw error;
			});
			return true;
		} finally {
			lock.release();
		}
	}

	/** Runs work while nobody else puts something of that archive into the store. */
	async withArchive<Result>(hash: string, signal: AbortSignal, work: () => Promise<Result>): Promise<Result> {
		const lock = await this.#take(hash, ARCHIVE_DEADLINE_MS, signal);
		try {
			return await work();
		} finally {
			lock.remove();
		}
	}

	/** As {@link withArchive}, if that is so already; answers whether it is. */
	async withFreeArchive(hash: string, work: () => Promise<void>): Promise<boolean> {
		const lock = FileLock.try(this.#layout.folder('locks', hash), 'file', 'exclusive');
		if (lock === undefined) return false;
		try {
			await work();
			return true;
		} finally {
			lock.remove();
		}
	}

	/** Runs work while what deployed functions need does not change, and nothing is removed. */
	async withUsers<Result>(work: () => Promise<Result>): Promise<Result> {
		const lock = await this.#take('users', SHORT_DEADLINE_MS);
		try {
			return await work();
		} finally {
			lock.release();
		}
	}

	async #take(name: string, timeoutMs: number, signal?: AbortSignal): Promise<FileLock> {
		const path = this.#layout.folder('locks', name);
		const lock = await FileLock.take(path, 'file', 'exclusive', {timeoutMs, signal});
		if (lock === undefined) throw timedOut(path, timeoutMs);
		return lock;
	}

	async #newHold(folder: string, signal: AbortSignal | undefined): Promise<Hold> {
		const options = {timeoutMs: SHORT_DEADLINE_MS, signal};
		const lock = await FileLock.take(folder, 'folder', 'shared', options);
		if (lock === undefined) throw timedOut(folder, SHORT_DEADLINE_MS);
		const other = this.#holds.get(folder);
		if (other !== undefined) {
			lock.release(); // somebody else here was first, while we waited
			return other;
		}
		const hold = {lock, count: 0};
		this.#holds.set(folder, hold);
		return hold;
	}

	#giveBack(folder: string, hold: Hold): void {
		hold.count -= 1;
		if (hold.count > 0) return;
		this.#holds.delete(folder);
		hold.lock.release();
	}
}

function timedOut(path: string, timeoutMs: number): ForktreeError {
	return new ForktreeError('InstallTimeout', `another process kept ${path} locked for ${timeoutMs / 60_000} minutes`);
}

function once(run: () => void): () => void {
	let isDone = false;
	return () => {
		if (isDone) return;
		isDone = true;
		run();
	};
}
