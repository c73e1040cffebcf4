/** What a sandbox may use. */

/** Limits of one sandbox; every one is enforced. */
export type Limits = {
	/** Memory that its cgroup is charged for, its `/tmp` included, in MiB. Beyond it: `OutOfMemory`. */
	readonly memoryMb: number;
	/** Share of one core, in percent. */
	readonly cpuPercent: number;
	/** Processes and threads. */
	readonly processes: number;
	/** Open files of one process. */
	readonly openFiles: number;
	/** Size of `/tmp`, in MiB. */
	readonly scratchMb: number;
	/** What a call may print on stdout and on stderr, in MiB each; the rest is cut and `limitsHit` says so. */
	readonly outputMb: number;
	/** Deadline of a call from asking to outcome, in milliseconds. Beyond it: `Timeout`. */
	readonly timeoutMs: number;
	/** Size of an event as JSON or bytes, in MiB. */
	readonly eventMb: number;
	/** Size of an answer, or of all chunks of a generator together, in MiB. */
	readonly resultMb: number;
};

export const defaultLimits: Limits = {
	memoryMb: 256,
	cpuPercent: 100,
	processes: 64,
	openFiles: 1024,
	scratchMb: 64,
	outputMb: 1,
	timeoutMs: 30_000,
	eventMb: 6,
	resultMb: 6,
};
