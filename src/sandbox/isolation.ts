/** How strong the isolation is that a machine gives us, and what of what is asked it can't hold. */
import {ForktreeError} from '../errors.ts';
import type {CgroupHost, CgroupMode, Controller} from '../kernel/cgroup-host.ts';
import {type Identity, isInContainer} from './identity.ts';

/**
 * `full`: every sandbox has an id that nobody else has, and every limit is held, by root or by an ordinary user who was given
 * ids and cgroups. `rootless`: an ordinary user's own id in all of them, each alone in a user namespace, or not every limit is held.
 * `nested`: the same in a container that lets us.
 */
export type IsolationLevel = 'full' | 'rootless' | 'nested';

/** A limit that nothing holds for a sandbox as a whole; of `memoryMb` each of its processes is held to it. */
export type UnenforcedLimit = 'memoryMb' | 'swapMb' | 'cpuPercent';

/** What sandboxes of a runtime or a pool get. */
export type Isolation = {
	readonly level: IsolationLevel;
	/** Which control groups hold limits. */
	readonly cgroup: CgroupMode;
	/** Empty, unless `bestEffort` was asked for. */
	readonly notEnforced: readonly UnenforcedLimit[];
};

/** What is held by which controller. Processes are held to their number by the kernel's own limit for a user namespace, see `RLIMIT_NPROC` in getrlimit(2). */
export const heldBy: Readonly<Record<Controller, readonly UnenforcedLimit[]>> = {
	memory: ['memoryMb', 'swapMb'],
	cpu: ['cpuPercent'],
	cpuacct: [],
	pids: [],
	freezer: [],
};

/** What there is with such an identity and such cgroups. */
export function describeIsolation({kind}: Identity, {mode, missing}: Pick<CgroupHost, 'mode' | 'missing'>): Isolation {
	const notEnforced = missing.flatMap((controller) => heldBy[controller]);
	const isWhole = kind !== 'own' && notEnforced.length === 0;
	const level = kind !== 'root' && isInContainer() ? 'nested' : isWhole ? 'full' : 'rootless';
	return {level, cgroup: mode, notEnforced};
}

/** @throws {ForktreeError} `NotSupported` or `NotPermitted`: a limit can't be held, and how it could be */
export function checkIsolation({notEnforced}: Isolation, {kind}: Identity, missing: readonly Controller[]): void {
	if (notEnforced.length === 0) return;
	const controllers = missing.filter((each) => heldBy[each].length > 0).join(', ');
	const what = `expected cgroups with the controllers ${controllers}, without which nothing holds ${notEnforced.join(', ')}`;
	if (kind === 'root') {
		const fix = 'mount cgroup2 on /sys/fs/cgroup, or give the container its own cgroup namespace';
		throw new ForktreeError('NotSupported', `${what}; ${fix}`);
	}
	const fix = 'run it in a group of your own, with: systemd-run --user --scope -p Delegate=yes COMMAND';
	throw new ForktreeError('NotPermitted', `${what}; ${fix}; or do without, by bestEffort: true`);
}
