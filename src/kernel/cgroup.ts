/** A control group behind one handle, in every hierarchy that is needed. */
import {closeSync, existsSync, openSync, readSync, writeSync} from 'node:fs';
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
import type {Controller, Hierarchy} from './cgroup-host.ts';

/** What a group limits. */
export type CgroupLimits = {
	readonly memoryMb: number;
	readonly swapMb: number;
	readonly cpuPercent: number;
	readonly processes: number;
};

const mebibyte = 1024 * 1024;
const cpuPeriodUs = 100_000;
const maxKillPasses = 100;
const freezeDeadlineMs = 1000;
/** For the text of a memory.stat. */
const statBytes = Buffer.alloc(4096);
/** Shares of CPU time; the usual one is what the kernel gives a new group. */
const weights = {
	1: {file: 'cpu.shares', low: '102', usual: '1024'},
	2: {file: 'cpu.weight', low: '10', usual: '100'},
} as const;

/** The control files that set `limits`, as [file, value]. */
export function settings(version: 1 | 2, controller: Controller, limits: CgroupLimits): Array<[string, string]> {
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
export const optionalFiles = new Set(['memory.memsw.limit_in_bytes', 'memory.swap.max']);

/** What the kernel said, as our own error; anything else as it is. */
export function syscallError(step: string, error: unknown, where?: string): unknown {
	const {errno, code, path: own} = error as NodeJS.ErrnoException;
	if (error instanceof ForktreeError || errno === undefined || code === undefined) return error;
	return new SyscallError(step, errno, code, where ?? own);
}

/** What a group's memory controller says. */
export type CgroupMemory = {
	/** Bytes charged now; undefined where nothing counts them. */
	readonly current: number | undefined;
	/** The most that was charged, in bytes; undefined where the kernel keeps none (v2 before Linux 5.19). */
	readonly peak: number | undefined;
};

/** How a group is made. */
type GroupPlan = {
	readonly hierarchies: readonly Hierarchy[];
	readonly limits: CgroupLimits | undefined;
	readonly steps: readonly GroupStep[];
};

/** The steps that make a group below each of the parents; without `limits` it limits nothing. */
export function planGroup(parents: readonly Hierarchy[], name: string, limits: CgroupLimits | undefined): GroupPlan {
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
	/** Undefined: its memory is not limited. */
	readonly #memory: Hierarchy | undefined;
	#limits: CgroupLimits | undefined;

	private constructor({hierarchies, limits}: GroupPlan, joins: readonly number[]) {
		this.#hierarchies = hierarchies;
		this.#memory = this.#find('memory');
		this.#limits = limits;
		this.#joins = [...joins];
	}

	/** Makes the group. @throws {SyscallError} what the kernel says; then nothing is left. */
	static make(plan: GroupPlan): Cgroup {
		return new Cgroup(plan, plan.steps.length === 0 ? [] : makeGroup(plan.steps));
	}

	/** As {@link make}, away from Node's thread. */
	static async makeLater(plan: GroupPlan): Promise<Cgroup> {
		return new Cgroup(plan, plan.steps.length === 0 ? [] : await makeGroupLater(plan.steps));
	}

	/** Open files: a process that writes `0` to each of them is in the group. */
	get joins(): readonly number[] {
		return this.#joins;
	}

	/** Closes {@link joins}: no one else gets in. */
	closeJoins(): void {
		for (const fd of this.#joins.splice(0)) closeSync(fd);
	}

	#find(controller: Controller): Hierarchy | undefined {
		return this.#hierarchies.find((each) => each.controllers.includes(controller));
	}

	/** @throws {ForktreeError} `NotSupported`: there is no such controller here */
	#of(controller: Controller): Hierarchy {
		const found = this.#find(controller);
		if (found === undefined) {
			throw new ForktreeError(
				'NotSupported',
				`expected a cgroup with the controller ${controller}, which is not ours to use`,
			);
		}
		return found;
	}

	/** Limits that it can't hold, for want of a controller: whoever starts something in it sets them otherwise. */
	get left(): {readonly processes: number | undefined; readonly memoryMb: number | undefined} {
		return {
			processes: this.#find('pids') === undefined ? this.#limits?.processes : undefined,
			memoryMb: this.#memory === undefined ? this.#limits?.memoryMb : undefined,
		};
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
	#read(file: string, hierarchy: Hierarchy | undefined): number | undefined {
		if (hierarchy === undefined) return undefined;
		const {directory} = hierarchy;
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
		const peak = this.#memory?.version === 1 ? 'memory.max_usage_in_bytes' : 'memory.peak';
		return {current: this.#current(), peak: this.#read(peak, this.#memory)};
	}

	#current(): number | undefined {
		return this.#read(this.#memory?.version === 1 ? 'memory.usage_in_bytes' : 'memory.current', this.#memory);
	}

	/**
	 * Bytes charged to it that nobody can have back while they are in use: memory of processes and files of a tmpfs. Cached pages of
	 * other files are not: the kernel keeps those for as long as memory is left. Takes some 15 µs. 0 where nothing counts it.
	 */
	memoryInUse(): number {
		return this.#memoryOf(this.#memory?.version === 1 ? 'rss' : 'anon', 'shmem');
	}

	/** The sum of these words of its memory.stat, in bytes. */
	#memoryOf(...names: readonly string[]): number {
		if (this.#memory === undefined) return 0;
		const size = readSync(this.#file(this.#memory.directory, 'memory.stat', 'r'), statBytes, 0, statBytes.length, 0);
		const text = statBytes.toString('latin1', 0, size);
		return names.reduce((sum, name) => sum + Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0), 0);
	}

	/** How many processes the kernel killed here for want of memory. */
	oomKills(): number {
		const file = this.#oomFile();
		return file === undefined ? 0 : readCounter(file, 'oom_kill');
	}

	#oomFile(): number | undefined {
		if (this.#memory === undefined) return undefined;
		const {version, directory} = this.#memory;
		return this.#file(directory, version === 1 ? 'memory.oom_control' : 'memory.events', 'r');
	}

	/** How often it was refused a process for its limit of them. */
	processRefusals(): number {
		const file = this.#pidsFile();
		return file === undefined ? 0 : readCounter(file, 'max');
	}

	#pidsFile(): number | undefined {
		const pids = this.#find('pids');
		return pids === undefined ? undefined : this.#file(pids.directory, 'pids.events', 'r');
	}

	/** Opens what is counted, so that it is read faster. */
	openCounters(): void {
		this.#oomFile();
		this.#pidsFile();
	}

	/** CPU time that was used in it, in milliseconds; for a group of a tree that is managed. Undefined where nothing counts it. */
	cpuMs(): number | undefined {
		const counted = this.#find('cpuacct');
		if (counted === undefined) return undefined;
		if (counted.version === 1) return (this.#read('cpuacct.usage', counted) ?? 0) / 1e6;
		const text = readControl(`${counted.directory}/cpu.stat`);
		return Number(/^usage_usec (\d+)$/m.exec(text)?.[1] ?? 0) / 1000;
	}

	/** Who is in it, as the host counts; undefined where there are no groups. */
	pids(): number[] | undefined {
		const [any] = this.#hierarchies;
		if (any === undefined) return undefined;
		const text = readControl(`${any.directory}/cgroup.procs`);
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

	/**
	 * Whether all of it has stopped, after {@link beginFreeze}. On v1 what has not is told once more: a process that began to wait for
	 * its child of vfork(2) after it was told has not heard of it, and that child has stopped and never lets it go on.
	 */
	isFrozen(): boolean {
		const {version, directory} = this.#of('freezer');
		if (version === 2) return readCounter(this.#file(directory, 'cgroup.events', 'r'), 'frozen') === 1;
		const state = Buffer.alloc(16);
		const size = readSync(this.#file(directory, 'freezer.state', 'r+'), state, 0, state.length, 0);
		const isFrozen = state.toString('latin1', 0, size).trim() === 'FROZEN';
		if (!isFrozen) this.beginFreeze();
		return isFrozen;
	}

	/** Lets it go on. */
	thaw(): void {
		const freezer = this.#of('freezer');
		if (freezer.version === 1) this.#write(freezer, 'freezer.state', 'THAWED');
		else this.#write(freezer, 'cgroup.freeze', '0');
	}

	/**
	 * Lowers its memory limit to what it uses, rounded up to a MiB.
	 * @returns the new limit in MiB; its own limit, when the kernel did not take a lower one, or nothing limits it
	 */
	lowerMemory(): number {
		const own = (this.#limits as CgroupLimits).memoryMb;
		if (this.#memory === undefined) return own;
		const used = Math.min(own, Math.ceil((this.#current() ?? 0) / mebibyte) + 1);
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
				if (controller === 'memory' && limits.memoryMb < old.memoryMb) this.#checkFits(hierarchy, limits.memoryMb);
				for (const [file, value] of changed) this.#set(hierarchy, file, value);
			}
		}
		this.#limits = limits;
	}

	/** A v1 kernel refuses a limit below what is used; one of v2 takes it, and kills. Cached pages of files it can have back. */
	#checkFits({version, directory}: Hierarchy, memoryMb: number): void {
		const current = this.#current() ?? 0;
		const most = memoryMb * mebibyte;
		if (version === 1 || current <= most || current - this.#memoryOf('inactive_file', 'active_file') <= most) return;
		const file = path.join(directory, 'memory.max');
		throw new SyscallError(`lower to ${memoryMb} MiB`, -constants.errno.EBUSY, 'EBUSY', file);
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
		const cpu = this.#find('cpu');
		if (cpu === undefined) return;
		const weight = weights[cpu.version];
		this.#write(cpu, weight.file, weight[share]);
	}

	/** Sets its own limit again. */
	restoreMemory(): void {
		this.#limitMemory((this.#limits as CgroupLimits).memoryMb);
	}

	#limitMemory(megabytes: number): void {
		if (this.#memory === undefined) return;
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
