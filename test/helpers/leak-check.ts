/** Compares what this process owns on the machine before and after a test file: nothing may be left. */
import {existsSync, readdirSync, readFileSync, readlinkSync} from 'node:fs';
import path from 'node:path';
import type {ExecutionContext} from 'ava';

/** What a closed state folder may hold. */
const keptInStateDir = ['bases', 'calls.json', 'functions', 'packages'];

function lines(file: string): string[] {
	return readFileSync(file, 'utf8').split('\n').filter(Boolean);
}

/** Children of every thread of ours, zombies too, with their names. */
export function childrenOfOurs(): string[] {
	const pids = readdirSync('/proc/self/task').flatMap((task) =>
		readFileSync(`/proc/self/task/${task}/children`, 'utf8').split(' ').filter(Boolean),
	);
	return pids.map((pid) => {
		try {
			return `${pid} ${/\((.*)\)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]}`;
		} catch {
			return `${pid} (ended just now)`;
		}
	});
}

/** What each of our open files is. */
function openFiles(): string[] {
	return readdirSync('/proc/self/fd').flatMap((fd) => {
		try {
			return [`${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`];
		} catch {
			return []; // the folder that was just listed
		}
	});
}

function added(before: readonly string[], after: readonly string[]): string[] {
	return after.filter((each) => !before.includes(each));
}

/** The cgroups of a live runtime, as it has noted them in its state folder. */
export function cgroupsOf(stateDir: string): string[] {
	return JSON.parse(readFileSync(path.join(stateDir, 'cgroups.json'), 'utf8')) as string[];
}

/** Pids of every process in these groups and those below. */
export function processesIn(groups: readonly string[]): number[] {
	const pids = groups.flatMap((group) => {
		try {
			const own = lines(path.join(group, 'cgroup.procs')).map(Number);
			const below = readdirSync(group, {withFileTypes: true}).filter((entry) => entry.isDirectory());
			return [...own, ...processesIn(below.map((entry) => path.join(group, entry.name)))];
		} catch (error) {
			if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return []; // it is gone
			throw error;
		}
	});
	return [...new Set(pids)];
}

/** What a process is called, and its pid in each pid namespace from ours on; undefined: it has ended. */
function namesOf(pid: number): {readonly name: string; readonly pids: readonly string[]} | undefined {
	try {
		const status = readFileSync(`/proc/${pid}/status`, 'latin1');
		const [, name = '', pids = ''] = /^Name:\t(.*)$[\s\S]*^NSpid:\t(.*)$/m.exec(status) ?? [];
		return {name, pids: pids.split('\t')};
	} catch (error) {
		if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
		throw error;
	}
}

/** The processes that fork a live pool's sandboxes. What they have just forked has their name, but is a process 1. */
export function launchersOf(stateDir: string): number[] {
	return processesIn(cgroupsOf(stateDir)).filter((pid) => {
		const names = namesOf(pid);
		return names?.name === 'launcher' && names.pids.at(-1) !== '1';
	});
}

/** Process 1 of each sandbox and spare of a live pool: from its first moment, wherever it is then. */
export function supervisorsOf(stateDir: string): number[] {
	return processesIn(cgroupsOf(stateDir)).filter((pid) => {
		const pids = namesOf(pid)?.pids;
		return pids?.length === 3 && pids[2] === '1';
	});
}

/** Takes the state of things when it is made; {@link verify} compares. Looks only at what belongs to this process. */
export class LeakCheck {
	readonly #children = childrenOfOurs();
	readonly #files = openFiles();
	readonly #mounts = lines('/proc/self/mountinfo');
	readonly #stateDirs: string[] = [];
	readonly #cgroups: string[] = [];

	/** Notes what a live runtime owns. */
	track(stateDir: string): void {
		this.#stateDirs.push(stateDir);
		this.#cgroups.push(...cgroupsOf(stateDir));
	}

	/** To be called when every runtime is closed. */
	verify(t: ExecutionContext): void {
		t.deepEqual(
			this.#cgroups.filter((group) => existsSync(group)),
			[],
			'cgroups are left',
		);
		t.deepEqual(added(this.#children, childrenOfOurs()), [], 'child processes are left');
		t.deepEqual(added(this.#files, openFiles()), [], 'open files are left');
		const mounts = added(this.#mounts, lines('/proc/self/mountinfo'));
		t.deepEqual(
			mounts.filter((line) => [...this.#stateDirs, 'forktree'].some((name) => line.includes(name))),
			[],
			'mounts are left',
		);
		for (const stateDir of this.#stateDirs) {
			if (existsSync(stateDir))
				t.deepEqual(added(keptInStateDir, readdirSync(stateDir)), [], `files are left in ${stateDir}`);
		}
	}
}
