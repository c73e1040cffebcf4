/** The control socket of a launcher: who waits for what, until it closes. */
import {constants} from 'node:os';
import {getSystemErrorName} from 'node:util';
import {ForktreeError, SyscallError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {openProcess, type Process, type ProcessEnd, readWaitStatus} from '../kernel/process.ts';
import {closeFd, type NativeEndpoint, watch} from '../native.ts';
import {type Birth, decodeBirth, decodeLauncherMessage} from './launch-protocol.ts';
import {Leaf, type LeafParts} from './leaf.ts';
import type {ExpectedLeaf} from './leaf-birth.ts';

const bornDeadlineMs = 10_000;
const readyDeadlineMs = 120_000;

/** A leaf whose birth or end is still to be told; the two come by different sockets, in any order. */
type PendingLeaf = {
	readonly leaf: Leaf;
	readonly status: Promise<ProcessEnd>;
	ended(end: ProcessEnd): void;
	/** How its birth went, once that is known. */
	birth: Birth | undefined;
	isBorn: boolean;
	/** It is a spare, or was one: its birth may be told once more until it is given back. */
	readonly isSpare: boolean;
	/** It counts among those that are still to be forked. */
	isForking: boolean;
	/** Somebody waits for its birth, who is to be woken by it. */
	isAwaited: boolean;
	hasEnded: boolean;
	late: NodeJS.Timeout;
};

/** What became of a birth. */
type BirthResult = {readonly process: Process} | {readonly error: Error} | 'handed over';

/** What a leaf is at first. */
export type LeafKind = 'leaf' | 'spare';

/** Owns the socket, and the pidfds of the launcher and of its init. */
export class LauncherLink {
	readonly gone: Promise<Error>;
	readonly #pending = new Map<number, PendingLeaf>();
	readonly #socket: NativeEndpoint;
	#process: Process | undefined;
	#init: Process | undefined;
	#births: NativeEndpoint | undefined;
	#settleGone!: (error: Error) => void;
	#settleBorn!: () => void;
	#settleReady!: (words: string) => void;
	#forking = 0;
	#isPaused = false;
	readonly #born: Promise<void>;
	readonly #ready: Promise<string>;
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
			else this.#fail(new ForktreeError('ZygoteFailed', 'its process ended'));
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

	/** What it says when it is ready to fork. */
	async ready(): Promise<string> {
		return this.#orGone(this.#ready, readyDeadlineMs, 'getting ready');
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

	/** How many children it was asked for whose birth is not told yet. */
	get forking(): number {
		return this.#forking;
	}

	/** Stops its process until it is asked for something. What was forked from it goes on. */
	pause(): void {
		this.#isPaused = this.#reason === undefined && this.#process?.signal('SIGSTOP') === true;
	}

	#resume(): void {
		if (this.#isPaused) this.#process?.signal('SIGCONT');
		this.#isPaused = false;
	}

	send(message: Buffer, fds: readonly number[]): void {
		if (this.#reason !== undefined) throw this.#reason;
		this.#resume();
		const sent = this.#socket.send(message, fds);
		if (sent >= 0) return;
		const error = new ForktreeError('ZygoteFailed', `asking it: ${getSystemErrorName(sent)}`);
		// It has ended, which the end of the socket has not told yet: nobody else shall ask it.
		if (sent === -constants.errno.EPIPE || sent === -constants.errno.ECONNRESET) this.#fail(error);
		throw error;
	}

	/** Makes the host's side of a leaf that was asked for. */
	expectLeaf(
		id: number,
		parts: Omit<LeafParts, 'askBirth'>,
		channel: number,
		maxFrame: number,
		kind: LeafKind,
	): ExpectedLeaf {
		let ended!: (end: ProcessEnd) => void;
		const status = new Promise<ProcessEnd>((resolve) => {
			ended = resolve;
		});
		const askBirth = (state: 'maybe' | 'later') => this.#askBirth(id, state);
		const isSpare = kind === 'spare';
		const releaseId = () => {
			parts.releaseId();
			if (isSpare) this.#forget(id);
		};
		const leaf = new Leaf({...parts, releaseId, askBirth}, channel, maxFrame);
		const pending: PendingLeaf = {
			leaf,
			status,
			ended,
			birth: undefined,
			isBorn: false,
			isSpare,
			isForking: true,
			isAwaited: false,
			hasEnded: false,
			late: this.#expectBirth(id),
		};
		this.#pending.set(id, pending);
		this.#forking += 1;
		return pending;
	}

	#expectBirth(id: number): NodeJS.Timeout {
		return setTimeout(() => this.#giveUp(id), bornDeadlineMs);
	}

	/** Has the birth of a spare told once more, as that of what it is handed over as. */
	expectHandOver(id: number, maxFrame: number): ExpectedLeaf {
		const spare = this.#pending.get(id);
		if (spare?.isBorn !== true) throw new ForktreeError('ZygoteFailed', 'a spare had ended before it was used');
		spare.isBorn = false;
		spare.isAwaited = false;
		spare.birth = undefined;
		spare.late = this.#expectBirth(id);
		spare.leaf.handOver(maxFrame);
		return spare;
	}

	/** A spare was given back. */
	#forget(id: number): void {
		this.#pending.delete(id);
		if (this.#reason !== undefined) this.#closeBirths();
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

	/** A launcher that does not fork has hung, or does not want to: nobody else shall wait for it. */
	#giveUp(id: number): void {
		this.#births?.drain();
		const hasHung = this.#pending.get(id)?.isForking === true;
		this.#askBirth(id, 'maybe', `a fork took longer than ${bornDeadlineMs} ms`);
		if (hasHung) this.kill();
	}

	#receiveBirth(data: Buffer, fds: readonly number[]): void {
		const birth = decodeBirth(data);
		const leaf = birth && this.#pending.get(birth.id);
		if (birth === undefined || leaf === undefined || leaf.isBorn) {
			for (const fd of fds) closeFd(fd);
			return;
		}
		leaf.birth = birth;
		this.#settleBirth(birth.id, leaf, this.#readBirth(birth, leaf.leaf, fds));
	}

	/** Takes the descriptors over: of a process that is not known yet its pidfd, then the sockets of its network. */
	#readBirth({failedStep, errno}: Birth, leaf: Leaf, fds: readonly number[]): BirthResult {
		const pidfd = leaf.isAttached ? undefined : fds[0];
		const listeners = pidfd === undefined ? fds : fds.slice(1);
		if (failedStep !== undefined) {
			for (const fd of fds) closeFd(fd);
			return {error: new SyscallError(failedStep, -errno, getSystemErrorName(-errno))};
		}
		const process = pidfd === undefined ? undefined : openProcess(pidfd);
		if (!leaf.takeListeners(listeners)) {
			process?.signal('SIGKILL');
			process?.close();
			return {error: new ForktreeError('ZygoteFailed', 'a leaf came without the sockets of its network')};
		}
		if (leaf.isAttached) return 'handed over';
		if (process === undefined) return {error: new ForktreeError('ZygoteFailed', 'a leaf came without its pidfd')};
		return {process};
	}

	#settleBirth(id: number, leaf: PendingLeaf, result: BirthResult): void {
		clearTimeout(leaf.late);
		leaf.isBorn = true;
		if (leaf.isForking) this.#forking -= 1;
		leaf.isForking = false;
		if (result === 'handed over') leaf.leaf.confirm();
		else if ('process' in result) leaf.leaf.attach(result.process, leaf.status);
		else leaf.leaf.failBirth(result.error);
		if (leaf.hasEnded && !leaf.isSpare) this.#pending.delete(id);
		if (this.#reason !== undefined) this.#closeBirths();
		else if (leaf.isAwaited && ![...this.#pending.values()].some((other) => other.isAwaited && !other.isBorn)) {
			this.#births?.pause();
		}
	}

	/** Once the zygote has ended: when no birth is waited for any more, and none can be told again. */
	#closeBirths(): void {
		if ([...this.#pending.values()].every((leaf) => leaf.isBorn && !leaf.isSpare)) this.#births?.close();
		else this.#births?.resume();
	}

	#leafEnded(id: number, end: ProcessEnd): void {
		const leaf = this.#pending.get(id);
		if (leaf === undefined) return;
		leaf.ended(end);
		leaf.hasEnded = true;
		if (leaf.isBorn && !leaf.isSpare) this.#pending.delete(id);
	}

	#receive(data: Buffer, fds: readonly number[]): void {
		const message = decodeLauncherMessage(data);
		if (message?.type === 'born' && this.#process === undefined) this.#takeOver(fds);
		else for (const fd of fds) closeFd(fd);
		switch (message?.type) {
			case 'born':
				this.#settleBorn();
				break;
			case 'ready':
				this.#settleReady(message.words);
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
				this.#fail(new ForktreeError('ZygoteFailed', 'it sent something that is no message'));
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
		this.#resume(); // else it would not see that it is let go
		this.#socket.close();
		for (const [id, leaf] of this.#pending) {
			leaf.ended({type: 'unknown'});
			leaf.hasEnded = true;
			if (leaf.isBorn && !leaf.isSpare) this.#pending.delete(id);
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
		this.#fail(new ForktreeError('ZygoteFailed', 'it was let go'));
	}

	kill(): void {
		if (this.#process === undefined) this.#init?.signal('SIGKILL');
		else this.#process.signal('SIGKILL');
		this.#fail(new ForktreeError('ZygoteFailed', 'it was killed'));
	}
}
