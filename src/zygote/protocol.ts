/** What host and guest say to each other: messages to and from a zygote, and the types of a leaf's frames. */

/** Types of the frames on a leaf's channel; src/guest/leaf.py holds the same numbers. From 128 on: text, see frames.ts. */
export const frameType = {
	/** The handler's module is loaded; events can come. */
	loaded: 2,
	/** It could not be loaded, or a file does not compile. */
	failed: 131,
	resultJson: 132,
	resultBytes: 5,
	error: 134,
	chunkJson: 135,
	chunkBytes: 8,
	/** A generator has ended; its chunks are the answer. */
	chunksEnd: 9,
	compiled: 10,
	load: 16,
	eventJson: 17,
	eventBytes: 18,
	compile: 19,
	/** As the ones above; what the handler prints is to be sent line by line. */
	liveEventJson: 20,
	liveEventBytes: 21,
} as const;

/** The steps of a leaf's set-up, numbered as in guest.cc. */
const leafSteps = [
	'none',
	'join cgroups',
	'place fds',
	'unshare namespaces',
	'join network namespace',
	'mount proc',
	'mount scratch',
	'attach code and packages',
	'set hostname',
	'limit open files',
	'drop privileges',
	'install seccomp filter',
] as const;

/** How a leaf's set-up went; its pidfd comes with it. */
export type Birth = {
	readonly id: number;
	/** The step that failed, if one did. */
	readonly failedStep: string | undefined;
	readonly errno: number;
	/** CLOCK_MONOTONIC milliseconds. */
	readonly beganMs: number;
	readonly endedMs: number;
};

function readTimeMs(data: Buffer, at: number): number {
	return (data.readUInt32LE(at + 4) * 2 ** 32 + data.readUInt32LE(at)) / 1e6;
}

/** Undefined: not something that a leaf says. */
export function decodeBirth(data: Buffer): Birth | undefined {
	if (data.length !== 32) return undefined;
	const step = data.readUInt32LE(4);
	return {
		id: data.readUInt32LE(0),
		failedStep: step === 0 ? undefined : (leafSteps[step] ?? `step ${step}`),
		errno: data.readUInt32LE(8),
		beganMs: readTimeMs(data, 16),
		endedMs: readTimeMs(data, 24),
	};
}

const hasPackages = 1;

/** What a zygote can be asked for; `refill`: make network namespaces for the next leaves. */
const operations = {leaf: 'L', zygote: 'Z', refill: 'N'} as const;

/** Asks a zygote for something. */
export type ZygoteRequest = {
	readonly op: keyof typeof operations;
	readonly id: number;
	readonly uid?: number;
	/** Files that one process may have open. */
	readonly openFiles?: number;
	readonly packages: boolean;
	readonly range?: {readonly start: number; readonly count: number};
	readonly text: string;
};

export function encodeRequest(request: ZygoteRequest): Buffer {
	const head = Buffer.alloc(28);
	head.writeUInt32LE(operations[request.op].charCodeAt(0), 0);
	head.writeUInt32LE(request.id, 4);
	head.writeUInt32LE(request.uid ?? 0, 8);
	head.writeUInt32LE(request.packages ? hasPackages : 0, 12);
	head.writeUInt32LE(request.range?.start ?? 0, 16);
	head.writeUInt32LE(request.range?.count ?? 0, 20);
	head.writeUInt32LE(request.openFiles ?? 0, 24);
	return Buffer.concat([head, Buffer.from(request.text)]);
}

/** What a zygote imports. */
export type ZygoteSpec = {readonly modules: readonly string[]};

/** How a zygote's imports went. */
export type ZygoteReport = {
	readonly failed: ReadonlyArray<{readonly module: string; readonly traceback: string}>;
	/** Modules that left a thread behind: a process with threads can't be forked. */
	readonly threaded: readonly string[];
	readonly importMs: number;
};

/** What a zygote says. */
export type ZygoteMessage =
	| {readonly type: 'born'}
	| {readonly type: 'ready'; readonly report: ZygoteReport}
	| {readonly type: 'leafEnded'; readonly id: number; readonly status: number}
	| {readonly type: 'forkFailed'; readonly id: number; readonly errno: number};

function isReport(value: unknown): value is ZygoteReport {
	const report = value as Partial<ZygoteReport> | null;
	return (
		typeof report === 'object' &&
		report !== null &&
		Array.isArray(report.failed) &&
		report.failed.every((each) => typeof each?.module === 'string' && typeof each.traceback === 'string') &&
		Array.isArray(report.threaded) &&
		report.threaded.every((each) => typeof each === 'string') &&
		typeof report.importMs === 'number'
	);
}

/** Undefined: not something that a zygote says. */
export function decodeZygoteMessage(data: Buffer): ZygoteMessage | undefined {
	const op = String.fromCharCode(data[0] ?? 0);
	if (op === 'B') return {type: 'born'};
	if (op === 'R') {
		try {
			const report: unknown = JSON.parse(data.toString('utf8', 1));
			return isReport(report) ? {type: 'ready', report} : undefined;
		} catch {
			return undefined;
		}
	}
	if (data.length !== 12) return undefined;
	const [id, value] = [data.readUInt32LE(4), data.readInt32LE(8)];
	if (op === 'X') return {type: 'leafEnded', id, status: value};
	return op === 'E' ? {type: 'forkFailed', id, errno: value} : undefined;
}

/** What a leaf needs to load its handler: its entry file and variables, as NUL-separated words. */
export function encodeLoad(entryFile: string, environment: Readonly<Record<string, string>>): Buffer {
	const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
	return Buffer.from([entryFile, ...variables].join('\0'));
}
