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
import {Sandbox, type SandboxParts} from '../sandbox/sandbox.ts';
import {IdAllocator, type IdRange} from '../sandbox/uid-range.ts';
import {Undo} from '../undo.ts';
import {
	type Birth,
	decodeBirth,
	decodeZygoteMessage,
	encodeRequest,
	type ZygoteReport,
	type ZygoteSpec,
} from './protocol.ts';

/** Inside, ids below this are the zygote's own and the system's; sandboxes get the ones from here on. */
const firstLeafId = 1000;
const bornDeadlineMs = 10_000;
const importDeadlineMs = 120_000;
/** How many places wait ready: one start takes one, and it is made again afterwards. */
const readyPlaces = 2;
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

/** What a leaf needs whatever its code: an id, and both ends of its channel, stdout and stderr. */
type Place = {
	readonly uid: number;
	/** Gives the id back. */
	readonly release: () => void;
	readonly ours: {readonly channel: number; readonly stdout: number; readonly stderr: number};
	/** In the order of the request. */
	readonly theirs: readonly number[];
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
	readonly status: Promise<ProcessEnd>;
	ended(end: ProcessEnd): void;
	/** How its birth went, once that is known. */
	birth: Birth | undefined;
	isBorn: boolean;
	/** Somebody waits for its birth, who is to be woken by it. */
	isAwaited: boolean;
	hasEnded: boolean;
	readonly late: NodeJS.Timeout;
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
	readonly #places: Place[] = [];
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
		void this.gone.then(() => {
			this.#closePlaces();
			this.#checkDrained();
		});
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
			const {uid, release, ours, theirs} = this.#places.pop() ?? this.#makePlace();
			undo.push(release, () => [...Object.values(ours), ...theirs].forEach(closeFd));
			const mounts = await takeMounts(spec, undo);
			const cgroup = spec.takeCgroup();
			undo.push(() => cgroup.remove());
			lastSandbox += 1;
			const id = lastSandbox;
			const askedMs = performance.now();
			this.#link.send(leafRequest(id, uid, spec), [...theirs, ...mounts, ...cgroup.joins]);
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
					const firstMs = (leaf.birth?.beganMs ?? 0) - monotonicOffsetMs;
					const bornAtMs = (leaf.birth?.endedMs ?? 0) - monotonicOffsetMs;
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

	/** Makes what the next leaves need. To be called when a start is over: it takes a core for half a millisecond. */
	refill(): void {
		try {
			this.#link.send(encodeRequest({op: 'refill', id: 0, packages: false, text: ''}), []);
			while (this.#places.length < readyPlaces) this.#places.push(this.#makePlace());
		} catch (error) {
			if (!(error instanceof ForktreeError)) throw error; // it is gone: its end is told elsewhere
		}
	}

	#makePlace(): Place {
		const {slice, release} = this.#takeIds(1);
		try {
			return {uid: slice.start, release, ...openChannels(this.#firstHostId + slice.start)};
		} catch (error) {
			release();
			throw error;
		}
	}

	#closePlaces(): void {
		for (const {release, ours, theirs} of this.#places.splice(0)) {
			for (const fd of [...Object.values(ours), ...theirs]) closeFd(fd);
			release();
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

/** Clones of the folders that the leaf attaches; code first. */
async function takeMounts(spec: LeafSpec, undo: Undo): Promise<number[]> {
	const mounts: number[] = [];
	undo.push(() => mounts.forEach(closeFd));
	for (const folder of [spec.code, spec.packages]) if (folder !== undefined) mounts.push(await folder.take());
	return mounts;
}

/** Pipes and sockets for a leaf whose id that is on the host. */
function openChannels(owner: number): Pick<Place, 'ours' | 'theirs'> {
	const open: number[] = [];
	try {
		const [channel, channelEnd] = socketPair(false);
		open.push(channel, channelEnd);
		const [stdout, stdoutEnd] = pipe();
		open.push(stdout, stdoutEnd);
		const [stderr, stderrEnd] = pipe();
		open.push(stderr, stderrEnd);
		// So that /dev/stdout and /dev/stderr can be opened by name.
		for (const end of [stdoutEnd, stderrEnd]) fchownSync(end, owner, owner);
		return {ours: {channel, stdout, stderr}, theirs: [channelEnd, stdoutEnd, stderrEnd]};
	} catch (error) {
		for (const fd of open) closeFd(fd);
		throw error;
	}
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
	#births: NativeEndpoint | undefined;
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
		this.#socket = watch(socket, 'packets', (event, data, fds) => {
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

	/** Makes the host's side of a leaf that was asked for. */
	expectLeaf(
		id: number,
		parts: Omit<SandboxParts, 'askBirth'>,
		channel: number,
		maxFrame: number,
	): {readonly sandbox: Sandbox; readonly birth: Birth | undefined} {
		let ended!: (end: ProcessEnd) => void;
		const status = new Promise<ProcessEnd>((resolve) => {
			ended = resolve;
		});
		const askBirth = (state: 'maybe' | 'later') => this.#askBirth(id, state);
		const sandbox = new Sandbox({...parts, askBirth}, channel, maxFrame);
		const late = setTimeout(() => {
			this.#askBirth(id, 'maybe', `a fork took longer than ${bornDeadlineMs} ms`);
		}, bornDeadlineMs);
		const leaf: PendingLeaf = {
			sandbox,
			status,
			ended,
			birth: undefined,
			isBorn: false,
			isAwaited: false,
			hasEnded: false,
			late,
		};
		this.#pending.set(id, leaf);
		return leaf;
	}

	/** Looks whether a leaf was born. `maybe`: if not, it won't be; `later`: it is waited for. */
	#askBirth(id: number, state: 'maybe' | 'later', words = 'a leaf ended before it was set up'): void {
		this.#births?.drain();
		const leaf = this.#pending.get(id);
		if (leaf === undefined || leaf.isBorn) return;
		if (state === 'later') {
			leaf.isAwaited = true;
			this.#births?.resume();
		} else this.#settleBirth(id, leaf, {error: new ForktreeError('ZygoteFailed', words)});
	}

	#receiveBirth(data: Buffer, fds: readonly number[]): void {
		const [pidfd, ...others] = fds;
		for (const fd of others) closeFd(fd);
		const process = pidfd === undefined ? undefined : openProcess(pidfd);
		const birth = decodeBirth(data);
		const leaf = birth && this.#pending.get(birth.id);
		if (birth === undefined || leaf === undefined || leaf.isBorn) {
			process?.close();
			return;
		}
		leaf.birth = birth;
		const {failedStep, errno} = birth;
		if (failedStep !== undefined) {
			process?.close();
			this.#settleBirth(birth.id, leaf, {error: new SyscallError(failedStep, -errno, getSystemErrorName(-errno))});
		} else if (process === undefined) {
			this.#settleBirth(birth.id, leaf, {error: new ForktreeError('ZygoteFailed', 'a leaf came without its pidfd')});
		} else {
			this.#settleBirth(birth.id, leaf, {process});
		}
	}

	#settleBirth(id: number, leaf: PendingLeaf, result: {process: Process} | {error: Error}): void {
		clearTimeout(leaf.late);
		leaf.isBorn = true;
		if ('process' in result) leaf.sandbox.attach(result.process, leaf.status);
		else leaf.sandbox.failBirth(result.error);
		if (leaf.hasEnded) this.#pending.delete(id);
		if (this.#reason !== undefined) this.#closeBirths();
		else if (leaf.isAwaited && ![...this.#pending.values()].some((other) => other.isAwaited && !other.isBorn)) {
			this.#births?.pause();
		}
	}

	/** Once the zygote has ended: when no birth is waited for any more. */
	#closeBirths(): void {
		if ([...this.#pending.values()].every((leaf) => leaf.isBorn)) this.#births?.close();
		else this.#births?.resume();
	}

	#leafEnded(id: number, end: ProcessEnd): void {
		const leaf = this.#pending.get(id);
		if (leaf === undefined) return;
		leaf.ended(end);
		leaf.hasEnded = true;
		if (leaf.isBorn) this.#pending.delete(id);
	}

	#receive(data: Buffer, fds: readonly number[]): void {
		const message = decodeZygoteMessage(data);
		if (message?.type === 'born' && this.#process === undefined) this.#takeOver(fds);
		else for (const fd of fds) closeFd(fd);
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
				this.#askBirth(message.id, 'maybe', `fork: ${getSystemErrorName(message.errno)}`);
				this.#pending.delete(message.id);
				break;
			default:
				this.kill();
				this.#fail(new ForktreeError('ZygoteFailed', 'the zygote sent something that is no message'));
		}
	}

	/** Its pidfd, and the socket by which its leaves' births are told, which is read only when there is reason to. */
	#takeOver([pidfd, births, ...others]: readonly number[]): void {
		for (const fd of others) closeFd(fd);
		if (pidfd !== undefined) this.#process = openProcess(pidfd);
		if (births === undefined) return;
		this.#births = watch(births, 'packets', (event, data, fds) => {
			if (event === 0 && Buffer.isBuffer(data)) this.#receiveBirth(data, fds ?? []);
			else this.#births?.pause();
		});
		this.#births.pause();
	}

	#fail(error: Error): void {
		if (this.#reason !== undefined) return;
		this.#reason = error;
		this.#socket.close();
		for (const [id, leaf] of this.#pending) {
			leaf.ended({type: 'unknown'});
			leaf.hasEnded = true;
			if (leaf.isBorn) this.#pending.delete(id);
		}
		this.#closeBirths();
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
