/** What every owner of sandboxes has on the host, made in order and taken down in reverse. */
import {randomBytes} from 'node:crypto';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError} from '../errors.ts';
import {type CgroupKind, findHostCgroups} from '../kernel/cgroup-host.ts';
import {CgroupTree} from '../kernel/cgroup-tree.ts';
import {closeFd, nativeDirectory, pipe} from '../native.ts';
import type {Undo} from '../undo.ts';
import {CgroupPool} from './cgroup-pool.ts';
import {Keeper} from './keeper.ts';
import {MemoryBudget} from './memory-budget.ts';
import {StateDir} from './state-dir.ts';
import {HostIdRange, type IdRange} from './uid-range.ts';

const mebibyte = 1024 * 1024;

/** Lives as long as its owner. */
export type SandboxHost = {
	readonly state: StateDir;
	readonly cgroupTree: CgroupTree;
	readonly cgroups: CgroupPool;
	readonly keeper: Keeper;
	/** Host ids to hand out. */
	readonly ids: IdRange;
	/** Read end of the pipe whose end of file ends every guest. */
	readonly liveness: number;
	readonly budget: MemoryBudget;
};

/** How it is made. */
export type SandboxHostOptions = {
	/** By default a temporary folder. */
	readonly stateDir: string | undefined;
	readonly memoryBudgetMb: number;
	readonly groups: CgroupKind;
	/** Whether what launchers use, and what those that ended have left to their sandboxes, counts in the budget. */
	readonly countsLaunchers: boolean;
};

/**
 * Checks what can be before anything is made.
 * @throws {ForktreeError} `NotSupported`, `NativeMissing` or `NotPermitted`
 */
export function checkHost(): void {
	nativeDirectory();
	if (process.geteuid?.() !== 0) {
		throw new ForktreeError('NotPermitted', 'expected to run as root (sandboxes need CAP_SYS_ADMIN); run it with sudo');
	}
}

/** @param undo gets what takes it down; what is pushed after it is taken down before */
export async function openSandboxHost(options: SandboxHostOptions, undo: Undo): Promise<SandboxHost> {
	const state = StateDir.open(options.stateDir);
	undo.push(() => state.close());
	const host = findHostCgroups(options.groups);
	const name = `forktree-${randomBytes(6).toString('hex')}`;
	state.noteGroups(host.hierarchies.map((each) => path.join(each.directory, name)));
	const cgroupTree = new CgroupTree(host, name);
	undo.push(() => cgroupTree.close());
	const cgroups = new CgroupPool(cgroupTree);
	undo.push(() => cgroups.close());
	const [liveness, livenessEnd] = pipe();
	const keeper = await Keeper.start(state.path('mnt'), cgroupTree.zygotes.joins, cgroupTree.v1Freezer).catch(
		(error: unknown) => {
			closeFd(liveness);
			closeFd(livenessEnd);
			throw error;
		},
	);
	cgroupTree.zygotes.closeJoins();
	undo.push(() => keeper.close());
	const ids = HostIdRange.take();
	undo.push(() => ids.release());
	// The write end's close ends every init, and with it whatever still runs below.
	undo.push(() => {
		closeFd(livenessEnd);
		closeFd(liveness);
	});
	const launchersMb = () => cgroupTree.zygotes.memoryInUse() / mebibyte;
	const budget = new MemoryBudget(options.memoryBudgetMb, options.countsLaunchers ? launchersMb : undefined);
	return {state, cgroupTree, cgroups, keeper, ids: ids.range, liveness, budget};
}
