/** What host and Python say to each other: what a zygote is to import and how that went, and the types of a leaf's frames. */

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
	/** Status and header fields of an HTTP answer, whose body comes in chunks of bytes. */
	responseHead: 140,
	/** An HTTP request, see http.ts. */
	eventHttp: 15,
	load: 16,
	eventJson: 17,
	eventBytes: 18,
	compile: 19,
	/** As the ones above; what the handler prints is to be sent line by line. */
	liveEventJson: 20,
	liveEventBytes: 21,
	liveEventHttp: 22,
} as const;

/** What a zygote imports. `warmUps: false`: what its modules put off until they are used is left to its leaves. */
export type ZygoteSpec = {
	readonly modules: readonly string[];
	readonly warmUps?: false;
	/** The module of the function that it is for alone; `preparation` as {@link encodePreparation} answers it. */
	readonly own?: {
		readonly entry: string;
		readonly preparation: readonly string[];
		/** What it does ahead, as `module:function`. */
		readonly warmup?: string;
		/** Whether it executes nothing that it writes. */
		readonly noNewExecutables: boolean;
	};
};

/** How a zygote's imports went. */
export type ZygoteReport = {
	readonly failed: ReadonlyArray<{readonly module: string; readonly traceback: string}>;
	/** Warm-ups that packages registered, and that raised. */
	readonly warmUpsFailed: ReadonlyArray<{readonly module: string; readonly traceback: string}>;
	/** Modules that left a thread behind: a process with threads can't be forked. */
	readonly threaded: readonly string[];
	/** Why the function's module can't be shared by its sandboxes; null when it can, or there is none. */
	readonly refused: string | null;
	/** Of that module; 0 when there is none. */
	readonly loadMs: number;
	readonly importMs: number;
};

function isFailures(value: unknown): boolean {
	if (!Array.isArray(value)) return false;
	return value.every((each) => typeof each?.module === 'string' && typeof each.traceback === 'string');
}

function isReport(value: unknown): value is ZygoteReport {
	const report = value as Partial<ZygoteReport> | null;
	return (
		typeof report === 'object' &&
		report !== null &&
		isFailures(report.failed) &&
		isFailures(report.warmUpsFailed) &&
		Array.isArray(report.threaded) &&
		report.threaded.every((each) => typeof each === 'string') &&
		(report.refused === null || typeof report.refused === 'string') &&
		typeof report.loadMs === 'number' &&
		typeof report.importMs === 'number'
	);
}

/** Undefined: not a report. */
export function decodeReport(text: string): ZygoteReport | undefined {
	try {
		const report: unknown = JSON.parse(text);
		return isReport(report) ? report : undefined;
	} catch {
		return undefined;
	}
}

/** What a leaf needs to load its handler: its entry file and what is set before, as NUL-separated words. */
export function encodeLoad(
	entryFile: string,
	environment: Readonly<Record<string, string>>,
	path: readonly string[] = [],
): Buffer {
	return Buffer.from([entryFile, ...encodePreparation(environment, path)].join('\0'));
}

/** Variables as `NAME=value`; folders of the path as `=folder`, the last one first, since each is put before the others. */
export function encodePreparation(environment: Readonly<Record<string, string>>, path: readonly string[]): string[] {
	const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
	return [...variables, ...path.map((folder) => `=${folder}`).reverse()];
}
