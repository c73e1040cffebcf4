/** One live sandbox: its channel, its output, its process, its cgroup and its uid, owned together and ended together. */
import {ForktreeError} from '../errors.ts';
import type {Cgroup, CgroupMemory} from '../kernel/cgroup.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {FrameChannel, type FrameError, type FramePayload} from '../kernel/frames.ts';
import {type MemoryDetails, readMemory} from '../kernel/memory.ts';
import type {Process, ProcessEnd} from '../kernel/process.ts';
import {cpuMsOf, processTree} from '../kernel/process-tree.ts';
import {closeFd, type WorkingSet, workingSetOf} from '../native.ts';
import {Undo} from '../undo.ts';
import {decodePopulated, encodeWorkingSet, type Populated, spareFrame} from './launch-protocol.ts';
import type {TellNetwork} from './network/gateway.ts';
import type {LeafNetwork, NetworkService} from './network/sandbox-network.ts';
import type {OutputPipe} from './output.ts';

/** The two streams that a process prints to. */
export type Streams = {readonly stdout: OutputPipe; readonly stderr: OutputPipe};

/** What a {@link Leaf} is made of; it owns all of it. */
export type LeafParts = {
	readonly id: string;
	readonly cgroup: Cgroup;
	/** What its first process prints; undefined when that goes nowhere. */
	readonly streams: Streams | undefined;
	/** Gives its uid back. */
	readonly releaseId: () => void;
	/** Called when its birth is to be known: it speaks or has broken (it may be born), or it is to end (it will be). */
	readonly askBirth: (state: 'maybe' | 'later') => void;
};

/** How a sandbox ended. */
export type LeafEnd = {
	/** Known only of a sandbox that ended by itself. */
	readonly process: ProcessEnd;
	/** False: it was still running and had to be killed. */
	readonly byItself: boolean;
	/** Processes that the kernel killed for exceeding the memory limit. */
	readonly oomKills: number;
};

/** Called for what the sandbox says; it is untrusted. */
export type LeafListener = {
	frame(type: number, payload: FramePayload): void;
	/** The channel broke: its end of file, or something that is no frame. */
	broken(error: FrameError | undefined): void;
	/** Of its connections, where it may have any. */
	readonly network?: TellNetwork;
};

/** An answer that somebody waits for. */
type Asked = {readonly type: number; settle(payload: FramePayload): void; fail(): void};

/** 32 MiB: what most handlers write to, and not more than a sandbox may have. */
const maxWorkingPages = 8192;
const endDeadlineMs = 10_000;
/** How long the zygote's word on an exit status is waited for. */
const statusDeadlineMs = 2000;
const unknownEnd: ProcessEnd = {type: 'unknown'};

/**
 * A sandbox, from when it is asked for. Everything it owns is given back exactly once, after its processes have ended.
 * Whoever asked for it says what came of that, by {@link attach} or {@link failBirth}, in any case.
 */
export class Leaf {
	readonly id: string;
	readonly #parts: LeafParts;
	readonly #channel: FrameChannel;
	#process: Process | undefined;
	#birth!: Promise<void>;
	#settleBirth!: {resolve(): void; reject(error: Error): void};
	#listener: LeafListener | undefined;
	/** Answers that are waited for, in order. */
	readonly #asked: Asked[] = [];
	#network: LeafNetwork | undefined;
	#service: NetworkService | undefined;
	#isKnown = false;
	#isPaused = false;
	#isParked = false;
	/** Its channel broke, or it was never born. */
	#isBroken = false;
	#status: Promise<ProcessEnd> | undefined;
	#ended: Promise<LeafEnd> | undefined;

	/**
	 * @param channel our end of its channel
	 * @param maxFrame the largest frame accepted from it, in bytes
	 */
	constructor(parts: LeafParts, channel: number, maxFrame: number) {
		this.id = parts.id;
		this.#parts = parts;
		this.#expectBirth();
		this.#channel = new FrameChannel(channel, maxFrame, {
			frame: (type, payload) => this.#take(type, payload),
			broken: (error) => {
				this.#isBroken = true;
				if (!this.#isKnown) this.#parts.askBirth('maybe');
				this.#failAsked();
				this.#listener?.broken(error);
			},
		});
		if (parts.streams !== undefined) {
			this.#channel.follow([parts.streams.stdout.endpoint, parts.streams.stderr.endpoint]);
		}
	}

	#expectBirth(): void {
		this.#isKnown = false;
		this.#birth = new Promise((resolve, reject) => {
			this.#settleBirth = {resolve, reject};
		});
		this.#birth.catch(() => undefined); // also when nobody waits for it
	}

	#take(type: number, payload: FramePayload): void {
		// What a spare was asked it may answer when it was handed over, and is not yet what it is to become.
		const isAsked = this.#asked[0]?.type === type;
		if (isAsked ? this.#process === undefined : !this.#isKnown) this.#parts.askBirth('maybe');
		if (isAsked) this.#asked.shift()?.settle(payload);
		else this.#listener?.frame(type, payload);
	}

	/** Settles when it runs; rejects when it could not be made. Of a spare that was handed over: when it is that sandbox. */
	get birth(): Promise<void> {
		return this.#birth;
	}

	/** It is to become what it was forked for: its birth is told once more. @param maxFrame from now on, in bytes */
	handOver(maxFrame: number): void {
		this.#expectBirth();
		this.#channel.accept(maxFrame);
	}

	/** Sends at once what is sent meanwhile, so that it is woken once. Only the first frame may have fds. */
	sendTogether(send: () => void): void {
		this.#channel.together(send);
	}

	/**
	 * The payload of the frame of that type by which it answers something; its listener does not hear of it. Answers come in the
	 * order in which they are waited for.
	 * @throws {ForktreeError} `ZygoteFailed` when it ends before
	 */
	async answer(type: number): Promise<FramePayload> {
		return new Promise((settle, reject) => {
			const fail = () => reject(new ForktreeError('ZygoteFailed', 'a leaf ended before it answered'));
			if (this.#isBroken) fail();
			else this.#asked.push({type, settle, fail});
		});
	}

	/** What it gets of an allow-list; then the sockets come with its birth, which is to be known when it comes. */
	giveNetwork(network: LeafNetwork | undefined): void {
		this.#network = network;
		if (network !== undefined) this.awaitBirth();
	}

	/** Takes over what came with its birth. @returns whether that is what was to come */
	takeListeners(fds: readonly number[]): boolean {
		const network = this.#network;
		const isWhole = fds.length === (network?.listeners ?? 0);
		if (network === undefined || !isWhole || this.#isBroken) {
			for (const fd of fds) closeFd(fd);
		} else {
			this.#service = network.serve(fds, (name, ...details) => this.#listener?.network?.(name, ...details));
		}
		return isWhole;
	}

	/** Has its birth told when it comes, for a leaf that does not speak by itself. */
	awaitBirth(): void {
		if (!this.#isKnown) this.#parts.askBirth('later');
	}

	listen(listener: LeafListener): void {
		this.#listener = listener;
	}

	#failAsked(): void {
		for (const {fail} of this.#asked.splice(0)) fail();
	}

	/** Whether it has ended, is about to, or never was, as far as is known. */
	get isBroken(): boolean {
		return this.#isBroken;
	}

	get streams(): Streams | undefined {
		return this.#parts.streams;
	}

	get cgroup(): Cgroup {
		return this.#parts.cgroup;
	}

	/** Sends a frame, perhaps with fds, which stay the caller's; what can't be sent shows as the channel's end. */
	send(type: number, payload: Uint8Array | string, fds?: readonly number[]): void {
		this.#channel.send(type, payload, fds);
	}

	/** Stops taking frames in; a sandbox that goes on sending waits. */
	pauseReading(): void {
		this.#channel.pause();
	}

	resumeReading(): void {
		this.#channel.resume();
	}

	/**
	 * Stops everything in it, for a sandbox whose group can be frozen; what is sent to it waits. It ends all the same.
	 * @throws {SyscallError} when that is refused
	 */
	pause(): void {
		if (this.#isBroken || this.#isPaused) return;
		this.#parts.cgroup.beginFreeze();
		this.#isPaused = true;
		this.#parts.cgroup.closeFiles(); // there may be thousands of them
	}

	/** Lowers the memory limit of a paused one to what it uses. @returns the limit in MiB; undefined while not all in it has stopped */
	park(): number | undefined {
		const {cgroup} = this.#parts;
		this.#isParked = this.#isPaused && cgroup.isFrozen();
		const megabytes = this.#isParked ? cgroup.lowerMemory() : undefined;
		cgroup.closeFiles();
		return megabytes;
	}

	/** Lets it go on, with its own memory limit. Does nothing when it is not paused. @throws {SyscallError} as {@link pause} */
	resume(): void {
		if (!this.#isPaused) return;
		const {cgroup} = this.#parts;
		this.#isPaused = false;
		if (this.#isParked) cgroup.restoreMemory();
		this.#isParked = false;
		cgroup.thaw();
		cgroup.closeFiles();
	}

	/** Hands over the process, once it is known, and where word of its exit status comes from. */
	attach(process: Process, status: Promise<ProcessEnd>): void {
		this.#process = process;
		this.#status = status;
		this.confirm();
	}

	/** Whether its process is known. */
	get isAttached(): boolean {
		return this.#process !== undefined;
	}

	/** A process that is known has become what it was to become. */
	confirm(): void {
		this.#isKnown = true;
		this.#settleBirth.resolve();
	}

	/** There is no process, or none that has got to where it can be used. */
	failBirth(error: Error): void {
		this.#isKnown = true;
		this.#isBroken = true;
		this.#settleBirth.reject(error);
	}

	/** Who is in it, as the host counts, its first process included. */
	pids(): number[] {
		return this.#parts.cgroup.pids() ?? this.#tree();
	}

	/** CPU time that was used in it, in milliseconds. */
	cpuMs(): number {
		return this.#parts.cgroup.cpuMs() ?? cpuMsOf(this.#tree());
	}

	#tree(): number[] {
		const pid = this.#process?.pid();
		return pid === undefined ? [] : processTree(pid);
	}

	/** What its cgroup is charged. */
	memory(): CgroupMemory {
		return this.#parts.cgroup.memory();
	}

	/** Counts its first process's pages, which takes about a millisecond; undefined once it has ended. */
	memoryDetails(): MemoryDetails | undefined {
		const pid = this.#process?.pid();
		return pid === undefined ? undefined : readMemory(pid);
	}

	/**
	 * The memory that it has used since it was forked. Looked for away from Node's thread; undefined: it has ended. To be asked
	 * while its zygote, or another one forked from it, lives: a page that nobody else has counts as written to.
	 * @param maxPages the first of each kind
	 */
	async workingSet(maxPages = maxWorkingPages): Promise<WorkingSet | undefined> {
		const pid = this.#process?.pid();
		if (pid === undefined) return undefined;
		const set = await workingSetOf(pid, maxPages).catch(() => undefined);
		return this.#process?.pid() === pid ? set : undefined; // else it may have been another process's
	}

	/**
	 * Has it take the page faults of a working set ahead: of a spare, or of a leaf whose handler is loaded and waits. Ranges
	 * that it does not have are passed over.
	 * @throws {ForktreeError} `ZygoteFailed` when it ends before
	 */
	async populate(set: WorkingSet): Promise<Populated> {
		const answer = this.answer(spareFrame.populated);
		this.send(spareFrame.populate, encodeWorkingSet(set));
		const populated = decodePopulated(await answer);
		if (populated === undefined)
			throw new ForktreeError('ZygoteFailed', 'a leaf answered something else than was asked');
		return populated;
	}

	/** Kills whatever runs in it and gives everything back. The same promise however often it is called. */
	async destroy(): Promise<LeafEnd> {
		this.#ended ??= this.#destroy(false);
		return this.#ended;
	}

	/** As {@link destroy}, for a sandbox whose channel broke: first it is given the moment to end by itself. */
	async finish(): Promise<LeafEnd> {
		this.#ended ??= this.#waitForEnd().then((byItself) => this.#destroy(byItself));
		return this.#ended;
	}

	async #waitForEnd(): Promise<boolean> {
		this.resume();
		await this.birth.catch(() => undefined);
		if (this.#process === undefined) return false;
		const ended = this.#process.ended.then(() => true);
		return withDeadline(ended, statusDeadlineMs, () => new Error('still running')).catch(() => false);
	}

	async #destroy(byItself: boolean): Promise<LeafEnd> {
		this.#isBroken = true;
		this.#failAsked();
		if (this.#process === undefined) {
			this.awaitBirth();
			await this.birth.catch(() => undefined);
		}
		const process = this.#process;
		const {cgroup, streams, releaseId} = this.#parts;
		// The first process is process 1 of its pid namespace: with it the kernel kills everyone in there.
		process?.signal('SIGKILL');
		const disconnected = this.#service?.close();
		this.resume(); // on v1, what is frozen does not end
		if (process !== undefined) {
			await withDeadline(
				process.ended,
				endDeadlineMs,
				() => new Error(`sandbox ${this.id} was killed and did not end`),
			);
		}
		await disconnected;
		if (!this.#isKnown) this.#parts.askBirth('maybe'); // handed over, and not heard of since
		streams?.stdout.drain();
		streams?.stderr.drain();
		const end = {process: byItself ? await this.#readEnd() : unknownEnd, byItself, oomKills: cgroup.oomKills()};
		const undo = new Undo();
		undo.push(releaseId);
		undo.push(() => cgroup.remove());
		undo.push(() => process?.close());
		undo.push(() => streams?.stderr.close());
		undo.push(() => streams?.stdout.close());
		undo.push(() => this.#channel.close());
		await undo.run();
		return end;
	}

	async #readEnd(): Promise<ProcessEnd> {
		const word = this.#status ?? Promise.resolve(unknownEnd);
		const told = await withDeadline(word, statusDeadlineMs, () => new Error('no word')).catch(() => unknownEnd);
		return told.type === 'unknown' && this.#process !== undefined ? this.#process.end() : told;
	}
}
