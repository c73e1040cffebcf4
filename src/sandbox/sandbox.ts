/** A sandbox for programs: any number of them run in it, one after the other or at once, until it is destroyed. */
import {EventEmitter} from 'node:events';
import {constants} from 'node:os';
import {Readable} from 'node:stream';
import {getSystemErrorName} from 'node:util';
import {ForktreeError, SandboxDeadError} from '../errors.ts';
import {readMemory} from '../kernel/memory.ts';
import {closeFd} from '../native.ts';
import type {Undo} from '../undo.ts';
import type {Isolation} from './isolation.ts';
import type {Leaf} from './leaf.ts';
import type {NetworkEvents} from './network/gateway.ts';
import {proxyVariables} from './network/layout.ts';
import type {Reserved} from './reserved.ts';
import {
	type ExecErrorCode,
	type ExecLimitHit,
	type ExecOptions,
	type ExecResult,
	feed,
	isKilled,
	openStreams,
	Run,
	type RunCounts,
} from './run.ts';
import {checkInsidePath, checkSandboxLimits, checkVariables, type ResolvedSandboxOptions} from './sandbox-options.ts';
import {decodeSupervisorMessage, encodeKill, encodeRun, type RunEnd, supervisorFrame} from './supervisor-protocol.ts';

const mebibyte = 1024 * 1024;
/** How long a killed run may take to end before its sandbox is ended with it. */
const killDeadlineMs = 2000;
/** CPU time is looked at again when it could have been used up, but not more often than this. */
const leastCpuCheckMs = 2;
/** The longest that a timer can wait. */
const maxTimerMs = 2 ** 31 - 1;
/** From here on the kernel need not end what we fail to end: that would take decades. */
const maxCpuLimitMs = 1e12;
const everything = 0;

/** What a sandbox tells, also by its pool; each on a real change, and `destroyed` last. */
export type SandboxEvents = {
	destroyed: [{readonly reason: string}];
	paused: [];
	resumed: [];
	/** A program was started in it. */
	forked: [{readonly argv: readonly string[]}];
	childExited: [{readonly exitCode: number | undefined; readonly signal: string | undefined}];
	/** The kernel killed processes in it for want of memory. */
	oom: [{readonly kills: number}];
	/** A run reached a limit. */
	limit: [{readonly limit: string}];
} & NetworkEvents;

/** The words of runs that a limit has ended. */
const limitCodes: ReadonlySet<ExecErrorCode> = new Set(['Timeout', 'OutOfMemory', 'CpuLimit']);

const execKeys: ReadonlySet<string> = new Set([
	...['env', 'cwd', 'stdin', 'timeoutMs', 'cpuMs', 'outputMb', 'signal', 'onStdout', 'onStderr'],
]);

/** What a sandbox uses. */
export type SandboxStats = {
	readonly state: 'running' | 'paused';
	readonly isolation: Isolation;
	/** Charged to its cgroup, now and at most; undefined where none counts it, or the kernel keeps no peak. */
	readonly currentMiB: number | undefined;
	readonly peakMiB: number | undefined;
	/** Pages of its processes: of each alone (USS), shared ones in proportion (PSS), and shared. */
	readonly privateMiB: number;
	readonly proportionalMiB: number;
	readonly sharedMiB: number;
	/** Since it was created, in milliseconds. */
	readonly cpuMs: number;
	/** Its first process, which is ours, not counted. */
	readonly processes: number;
};

/** What a sandbox gives back when it has ended. */
export type Owned = {readonly isolation: Isolation; readonly reserved: Reserved; readonly undo: Undo};

/** Made by `pool.create()`. Every method after its end rejects with {@link SandboxDeadError}. */
export class Sandbox extends EventEmitter<SandboxEvents> implements AsyncDisposable {
	readonly id: string;
	readonly #leaf: Leaf;
	readonly #options: ResolvedSandboxOptions;
	readonly #owned: Owned;
	/** An fd to read nothing from; the pool's. */
	readonly #nothing: number;
	/** Called when nothing runs in it any more, or it is to end. */
	readonly #onIdle: () => void;
	readonly #runs = new Map<number, Run>();
	/** Those that are killed and have not ended yet. */
	readonly #dying = new Set<Run>();
	#lastRun = 0;
	#oomKills = 0;
	#paused = false;
	/** How many wait for it to be resumed. */
	#resumes = 0;
	/** Changes of its state happen one after the other. */
	#change: Promise<unknown> = Promise.resolve();
	#reason: string | undefined;
	#destroyed: Promise<void> | undefined;
	/** When something last ran in it, for the evictor. */
	lastUsedMs = performance.now();

	/** Used by the pool. */
	constructor(leaf: Leaf, options: ResolvedSandboxOptions, owned: Owned, nothing: number, onIdle: () => void) {
		super();
		this.id = leaf.id;
		this.#leaf = leaf;
		this.#options = options;
		this.#owned = owned;
		this.#nothing = nothing;
		this.#onIdle = onIdle;
		leaf.listen({
			frame: (type, payload) => this.#take(type, payload),
			broken: () => void this.#end('its first process ended', true),
			network: (name, ...details) => void this.emit(name as 'connected', ...(details as NetworkEvents['connected'])),
		});
	}

	/** MiB that it has in its pool's budget when it is not paused. */
	get reservedMb(): number {
		return this.#owned.reserved.megabytes;
	}

	/** Settles when nothing runs in it any more. */
	async whenIdle(): Promise<void> {
		await Promise.all([...this.#runs.values()].map((run) => run.result));
	}

	/** Whether nothing runs in it, and nobody waits for it to be resumed. */
	get isIdle(): boolean {
		return this.#runs.size === 0 && this.#resumes === 0;
	}

	get isPaused(): boolean {
		return this.#paused;
	}

	/**
	 * Runs a program. A file name without `/` is looked for in `PATH`.
	 * @returns how it ended, also when a limit ended it
	 * @throws {SandboxDeadError} after its end; {ForktreeError} `Aborted`; {TypeError} or {RangeError} for a wrong option
	 * @example
	 * const {stdout} = await sandbox.exec(['sh', '-c', 'echo $((6 * 7))']);
	 */
	async exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
		checkExec(argv, options);
		const {cwd = this.#options.cwd, env = {}, stdin, signal} = options;
		checkInsidePath(cwd, 'cwd');
		const proxy = typeof this.#options.network === 'object' ? proxyVariables : {};
		const variables = {...proxy, ...this.#options.env, ...checkVariables(env, 'env')};
		const limits = {...this.#options.limits, ...checkSandboxLimits(pickLimits(options), 'exec options')};
		this.#checkAlive();
		await unlessAborted(this.#whenRunning(), signal);
		this.#lastRun += 1;
		const id = this.#lastRun;
		const cpuSeconds = limits.cpuMs < maxCpuLimitMs ? Math.ceil(limits.cpuMs / 1000) + 1 : 0;
		const request = encodeRun({id, argv, env: variables, cwd, cpuSeconds, filter: this.#options.profile});
		const streams = openStreams(stdin !== undefined, this.#nothing);
		// Nothing has happened before the first one.
		const before = id === 1 ? {oomKills: 0, refusals: 0} : this.#count();
		const run = new Run(id, this.id, streams, limits.outputMb, options, before);
		this.#runs.set(id, run);
		this.#leaf.send(supervisorFrame.run, request, streams.theirs);
		for (const fd of streams.theirs) if (fd !== this.#nothing) closeFd(fd);
		const letGo = streams.stdin === undefined || stdin === undefined ? () => {} : feed(streams.stdin, stdin);
		this.emit('forked', {argv});
		this.#leaf.cgroup.openCounters(); // while the program is on its way
		return this.#watch(run, limits, signal).finally(letGo);
	}

	/** Waits for the run's end, which its limits or the caller may bring about. */
	async #watch(
		run: Run,
		limits: ResolvedSandboxOptions['limits'],
		signal: AbortSignal | undefined,
	): Promise<ExecResult> {
		const timer = setTimeout(() => {
			run.blame('Timeout', `it took longer than ${limits.timeoutMs} ms (limits.timeoutMs)`);
			this.#kill(run);
		}, limits.timeoutMs);
		const stopCpu = this.#watchCpu(run, limits.cpuMs);
		const onAbort = () => this.#kill(run);
		signal?.addEventListener('abort', onAbort, {once: true});
		try {
			const result = await run.result;
			if (signal?.aborted === true) throw aborted(signal);
			return result;
		} finally {
			clearTimeout(timer);
			stopCpu();
			signal?.removeEventListener('abort', onAbort);
			this.#runs.delete(run.id);
			this.lastUsedMs = performance.now();
			if (this.isIdle) this.#onIdle();
		}
	}

	/** Looks at the CPU time when it could be used up at the earliest: nothing tells of it before. */
	#watchCpu(run: Run, cpuMs: number): () => void {
		if (!Number.isFinite(cpuMs)) return () => {};
		const end = this.#leaf.cpuMs() + cpuMs;
		let timer: NodeJS.Timeout;
		const look = () => {
			const left = end - this.#leaf.cpuMs();
			if (left <= 0) {
				run.blame('CpuLimit', `it used more than ${cpuMs} ms of CPU time (limits.cpuMs)`);
				this.#kill(run);
			} else {
				const soonestMs = left / (this.#options.limits.cpuPercent / 100);
				timer = setTimeout(look, Math.min(maxTimerMs, Math.max(leastCpuCheckMs, soonestMs)));
			}
		};
		look();
		return () => clearTimeout(timer);
	}

	/** Ends a run and what it started; whatever left its session, when nothing else runs. */
	#kill(run: Run): void {
		if (this.#reason !== undefined) return;
		if (this.#paused) this.#leaf.cgroup.thaw();
		const {SIGKILL} = constants.signals;
		this.#leaf.send(supervisorFrame.kill, encodeKill(this.#runs.size === 1 ? everything : run.id, SIGKILL));
		const late = setTimeout(() => void this.#end('a killed program did not end', false), killDeadlineMs);
		this.#dying.add(run);
		void run.result.finally(() => {
			clearTimeout(late);
			this.#dying.delete(run);
			this.#freezeAgain();
		});
	}

	/** Who is killed in a paused sandbox must run to its end; the others wait on. */
	#freezeAgain(): void {
		if (!this.#paused || this.#dying.size > 0 || this.#reason !== undefined) return;
		try {
			this.#leaf.cgroup.freeze();
		} catch (error) {
			void this.#end(`it could not be stopped: ${String(error)}`, false);
		}
	}

	#take(type: number, payload: string | Buffer): void {
		const message = decodeSupervisorMessage(type, payload);
		if (message === undefined) {
			void this.#end('it sent something that is no message', false);
		} else if (message.type === 'failed') {
			const run = this.#runs.get(message.id);
			run?.blame('StartFailed', `${message.step}: ${getSystemErrorName(-message.errno)}`, 'start');
			run?.finish(undefined);
		} else {
			this.#finish(message.end);
		}
	}

	#finish(end: RunEnd): void {
		const run = this.#runs.get(end.id);
		if (run === undefined) return;
		const hits: ExecLimitHit[] = [];
		const {oomKills, refusals} = this.#count();
		if (oomKills > run.before.oomKills) {
			if (isKilled(end.status)) run.blame('OutOfMemory', this.#memoryWords());
			else hits.push('memory');
		}
		if (refusals > run.before.refusals) hits.push('processes');
		if (this.#isFull(end)) hits.push('scratch');
		const result = run.finish(end, hits);
		this.emit('childExited', exitOf(end));
		this.#tellLimits(result);
	}

	/** Whether what is limited by `scratchMb` was full. */
	#isFull({isFull}: RunEnd): boolean {
		const {writable, limits} = this.#options;
		if (writable === 'none') return false;
		return (limits.scratchMb > 0 && isFull.scratch) || (writable === 'overlay' && isFull.root);
	}

	/** Whatever ended it; what a limit did not end is told by other events. */
	#tellLimits(result: ExecResult | undefined): void {
		const code = result?.error?.code;
		if (code !== undefined && limitCodes.has(code)) this.emit('limit', {limit: code});
		for (const limit of result?.limitsHit ?? []) this.emit('limit', {limit});
	}

	/** What has happened in it up to now. */
	#count(): RunCounts {
		const oomKills = this.#leaf.cgroup.oomKills();
		const more = oomKills - this.#oomKills;
		this.#oomKills = oomKills;
		if (more > 0) this.emit('oom', {kills: more});
		return {oomKills, refusals: this.#leaf.cgroup.processRefusals()};
	}

	#memoryWords(): string {
		const peak = this.#leaf.memory().peak;
		const used = peak === undefined ? '' : `; at most ${(peak / mebibyte).toFixed(0)} MiB were used`;
		const {memoryMb, swapMb} = this.#options.limits;
		const swap = swapMb > 0 ? ` and ${swapMb} MiB of swap (limits.swapMb)` : '';
		return `the sandbox exceeded ${memoryMb} MiB (limits.memoryMb)${swap}${used}`;
	}

	/**
	 * Stops everything in it, and gives memory back that it does not use. Does nothing when it is paused.
	 * @throws {SandboxDeadError}; {SyscallError} when it can't be stopped
	 */
	async pause(): Promise<void> {
		await this.#inTurn(async () => {
			if (this.#paused) return;
			await Promise.all([...this.#dying].map((run) => run.result)); // they could not end
			this.#checkAlive();
			this.#leaf.cgroup.freeze();
			this.#paused = true;
			this.#owned.reserved.shrink(this.#leaf.cgroup.lowerMemory());
			this.emit('paused');
		});
	}

	/**
	 * Lets it go on, with its own memory limit. Does nothing when it runs.
	 * @throws {SandboxDeadError}; {ForktreeError} `BudgetExceeded` when its memory is not free again in time
	 */
	async resume(): Promise<void> {
		this.#resumes += 1;
		try {
			await this.#inTurn(() => this.#resume());
		} finally {
			this.#resumes -= 1;
		}
	}

	async #resume(): Promise<void> {
		if (!this.#paused) return;
		await this.#owned.reserved.grow();
		this.#checkAlive();
		this.#leaf.cgroup.restoreMemory();
		this.#leaf.cgroup.thaw();
		this.#paused = false;
		this.emit('resumed');
	}

	/** Resumes it if need be: a program was asked for. */
	async #whenRunning(): Promise<void> {
		if (this.#paused) await this.resume();
		this.#checkAlive();
	}

	async #inTurn<T>(action: () => T | Promise<T>): Promise<T> {
		this.#checkAlive();
		const change = this.#change.then(() => {
			this.#checkAlive();
			return action();
		});
		this.#change = change.catch(() => undefined);
		return change;
	}

	/** What it uses; counting pages takes about a millisecond for each process. @throws {SandboxDeadError} */
	stats(): SandboxStats {
		this.#checkAlive();
		const {cgroup} = this.#leaf;
		const {current, peak} = cgroup.memory();
		const pids = this.#leaf.pids();
		const counted = pids.map((pid) => readMemory(pid)).filter((each) => each !== undefined);
		const sum = (pick: (each: (typeof counted)[number]) => number) =>
			counted.reduce((total, each) => total + pick(each), 0);
		return {
			state: this.#paused ? 'paused' : 'running',
			isolation: this.#owned.isolation,
			currentMiB: current === undefined ? undefined : current / mebibyte,
			peakMiB: peak === undefined ? undefined : peak / mebibyte,
			privateMiB: sum((each) => each.privateMiB),
			proportionalMiB: sum((each) => each.proportionalMiB),
			sharedMiB: sum((each) => each.sharedMiB),
			cpuMs: this.#leaf.cpuMs(),
			processes: Math.max(0, pids.length - 1),
		};
	}

	/** Ends whatever runs in it and gives everything back. The same promise however often it is called. */
	async destroy(reason = 'it was destroyed'): Promise<void> {
		return this.#end(reason, false);
	}

	/** Used by the pool: as {@link destroy}, to make room. */
	async evict(): Promise<void> {
		for (const run of this.#runs.values()) run.blame('Evicted', 'its sandbox was taken away to make room');
		return this.#end('it was evicted to make room', false);
	}

	#end(reason: string, byItself: boolean): Promise<void> {
		this.#reason ??= reason;
		if (this.#destroyed === undefined) {
			this.#destroyed = this.#finishAll(byItself);
			this.#onIdle();
		}
		return this.#destroyed;
	}

	async #finishAll(byItself: boolean): Promise<void> {
		if (this.#paused) this.#leaf.cgroup.thaw(); // what is frozen can't end, on v1
		const peak = byItself ? this.#memoryWords() : ''; // read while there is a group
		const end = await (byItself ? this.#leaf.finish() : this.#leaf.destroy());
		if (end.oomKills > this.#oomKills) {
			this.emit('oom', {kills: end.oomKills - this.#oomKills});
			if (byItself) this.#reason = peak;
		}
		for (const run of this.#runs.values()) {
			if (byItself && end.oomKills > this.#oomKills) run.blame('OutOfMemory', peak);
			run.blame('Killed', `its sandbox has ended: ${this.#reason}`);
			this.#tellLimits(run.finish(undefined));
		}
		await this.#owned.undo.run().finally(() => this.#owned.reserved.release());
		this.emit('destroyed', {reason: this.#reason ?? ''});
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.destroy();
	}

	#checkAlive(): void {
		if (this.#reason !== undefined) throw new SandboxDeadError(this.id, this.#reason);
	}
}

function checkExecOptions(options: ExecOptions): void {
	for (const key of Object.keys(options)) {
		if (!execKeys.has(key)) throw new TypeError(`exec options: expected ${[...execKeys].join(', ')}, got "${key}"`);
	}
	const {stdin} = options;
	if (stdin === undefined || typeof stdin === 'string' || stdin instanceof Uint8Array || stdin instanceof Readable)
		return;
	throw new TypeError('stdin: expected text, bytes or a stream');
}

function aborted(signal: AbortSignal): ForktreeError {
	return new ForktreeError('Aborted', 'the run was aborted', {cause: signal.reason});
}

/** Waits for a promise as long as nobody aborts. @throws {ForktreeError} `Aborted` */
async function unlessAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
	if (signal === undefined) return promise;
	promise.catch(() => undefined);
	let onAbort = () => {};
	try {
		await new Promise<void>((resolve, reject) => {
			onAbort = () => reject(aborted(signal));
			if (signal.aborted) return onAbort();
			signal.addEventListener('abort', onAbort, {once: true});
			promise.then(resolve, reject);
		});
	} finally {
		signal.removeEventListener('abort', onAbort);
	}
	if (signal.aborted) throw aborted(signal);
}

function exitOf({status}: RunEnd): {exitCode: number | undefined; signal: string | undefined} {
	const killed = (status & 0x7f) !== 0;
	const name = Object.entries(constants.signals).find(([, number]) => number === (status & 0x7f))?.[0];
	return {exitCode: killed ? undefined : (status >> 8) & 0xff, signal: killed ? name : undefined};
}

function pickLimits({timeoutMs, cpuMs, outputMb}: ExecOptions): Record<string, number> {
	const given = Object.entries({timeoutMs, cpuMs, outputMb}).filter(([, value]) => value !== undefined);
	return Object.fromEntries(given) as Record<string, number>;
}

/** @throws {TypeError} or {RangeError} for what can't be run so; {ForktreeError} `Aborted` when it shall not be any more */
export function checkExec(argv: readonly string[], options: ExecOptions): void {
	checkArguments(argv);
	checkExecOptions(options);
	if (options.signal?.aborted === true) throw aborted(options.signal);
}

function checkArguments(argv: readonly string[]): void {
	if (!Array.isArray(argv) || argv.length === 0 || argv[0] === '') {
		throw new TypeError(`argv: expected the program and its arguments, got ${JSON.stringify(argv)}`);
	}
	for (const word of argv) {
		if (typeof word !== 'string') throw new TypeError(`argv: expected strings, got ${JSON.stringify(word)}`);
		if (word.includes('\0')) throw new RangeError(`argv: expected text without NUL, got ${JSON.stringify(word)}`);
	}
}
