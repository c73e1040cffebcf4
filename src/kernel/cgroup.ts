/**
 * Control groups behind one handle, whether the host has v1, v2 or both (hybrid).
 * Each controller is looked for once. On v1 and hybrid hosts the v2 tree is not used: moving a process there waits for
 * an RCU grace period, while a v1 `tasks` file that the process itself writes to does not.
 */
import {
	closeSync,
	existsSync,
	mkdirSync,
	openSync,
	readdirSync,
	readFileSync,
	readSync,
	rmdirSync,
	writeFileSync,
	writeSync,
} from 'node:fs';
import {constants} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import {
	type GroupStep,
	makeGroup,
	makeGroupLater,
	readControl,
	readCounter,
	readNumber,
	removeGroup,
} from '../native.ts';
import {type Mount, parseMountinfo} from './mountinfo.ts';

const limiting = ['memory', 'pids', 'cpu'] as const;
/** On v1 these have hierarchies of their own; every v2 group can freeze and counts its time. */
const managing = ['freezer', 'cpuacct'] as const;
type Controller = (typeof limiting)[number] | (typeof managing)[number];
const wantedFor: Readonly<Record<CgroupKind, readonly Controller[]>> = {
	limiting,
	pausable: [...limiting, 'freezer'],
	managed: [...limiting, ...managing],
};

/** What a group limits. */
export type CgroupLimits = {
	readonly memoryMb: number;
	readonly swapMb: number;
	readonly cpuPercent: number;
	readonly processes: number;
};

/** What groups do besides limiting: nothing; they freeze, where the host's can; they freeze, and count their CPU time. */
export type CgroupKind = 'limiting' | 'pausable' | 'managed';

/** `v1`: only v1 hierarchies; `hybrid`: v1 controllers beside a v2 tree; `v2`: one tree. */
export type CgroupMode = 'v1' | 'hybrid' | 'v2';

/** Where groups can be made, and which controllers work there. */
type Hierarchy = {readonly version: 1 | 2; readonly directory: string; readonly controllers: readonly Controller[]};

/** What a host offers. */
export type CgroupHost = {readonly mode: CgroupMode; readonly hierarchies: readonly Hierarchy[]};

const mebibyte = 1024 * 1024;
const cpuPeriodUs = 100_000;
const maxKillPasses = 100;
/** For the text of a memory.stat. */
const statBytes = Buffer.alloc(4096);
/** Shares of CPU time; the usual one is what the kernel gives a new group. */
const weights = {
	1: {file: 'cpu.shares', low: '102', usual: '1024'},
	2: {file: 'cpu.weight', low: '10', usual: '100'},
} as const;

/** The folder of our own group in a v1 hierarchy, so that limits set on us hold for our sandboxes as well. */
function ownDirectory(mountPoint: string, root: string, group: string): string {
	const relative = path.relative(root, group);
	return relative.startsWith('..') ? mountPoint : path.join(mountPoint, relative);
}

/** Where a controller works; undefined when the host lacks it. Parameters as of {@link findCgroups}. */
function findController(
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

function readV2Controllers(mountPoint: string): string {
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

/** The control files that set `limits`, as [file, value]. */
function settings(version: 1 | 2, controller: Controller, limits: CgroupLimits): Array<[string, string]> {
	const bytes = String(Math.round(limits.memoryMb * mebibyte));
	const swap = Math.round(limits.swapMb * mebibyte);
	const quota = String(Math.round((limits.cpuPercent / 100) * cpuPeriodUs));
	switch (controller) {
		case 'memory':
			return version === 1
				? [
						['memory.limit_in_bytes', bytes],
						['memory.memsw.limit_in_bytes', String(Number(bytes) + swap)],
					]
				: [
						['memory.max', bytes],
						['memory.swap.max', String(swap)],
					];
		case 'pids':
			return [['pids.max', String(limits.processes)]];
		case 'cpu':
			return version === 1 ? [['cpu.cfs_quota_us', quota]] : [['cpu.max', `${quota} ${cpuPeriodUs}`]];
		default:
			return [];
	}
}

/** Absent where the kernel does no swap accounting; then there is no swap to limit. */
const optionalFiles = new Set(['memory.memsw.limit_in_bytes', 'memory.swap.max']);

function writeSetting(directory: string, file: string, value: string): void {
	try {
		writeFileSync(path.join(directory, file), value, {flag: 'r+'});
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT' && optionalFiles.has(file)) return;
		throw syscallError(`write ${value} to`, error, path.join(directory, file));
	}
}

/** What the kernel said, as our own error; anything else as it is. */
function syscallError(step: string, error: unknown, where?: string): unknown {
	const {errno, code, path: own} = error as NodeJS.ErrnoException;
	if (error instanceof ForktreeError || errno === undefined || code === undefined) return error;
	return new SyscallError(step, errno, code, where ?? own);
}

/** What a group's memory controller says. */
export type CgroupMemory = {
	/** Bytes charged now. */
	readonly current: number;
	/** The most that was charged, in bytes; undefined where the kernel keeps none (v2 before Linux 5.19). */
	readonly peak: number | undefined;
};

/** How a group is made. */
type GroupPlan = {
	readonly hierarchies: readonly Hierarchy[];
	readonly limits: CgroupLimits | undefined;
	readonly steps: readonly GroupStep[];
};

function planGroup(parents: readonly Hierarchy[], name: string, limits: CgroupLimits | undefined): GroupPlan {
	const hierarchies = parents.map((parent) => ({...parent, directory: `${parent.directory}/${name}`}));
	const steps = hierarchies.flatMap(({version, directory, controllers}): GroupStep[] => {
		const set = limits === undefined ? [] : controllers.flatMap((each) => settings(version, each, limits));
		return [
			{kind: 'make', path: directory},
			...set.map(([file, value]): GroupStep => {
				const kind = optionalFiles.has(file) ? 'try' : 'set';
				return {kind, path: `${directory}/${file}`, value};
			}),
			{kind: 'join', path: `${directory}/${version === 1 ? 'tasks' : 'cgroup.procs'}`},
		];
	});
	return {hierarchies, limits, steps};
}

/** One group, in every hierarchy that is needed. Whoever made it removes it. */
export class Cgroup {
	readonly #hierarchies: readonly Hierarchy[];
	readonly #joins: number[];
	/** Control files that stay open between uses. */
	readonly #open = new Map<string, number>();
	readonly #memory: Hierarchy;
	#limits: CgroupLimits | undefined;

	private constructor({hierarchies, limits}: GroupPlan, joins: readonly number[]) {
		this.#hierarchies = hierarchies;
		this.#memory = this.#of('memory');
		this.#limits = limits;
		this.#joins = [...joins];
	}

	/** Makes the group. @throws {SyscallError} what the kernel says; then nothing is left. */
	static make(plan: GroupPlan): Cgroup {
		return new Cgroup(plan, makeGroup(plan.steps));
	}

	/** As {@link make}, away from Node's thread. */
	static async makeLater(plan: GroupPlan): Promise<Cgroup> {
		return new Cgroup(plan, await makeGroupLater(plan.steps));
	}

	/** Open files: a process that writes `0` to each of them is in the group. */
	get joins(): readonly number[] {
		return this.#joins;
	}

	/** Closes {@link joins}: no one else gets in. */
	closeJoins(): void {
		for (const fd of this.#joins.splice(0)) closeSync(fd);
	}

	#of(controller: Controller): Hierarchy {
		return this.#hierarchies.find((each) => each.controllers.includes(controller)) as Hierarchy;
	}

	#file(directory: string, file: string, flags: string): number {
		const name = `${directory}/${file}`;
		let fd = this.#open.get(name);
		if (fd === undefined) {
			fd = openSync(name, flags);
			this.#open.set(name, fd);
		}
		return fd;
	}

	/** Reads a number from a control file that stays open between calls. */
	#read(file: string, {directory} = this.#memory): number | undefined {
		try {
			return readNumber(this.#file(directory, file, 'r'));
		} catch {
			return undefined;
		}
	}

	#write({directory}: Hierarchy, file: string, value: string): void {
		try {
			writeSync(this.#file(directory, file, 'r+'), value, 0);
		} catch (error) {
			throw syscallError(`write ${value} to`, error, path.join(directory, file));
		}
	}

	memory(): CgroupMemory {
		const peak = this.#memory.version === 1 ? 'memory.max_usage_in_bytes' : 'memory.peak';
		return {current: this.#current(), peak: this.#read(peak)};
	}

	#current(): number {
		return this.#read(this.#memory.version === 1 ? 'memory.usage_in_bytes' : 'memory.current') ?? 0;
	}

	/**
	 * Bytes charged to it that nobody can have back while they are in use: memory of processes and files of a tmpfs. Cached pages of
	 * other files are not: the kernel keeps those for as long as memory is left. Takes some 15 µs.
	 */
	memoryInUse(): number {
		const {version, directory} = this.#memory;
		const size = readSync(this.#file(directory, 'memory.stat', 'r'), statBytes, 0, statBytes.length, 0);
		const text = statBytes.toString('latin1', 0, size);
		const names = [version === 1 ? 'rss' : 'anon', 'shmem'];
		return names.reduce((sum, name) => sum + Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0), 0);
	}

	/** How many processes the kernel killed here for want of memory. */
	oomKills(): number {
		return readCounter(this.#file(...this.#oomFile()), 'oom_kill');
	}

	#oomFile(): [string, string, string] {
		return [this.#memory.directory, this.#memory.version === 1 ? 'memory.oom_control' : 'memory.events', 'r'];
	}

	/** How often it was refused a process for its limit of them. */
	processRefusals(): number {
		return readCounter(this.#file(...this.#pidsFile()), 'max');
	}

	#pidsFile(): [string, string, string] {
		return [this.#of('pids').directory, 'pids.events', 'r'];
	}

	/** Opens what is counted, so that it is read faster. */
	openCounters(): void {
		this.#file(...this.#oomFile());
		this.#file(...this.#pidsFile());
	}

	/** CPU time that was used in it, in milliseconds; for a group of a tree that is managed. */
	cpuMs(): number {
		const {version, directory} = this.#of('cpuacct');
		if (version === 1) return (this.#read('cpuacct.usage', {directory} as Hierarchy) ?? 0) / 1e6;
		const text = readControl(`${directory}/cpu.stat`);
		return Number(/^usage_usec (\d+)$/m.exec(text)?.[1] ?? 0) / 1000;
	}

	/** Who is in it, as the host counts. */
	pids(): number[] {
		const text = readControl(`${this.#of('pids').directory}/cgroup.procs`);
		return text.split('\n').filter(Boolean).map(Number);
	}

	/** On v1 a process can be in the group of one hierarchy and not of the others. One of an outer pid namespace has pid 0: no one's. */
	#everyone(): number[] {
		const files = this.#hierarchies.map(({directory}) => path.join(directory, 'cgroup.procs'));
		const texts = files.filter((file) => existsSync(file)).map((file) => readControl(file));
		return texts.flatMap((text) => text.split('\n').map(Number)).filter((pid) => pid > 0);
	}

	/** Kills who is in it, and whom they start meanwhile. For a group that no one is sent to any more. */
	killAll(): void {
		const killed = new Set<number>();
		for (let pass = 0; pass < maxKillPasses; pass += 1) {
			const left = this.#everyone().filter((pid) => !killed.has(pid));
			if (left.length === 0) return;
			for (const pid of left) {
				killed.add(pid);
				try {
					process.kill(pid, 'SIGKILL');
				} catch {
					// it has ended meanwhile
				}
			}
		}
	}

	/** Stops everything in it; for a group that can be frozen. @throws {SyscallError} when that does not come about */
	freeze(): void {
		this.beginFreeze();
		// The change's event is held back by the kernel for some ten milliseconds; looking again takes microseconds.
		const deadline = Date.now() + freezeDeadlineMs;
		while (!this.isFrozen()) {
			if (Date.now() > deadline) {
				this.thaw();
				throw new SyscallError('freeze', -constants.errno.EBUSY, 'EBUSY', this.#of('freezer').directory);
			}
		}
	}

	/** As {@link freeze}, without waiting until all of it has stopped. */
	beginFreeze(): void {
		const freezer = this.#of('freezer');
		if (freezer.version === 1) this.#write(freezer, 'freezer.state', 'FROZEN');
		else this.#write(freezer, 'cgroup.freeze', '1');
	}

	/** Whether all in it has stopped. */
	isFrozen(): boolean {
		const {version, directory} = this.#of('freezer');
		if (version === 2) return readCounter(this.#file(directory, 'cgroup.events', 'r'), 'frozen') === 1;
		const state = Buffer.alloc(16);
		const size = readSync(this.#file(directory, 'freezer.state', 'r+'), state, 0, state.length, 0);
		return state.toString('latin1', 0, size).trim() === 'FROZEN';
	}

	/** Lets it go on. */
	thaw(): void {
		const freezer = this.#of('freezer');
		if (freezer.version === 1) this.#write(freezer, 'freezer.state', 'THAWED');
		else this.#write(freezer, 'cgroup.freeze', '0');
	}

	/**
	 * Lowers its memory limit to what it uses, rounded up to a MiB.
	 * @returns the new limit in MiB; its own limit, when the kernel did not take a lower one
	 */
	lowerMemory(): number {
		const own = (this.#limits as CgroupLimits).memoryMb;
		const used = Math.min(own, Math.ceil(this.#current() / mebibyte) + 1);
		try {
			this.#limitMemory(used);
			return used;
		} catch (error) {
			if (!(error instanceof SyscallError)) throw error;
			this.restoreMemory();
			return own; // it grew meanwhile
		}
	}

	/**
	 * Sets other limits; only what differs is written.
	 * @throws {SyscallError} for example when more memory is used than is to be allowed; then some may be set
	 */
	setLimits(limits: CgroupLimits): void {
		const old = this.#limits as CgroupLimits;
		const names = ['memoryMb', 'swapMb', 'cpuPercent', 'processes'] as const;
		if (names.every((name) => limits[name] === old[name])) return;
		for (const hierarchy of this.#hierarchies) {
			for (const controller of hierarchy.controllers) {
				const before = new Map(settings(hierarchy.version, controller, old));
				const changed = settings(hierarchy.version, controller, limits).filter(
					([file, value]) => before.get(file) !== value,
				);
				// On v1 the limit of memory may at no time exceed that of memory and swap, which is named after it.
				if (limits.memoryMb + limits.swapMb > old.memoryMb + old.swapMb) changed.reverse();
				for (const [file, value] of changed) this.#set(hierarchy, file, value);
			}
		}
		this.#limits = limits;
	}

	#set(hierarchy: Hierarchy, file: string, value: string): void {
		try {
			this.#write(hierarchy, file, value);
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || !optionalFiles.has(file)) throw error;
		}
	}

	/** How much CPU time it gets beside other groups: little, for what nobody waits for, or as much as any. @throws {SyscallError} */
	weigh(share: 'low' | 'usual'): void {
		const cpu = this.#of('cpu');
		const weight = weights[cpu.version];
		this.#write(cpu, weight.file, weight[share]);
	}

	/** Sets its own limit again. */
	restoreMemory(): void {
		this.#limitMemory((this.#limits as CgroupLimits).memoryMb);
	}

	#limitMemory(megabytes: number): void {
		const bytes = String(Math.round(megabytes * mebibyte));
		this.#write(this.#memory, this.#memory.version === 1 ? 'memory.limit_in_bytes' : 'memory.max', bytes);
	}

	/** Closes the control files that were kept open; the next use opens them again. */
	closeFiles(): void {
		for (const fd of this.#open.values()) closeSync(fd);
		this.#open.clear();
	}

	/** Removes the group, which should be empty: who is still in it, because it was handed {@link joins} and kept them, is killed. */
	async remove(): Promise<void> {
		this.closeJoins();
		this.closeFiles();
		const directories = this.#hierarchies.map(({directory}) => directory);
		try {
			await removeGroup(directories);
		} catch (error) {
			if (!(error instanceof SyscallError) || error.errnoName !== 'EBUSY') throw error;
			this.killAll();
			await removeGroup(directories);
		}
	}
}

function removeIfThere(directory: string): void {
	try {
		rmdirSync(directory);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
	}
}

const freezeDeadlineMs = 1000;

/** The groups of one runtime: a parent in each hierarchy, one group for zygotes, one for each sandbox. */
export class CgroupTree {
	readonly mode: CgroupMode;
	/** The parent's folders, absolute: what the next start removes if we can't. */
	readonly directories: readonly string[];
	/** The group of the keeper, the inits and the zygotes. */
	readonly zygotes: Cgroup;
	readonly #parents: readonly Hierarchy[];
	#next = 0;

	/**
	 * @param name of the parent group; must be new
	 * @throws {ForktreeError} `NotPermitted` when groups can't be made.
	 */
	constructor(host: CgroupHost, name: string) {
		this.mode = host.mode;
		this.#parents = host.hierarchies.map((each) => ({...each, directory: path.join(each.directory, name)}));
		this.directories = this.#parents.map((each) => each.directory);
		try {
			for (const [index, parent] of this.#parents.entries()) {
				const above = host.hierarchies[index] as Hierarchy;
				if (parent.version === 2) enableControllers(above.directory, above.controllers);
				mkdirSync(parent.directory, 0o755);
				if (parent.version === 2) enableControllers(parent.directory, parent.controllers);
			}
			this.zygotes = Cgroup.make(planGroup(this.#parents, 'zygotes', undefined));
		} catch (error) {
			for (const directory of this.directories) removeTree(directory);
			const {code, path: where} = error as NodeJS.ErrnoException;
			const v2Root = host.hierarchies.find((each) => each.version === 2)?.directory;
			throw new ForktreeError(
				'NotPermitted',
				`making a cgroup at ${where ?? 'the cgroup tree'}: ${code}; ${remedy(v2Root, code)}`,
				{cause: error},
			);
		}
	}

	/** Whether its groups can be frozen. */
	get canFreeze(): boolean {
		return this.#freezer !== undefined;
	}

	/** The parent's folder in a v1 hierarchy of the freezer, where what is frozen does not end when it is killed. */
	get v1Freezer(): string | undefined {
		return this.#freezer?.version === 1 ? this.#freezer.directory : undefined;
	}

	get #freezer(): Hierarchy | undefined {
		return this.#parents.find(({controllers}) => controllers.includes('freezer'));
	}

	/** A group for one sandbox. @throws {SyscallError} for example for a limit that the kernel does not take */
	async create(limits: CgroupLimits): Promise<Cgroup> {
		this.#next += 1;
		return Cgroup.makeLater(planGroup(this.#parents, `sandbox-${this.#next}`, limits));
	}

	/** Removes the parents; every group below must be empty. */
	async close(): Promise<void> {
		await this.zygotes.remove();
		await removeGroup(this.directories);
	}
}

function remedy(root: string | undefined, code: string | undefined): string {
	if (code !== 'EBUSY' || root === undefined) return 'run as root, in a container with a writable cgroup tree';
	// A v2 group that holds processes can't give controllers to groups below it, see cgroups(7).
	return `the group at ${root} holds processes; move them to one below it: mkdir ${root}/init && for pid in $(cat ${root}/cgroup.procs); do echo $pid > ${root}/init/cgroup.procs; done`;
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

/** Removes a group of ours with all below it; used for what a dead owner left. Processes in it must have ended. */
export function removeTree(directory: string): void {
	let entries: string[];
	try {
		entries = readdirGroups(directory);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
		throw error;
	}
	for (const entry of entries) removeTree(path.join(directory, entry));
	removeIfThere(directory);
}

function readdirGroups(directory: string): string[] {
	return readdirSync(directory, {withFileTypes: true})
		.filter((entry) => entry.isDirectory())
		.map((entry) => entry.name);
}

function enableToTry(controller: Controller, directory: string): void {
	try {
		enableControllers(directory, [controller]);
	} catch (error) {
		const {code} = error as NodeJS.ErrnoException;
		throw new ForktreeError('NotPermitted', `${code}; ${remedy(directory, code)}`, {cause: error});
	}
}

/** Controllers that can be tried. Sandboxes use all but the freezer. */
export type TriedController = Controller | 'freezer';

/**
 * Tries a controller of the running host by itself: makes a group, sets what a sandbox has set and reads it back, and
 * removes the group.
 * @param name of the group; must be new
 * @param onFound hears of the group's folder before it is made
 * @returns its parent, for example `v1 at /sys/fs/cgroup/pids`
 * @throws {ForktreeError} `NotSupported` when the host lacks it, or takes a setting without keeping it
 */
export function tryController(controller: TriedController, name: string, onFound: (directory: string) => void): string {
	const parent = findController(
		controller,
		parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')),
		readFileSync('/proc/self/cgroup', 'utf8'),
		readV2Controllers,
	);
	if (parent === undefined) throw new ForktreeError('NotSupported', `there is no cgroup controller ${controller}`);
	const {version} = parent;
	const directory = path.join(parent.directory, name);
	onFound(directory);
	if (version === 2 && controller !== 'freezer') enableToTry(controller, parent.directory);
	mkdirSync(directory, 0o755);
	try {
		const wanted =
			controller === 'freezer'
				? [version === 1 ? (['freezer.state', 'FROZEN'] as const) : (['cgroup.freeze', '1'] as const)]
				: settings(version, controller, {memoryMb: 16, swapMb: 0, cpuPercent: 100, processes: 4});
		for (const [file, value] of wanted) {
			writeSetting(directory, file, value);
			const kept = optionalFiles.has(file) ? value : readFileSync(path.join(directory, file), 'utf8').trim();
			if (kept !== value) throw new ForktreeError('NotSupported', `expected ${file} to be ${value}, got ${kept}`);
		}
	} finally {
		removeIfThere(directory);
	}
	return `v${version} at ${parent.directory}`;
}
