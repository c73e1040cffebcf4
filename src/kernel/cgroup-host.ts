/**
 * Which control groups a host offers, whether it has v1, v2 or both (hybrid).
 * Each controller is looked for once. On v1 and hybrid hosts the v2 tree is not used: moving a process there waits for
 * an RCU grace period, while a v1 `tasks` file that the process itself writes to does not.
 */
import {accessSync, constants, existsSync, readFileSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import {type Mount, parseMountinfo} from './mountinfo.ts';

const limiting = ['memory', 'pids', 'cpu'] as const;
/** On v1 these have hierarchies of their own; every v2 group can freeze and counts its time. */
const managing = ['freezer', 'cpuacct'] as const;
/** What sandboxes are limited, frozen and counted by. */
export type Controller = (typeof limiting)[number] | (typeof managing)[number];

/** What groups do besides limiting: nothing; they freeze, where the host's can; they freeze, and count their CPU time. */
export type CgroupKind = 'limiting' | 'pausable' | 'managed';

const wantedFor: Readonly<Record<CgroupKind, readonly Controller[]>> = {
	limiting,
	pausable: [...limiting, 'freezer'],
	managed: [...limiting, ...managing],
};

/** `v1`: only v1 hierarchies; `hybrid`: v1 controllers beside a v2 tree; `v2`: one tree; `none`: none that we can use. */
export type CgroupMode = 'v1' | 'hybrid' | 'v2' | 'none';

/** Where groups can be made, and which controllers work there. */
export type Hierarchy = {
	readonly version: 1 | 2;
	readonly directory: string;
	readonly controllers: readonly Controller[];
};

/** What a host offers. */
export type CgroupHost = {
	readonly mode: CgroupMode;
	readonly hierarchies: readonly Hierarchy[];
	/** Wanted controllers that it lacks, or that are not ours to use. */
	readonly missing: readonly Controller[];
};

/** Where an ordinary user's own process is, below the group that was given to it: on v2 processes live only in leaves. */
export const hostLeaf = 'forktree-host';

/** The folder of our own group in a v1 hierarchy, so that limits set on us hold for our sandboxes as well. */
function ownDirectory(mountPoint: string, root: string, group: string): string {
	const relative = path.relative(root, group);
	return relative.startsWith('..') ? mountPoint : path.join(mountPoint, relative);
}

/** What {@link findCgroups} knows of a host. */
export type CgroupFacts = {
	/** Text of /proc/self/mountinfo. */
	readonly mountinfo: string;
	/** Text of /proc/self/cgroup. */
	readonly groups: string;
	/** Reads `cgroup.controllers` of a v2 group. */
	readonly v2Controllers: (directory: string) => string;
	/** Whether all of a v2 tree is ours; else our own group may be. */
	readonly isRoot: boolean;
	/** Whether groups can be made below this one. */
	readonly isUsable: (hierarchy: Pick<Hierarchy, 'version' | 'directory'>) => boolean;
};

/** Where a controller works; undefined when the host lacks it. */
export function findController(
	controller: Controller,
	mounts: readonly Mount[],
	{groups, v2Controllers, isRoot}: Pick<CgroupFacts, 'groups' | 'v2Controllers' | 'isRoot'>,
): Pick<Hierarchy, 'version' | 'directory'> | undefined {
	const lines = groups.split('\n').map((line) => line.split(':'));
	const groupIn = (line: readonly string[] | undefined) => line?.slice(2).join(':') ?? '/';
	const v1 = mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes(controller));
	if (v1 !== undefined) {
		const line = lines.find((each) => each[1]?.split(',').includes(controller));
		return {version: 1, directory: ownDirectory(v1.mountPoint, v1.root, groupIn(line))};
	}
	const v2 = mounts.find((mount) => mount.type === 'cgroup2');
	if (v2 === undefined) return undefined;
	const own = ownDirectory(v2.mountPoint, v2.root, groupIn(lines.find((each) => each[0] === '0')));
	const directory = isRoot ? v2.mountPoint : path.basename(own) === hostLeaf ? path.dirname(own) : own;
	// On v2 every group can freeze and counts its time; but where memory is on v1, the v2 tree is left alone.
	const listed = isManaging(controller) ? 'memory' : controller;
	const isThere = v2Controllers(directory).trim().split(' ').includes(listed);
	return isThere ? {version: 2, directory} : undefined;
}

/** Finds the controllers, and says which there are not. */
export function findCgroups(facts: CgroupFacts, kind: CgroupKind = 'limiting'): CgroupHost {
	// Of two mounts on one folder the later one hides the other.
	const mounts = [...new Map(parseMountinfo(facts.mountinfo).map((mount) => [mount.mountPoint, mount])).values()];
	const hierarchies = new Map<string, {version: 1 | 2; directory: string; controllers: Controller[]}>();
	const missing: Controller[] = [];
	for (const controller of wantedFor[kind]) {
		const found = findController(controller, mounts, facts);
		if (found === undefined || !facts.isUsable(found)) {
			missing.push(controller);
			continue;
		}
		const known = hierarchies.get(found.directory);
		if (known === undefined) hierarchies.set(found.directory, {...found, controllers: [controller]});
		else known.controllers.push(controller);
	}
	const all = [...hierarchies.values()];
	return {mode: modeOf(all, mounts), hierarchies: all, missing};
}

function modeOf(hierarchies: readonly Hierarchy[], mounts: readonly Mount[]): CgroupMode {
	if (hierarchies.length === 0) return 'none';
	if (hierarchies.every((each) => each.version === 2)) return 'v2';
	return mounts.some((mount) => mount.type === 'cgroup2') ? 'hybrid' : 'v1';
}

function isManaging(controller: Controller): boolean {
	return (managing as readonly Controller[]).includes(controller);
}

/** Of a v2 group; none where it can't be seen, as that of a container in the host's tree. */
export function readV2Controllers(directory: string): string {
	const file = path.join(directory, 'cgroup.controllers');
	return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

/** What is known of the running host. */
export function hostFacts(): CgroupFacts {
	return {
		mountinfo: readFileSync('/proc/self/mountinfo', 'utf8'),
		groups: readFileSync('/proc/self/cgroup', 'utf8'),
		v2Controllers: readV2Controllers,
		isRoot: process.geteuid?.() === 0,
		isUsable: isGivenToUs,
	};
}

/** Not in a container that shows them read-only. On v2 whoever has been given a group may also move processes in it, and hand controllers down, see cgroups(7). */
function isGivenToUs({version, directory}: Pick<Hierarchy, 'version' | 'directory'>): boolean {
	const files = version === 1 ? ['.'] : ['.', 'cgroup.procs', 'cgroup.subtree_control'];
	try {
		for (const file of files) accessSync(path.join(directory, file), constants.W_OK);
		return true;
	} catch {
		return false;
	}
}

/** {@link findCgroups} of the running host. */
export function findHostCgroups(kind?: CgroupKind): CgroupHost {
	return findCgroups(hostFacts(), kind);
}

/**
 * Gives controllers to the groups below a v2 group. Memory always comes with them: alone, pids and cpu would also be given by
 * a group that holds processes, which makes it the root of a threaded tree (see cgroups(7)), and nobody can get out of that one.
 */
export function enableControllers(directory: string, wanted: readonly Controller[]): void {
	const file = path.join(directory, 'cgroup.subtree_control');
	const enabled = readFileSync(file, 'utf8').trim().split(' ');
	const hasMemory = readV2Controllers(directory).trim().split(' ').includes('memory');
	const all = new Set<Controller>(hasMemory ? ['memory', ...wanted] : wanted);
	const missing = [...all].filter((controller) => !isManaging(controller) && !enabled.includes(controller));
	if (missing.length > 0) writeFileSync(file, missing.map((controller) => `+${controller}`).join(' '));
}
