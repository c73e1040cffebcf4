/** Which uids and gids belong to whom: a range a runtime, a slice a zygote, an id a sandbox; none is used twice at once. */
import {mkdirSync} from 'node:fs';
import path from 'node:path';
import {ForktreeError} from '../errors.ts';
import {closeFd, lockFile} from '../native.ts';
import type {Identity} from './identity.ts';
import {makeOwnFolder, ownFolder} from './own-folder.ts';

/** `count` ids from `start` on. */
export type IdRange = {readonly start: number; readonly count: number};

/**
 * Host ids from 0x70000000 to 0x7fffffff: above what useradd, newuidmap (from 100000) and systemd-nspawn (up to
 * 0x6fffffff, see systemd's UIDS-GIDS document) hand out, below 2^31.
 */
const firstId = 0x7000_0000;
const slotSize = 2 ** 22;
const slots = 64;
const lockDirectory = '/run/forktree';
/** How many runtimes of one ordinary user may share what was given to them. */
const givenSlots = 4;

/** Where ids for launchers come from. */
export type IdSource = {
	/** @throws {RangeError} when no free stretch is that long */
	take(count: number): IdRange;
	release(slice: IdRange): void;
	/** How many there are, taken or not; 1: always the same. */
	readonly size: number;
};

/** All have the one id that there is: what is made with it keeps its sandboxes apart by a user namespace for each. */
export const oneId: IdSource = {
	size: 1,
	take: () => ({start: 0, count: 1}),
	release: () => undefined,
};

/** A runtime's ids, held by a file lock that the kernel drops with our process. */
export class HostIdRange {
	readonly range: IdRange;
	readonly #lock: number;

	private constructor(range: IdRange, lock: number) {
		this.range = range;
		this.#lock = lock;
	}

	/** For root. @throws {ForktreeError} `NotSupported` when every range is in use. */
	static take(): HostIdRange {
		mkdirSync(lockDirectory, {recursive: true, mode: 0o755});
		return HostIdRange.#takeSlot(lockDirectory, slots, {start: firstId, count: slots * slotSize});
	}

	/**
	 * Of those that an ordinary user was given, as the keeper counts: from 1 on.
	 * @throws {ForktreeError} `NotSupported` when every range is in use; `NotPermitted` when others can take our locks
	 */
	static takeGiven(count: number): HostIdRange {
		const directory = ownFolder('-ids');
		makeOwnFolder(directory);
		return HostIdRange.#takeSlot(directory, givenSlots, {start: 1, count});
	}

	static #takeSlot(directory: string, most: number, all: IdRange): HostIdRange {
		const count = Math.floor(all.count / most);
		for (let slot = 0; slot < most; slot += 1) {
			const lock = lockFile(path.join(directory, `ids-${slot}.lock`));
			if (lock !== undefined) return new HostIdRange({start: all.start + slot * count, count}, lock);
		}
		throw new ForktreeError('NotSupported', `expected at most ${most} runtimes on one machine at a time`);
	}

	release(): void {
		closeFd(this.#lock);
	}
}

/** Ids for one runtime, by whoever it is. @throws {ForktreeError} `NotSupported` when every range is in use */
export function takeRange(identity: Exclude<Identity, {kind: 'own'}>): HostIdRange {
	if (identity.kind === 'root') return HostIdRange.take();
	return HostIdRange.takeGiven(Math.min(identity.uids.count, identity.gids.count));
}

/** Hands out disjoint slices of a range, lowest first. */
export class IdAllocator implements IdSource {
	readonly #range: IdRange;
	/** Taken slices, ordered by start. */
	readonly #taken: IdRange[] = [];
	#free: number;

	constructor(range: IdRange) {
		this.#range = range;
		this.#free = range.count;
	}

	get size(): number {
		return this.#range.count;
	}

	/** How many are not taken, in one stretch or several. */
	get free(): number {
		return this.#free;
	}

	/** @throws {RangeError} when no free stretch is that long. */
	take(count: number): IdRange {
		let start = this.#range.start;
		let index = 0;
		for (; index < this.#taken.length; index += 1) {
			const next = this.#taken[index] as IdRange;
			if (next.start - start >= count) break;
			start = next.start + next.count;
		}
		if (start + count > this.#range.start + this.#range.count) throw new RangeError(`expected ${count} free ids`);
		const slice = {start, count};
		this.#taken.splice(index, 0, slice);
		this.#free -= count;
		return slice;
	}

	release(slice: IdRange): void {
		const index = this.#taken.indexOf(slice);
		if (index < 0) return;
		this.#taken.splice(index, 1);
		this.#free += slice.count;
	}
}
