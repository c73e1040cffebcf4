/** Holds processes on one core for a while: what a wake of another core costs is the machine's, and differs by chance. */
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import process from 'node:process';

function setCores(cores: string, pids: readonly number[]): void {
	for (const pid of pids) execFileSync('taskset', ['--all-tasks', '--pid', '--cpu-list', cores, String(pid)]);
}

/** Runs `work` with this process, those named, and all that they start meanwhile on the first core we may use. */
export async function onOneCore<T>(pids: readonly number[], work: () => Promise<T>): Promise<T> {
	const status = readFileSync('/proc/self/status', 'latin1');
	const cores = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? '0';
	const all = [process.pid, ...pids];
	setCores(/^\d+/.exec(cores)?.[0] ?? '0', all);
	try {
		return await work();
	} finally {
		setCores(cores, all);
	}
}
