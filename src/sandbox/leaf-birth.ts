/** What a leaf gets, and how its birth is waited for. */
import {constants} from 'node:os';
import process from 'node:process';
import {SyscallError} from '../errors.ts';
import type {Cgroup} from '../kernel/cgroup.ts';
import {closeFd} from '../native.ts';
import type {Birth} from './launch-protocol.ts';
import type {Leaf} from './leaf.ts';
import type {LockedFolder} from './mounts.ts';
import type {LeafNetwork} from './network/sandbox-network.ts';
import {scratchOptions} from './scratch.ts';

/** A folder and where a leaf sees it; of what is not there no mount is made. */
export type LeafMount = {readonly folder: LockedFolder; readonly target: string};

/** What a leaf gets. */
export type LeafSpec = {
	readonly mounts: readonly LeafMount[];
	readonly takeCgroup: () => Cgroup | Promise<Cgroup>;
	/** Its uid and gid, as the launcher counts; undefined: one of its own. */
	readonly uid: number | undefined;
	/** Size of its /tmp, in MiB; undefined: it has none that is writable. */
	readonly scratchMb: number | undefined;
	readonly hostname: string;
	/** Working folder. */
	readonly folder: string;
	readonly openFiles: number;
	/** Whether it gets a network namespace of its own, with loopback; else it has its launcher's. */
	readonly ownNetwork: boolean;
	/** What it may reach; undefined: nothing beyond its network namespace. */
	readonly network: LeafNetwork | undefined;
	/** Whether the strict seccomp filter is installed. */
	readonly filter: boolean;
	/** Whether it gets the folder /tmp/work; needs a /tmp. */
	readonly workFolder: boolean;
	/** What of it can be written besides /tmp; where the kernel has Landlock, nothing else can by that rule either. */
	readonly writable: 'none' | 'mounts' | 'root';
	/** Whether nothing that it writes can be executed: neither in its /tmp nor in memory. */
	readonly noNewExecutables: boolean;
	/** The largest frame accepted from it, in bytes. */
	readonly maxFrame: number;
	/** Called with the leaf before it is forked: what it is sent now, it finds when it looks. */
	readonly greet: (leaf: Leaf) => void;
};

/** Milliseconds of a leaf's start. */
export type ForkTimings = {
	/** Cgroup, sockets and mounts on the host. */
	readonly prepareMs: number;
	/** From asking the launcher to the child's first moment; of a spare: until it takes what it is handed. */
	readonly forkMs: number;
	/** Its set-up, until the filter is installed. */
	readonly isolateMs: number;
	/** When it was set up, as `performance.now()` counts. */
	readonly bornAtMs: number;
};

/** A leaf that was asked for. */
export type LeafBirth = {
	/** From now on its owner destroys it. */
	readonly leaf: Leaf;
	/**
	 * Waits for its birth; of a leaf that was not born everything is given back.
	 * @throws {ForktreeError} `ZygoteFailed`; {SyscallError} when a step of its set-up failed
	 */
	born(): Promise<ForkTimings>;
};

/** A leaf whose birth is to be told. */
export type ExpectedLeaf = {readonly leaf: Leaf; readonly birth: Birth | undefined};

/** What to add to `performance.now()` for CLOCK_MONOTONIC, in milliseconds: the one of a few that nothing came between. */
const monotonicOffsetMs = Math.max(
	...Array.from({length: 8}, () => Number(process.hrtime.bigint()) / 1e6 - performance.now()),
);

/** Waits for a birth; of what was not born everything is given back. */
export async function waitForBirth(expected: ExpectedLeaf, startedMs: number, askedMs: number): Promise<ForkTimings> {
	const {leaf} = expected;
	try {
		await leaf.birth;
		const firstMs = (expected.birth?.beganMs ?? 0) - monotonicOffsetMs;
		const bornAtMs = (expected.birth?.endedMs ?? 0) - monotonicOffsetMs;
		return {prepareMs: askedMs - startedMs, forkMs: firstMs - askedMs, isolateMs: bornAtMs - firstMs, bornAtMs};
	} catch (error) {
		const {oomKills} = await leaf.destroy();
		if (oomKills === 0) throw error;
		const hint = 'its memory limit is too small (limits.memoryMb)';
		throw new SyscallError('set up the sandbox', -constants.errno.ENOMEM, 'ENOMEM', undefined, hint);
	}
}

/** Clones of the folders that a leaf attaches, in order; the caller closes them. */
export async function takeMounts(wanted: readonly LeafMount[]): Promise<number[]> {
	const mounts: number[] = [];
	try {
		for (const {folder} of wanted) mounts.push(await folder.take());
		return mounts;
	} catch (error) {
		for (const fd of mounts) closeFd(fd);
		throw error;
	}
}

/** Mount options of a /tmp of that size, if there is to be one. */
export function encodeScratch(scratchMb: number | undefined): string | undefined {
	return scratchMb === undefined ? undefined : scratchOptions(scratchMb, '1777');
}
