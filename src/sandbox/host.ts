/** What every owner of sandboxes has on the host, made in order and taken down in reverse. */
import {randomBytes} from 'node:crypto';
import path from 'node:path';
import {type CgroupHost, type CgroupKind, findHostCgroups} from '../kernel/cgroup-host.ts';
import {CgroupTree} from '../kernel/cgroup-tree.ts';
import {closeFd, nativeDirectory, pipe} from '../native.ts';
import type {Undo} from '../undo.ts';
import {CgroupPool} from './cgroup-pool.ts';
import {findIdentity, type Identity} from './identity.ts';
import {checkIsolation, describeIsolation, type Isolation} from './isolation.ts';
import {Keeper} from './keeper.ts';
import {MemoryBudget} from './memory-budget.ts';
import {StateDir} from './state-dir.ts';
import {IdAllocator, type IdSource, oneId, takeRange} from './uid-range.ts';

const mebibyte = 1024 * 1024;

/** Lives as long as its owner. */
export type SandboxHost = {
	readonly state: StateDir;
	readonly cgroupTree: CgroupTree;
	readonly cgroups: CgroupPool;
	readonly keeper: Keeper;
	readonly identity: Identity;
	readonly isolation: Isolation;
	/** Ids for launchers, as the keeper counts. */
	readonly ids: IdSource;
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
	/** Whether limits that can't be held are no error. */
	readonly bestEffort: boolean;
	/** By default what {@link findIdentity} says. */
	readonly identity?: Identity | undefined;
};

/**
 * @param undo gets what takes it down; what is pushed after it is taken down before
 * @throws {ForktreeError} `NotSupported`, `NativeMissing` or `NotPermitted`: what the machine lacks
 */
export async function openSandboxHost(options: SandboxHostOptions, undo: Undo): Promise<SandboxHost> {
	nativeDirectory();
	const host = findHostCgroups(options.groups);
	const identity = options.identity ?? identityFor(host);
	const isolation = describeIsolation(identity, host);
	if (!options.bestEffort) checkIsolation(isolation, identity, host.missing);
	const state = StateDir.open(options.stateDir);
	undo.push(() => state.close());
	const name = `forktree-${randomBytes(6).toString('hex')}`;
	state.noteGroups(host.hierarchies.map((each) => path.join(each.directory, name)));
	const cgroupTree = new CgroupTree(host, name);
	undo.push(() => cgroupTree.close());
	const cgroups = new CgroupPool(cgroupTree);
	undo.push(() => cgroups.close());
	const [liveness, livenessEnd] = pipe();
	const keeper = await Keeper.start(state.path('mnt'), identity, cgroupTree.zygotes.joins, cgroupTree.v1Freezer).catch(
		(error: unknown) => {
			closeFd(liveness);
			closeFd(livenessEnd);
			throw error;
		},
	);
	cgroupTree.zygotes.closeJoins();
	undo.push(() => keeper.close());
	const ids = takeIds(identity, undo);
	// The write end's close ends every init, and with it whatever still runs below.
	undo.push(() => {
		closeFd(livenessEnd);
		closeFd(liveness);
	});
	const launchersMb = () => cgroupTree.zygotes.memoryInUse() / mebibyte;
	const budget = new MemoryBudget(options.memoryBudgetMb, options.countsLaunchers ? launchersMb : undefined);
	return {state, cgroupTree, cgroups, keeper, identity, isolation, ids, liveness, budget};
}

/** A group of v1 takes only processes that have our own id, see cgroup1_procs_write() in kernel/cgroup/cgroup-v1.c. */
function identityFor({hierarchies}: CgroupHost): Identity {
	const identity = findIdentity();
	const mustBeOwn = identity.kind === 'subordinate' && hierarchies.some(({version}) => version === 1);
	return mustBeOwn ? {kind: 'own'} : identity;
}

function takeIds(identity: Identity, undo: Undo): IdSource {
	if (identity.kind === 'own') return oneId;
	const taken = takeRange(identity);
	undo.push(() => taken.release());
	return new IdAllocator(taken.range);
}
