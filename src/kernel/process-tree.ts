/** A process and those that it started, for where no cgroup knows them. */
import {readdirSync, readFileSync} from 'node:fs';

/** The kernel's clock ticks in a second as user space sees them, on every architecture that Node runs on. */
const ticksPerSecond = 100;

/** It and all below it, as far as they live. What its children leave behind comes to the first process of a pid namespace. */
export function processTree(pid: number): number[] {
	const found = [pid];
	// It grows while it is walked.
	for (const each of found) found.push(...childrenOf(each));
	return found;
}

function childrenOf(pid: number): number[] {
	try {
		const folder = `/proc/${pid}/task`;
		return readdirSync(folder).flatMap((task) => {
			return readFileSync(`${folder}/${task}/children`, 'latin1').split(' ').filter(Boolean).map(Number);
		});
	} catch {
		return []; // it has ended meanwhile
	}
}

/** CPU time of processes and of those that they have waited for, in milliseconds: fields 14 to 17 of proc(5)'s stat. */
export function cpuMsOf(pids: readonly number[]): number {
	return pids.reduce((sum, pid) => sum + (readTicks(pid) * 1000) / ticksPerSecond, 0);
}

function readTicks(pid: number): number {
	try {
		const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
		// The second field may hold anything, parentheses too.
		const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
		return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
	} catch {
		return 0; // it has ended meanwhile
	}
}
