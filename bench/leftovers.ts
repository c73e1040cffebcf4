/** Counts what a runtime left on the host, by looking. */
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import path from 'node:path';

/** Everything there should be none of after `close()`. */
export type Leftovers = {
	readonly mounts: number;
	readonly cgroups: number;
	readonly processes: number;
	readonly files: number;
};

function read(file: string): string {
	try {
		return readFileSync(file, 'utf8');
	} catch {
		return '';
	}
}

function processesBelow(group: string): number[] {
	const own = read(path.join(group, 'cgroup.procs')).split('\n').filter(Boolean).map(Number);
	const below = readdirSync(group, {withFileTypes: true}).filter((entry) => entry.isDirectory());
	return [...own, ...below.flatMap((entry) => processesBelow(path.join(group, entry.name)))];
}

/** A process by its start time, which tells it from a later one with the same pid. */
function identity(pid: number): string | undefined {
	const fields = read(`/proc/${pid}/stat`)
		.replace(/^.*\) /, '')
		.split(' ');
	return fields[19] === undefined ? undefined : `${pid} ${fields[19]}`;
}

/** The cgroups that hold all of a live runtime. */
export function groupsOf(stateDir: string): string[] {
	return JSON.parse(read(path.join(stateDir, 'cgroups.json'))) as string[];
}

/** The pids of a live runtime's keeper, inits, zygotes and sandboxes. */
export function processesOf(stateDir: string): number[] {
	return [...new Set(groupsOf(stateDir).flatMap(processesBelow))];
}

/**
 * Notes what a live runtime has on the host; the answer counts what is left of it.
 * @param stateDir of the runtime; packages, deployed code and recorded calls in it are not counted
 */
export function watchLeftovers(stateDir: string): () => Leftovers {
	const groups = groupsOf(stateDir);
	const processes = new Set(processesOf(stateDir).map(identity));
	const mounts = new Set(read('/proc/self/mountinfo').split('\n'));
	return () => ({
		mounts: read('/proc/self/mountinfo')
			.split('\n')
			.filter((line) => !mounts.has(line)).length,
		cgroups: groups.filter((group) => existsSync(group)).length,
		processes: [...processes].filter((each) => each !== undefined && identity(Number(each.split(' ')[0])) === each)
			.length,
		files: readdirSync(stateDir).filter((name) => !['calls.json', 'functions', 'packages'].includes(name)).length,
	});
}
