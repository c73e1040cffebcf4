/** What the host and a launcher say to each other, one packet a message; native/guest/launcher.h has the same layouts. */
import type {FramePayload} from '../kernel/frames.ts';
import type {WorkingSet} from '../native.ts';
import type {IdRange} from './uid-range.ts';

/** The steps of a leaf's set-up, numbered as in launcher.cc. */
const leafSteps = [
	'none',
	'join cgroups',
	'place fds',
	'unshare namespaces',
	'join network namespace',
	'mount proc',
	'mount scratch',
	'attach mounts',
	'open network',
	'set hostname',
	'set limits',
	'drop privileges',
	'enclose by Landlock',
	'install seccomp filter',
] as const;

/** How a leaf's set-up went; its pidfd comes with it. Of a spare that was handed over: how the rest of it went, without one. */
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

/** Bits of a leaf's request, as in launcher.h. */
const leafFlags = {
	noStreams: 1,
	sharedNetwork: 2,
	noFilter: 4,
	workFolder: 8,
	noWarmUps: 16,
	ownUserNamespace: 32,
	writableMounts: 64,
	writableRoot: 128,
	noNewExecutables: 256,
} as const;

const writableFlags = {none: 0, mounts: leafFlags.writableMounts, root: leafFlags.writableRoot} as const;

/** Limits that no group holds: processes that there may be, and MiB that each of them may allocate. */
export type LeftLimits = {readonly processes: number | undefined; readonly memoryMb: number | undefined};

/** Asks for a leaf. */
export type LeafRequest = {
	readonly id: number;
	readonly uid: number;
	/** Whether its launcher has one id only, so that it gets a user namespace of its own. */
	readonly ownUserNamespace: boolean;
	/** Files that one process may have open. */
	readonly openFiles: number;
	/** What its group can't hold it to; undefined: nothing. */
	readonly left: LeftLimits;
	/** Mount options of /tmp; undefined: none is mounted. */
	readonly scratch: string | undefined;
	readonly hostname: string;
	/** Working folder. */
	readonly folder: string;
	/** What its network is set up with, as native/guest/network.h has it; undefined: nothing. */
	readonly network: string | undefined;
	/** Where the mounts are attached, in the order of their fds. */
	readonly targets: readonly string[];
	/** Whether stdout and stderr come with it. */
	readonly streams: boolean;
	/** Whether it gets a network namespace of its own. */
	readonly ownNetwork: boolean;
	readonly filter: boolean;
	/** Whether it gets the folder /tmp/work. */
	readonly workFolder: boolean;
	/** What of it can be written besides /tmp. */
	readonly writable: 'none' | 'mounts' | 'root';
	/** Whether nothing that it writes can be executed. */
	readonly noNewExecutables: boolean;
};

/** Asks for a leaf that waits for the rest. */
export type SpareRequest = Pick<
	LeafRequest,
	'id' | 'uid' | 'ownUserNamespace' | 'hostname' | 'streams' | 'ownNetwork' | 'filter'
> & {
	/** Whether it does what its packages put off until they are used; else only what every start goes through. */
	readonly warmUps: boolean;
};

/** The rest. */
export type HandOverRequest = Pick<
	LeafRequest,
	'openFiles' | 'left' | 'scratch' | 'folder' | 'network' | 'targets' | 'noNewExecutables'
>;

/** Types of frames between the host and a spare, or a leaf that waits for an event; those of protocol.ts are others. From 128 on: text. */
export const spareFrame = {
	/** To it: become a sandbox. fds: mounts. */
	handOver: 24,
	/** To it: have these pages there. */
	populate: 25,
	/** From it: that was done. */
	populated: 26,
	/** From it: it waits to be handed over, and how it has got ready. */
	parked: 139,
} as const;

/** What a spare has gone through ahead. */
export type Rehearsal = {
	/** How long it took. */
	readonly ms: number;
	/** What of it failed, and so is not done ahead. */
	readonly failed: readonly string[];
};

/** Undefined: not something that a spare says. */
export function decodeParked(text: string): Rehearsal | undefined {
	try {
		const value = JSON.parse(text) as Partial<Rehearsal> | null;
		const {ms, failed} = value ?? {};
		const isOne = typeof ms === 'number' && Array.isArray(failed) && failed.every((each) => typeof each === 'string');
		return isOne ? {ms, failed} : undefined;
	} catch {
		return undefined;
	}
}

/** As in launcher.h: with more, a launcher takes what it gets for no request, and ends. */
const maxText = 65_536;

type Head = {
	op: string;
	id?: number;
	uid?: number;
	flags?: number;
	mounts?: number;
	openFiles?: number;
	left?: LeftLimits;
};

function encode(
	{op, id = 0, uid = 0, flags = 0, mounts = 0, openFiles = 0, left = noneLeft}: Head,
	range: IdRange,
	text: string,
): Buffer {
	const bytes = Buffer.from(text);
	if (bytes.length >= maxText) {
		throw new RangeError(`expected a request of fewer than ${maxText} bytes of text, got ${bytes.length}`);
	}
	const words = [op.charCodeAt(0), id, uid, flags, mounts, range.start, range.count, openFiles, ...numbersOf(left)];
	const head = Buffer.alloc(words.length * 4);
	for (const [index, word] of words.entries()) head.writeUInt32LE(word, index * 4);
	return Buffer.concat([head, bytes]);
}

const noRange: IdRange = {start: 0, count: 0};
const noneLeft: LeftLimits = {processes: undefined, memoryMb: undefined};

function numbersOf({processes, memoryMb}: LeftLimits): [number, number] {
	return [processes ?? 0, Math.ceil(memoryMb ?? 0)];
}

function encodeFlags({
	streams,
	ownNetwork,
	filter,
	ownUserNamespace,
}: Pick<LeafRequest, 'streams' | 'ownNetwork' | 'filter' | 'ownUserNamespace'>): number {
	return (
		(streams ? 0 : leafFlags.noStreams) |
		(ownNetwork ? 0 : leafFlags.sharedNetwork) |
		(filter ? 0 : leafFlags.noFilter) |
		(ownUserNamespace ? leafFlags.ownUserNamespace : 0)
	);
}

/** fds: channel, stdout and stderr if there are any, mounts, cgroups. */
export function encodeLeafRequest(leaf: LeafRequest): Buffer {
	const flags =
		encodeFlags(leaf) |
		(leaf.workFolder ? leafFlags.workFolder : 0) |
		writableFlags[leaf.writable] |
		(leaf.noNewExecutables ? leafFlags.noNewExecutables : 0);
	const text = [leaf.scratch ?? '', leaf.hostname, leaf.folder, leaf.network ?? '', ...leaf.targets, ''].join('\0');
	const {id, uid, openFiles, left} = leaf;
	return encode({op: 'L', id, uid, flags, mounts: leaf.targets.length, openFiles, left}, noRange, text);
}

/** fds: as of a leaf without mounts. */
export function encodeSpareRequest(spare: SpareRequest): Buffer {
	const {id, uid, hostname} = spare;
	const flags = encodeFlags(spare) | (spare.warmUps ? 0 : leafFlags.noWarmUps);
	return encode({op: 'S', id, uid, flags}, noRange, `\0${hostname}\0`);
}

/** The payload of the frame. */
export function encodeHandOver(request: HandOverRequest): Buffer {
	const {openFiles, left, scratch, folder, network, targets, noNewExecutables} = request;
	const flags = noNewExecutables ? leafFlags.noNewExecutables : 0;
	const numbers = [openFiles, targets.length, ...numbersOf(left), flags];
	const head = Buffer.alloc(numbers.length * 4);
	for (const [index, number] of numbers.entries()) head.writeUInt32LE(number, index * 4);
	return Buffer.concat([head, Buffer.from([scratch ?? '', folder, network ?? '', ...targets, ''].join('\0'))]);
}

/** What populating came to. */
export type Populated = {
	/** How many of the ranges were there, and could be read or written to. */
	readonly ranges: number;
	readonly ms: number;
};

/** The most ranges of one {@link encodeWorkingSet}. */
export const maxRanges = 4000;

/** The payload of the frame. Ranges beyond {@link maxRanges} are left out, those that are read first. */
export function encodeWorkingSet({written, read}: WorkingSet): Buffer {
	const ranges = [...written, ...read].slice(0, maxRanges);
	const words = [Math.min(written.length, ranges.length), ...ranges.flat()];
	return Buffer.from(BigUint64Array.from(words, BigInt).buffer);
}

/** Undefined: not something that a spare says. */
export function decodePopulated(data: FramePayload): Populated | undefined {
	if (typeof data === 'string' || data.length !== 8) return undefined;
	return {ranges: data.readUInt32LE(0), ms: data.readUInt32LE(4) / 1000};
}

/**
 * Asks for a child zygote with ids of its own.
 * fds: control socket, mounts, cgroups.
 * @param targets where the mounts are attached, in the order of their fds
 */
export function encodeZygoteRequest(range: IdRange, targets: readonly string[], spec: object): Buffer {
	return encode({op: 'Z', mounts: targets.length}, range, JSON.stringify({...spec, targets}));
}

/** Asks for network namespaces for the next leaves. */
export function encodeRefillRequest(): Buffer {
	return encode({op: 'N'}, noRange, '');
}

/** What a launcher says. */
export type LauncherMessage =
	| {readonly type: 'born'}
	/** What it said with it is for whoever started it. */
	| {readonly type: 'ready'; readonly words: string}
	| {readonly type: 'leafEnded'; readonly id: number; readonly status: number}
	| {readonly type: 'forkFailed'; readonly id: number; readonly errno: number};

/** Undefined: not something that a launcher says. */
export function decodeLauncherMessage(data: Buffer): LauncherMessage | undefined {
	const op = String.fromCharCode(data[0] ?? 0);
	if (op === 'B') return {type: 'born'};
	if (op === 'R') return {type: 'ready', words: data.toString('utf8', 1)};
	if (data.length !== 12) return undefined;
	const [id, value] = [data.readUInt32LE(4), data.readInt32LE(8)];
	if (op === 'X') return {type: 'leafEnded', id, status: value};
	return op === 'E' ? {type: 'forkFailed', id, errno: value} : undefined;
}
