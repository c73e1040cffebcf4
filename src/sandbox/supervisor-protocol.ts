/** What the host and process 1 of a program sandbox say to each other; native/guest/supervisor.cc has the same layouts. */

/** Types of the frames on its channel. */
export const supervisorFrame = {run: 32, kill: 33, runFailed: 41, exited: 42} as const;

/** The steps of a run that can fail, numbered as in supervisor.cc. */
const runSteps = [
	'none',
	'read the request',
	'fork',
	'place the streams',
	'limit CPU time',
	'change the folder',
	'install the seccomp profile',
	'execute',
] as const;

/** A program to run; its stdin, stdout and stderr come as fds. */
export type RunRequest = {
	readonly id: number;
	readonly argv: readonly string[];
	readonly env: Readonly<Record<string, string>>;
	/** Working folder. */
	readonly cwd: string;
	/** The instructions of a seccomp filter for it; none: empty. */
	readonly filter: Uint8Array;
	/** Seconds of CPU time after which the kernel ends each of its processes; 0: none. */
	readonly cpuSeconds: number;
};

/** The largest request that is understood, in bytes. */
export const maxRunRequest = 1 << 20;

/** @throws {RangeError} when it is too large */
export function encodeRun({id, argv, env, cwd, cpuSeconds, filter}: RunRequest): Buffer {
	const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
	const head = Buffer.alloc(20);
	for (const [index, word] of [id, argv.length, variables.length, cpuSeconds, filter.length].entries()) {
		head.writeUInt32LE(word, index * 4);
	}
	const request = Buffer.concat([head, Buffer.from([cwd, ...argv, ...variables, ''].join('\0')), filter]);
	if (request.length > maxRunRequest) {
		throw new RangeError(`expected arguments and variables of at most ${maxRunRequest} bytes, got ${request.length}`);
	}
	return request;
}

/** @param id of the run; 0: everything in the sandbox */
export function encodeKill(id: number, signal: number): Buffer {
	const kill = Buffer.alloc(8);
	kill.writeUInt32LE(id, 0);
	kill.writeUInt32LE(signal, 4);
	return kill;
}

/** How a run ended. */
export type RunEnd = {
	readonly id: number;
	/** A wait status, see wait(2). */
	readonly status: number;
	readonly userMs: number;
	readonly systemMs: number;
	/** Of its largest process. */
	readonly peakKiB: number;
	/** Whether the file systems at these places were full when it ended. */
	readonly isFull: {readonly scratch: boolean; readonly root: boolean};
};

/** Bits of an ended run, as in supervisor.cc. */
const fullBits = {scratch: 1, root: 2} as const;

/** What the supervisor says. */
export type SupervisorMessage =
	| {readonly type: 'exited'; readonly end: RunEnd}
	| {readonly type: 'failed'; readonly id: number; readonly step: string; readonly errno: number};

function readNumber(payload: Buffer, at: number): number {
	return payload.readUInt32LE(at + 4) * 2 ** 32 + payload.readUInt32LE(at);
}

/** Undefined: not something that a supervisor says. */
export function decodeSupervisorMessage(type: number, payload: string | Buffer): SupervisorMessage | undefined {
	if (typeof payload === 'string') return undefined;
	if (type === supervisorFrame.runFailed && payload.length === 12) {
		const [id, step, errno] = [0, 4, 8].map((at) => payload.readUInt32LE(at)) as [number, number, number];
		return {type: 'failed', id, step: runSteps[step] ?? `step ${step}`, errno};
	}
	if (type !== supervisorFrame.exited || payload.length !== 40) return undefined;
	const full = readNumber(payload, 32);
	const end = {
		id: payload.readUInt32LE(0),
		status: payload.readUInt32LE(4),
		userMs: readNumber(payload, 8) / 1000,
		systemMs: readNumber(payload, 16) / 1000,
		peakKiB: readNumber(payload, 24),
		isFull: {scratch: (full & fullBits.scratch) !== 0, root: (full & fullBits.root) !== 0},
	};
	return {type: 'exited', end};
}
