/** The control groups of one owner. */
import {mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError} from '../errors.ts';
import {removeGroup} from '../native.ts';
import {Cgroup, type CgroupLimits, planGroup} from './cgroup.ts';
import {type CgroupHost, type CgroupMode, enableControllers, type Hierarchy, hostLeaf} from './cgroup-host.ts';

const maxMovePasses = 100;

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
				if (parent.version === 2) handDown(above);
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

/** Gives controllers to groups below one of v2. An ordinary user's holds its own processes, which move below it: else it could not. */
export function handDown({directory, controllers}: Pick<Hierarchy, 'directory' | 'controllers'>): void {
	if (process.geteuid?.() !== 0) moveToLeaf(directory);
	enableControllers(directory, controllers);
}

function moveToLeaf(directory: string): void {
	const leaf = path.join(directory, hostLeaf);
	// Who is in it may start others meanwhile.
	for (let pass = 0; pass < maxMovePasses; pass += 1) {
		const pids = readFileSync(path.join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
		if (pids.length === 0) return;
		mkdirSync(leaf, {recursive: true, mode: 0o755});
		for (const pid of pids) moveTo(leaf, pid);
	}
}

function moveTo(group: string, pid: string): void {
	try {
		writeFileSync(path.join(group, 'cgroup.procs'), pid);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it has ended meanwhile
	}
}

export function remedy(root: string | undefined, code: string | undefined): string {
	if (code !== 'EBUSY' || root === undefined) return 'run as root, in a container with a writable cgroup tree';
	// A v2 group that holds processes can't give controllers to groups below it, see cgroups(7).
	return `the group at ${root} holds processes; move them to one below it: mkdir ${root}/init && for pid in $(cat ${root}/cgroup.procs); do echo $pid > ${root}/init/cgroup.procs; done`;
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

export function removeIfThere(directory: string): void {
	try {
		rmdirSync(directory);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
	}
}
