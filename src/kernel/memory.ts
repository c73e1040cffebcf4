/** Memory of one process as the kernel counts it. */
import {readFileSync} from 'node:fs';

/** Pages of one process, in MiB. */
export type MemoryDetails = {
	/** Mapped by this process alone. */
	readonly privateMiB: number;
	/** Shared pages counted in proportion to how many share them. */
	readonly proportionalMiB: number;
	/** Mapped by others as well. */
	readonly sharedMiB: number;
};

/** Reads /proc/PID/smaps_rollup, see proc(5); takes about a millisecond for a process with pandas. Undefined: it has ended. */
export function readMemory(pid: number): MemoryDetails | undefined {
	let text: string;
	try {
		text = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
	} catch (error) {
		if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
		throw error;
	}
	const sum = (...names: string[]) =>
		names.reduce((total, name) => total + Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0), 0) /
		1024;
	return {
		privateMiB: sum('Private_Clean', 'Private_Dirty'),
		proportionalMiB: sum('Pss'),
		sharedMiB: sum('Shared_Clean', 'Shared_Dirty'),
	};
}
