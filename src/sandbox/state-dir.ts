/** The state folder: locked by its live owner, and swept of what a dead one left. Whatever we own on the host is named in it. */
import {
	closeSync,
	fstatSync,
	lstatSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	unlinkSync,
	writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import {removeTree} from '../kernel/cgroup.ts';
import {lockFile} from '../native.ts';

const lockName = 'lock';
const groupsName = 'cgroups.json';
const killDeadlineMs = 5000;

/** Takes the lock of a folder; undefined when its owner lives. The file that is locked is the one that is there. */
function takeLock(directory: string): number | undefined {
	const file = path.join(directory, lockName);
	for (;;) {
		const fd = lockFile(file);
		if (fd === undefined) return undefined;
		try {
			if (statSync(file).ino === fstatSync(fd).ino) return fd;
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
		}
		closeSync(fd); // the owner before us removed it between our opening and our locking
	}
}

function isGone(error: unknown): boolean {
	return (error instanceof SyscallError ? error.errnoName : (error as NodeJS.ErrnoException).code) === 'ENOENT';
}

/** As {@link takeLock}; also undefined when another process takes the new folder for an abandoned one and removes it. */
function takeNewLock(directory: string): number | undefined {
	try {
		return takeLock(directory);
	} catch (error) {
		if (isGone(error)) return undefined;
		throw error;
	}
}

function readText(file: string): string {
	try {
		return readFileSync(file, 'utf8');
	} catch {
		return '';
	}
}

/** A folder that this process owns until {@link close}. */
export class StateDir {
	/** Absolute. */
	readonly directory: string;
	readonly #lock: number;
	readonly #temporary: boolean;

	private constructor(directory: string, lock: number, temporary: boolean) {
		this.directory = directory;
		this.#lock = lock;
		this.#temporary = temporary;
	}

	/**
	 * Opens (and makes) a state folder.
	 * @param directory by default a temporary one, which {@link close} removes
	 * @throws {ForktreeError} `StateDirInUse` naming the owner's pid.
	 */
	static open(directory?: string): StateDir {
		if (directory === undefined) return StateDir.#openTemporary();
		const absolute = path.resolve(directory);
		mkdirSync(absolute, {recursive: true, mode: 0o755});
		const lock = takeLock(absolute);
		if (lock === undefined) {
			const owner = readText(path.join(absolute, lockName)).trim();
			throw new ForktreeError(
				'StateDirInUse',
				`expected a free state folder, got ${absolute}, which process ${owner || '(unknown)'} owns`,
			);
		}
		return StateDir.#own(absolute, lock, false);
	}

	static #own(directory: string, lock: number, temporary: boolean): StateDir {
		writeFileSync(lock, `${process.pid}\n`);
		const state = new StateDir(directory, lock, temporary);
		sweepGroups(directory);
		for (const name of ['staging', 'mnt']) {
			rmSync(path.join(directory, name), {recursive: true, force: true});
			mkdirSync(path.join(directory, name), {mode: 0o755});
		}
		return state;
	}

	static #openTemporary(): StateDir {
		const parent = path.join(tmpdir(), `forktree-${process.getuid?.() ?? 0}`);
		mkdirSync(parent, {recursive: true, mode: 0o700});
		const status = lstatSync(parent);
		if (!status.isDirectory() || status.uid !== process.getuid?.() || (status.mode & 0o022) !== 0) {
			throw new ForktreeError('NotPermitted', `expected ${parent} to be a folder that only we can write to; remove it`);
		}
		sweepAbandoned(parent);
		for (let attempt = 0; ; attempt += 1) {
			const directory = path.join(parent, `${process.pid}-${attempt}`);
			try {
				mkdirSync(directory, {mode: 0o755});
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code === 'EEXIST') continue;
				throw error;
			}
			const lock = takeNewLock(directory);
			if (lock !== undefined) return StateDir.#own(directory, lock, true);
		}
	}

	path(...parts: readonly string[]): string {
		return path.join(this.directory, ...parts);
	}

	/** Notes the cgroups that the next owner removes if we can't. To be called before they are made. */
	noteGroups(directories: readonly string[]): void {
		writeFileSync(this.path(groupsName), JSON.stringify(directories));
	}

	/** Gives the folder back: everything of a temporary one, else all but packages and deployed code. */
	close(): void {
		for (const name of [groupsName, 'staging', 'mnt']) rmSync(this.path(name), {recursive: true, force: true});
		if (this.#temporary) rmSync(this.directory, {recursive: true, force: true});
		else unlinkSync(this.path(lockName));
		closeSync(this.#lock);
	}
}

/** Removes the temporary folders of dead owners. */
function sweepAbandoned(parent: string): void {
	for (const name of readdirSync(parent)) {
		const directory = path.join(parent, name);
		let lock: number | undefined;
		try {
			lock = takeLock(directory);
			if (lock === undefined) continue;
			sweepGroups(directory);
			rmSync(directory, {recursive: true, force: true});
		} catch (error) {
			// Another process sweeps as well, or it is being made just now.
			if (!isGone(error) && (error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
		} finally {
			if (lock !== undefined) closeSync(lock);
		}
	}
}

/** Ends what still runs in a dead owner's groups, and removes them. Only groups that the owner noted, by its own name. */
function sweepGroups(directory: string): void {
	const text = readText(path.join(directory, groupsName));
	if (text === '') return;
	const noted: unknown = JSON.parse(text);
	const groups = Array.isArray(noted) ? noted.filter((each): each is string => typeof each === 'string') : [];
	const deadline = Date.now() + killDeadlineMs;
	for (const group of groups.filter((each) => path.basename(each).startsWith('forktree-'))) {
		for (;;) {
			killAll(group);
			try {
				removeTree(group);
				break;
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
			}
		}
	}
	rmSync(path.join(directory, groupsName), {force: true});
}

function killAll(group: string): void {
	let entries: string[];
	try {
		entries = readdirSync(group, {withFileTypes: true}).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
	} catch {
		return;
	}
	for (const entry of entries) killAll(path.join(group, entry));
	for (const pid of readText(path.join(group, 'cgroup.procs')).split('\n').filter(Boolean)) {
		if (Number(pid) === 0) continue; // of an outer pid namespace
		try {
			process.kill(Number(pid), 'SIGKILL');
		} catch {
			// it has ended meanwhile
		}
	}
}
