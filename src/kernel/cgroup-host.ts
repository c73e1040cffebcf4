/**
 * Which control groups a host offers, whether it has v1, v2 or both (hybrid).
 * Each controller is looked for once. On v1 and hybrid hosts the v2 tree is not used: moving a process there waits for
 * an RCU grace period, while a v1 `tasks` file that the process itself writes to does not.
 */
import {readFileSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import {ForktreeError} from '../errors.ts';
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

/** `v1`: only v1 hierarchies; `hybrid`: v1 controllers beside a v2 tree; `v2`: one tree. */
export type CgroupMode = 'v1' | 'hybrid' | 'v2';

/** Where groups can be made, and which controllers work there. */
export type Hierarchy = {
	readonly version: 1 | 2;
	readonly directory: string;
	readonly controllers: readonly Controller[];
};

/** What a host offers. */
export type CgroupHost = {readonly mode: CgroupMode; readonly hierarchies: readonly Hierarchy[]};

/** The folder of our own group in a v1 hierarchy, so that limits set on us hold for our sandboxes as well. */
function ownDirectory(mountPoint: string, root: string, group: string): string {
	const relative = path.relative(root, group);
	return relative.startsWith('..') ? mountPoint : path.join(mountPoint, relative);
}

/** Where a controller works; undefined when the host lacks it. Parameters as of {@link findCgroups}. */
export function findController(
	controller: Controller,
	mounts: readonly Mount[],
	groups: string,
	v2Controllers: (mountPoint: string) => string,
): {readonly version: 1 | 2; readonly directory: string} | undefined {
	const v1 = mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes(controller));
	if (v1 !== undefined) {
		const line = groups.split('\n').find((each) => each.split(':')[1]?.split(',').includes(controller));
		return {version: 1, directory: ownDirectory(v1.mountPoint, v1.root, line?.split(':').slice(2).join(':') ?? '/')};
	}
	const v2 = mounts.find((mount) => mount.type === 'cgroup2');
	if (v2 === undefined) return undefined;
	// On v2 every group can freeze and counts its time; but where memory is on v1, the v2 tree is left alone.
	const listed = isManaging(controller) ? 'memory' : controller;
	const isThere = v2Controllers(v2.mountPoint).trim().split(' ').includes(listed);
	return isThere ? {version: 2, directory: v2.mountPoint} : undefined;
}

/**
 * Finds the controllers.
 * @param mountinfo text of /proc/self/mountinfo
 * @param groups text of /proc/self/cgroup
 * @param v2Controllers reads `cgroup.controllers` of a v2 mount point
 * @throws {ForktreeError} `NotSupported` naming the controllers that the host lacks.
 */
export function findCgroups(
	mountinfo: string,
	groups: string,
	v2Controllers: (mountPoint: string) => string,
	kind: CgroupKind = 'limiting',
): CgroupHost {
	// Of two mounts on one folder the later one hides the other.
	const mounts = [...new Map(parseMountinfo(mountinfo).map((mount) => [mount.mountPoint, mount])).values()];
	const hierarchies = new Map<string, {version: 1 | 2; directory: string; controllers: Controller[]}>();
	const missing: string[] = [];
	const wanted = wantedFor[kind];
	for (const controller of wanted) {
		const found = findController(controller, mounts, groups, v2Controllers);
		if (found === undefined) {
			if (kind !== 'pausable' || controller !== 'freezer') missing.push(controller);
			continue;
		}
		const known = hierarchies.get(found.directory);
		if (known === undefined) hierarchies.set(found.directory, {...found, controllers: [controller]});
		else known.controllers.push(controller);
	}
	if (missing.length > 0) {
		throw new ForktreeError(
			'NotSupported',
			`expected the cgroup controllers ${wanted.join(', ')}, got none for ${missing.join(', ')}; mount cgroup2 on /sys/fs/cgroup, or give the container its own cgroup namespace`,
		);
	}
	const all = [...hierarchies.values()];
	const hasV2 = mounts.some((mount) => mount.type === 'cgroup2');
	const mode = all.every((each) => each.version === 2) ? 'v2' : hasV2 ? 'hybrid' : 'v1';
	return {mode, hierarchies: all};
}

function isManaging(controller: Controller): boolean {
	return (managing as readonly Controller[]).includes(controller);
}

export function readV2Controllers(mountPoint: string): string {
	return readFileSync(path.join(mountPoint, 'cgroup.controllers'), 'utf8');
}

/** {@link findCgroups} of the running host. */
export function findHostCgroups(kind?: CgroupKind): CgroupHost {
	return findCgroups(
		readFileSync('/proc/self/mountinfo', 'utf8'),
		readFileSync('/proc/self/cgroup', 'utf8'),
		readV2Controllers,
		kind,
	);
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
