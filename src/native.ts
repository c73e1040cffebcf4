/** The only door to C++: loads the addon on first use and types what it offers. */
import {accessSync, chmodSync, constants, copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';
import {getSystemErrorName} from 'node:util';
import {ForktreeError, SyscallError} from './errors.ts';

/** An fd that Node's event loop watches; see native/addon/endpoint.h. */
export type NativeEndpoint = {
	send(data: Uint8Array, fds?: readonly number[]): number;
	sendFrame(type: number, payload: Uint8Array | string, fds?: readonly number[]): number;
	hold(): void;
	letGo(): number;
	follow(endpoints: readonly NativeEndpoint[]): void;
	refuseFds(): void;
	acceptFrames(maxFrame: number): void;
	pause(): void;
	resume(): void;
	drain(): void;
	close(): void;
};

type EndpointKind = 'packets' | 'frames' | 'pipe' | 'pidfd' | 'listener';
type EndpointCallback = (
	event: 0 | 1 | 2 | 3,
	data: Buffer | string | number | undefined,
	fds: number[] | undefined,
	type: number,
) => void;

/** A connection that is passed on without JavaScript; see native/addon/relay.h. */
export type NativeRelay = {
	connect(address: string, port: number): number;
	start(): void;
	end(): void;
	counts(): [sent: number, received: number];
};

type RelayCallback = (event: 0 | 1 | 2 | 3, value: number) => void;

/** What becomes of a call, by libseccomp's numbers for actions and operators. */
export type NativeRule = {
	readonly call: string;
	readonly action: number;
	readonly args: ReadonlyArray<{
		readonly index: number;
		readonly op: number;
		readonly value: number;
		readonly second: number;
	}>;
};

/** Fds; or -errno, the step that failed and its path. */
type GroupAnswer = readonly number[] | readonly [number, string, string];

/** What a folder held; with a `step`, what went wrong: `error` is -errno, or 0 for something that may not be there. */
type SealAnswer = {
	readonly files: number;
	readonly bytes: number;
	readonly error: number;
	readonly step: string;
	readonly path: string;
};

type Addon = {
	readonly Endpoint: new (
		fd: number,
		kind: EndpointKind,
		callback: EndpointCallback,
		maxFrame: number,
	) => NativeEndpoint;
	socketPair(packets: boolean): [number, number] | number;
	pipe(writing: boolean): [number, number] | number;
	spawn(path: string, args: readonly string[], fds: readonly number[]): {pid: number; pidfd: number} | number;
	signal(pidfd: number, signal: number): number;
	exitStatus(pidfd: number): number;
	reap(pidfd: number): void;
	lock(path: string, create: boolean): number;
	flock(fd: number, shared: boolean): number;
	sealTree(folder: string, entries: number, bytes: number): Promise<SealAnswer>;
	workingSet(pid: number, maxPages: number): Promise<WorkingSet | number>;
	readNumber(fd: number): number;
	makeGroup(words: string): GroupAnswer;
	makeGroupLater(words: string): Promise<GroupAnswer>;
	removeGroup(folders: string): Promise<GroupAnswer>;
	readControl(file: string): string | number;
	readCounter(fd: number, name: string): number;
	compileProfile(defaultAction: number, rules: readonly NativeRule[]): Uint8Array | string;
	readonly Relay: new (fd: number, callback: RelayCallback) => NativeRelay;
	localAddress(fd: number): string;
	isListener(fd: number): boolean;
	resetOnClose(fd: number): void;
	close(fd: number): number;
};

const packageRoot = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

/** The folder of the Python files that run in a sandbox. */
export const guestDirectory = path.join(packageRoot, 'src', 'guest');

/** Those files. */
export function guestFiles(): string[] {
	return readdirSync(guestDirectory).flatMap((name) => (name.endsWith('.py') ? [path.join(guestDirectory, name)] : []));
}

function libc(): 'glibc' | 'musl' {
	const {header} = process.report.getReport() as {header: {glibcVersionRuntime?: string}};
	return header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
}

let directory: string | undefined;

/**
 * The folder with the addon and the programs built beside it: a local build, else the prebuild for this machine.
 * @throws {ForktreeError} `NotSupported` on another system than Linux, `NativeMissing` when there is neither.
 */
export function nativeDirectory(): string {
	if (directory !== undefined) return directory;
	if (process.platform !== 'linux') {
		throw new ForktreeError('NotSupported', `expected Linux 5.15 or later, got ${process.platform}`);
	}
	const prebuild = `${process.platform}-${process.arch}-${libc()}`;
	const candidates = [path.join(packageRoot, 'build', 'Release'), path.join(packageRoot, 'prebuilds', prebuild)];
	directory = candidates.find((candidate) => existsSync(path.join(candidate, 'forktree.node')));
	if (directory === undefined) {
		throw new ForktreeError(
			'NativeMissing',
			`there is no prebuilt addon for ${prebuild} and no local build; build it in a clone of forktree with: npm ci && npm run build`,
		);
	}
	return directory;
}

let loaded: Addon | undefined;

function addon(): Addon {
	loaded ??= createRequire(import.meta.url)(path.join(nativeDirectory(), 'forktree.node')) as Addon;
	return loaded;
}

/** Turns an answer of -errno into a {@link SyscallError}. */
export function checkSyscall(step: string, result: number, file?: string): number {
	if (result < 0) throw new SyscallError(step, result, getSystemErrorName(result), file);
	return result;
}

function checkPair(step: string, pair: [number, number] | number): [number, number] {
	if (typeof pair === 'number') {
		checkSyscall(step, pair);
		throw new TypeError(`${step}: expected a pair of fds`);
	}
	return pair;
}

/** A pair of connected sockets, close-on-exec; `packets` keeps message borders. */
export function socketPair(packets: boolean): [number, number] {
	return checkPair('socketpair', addon().socketPair(packets));
}

/** A pipe: read end, write end; both close-on-exec. Ours is the read end unless `writing`, and does not block. */
export function pipe(writing = false): [number, number] {
	return checkPair('pipe', addon().pipe(writing));
}

/** Closes an fd that nothing else owns. */
export function closeFd(fd: number): void {
	checkSyscall('close', addon().close(fd));
}

/** Whether an fd that came from elsewhere is a TCP socket that listens. */
export function isListener(fd: number): boolean {
	return addon().isListener(fd);
}

/** Passes a connection on, which it then owns, to whom its `connect()` says; the callbacks run on Node's event loop. */
export function openRelay(fd: number, callback: RelayCallback): NativeRelay {
	return new (addon().Relay)(fd, callback);
}

/** The address and port that a TCP connection was made to; undefined when it has ended already. */
export function localAddress(fd: number): {readonly address: string; readonly port: number} | undefined {
	const [address = '', port] = addon().localAddress(fd).split(' ');
	return port === undefined ? undefined : {address, port: Number(port)};
}

/** Has a TCP connection reset when it is closed: the other side then knows that it was broken off. */
export function resetOnClose(fd: number): void {
	addon().resetOnClose(fd);
}

/** Watches an fd, which it then owns; the callbacks run on Node's event loop. @param maxFrame in bytes, of `frames` */
export function watch(fd: number, kind: EndpointKind, callback: EndpointCallback, maxFrame = 0): NativeEndpoint {
	return new (addon().Endpoint)(fd, kind, callback, maxFrame);
}

/** Whether this process may execute it. */
export function isExecutable(file: string): boolean {
	try {
		accessSync(file, constants.X_OK);
		return true;
	} catch {
		return false;
	}
}

/** As {@link spawn}, one of our own programs: from a copy, where the package was unpacked without its execute bits. */
export function spawnProgram(name: string, args: readonly string[], fds: readonly number[]): ReturnType<typeof spawn> {
	const file = path.join(nativeDirectory(), name);
	if (isExecutable(file)) return spawn(file, args, fds);
	const directory = mkdtempSync(path.join(tmpdir(), 'forktree-'));
	try {
		const copy = path.join(directory, name);
		copyFileSync(file, copy);
		chmodSync(copy, 0o700);
		return spawn(copy, args, fds);
	} finally {
		rmSync(directory, {recursive: true, force: true});
	}
}

/** Starts a program with exactly these fds as 0, 1, 2, … and no environment. */
export function spawn(file: string, args: readonly string[], fds: readonly number[]): {pid: number; pidfd: number} {
	const spawned = addon().spawn(file, args, fds);
	if (typeof spawned === 'number') {
		checkSyscall('spawn', spawned, file);
		throw new TypeError('spawn: expected a process');
	}
	return spawned;
}

/** Sends a signal to the process of a pidfd; false when it has ended already. */
export function signalProcess(pidfd: number, signal: number): boolean {
	return addon().signal(pidfd, signal) === 0;
}

/** The wait status of an ended process, also of one that is not our child (Linux 6.15+); undefined when not known. */
export function exitStatus(pidfd: number): number | undefined {
	const status = addon().exitStatus(pidfd);
	return status < 0 ? undefined : status;
}

/** Collects a child of ours that has ended. */
export function reapChild(pidfd: number): void {
	addon().reap(pidfd);
}

/**
 * Takes the flock(2) of a file without waiting: an fd that holds it, or undefined when another process does.
 * @param create whether to make the file when it is not there
 * @throws {SyscallError}
 */
export function lockFile(file: string, {create = true}: {readonly create?: boolean} = {}): number | undefined {
	const result = addon().lock(file, create);
	if (result < 0 && getSystemErrorName(result) === 'EAGAIN') return undefined;
	return checkSyscall('lock', result, file);
}

/**
 * Takes the flock(2) of an open file or folder without waiting; false when another open file has it. It goes when every
 * copy of the fd is closed.
 * @throws {SyscallError}
 */
export function flock(fd: number, kind: 'shared' | 'exclusive'): boolean {
	const result = addon().flock(fd, kind === 'shared');
	if (result < 0 && getSystemErrorName(result) === 'EAGAIN') return false;
	checkSyscall('flock', result);
	return true;
}

/** What {@link sealTree} found. */
export type SealedTree = {
	/** Folders left out. */
	readonly files: number;
	readonly sizeBytes: number;
};

/**
 * Takes over a folder that a sandbox has filled, away from Node's thread: all of it comes to belong to root, with modes
 * 0755 and 0644, and is on the disk. No link is followed.
 * @throws {ForktreeError} `UnsafeArchive` naming a file that is neither a folder nor a file with one name, or where it is
 * too large or too deep (64 folders); {@link SyscallError}
 */
export async function sealTree(
	folder: string,
	{maxEntries, maxBytes}: {readonly maxEntries: number; readonly maxBytes: number},
): Promise<SealedTree> {
	const {files, bytes, error, step, path: below} = await addon().sealTree(folder, maxEntries, maxBytes);
	const where = path.join(folder, below);
	checkSyscall(`seal folder: ${step}`, error, where);
	if (step !== '') {
		throw new ForktreeError(
			'UnsafeArchive',
			`expected at most ${maxEntries} files and folders of ${maxBytes} bytes, without links, got ${step} at ${where}`,
		);
	}
	return {files, sizeBytes: bytes};
}

/** Part of a process's memory: address and size, in bytes. */
export type PageRange = readonly [start: number, size: number];

/** The memory that a process has used since it was forked. */
export type WorkingSet = {
	/** What it has written to or allocated, and so has alone. */
	readonly written: readonly PageRange[];
	/** Of files: the pages that it has read, and those around them that the kernel mapped with them. */
	readonly read: readonly PageRange[];
};

/**
 * The working set of a process, in order, at most `maxPages` of each kind. Looked for away from Node's thread, which takes a
 * millisecond or two.
 * @throws {SyscallError} when it has ended
 */
export async function workingSetOf(pid: number, maxPages: number): Promise<WorkingSet> {
	const answer = await addon().workingSet(pid, maxPages);
	if (typeof answer !== 'number') return answer;
	checkSyscall('read the page map', answer);
	return {written: [], read: []};
}

/** The number in an open control file, read anew; undefined when it can't be read. */
export function readNumber(fd: number): number | undefined {
	const value = addon().readNumber(fd);
	return value < 0 ? undefined : value;
}

/**
 * A step of making a control group: its folder (`make`), a setting (`set`; `try`: where the kernel has it), a file to join
 * by (`join`).
 */
export type GroupStep = {
	readonly kind: 'make' | 'join' | 'set' | 'try';
	readonly path: string;
	readonly value?: string;
};

function encodeSteps(steps: readonly GroupStep[]): string {
	return steps.map(({kind, path: where, value = ''}) => `${kind}\0${where}\0${value}\0`).join('');
}

function readGroupAnswer(answer: GroupAnswer): number[] {
	const [errno = 0, step, file] = answer;
	if (errno < 0) checkSyscall(String(step), errno, String(file));
	return answer as number[];
}

/** Makes a control group, or leaves nothing. @returns the fds of the files to join by, which the caller closes */
export function makeGroup(steps: readonly GroupStep[]): number[] {
	return readGroupAnswer(addon().makeGroup(encodeSteps(steps)));
}

/** As {@link makeGroup}, away from Node's thread. */
export async function makeGroupLater(steps: readonly GroupStep[]): Promise<number[]> {
	return readGroupAnswer(await addon().makeGroupLater(encodeSteps(steps)));
}

/** Removes the folders of control groups whose processes have ended, away from Node's thread; those that are not there are passed over. */
export async function removeGroup(folders: readonly string[]): Promise<void> {
	readGroupAnswer(await addon().removeGroup(folders.map((folder) => `${folder}\0`).join('')));
}

/** The text of a control file. @throws {SyscallError} */
export function readControl(file: string): string {
	const text = addon().readControl(file);
	if (typeof text === 'string') return text;
	checkSyscall('read', text, file);
	return '';
}

/** The number after a name at the start of a line of an open control file; 0 when there is none. */
export function readCounter(fd: number, name: string): number {
	return addon().readCounter(fd, name);
}

/** A seccomp filter's instructions; or why it could not be made. */
export function compileProfile(defaultAction: number, rules: readonly NativeRule[]): Uint8Array | string {
	return addon().compileProfile(defaultAction, rules);
}
