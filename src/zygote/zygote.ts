/** A zygote seen from the host: forks leaves and child zygotes, and can be let go without harm to them. */

import {fchownSync} from 'node:fs';
import {constants} from 'node:os';
import {getSystemErrorName} from 'node:util';
import {ForktreeError, SyscallError} from '../errors.ts';
import type {Cgroup} from '../kernel/cgroup.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {openProcess, type Process, type ProcessEnd, readWaitStatus} from '../kernel/process.ts';
import {closeFd, type NativeEndpoint, pipe, socketPair, watch} from '../native.ts';
import type {Keeper, RootPlan} from '../sandbox/keeper.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {OutputPipe, OutputSink} from '../sandbox/output.ts';
import {type FirstFrame, Sandbox, type SandboxParts} from '../sandbox/sandbox.ts';
import {IdAllocator, type IdRange} from '../sandbox/uid-range.ts';
import {Undo} from '../undo.ts';
import {
	type Born,
	decodeBorn,
	decodeZygoteMessage,
	encodeRequest,
	frameType,
	type ZygoteReport,
	type ZygoteSpec,
} from './protocol.ts';

/** Inside, ids below this are the zygote's own and the system's; sandboxes get the ones from here on. */
const firstLeafId = 1000;
const bornDeadlineMs = 10_000;
const importDeadlineMs = 120_000;
const maxErrorBytes = 16 * 1024;

/** What a leaf gets. */
export type LeafSpec = {
	readonly code: LockedFolder;
	/** Attached at /packages; for a zygote that has none of its own. */
	readonly packages: LockedFolder | undefined;
	readonly takeCgroup: () => Cgroup;
	readonly scratchMb: number;
	readonly openFiles: number;
	/** The largest frame accepted from it, in bytes. */
	readonly maxFrame: number;
	/** Called with the sandbox before the zygote is asked: what it sends now, the leaf finds when it looks. */
	readonly greet: (sandbox: Sandbox) => void;
};

/** Milliseconds of a leaf's start. */
export type ForkTimings = {
	/** Cgroup, sockets and mounts on the host. */
	readonly prepareMs: number;
	/** From asking the zygote to the child's first moment. */
	readonly forkMs: number;
	/** Its set-up, until the filter is installed. */
	readonly isolateMs: number;
	/** When it was set up, as `performance.now()` counts. */
	readonly bornAtMs: number;
};

/** A leaf that the zygote was asked for. */
export type Leaf = {
	/** From now on its owner destroys it. */
	readonly sandbox: Sandbox;
	/**
	 * Waits for its birth; of a leaf that was not born everything is given back.
	 * @throws {ForktreeError} `ZygoteFailed`; {SyscallError} when a step of its set-up failed
	 */
	born(): Promise<ForkTimings>;
};

/** A leaf whose birth or end is still to be told; the two come by different sockets, in any order. */
type PendingLeaf = {
	readonly sandbox: Sandbox;
	ended(end: ProcessEnd): void;
	hasSpoken: boolean;
	hasEnded: boolean;
};

/** What to add to `performance.now()` for CLOCK_MONOTONIC, in milliseconds. */
const monotonicOffsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** The options of a leaf's /tmp. An inode costs about a kilobyte that no size limit counts. */
function scratchOptions(megabytes: number): string {
	return `size=${Math.round(megabytes * 1024)}k,nr_inodes=${Math.round(megabytes * 256) + 64},mode=1777`;
}

let lastSandbox = 0;

/** Owns a zygote's process and control socket. */
export class Zygote {
	readonly spec: ZygoteSpec;
	/** How its imports went. */
	readonly report: ZygoteReport;
	/** Settles when it can fork no more, with the reason. */
	readonly gone: Promise<Error>;
	/** Settles when, besides, nothing forked from it is left: its ids can be used again. */
	readonly drained: Promise<void>;
	readonly #link: ZygoteLink;
	readonly #ids: IdAllocator;
	/** The host's id of its id 0. */
	readonly #firstHostId: number;
	#descendants = 0;
	#settleDrained!: () => void;

	private constructor(spec: ZygoteSpec, link: ZygoteLink, report: ZygoteReport, ids: IdRange) {
		this.spec = spec;
		this.report = report;
		this.gone = link.gone;
		this.#link = link;
		this.#ids = new IdAllocator({start: firstLeafId, count: ids.count - firstLeafId});
		this.#firstHostId = ids.start;
		this.drained = new Promise((resolve) => {
			this.#settleDrained = resolve;
		});
		void this.gone.then(() => this.#checkDrained());
	}

	#takeIds(count: number): {slice: IdRange; release: () => void} {
		const slice = this.#ids.take(count);
		this.#descendants += 1;
		const release = () => {
			this.#ids.release(slice);
			this.#descendants -= 1;
			this.#checkDrained();
		};
		return {slice, release};
	}

	#checkDrained(): void {
		if (this.#link.isGone && this.#descendants === 0) this.#settleDrained();
	}

	/** Starts a fresh interpreter in a root of its own. @param ids the host's ids for it and all below */
	static async spawnRoot(
		keeper: Keeper,
		plan: RootPlan,
		spec: ZygoteSpec,
		ids: IdRange,
		liveness: number,
	): Promise<Zygote> {
		const [errors, errorsEnd] = pipe();
		const stderr = new OutputPipe(errors);
		const sink = new OutputSink(maxErrorBytes);
		stderr.direct(sink);
		try {
			return await Zygote.#make(spec, ids, stderr, async (control) => {
				const {init} = await keeper.spawnRoot(plan, ids, {control, liveness, errors: errorsEnd});
				return init;
			});
		} catch (error) {
			stderr.drain();
			const words = sink.text.trim();
			stderr.close();
			if (!(error instanceof ForktreeError) || error.code !== 'ZygoteFailed' || words === '') throw error;
			throw new ForktreeError('ZygoteFailed', `${error.message}; its last words: ${words}`, {cause: error});
		} finally {
			closeFd(errorsEnd);
		}
	}

	/** Forks a child zygote, which then imports its own modules. @param count ids that it and all below it get */
	async forkZygote(spec: ZygoteSpec, packages: LockedFolder | undefined, count: number): Promise<Zygote> {
		const {slice, release} = this.#takeIds(count);
		let mount: number | undefined;
		try {
			mount = await packages?.take();
			const mounts = mount === undefined ? [] : [mount];
			const hostIds = {start: this.#firstHostId + slice.start, count};
			const made = await Zygote.#make(spec, hostIds, undefined, async (control) => {
				const text = JSON.stringify(spec);
				const request = encodeRequest({op: 'zygote', id: 0, packages: mounts.length > 0, range: slice, text});
				this.#link.send(request, [control, ...mounts]);
				return undefined;
			});
			void made.drained.then(release);
			return made;
		} catch (error) {
			release();
			throw error;
		} finally {
			if (mount !== undefined) closeFd(mount);
		}
	}

	static async #make(
		spec: ZygoteSpec,
		ids: IdRange,
		stderr: OutputPipe | undefined,
		start: (control: number) => Promise<Process | undefined>,
	): Promise<Zygote> {
		const [ours, theirs] = socketPair(true);
		const link = new ZygoteLink(ours);
		try {
			try {
				const init = await start(theirs);
				if (init !== undefined) link.own(init);
			} finally {
				closeFd(theirs);
			}
			await link.born();
			const zygote = new Zygote(spec, link, await link.ready(), ids);
			zygote.refill();
			// Its descendants write there as well.
			if (stderr !== undefined) void zygote.drained.then(() => stderr.close());
			return zygote;
		} catch (error) {
			link.kill();
			throw error;
		}
	}

	/**
	 * Asks for a leaf: a sandbox with the spec's code, ready for its load frame once it is born.
	 * @throws {ForktreeError} `ZygoteFailed` when it can't be asked for
	 */
	async forkLeaf(spec: LeafSpec): Promise<Leaf> {
		const startedMs = performance.now();
		const undo = new Undo();
		try {
			const {slice, release} = this.#takeIds(1);
			undo.push(release);
			const mounts = await takeMounts(spec, undo);
			const cgroup = spec.takeCgroup();
			undo.push(() => cgroup.remove());
			const [ours, theirs] = openChannels(undo, this.#firstHostId + slice.start);
			lastSandbox += 1;
			const id = lastSandbox;
			const askedMs = performance.now();
			this.#link.send(leafRequest(id, slice.start, spec), [...theirs, ...mounts, ...cgroup.joins]);
			// What the host needs besides is made while the zygote forks.
			undo.release();
			const parts = {
				id: String(id),
				cgroup,
				stdout: new OutputPipe(ours.stdout),
				stderr: new OutputPipe(ours.stderr),
				releaseId: release,
			};
			const leaf = this.#link.expectLeaf(id, parts, ours.channel, spec.maxFrame);
			spec.greet(leaf.sandbox);
			cgroup.closeJoins();
			for (const fd of [...theirs, ...mounts]) closeFd(fd);
			return {
				sandbox: leaf.sandbox,
				born: async () => {
					await waitForBirth(leaf.sandbox);
					const firstMs = (leaf.born?.timesMs[0] ?? 0) - monotonicOffsetMs;
					const bornAtMs = (leaf.born?.timesMs.at(-1) ?? 0) - monotonicOffsetMs;
					return {
						prepareMs: askedMs - startedMs,
						forkMs: firstMs - askedMs,
						isolateMs: bornAtMs - firstMs,
						bornAtMs,
					};
				},
			};
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	/** Makes what the next leaf needs. To be called when a start is over: it takes a core for half a millisecond. */
	refill(): void {
		try {
			this.#link.send(encodeRequest({op: 'refill', id: 0, packages: false, text: ''}), []);
		} catch (error) {
			if (!(error instanceof ForktreeError)) throw error; // it is gone: its end is told elsewhere
		}
	}

	/** Its own process's pid on the host; undefined once it has ended. */
	pid(): number | undefined {
		return this.#link.pid();
	}

	/** Settles when its processes have ended and nothing of them is held; first it must be let go or killed. */
	async ended(): Promise<void> {
		return this.#link.ended();
	}

	/** Lets it end. The sandboxes forked from it live on. */
	release(): void {
		this.#link.release();
	}

	/** Kills its process at once. The sandboxes forked from it live on. */
	kill(): void {
		this.#link.kill();
	}
}

async function waitForBirth(sandbox: Sandbox): Promise<void> {
	try {
		await sandbox.birth;
	} catch (error) {
		const {oomKills} = await sandbox.destroy();
		if (oomKills === 0) throw error;
		const hint = 'its memory limit is too small (limits.memoryMb)';
		throw new SyscallError('set up the sandbox', -constants.errno.ENOMEM, 'ENOMEM', undefined, hint);
	}
}

/** What a leaf's first frame says: it was born, or what came instead. */
function readBirth(frame: Parameters<FirstFrame>[0]): {born?: Born; process?: Process; error: Error} {
	const [pidfd, ...others] = frame?.fds ?? [];
	for (const fd of others) closeFd(fd);
	const process = pidfd === undefined ? undefined : openProcess(pidfd);
	if (frame === undefined) return {error: new ForktreeError('ZygoteFailed', 'a leaf ended before it was set up')};
	if (frame.type !== frameType.born || frame.payload.length < 12) {
		process?.close();
		return {error: new ForktreeError('ZygoteFailed', 'a leaf’s first frame was not its birth')};
	}
	const born = decodeBorn(frame.payload);
	const {failedStep, errno} = born;
	if (failedStep !== undefined) {
		return {born, error: new SyscallError(failedStep, -errno, getSystemErrorName(-errno))};
	}
	return {born, ...(process && {process}), error: new ForktreeError('ZygoteFailed', 'a leaf came without its pidfd')};
}

/** Clones of the folders that the leaf attaches; code first. */
async function takeMounts(spec: LeafSpec, undo: Undo): Promise<number[]> {
	const mounts: number[] = [];
	undo.push(() => mounts.forEach(closeFd));
	for (const folder of [spec.code, spec.packages]) if (folder !== undefined) mounts.push(await folder.take());
	return mounts;
}

/** A leaf's channel, stdout and stderr: our ends, and theirs in the order of the request. */
function openChannels(undo: Undo, owner: number): [{channel: number; stdout: number; stderr: number}, number[]] {
	const open: number[] = [];
	undo.push(() => open.forEach(closeFd));
	const [channel, channelEnd] = socketPair(false);
	open.push(channel, channelEnd);
	const [stdout, stdoutEnd] = pipe();
	open.push(stdout, stdoutEnd);
	const [stderr, stderrEnd] = pipe();
	open.push(stderr, stderrEnd);
	// So that /dev/stdout and /dev/stderr can be opened by name.
	for (const end of [stdoutEnd, stderrEnd]) fchownSync(end, owner, owner);
	return [{channel, stdout, stderr}, [channelEnd, stdoutEnd, stderrEnd]];
}

function leafRequest(id: number, uid: number, spec: LeafSpec): Buffer {
	const text = scratchOptions(spec.scratchMb);
	return encodeRequest({op: 'leaf', id, uid, openFiles: spec.openFiles, packages: spec.packages !== undefined, text});
}

/** The control socket: who waits for what, until it closes. */
class ZygoteLink {
	readonly gone: Promise<Error>;
	readonly #pending = new Map<number, PendingLeaf>();
	readonly #socket: NativeEndpoint;
	#process: Process | undefined;
	#init: Process | undefined;
	#settleGone!: (error: Error) => void;
	#settleBorn!: () => void;
	#settleReady!: (report: ZygoteReport) => void;
	readonly #born: Promise<void>;
	readonly #ready: Promise<ZygoteReport>;
	#reason: Error | undefined;

	constructor(socket: number) {
		this.gone = new Promise((resolve) => {
			this.#settleGone = resolve;
		});
		this.#born = new Promise((resolve) => {
			this.#settleBorn = resolve;
		});
		this.#ready = new Promise((resolve) => {
			this.#settleReady = resolve;
		});
		this.#socket = watch(socket, 'socket', (event, data, fds) => {
			if (event === 0 && Buffer.isBuffer(data)) this.#receive(data, fds ?? []);
			else this.#fail(new ForktreeError('ZygoteFailed', 'the zygote’s process ended'));
		});
	}

	/** Takes over the init's pidfd: to collect it, and to kill it if the zygote never spoke. */
	own(init: Process): void {
		this.#init = init;
		void init.ended.then(() => init.close());
	}

	async born(): Promise<void> {
		await this.#orGone(this.#born, bornDeadlineMs, 'starting');
	}

	async ready(): Promise<ZygoteReport> {
		return this.#orGone(this.#ready, importDeadlineMs, 'importing');
	}

	async #orGone<T>(wait: Promise<T>, ms: number, what: string): Promise<T> {
		const failed = this.gone.then((error) => {
			throw error;
		});
		return withDeadline(
			Promise.race([wait, failed]),
			ms,
			() => new ForktreeError('ZygoteFailed', `${what} took longer than ${ms} ms`),
		);
	}

	send(message: Buffer, fds: readonly number[]): void {
		if (this.#reason !== undefined) throw this.#reason;
		const sent = this.#socket.send(message, fds);
		if (sent >= 0) return;
		const error = new ForktreeError('ZygoteFailed', `asking the zygote: ${getSystemErrorName(sent)}`);
		// It has ended, which the end of the socket has not told yet: nobody else shall ask it.
		if (sent === -constants.errno.EPIPE || sent === -constants.errno.ECONNRESET) this.#fail(error);
		throw error;
	}

	/** Makes the host's side of a leaf that was asked for; the first frame tells of its birth. */
	expectLeaf(
		id: number,
		parts: SandboxParts,
		channel: number,
		maxFrame: number,
	): {readonly sandbox: Sandbox; born: Born | undefined} {
		let told!: (end: ProcessEnd) => void;
		const status = new Promise<ProcessEnd>((resolve) => {
			told = resolve;
		});
		const late = setTimeout(() => {
			sandbox.failBirth(new ForktreeError('ZygoteFailed', `a fork took longer than ${bornDeadlineMs} ms`));
			this.#pending.delete(id);
		}, bornDeadlineMs);
		const sandbox = new Sandbox(parts, channel, maxFrame, (frame) => {
			clearTimeout(late);
			const {born, process, error} = readBirth(frame);
			leaf.born = born;
			if (process !== undefined) sandbox.attach(process, status);
			else sandbox.failBirth(error);
			pending.hasSpoken = true;
			if (pending.hasEnded) this.#pending.delete(id);
		});
		const leaf: {readonly sandbox: Sandbox; born: Born | undefined} = {sandbox, born: undefined};
		const pending: PendingLeaf = {sandbox, ended: told, hasSpoken: false, hasEnded: false};
		this.#pending.set(id, pending);
		return leaf;
	}

	#leafEnded(id: number, end: ProcessEnd): void {
		const leaf = this.#pending.get(id);
		if (leaf === undefined) return;
		leaf.ended(end);
		leaf.hasEnded = true;
		if (leaf.hasSpoken) this.#pending.delete(id);
	}

	#receive(data: Buffer, fds: readonly number[]): void {
		const [pidfd, ...others] = fds;
		for (const fd of others) closeFd(fd);
		const message = decodeZygoteMessage(data);
		if (pidfd !== undefined) {
			if (message?.type === 'born' && this.#process === undefined) this.#process = openProcess(pidfd);
			else closeFd(pidfd);
		}
		switch (message?.type) {
			case 'born':
				this.#settleBorn();
				break;
			case 'ready':
				this.#settleReady(message.report);
				break;
			case 'leafEnded':
				this.#leafEnded(message.id, readWaitStatus(message.status));
				break;
			case 'forkFailed':
				this.#pending
					.get(message.id)
					?.sandbox.failBirth(new ForktreeError('ZygoteFailed', `fork: ${getSystemErrorName(message.errno)}`));
				this.#pending.delete(message.id);
				break;
			default:
				this.kill();
				this.#fail(new ForktreeError('ZygoteFailed', 'the zygote sent something that is no message'));
		}
	}

	#fail(error: Error): void {
		if (this.#reason !== undefined) return;
		this.#reason = error;
		this.#socket.close();
		for (const leaf of this.#pending.values()) {
			// What came of its birth its own channel tells, which breaks if it was not forked.
			leaf.ended({type: 'unknown'});
		}
		this.#pending.clear();
		this.#settleGone(error);
		const process = this.#process;
		if (process !== undefined) void process.ended.then(() => process.close());
	}

	/** Settles when its processes have ended and their pidfds are closed. */
	async ended(): Promise<void> {
		await Promise.all([this.#init?.ended, this.#process?.ended]);
	}

	get isGone(): boolean {
		return this.#reason !== undefined;
	}

	pid(): number | undefined {
		return this.#process?.pid();
	}

	release(): void {
		this.#fail(new ForktreeError('ZygoteFailed', 'the zygote was let go'));
	}

	kill(): void {
		if (this.#process === undefined) this.#init?.signal('SIGKILL');
		else this.#process.signal('SIGKILL');
		this.#fail(new ForktreeError('ZygoteFailed', 'the zygote was killed'));
	}
}
