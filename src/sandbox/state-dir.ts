/** The state folder: locked by its live owner, and swept of what a dead one left. Whatever we own on the host is named in it. */
import {
	closeSync,
	existsSync,
	fstatSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmdirSync,
	rmSync,
	statSync,
	writeFileSync,
} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import {removeTree} from '../kernel/cgroup-tree.ts';
import {lockFile} from '../native.ts';
import {checkOwnFolder, makeOwnFolder, ownFolder} from './own-folder.ts';

const lockName = 'lock';
const groupsName = 'cgroups.json';
/** What a runtime fills while it lives, and needs no more after it. */
const scratchNames = ['staging', 'mnt'];
/** Unpacked archives, and those that are being unpacked. */
export const basesName = 'bases';
export const unpackingPrefix = '.unpacking-';
const killDeadlineMs = 5000;

/**
 * Takes the lock of a folder; undefined when its owner lives. The file that is locked is the one that is there.
 * @param create whether to make it: only who makes the folder does, or who removes one could not: it would not stay empty
 */
function takeLock(directory: string, {create}: {readonly create: boolean}): number | undefined {
	const file = path.join(directory, lockName);
	for (;;) {
		const fd = lockFile(file, {create});
		if (fd === undefined) return undefined;
		try {
			if (statSync(file).ino === fstatSync(fd).ino) return fd;
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
		}
		closeSync(fd); // the owner before us removed it between our opening and our locking
	}
}

function codeOf(error: unknown): string | undefined {
	return error instanceof SyscallError ? error.errnoName : (error as NodeJS.ErrnoException).code;
}

function isGone(error: unknown): boolean {
	return codeOf(error) === 'ENOENT';
}

/** As {@link takeLock}; also undefined when another process takes the new folder for an abandoned one and removes it. */
function takeNewLock(directory: string): number | undefined {
	try {
		return takeLock(directory, {create: true});
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

/** Options of {@link forceCleanup}. */
export type CleanupOptions = {
	/** One state folder, as given to `createRuntime`. By default all temporary ones of this user. */
	readonly stateDir?: string;
};

/** What {@link forceCleanup} did. */
export type CleanupReport = {
	/** Pids of processes that still ran in the cgroups of a dead owner; they were killed. */
	readonly processes: readonly number[];
	/** Cgroups that were removed, absolute; those below them are not named. */
	readonly cgroups: readonly string[];
	/** Files and folders that were removed, absolute; what a folder held is not named. */
	readonly paths: readonly string[];
	/** Temporary state folders that were left alone, because their owner lives; its pid, where it is known. */
	readonly inUse: ReadonlyArray<{readonly stateDir: string; readonly pid?: number}>;
};

/** Removes what an owner left, and remembers what that was. To be used by whoever holds the folder's lock. */
class Sweep {
	readonly processes = new Set<number>();
	readonly cgroups: string[] = [];
	readonly paths: string[] = [];

	/** All but packages, deployed code, unpacked archives and the lock. */
	clear(directory: string): void {
		const groups = notedGroups(directory);
		for (const group of groups) thaw(group);
		for (const group of groups) this.#endGroup(group);
		for (const name of [groupsName, ...scratchNames]) this.#remove(path.join(directory, name));
		const bases = path.join(directory, basesName);
		const unfinished = existsSync(bases) ? readdirSync(bases).filter((each) => each.startsWith(unpackingPrefix)) : [];
		for (const name of unfinished) this.#remove(path.join(bases, name));
	}

	/** Everything of a temporary folder, else all but packages and deployed code. The lock goes last: what has none is empty. */
	giveBack(directory: string): void {
		this.clear(directory);
		const lock = path.join(directory, lockName);
		if (path.dirname(directory) === temporaryParent()) {
			for (const name of readdirSync(directory)) {
				if (name !== lockName) rmSync(path.join(directory, name), {recursive: true});
			}
			rmSync(lock, {force: true});
			if (removeEmpty(directory)) this.paths.push(directory);
		} else {
			this.#remove(lock);
		}
	}

	/** Ends what still runs in a group and those below, and removes them. */
	#endGroup(group: string): void {
		if (!existsSync(group)) return;
		const deadline = Date.now() + killDeadlineMs;
		for (;;) {
			this.#killAll(group);
			try {
				removeTree(group);
				break;
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
			}
		}
		this.cgroups.push(group);
	}

	#killAll(group: string): void {
		let entries: string[];
		try {
			entries = readdirSync(group, {withFileTypes: true}).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
		} catch {
			return;
		}
		for (const entry of entries) this.#killAll(path.join(group, entry));
		for (const pid of readText(path.join(group, 'cgroup.procs')).split('\n').filter(Boolean).map(Number)) {
			if (pid === 0) continue; // of an outer pid namespace
			try {
				process.kill(pid, 'SIGKILL');
				this.processes.add(pid);
			} catch {
				// it has ended meanwhile
			}
		}
	}

	#remove(file: string): void {
		try {
			rmSync(file, {recursive: true});
			this.paths.push(file);
		} catch (error) {
			if (!isGone(error)) throw error;
		}
	}
}

/** False where another process has removed it, or has just begun to use it. */
function removeEmpty(directory: string): boolean {
	try {
		rmdirSync(directory);
		return true;
	} catch (error) {
		if (!['ENOENT', 'ENOTEMPTY'].includes(codeOf(error) ?? '')) throw error;
		return false;
	}
}

/** What is frozen does not end when it is killed, on v1. */
function thaw(group: string): void {
	const file = path.join(group, 'freezer.state');
	if (!existsSync(file)) return;
	const below = readdirSync(group, {withFileTypes: true}).filter((entry) => entry.isDirectory());
	for (const {name} of below) thaw(path.join(group, name));
	writeFileSync(file, 'THAWED');
}

/** Only groups that the owner noted, by its own name. */
function notedGroups(directory: string): string[] {
	const text = readText(path.join(directory, groupsName));
	const noted: unknown = text === '' ? [] : JSON.parse(text);
	const groups = Array.isArray(noted) ? noted.filter((each): each is string => typeof each === 'string') : [];
	return groups.filter((each) => path.basename(each).startsWith('forktree-'));
}

/** Whoever wrote its pid to the lock last. */
function ownerOf(directory: string): number | undefined {
	const pid = Number(readText(path.join(directory, lockName)));
	return pid > 0 ? pid : undefined;
}

function inUse(directory: string): ForktreeError {
	return new ForktreeError(
		'StateDirInUse',
		`expected a free state folder, got ${directory}, which process ${ownerOf(directory) ?? '(unknown)'} owns`,
	);
}

/** Where temporary state folders are. */
const temporaryParent = () => ownFolder();

/** Removes the temporary folders of dead owners; answers those of live ones. */
function sweepAbandoned(sweep: Sweep): string[] {
	const live: string[] = [];
	for (const name of readdirSync(temporaryParent())) {
		const directory = path.join(temporaryParent(), name);
		let lock: number | undefined;
		try {
			lock = takeLock(directory, {create: false});
			if (lock === undefined) live.push(directory);
			else sweep.giveBack(directory);
		} catch (error) {
			if (!isGone(error)) throw error;
			// It was removed to the end meanwhile, or not quite, or it is being made just now: then it is made again.
			removeEmpty(directory);
		} finally {
			if (lock !== undefined) closeSync(lock);
		}
	}
	return live;
}

/** As {@link sweepAbandoned}, of one folder. One without a lock was given back, or is no state folder: it is left alone. */
function sweepFolder(sweep: Sweep, directory: string): void {
	let lock: number | undefined;
	try {
		lock = takeLock(directory, {create: false});
	} catch (error) {
		if (isGone(error)) return;
		throw error;
	}
	if (lock === undefined) throw inUse(directory);
	try {
		sweep.giveBack(directory);
	} finally {
		closeSync(lock);
	}
}

/**
 * Removes what dead owners of state folders left: processes, cgroups, scratch folders and locks. It is what the next
 * `createRuntime` with that folder does as well. Packages and deployed functions of a folder of yours stay. An owner
 * that has ended is dead also when nobody has waited for it yet.
 * @throws {ForktreeError} `StateDirInUse` naming the pid when the owner of the given folder lives; nothing is touched then
 */
export async function forceCleanup({stateDir}: CleanupOptions = {}): Promise<CleanupReport> {
	const sweep = new Sweep();
	let live: string[] = [];
	if (stateDir !== undefined) {
		sweepFolder(sweep, path.resolve(stateDir));
	} else if (existsSync(temporaryParent())) {
		checkOwnFolder(temporaryParent());
		live = sweepAbandoned(sweep);
	}
	return {
		processes: [...sweep.processes],
		cgroups: sweep.cgroups,
		paths: sweep.paths,
		inUse: live.map((directory) => {
			const pid = ownerOf(directory);
			return {stateDir: directory, ...(pid === undefined ? {} : {pid})};
		}),
	};
}

/** A folder that this process owns until {@link close}. */
export class StateDir {
	/** Absolute. */
	readonly directory: string;
	readonly #lock: number;

	private constructor(directory: string, lock: number) {
		this.directory = directory;
		this.#lock = lock;
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
		const lock = takeLock(absolute, {create: true});
		if (lock === undefined) throw inUse(absolute);
		return StateDir.#own(absolute, lock);
	}

	static #own(directory: string, lock: number): StateDir {
		writeFileSync(lock, `${process.pid}\n`);
		const state = new StateDir(directory, lock);
		new Sweep().clear(directory);
		for (const name of scratchNames) mkdirSync(path.join(directory, name), {mode: 0o755});
		return state;
	}

	static #openTemporary(): StateDir {
		const parent = temporaryParent();
		makeOwnFolder(parent);
		sweepAbandoned(new Sweep());
		for (let attempt = 0; ; attempt += 1) {
			const directory = path.join(parent, `${process.pid}-${attempt}`);
			try {
				mkdirSync(directory, {mode: 0o755});
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code === 'EEXIST') continue;
				throw error;
			}
			const lock = takeNewLock(directory);
			if (lock !== undefined) return StateDir.#own(directory, lock);
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
		try {
			new Sweep().giveBack(this.directory);
		} finally {
			closeSync(this.#lock);
		}
	}
}
