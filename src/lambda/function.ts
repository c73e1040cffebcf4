/** A lambda function: one deployed version of a handler, its instances, and the calls that wait for one. */
import {performance} from 'node:perf_hooks';
import {ForktreeError, SyscallError} from '../errors.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {Limits} from '../sandbox/limits.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import type {ForkPlace, ImportCache} from '../zygote/import-cache.ts';
import {encodeLoad, frameType} from '../zygote/protocol.ts';
import {pythonLeaf} from '../zygote/python-leaf.ts';
import {Call, type CallListener, type CallResult, type EncodedEvent, Instance} from './instance.ts';
import type {JsonValue, Outcome, OutcomeError, OutcomeMemory, StartKind, Timings} from './outcome.ts';

/** Room for a frame beyond its payload's limit: error reports, births. */
const frameSlack = 512 * 1024;

/** How often a start is tried while zygotes die under it. */
const maxForks = 3;

/** What a function is, resolved: no optional fields. */
export type FunctionSettings = {
	readonly name: string;
	readonly version: string;
	readonly entryFile: string;
	readonly environment: Readonly<Record<string, string>>;
	readonly limits: Limits;
	/** Whether an instance serves more than one call. */
	readonly reuse: boolean;
	/** Calls that run at once; more wait. */
	readonly concurrency: number;
	/** False: each start is a fresh interpreter, which shares nothing with siblings. */
	readonly zygote: boolean;
	readonly packages: PackageSet;
};

/** What functions are made of and share. */
export type FunctionHost = {
	readonly budget: MemoryBudget;
	readonly cgroups: CgroupPool;
	readonly imports: ImportCache;
	/** Frees idle instances or zygotes of anyone. */
	makeRoom(missingMb: number): void;
	readonly onCreated: (event: {function: string; sandbox: string; start: StartKind}) => void;
	readonly onDestroyed: (event: {function: string; sandbox: string}) => void;
};

/** How a call is made. */
export type CallOptions = CallListener & {
	readonly timeoutMs: number;
	readonly signal: AbortSignal | undefined;
	readonly memoryDetails: boolean;
};

type Phases = Pick<Timings, 'zygoteMs' | 'prepareMs' | 'forkMs' | 'isolateMs' | 'loadMs'>;
const noPhases: Phases = {zygoteMs: 0, prepareMs: 0, forkMs: 0, isolateMs: 0, loadMs: 0};

type Started = {
	readonly instance: Instance;
	readonly start: StartKind;
	readonly phases: Phases;
	readonly loaded: CallResult;
};

/** Thrown inside when a call ends before an instance could take it. */
class CallEnded extends Error {
	readonly error: OutcomeError;
	constructor(error: OutcomeError) {
		super(error.message);
		this.error = error;
	}
}

function outcomeError(code: OutcomeError['code'], message: string): OutcomeError {
	return {code, type: '', message, traceback: ''};
}

/** Owns its instances. */
export class LambdaFunction {
	readonly settings: FunctionSettings;
	readonly #host: FunctionHost;
	readonly #code: LockedFolder;
	readonly #idle: Instance[] = [];
	readonly #instances = new Set<Instance>();
	readonly #queue: Array<() => void> = [];
	#running = 0;
	#closed = false;
	#settleDrained: (() => void) | undefined;

	constructor(settings: FunctionSettings, code: LockedFolder, host: FunctionHost) {
		this.settings = settings;
		this.#code = code;
		this.#host = host;
	}

	/** Counts for stats. */
	get counts(): {running: number; idle: number; waiting: number} {
		return {running: this.#running, idle: this.#idle.length, waiting: this.#queue.length};
	}

	/**
	 * One event in, one outcome out.
	 * @throws {ForktreeError} `Aborted`, `RuntimeClosed`, or what forktree itself failed at; a failed handler is an outcome
	 */
	async invoke(event: EncodedEvent, options: CallOptions): Promise<Outcome> {
		const asked = performance.now();
		// An idle instance gets its event at once: what the call needs besides is made while the handler runs.
		const idle = options.signal?.aborted === true ? undefined : this.#enterIdle();
		idle?.hand(event, options);
		const record = new CallRecord(asked, this.settings.zygote ? 'forked' : 'cold', options.memoryDetails);
		if (idle !== undefined) record.begin(idle, 'warm');
		const call = new Call(this.settings.limits, options);
		const limit = new CallLimit(options.timeoutMs, options.signal);
		try {
			if (idle === undefined) return await this.#invokeInTurn(event, call, limit, record);
			return await this.#finish(idle, call, limit, record);
		} catch (error) {
			if (!(error instanceof CallEnded)) throw error;
			return record.outcome({ok: false, error: error.error}, call);
		} finally {
			limit.close();
		}
	}

	/** Takes an idle instance, if a call may begin now and there is one. */
	#enterIdle(): Instance | undefined {
		if (this.#closed || this.#running >= this.settings.concurrency) return undefined;
		const instance = this.#takeIdle();
		if (instance !== undefined) this.#running += 1;
		return instance;
	}

	/** Waits for its turn, takes or starts an instance, and hands it the event. */
	async #invokeInTurn(event: EncodedEvent, call: Call, limit: CallLimit, record: CallRecord): Promise<Outcome> {
		await this.#enter(limit);
		record.leaveQueue();
		const idle = this.#takeIdle();
		if (idle !== undefined) {
			idle.hand(event, call.listener);
			record.begin(idle, 'warm');
			return this.#finish(idle, call, limit, record);
		}
		let instance: Instance | undefined;
		try {
			const started = await this.#start(call, limit);
			instance = started.instance;
			record.begin(instance, started.start, started.phases);
			limit.checkAborted();
			if (!started.loaded.ok) return record.outcome(started.loaded, call);
			instance.hand(event, call.listener);
			const result = await instance.answer(call);
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			this.#leave(instance);
		}
	}

	/** Waits for what becomes of an event that an idle instance was handed. */
	async #finish(instance: Instance, call: Call, limit: CallLimit, record: CallRecord): Promise<Outcome> {
		try {
			const answer = instance.answer(call);
			limit.guard(instance);
			const result = await answer;
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			this.#leave(instance);
		}
	}

	/** Makes the zygote that a start would fork from. */
	async prewarm(): Promise<void> {
		if (this.settings.zygote) await this.#host.imports.find(this.settings.packages);
	}

	/** Ends one idle instance; false when there is none. */
	evictIdle(): boolean {
		const victim = this.#idle.shift();
		if (victim === undefined) return false;
		void victim.destroy();
		return true;
	}

	/** Takes no new calls, lets running ones finish until the deadline, then ends them. */
	async close(deadlineMs: number): Promise<void> {
		this.#closed = true;
		for (const waiting of this.#queue.splice(0)) waiting();
		while (this.evictIdle());
		if (this.#running > 0) {
			const timer = setTimeout(() => this.#destroyAll(), deadlineMs);
			await new Promise<void>((resolve) => {
				this.#settleDrained = resolve;
			});
			clearTimeout(timer);
		}
		await this.#destroyAll();
		await this.#code.close();
	}

	async #destroyAll(): Promise<void> {
		await Promise.all([...this.#instances].map((instance) => instance.destroy()));
	}

	async #enter(limit: CallLimit): Promise<void> {
		limit.checkAborted();
		if (this.#closed) throw this.#closedError();
		if (this.#running >= this.settings.concurrency) {
			await this.#waitForTurn(limit);
			if (this.#closed) throw this.#closedError();
		}
		this.#running += 1;
	}

	async #waitForTurn(limit: CallLimit): Promise<void> {
		let turn!: () => void;
		const waiting = new Promise<void>((resolve) => {
			turn = resolve;
			this.#queue.push(resolve);
		});
		try {
			await limit.race(waiting);
		} catch (error) {
			const index = this.#queue.indexOf(turn);
			if (index >= 0) this.#queue.splice(index, 1);
			else this.#queue.shift()?.(); // its turn came in the same moment: the next one's now
			throw error;
		}
	}

	#closedError(): ForktreeError {
		return new ForktreeError('RuntimeClosed', `function '${this.settings.name}' was closed`);
	}

	#takeIdle(): Instance | undefined {
		for (let instance = this.#idle.pop(); instance !== undefined; instance = this.#idle.pop()) {
			if (instance.usable) return instance;
		}
		return undefined;
	}

	#leave(instance: Instance | undefined): void {
		const keep = this.settings.reuse && !this.#closed && !this.#host.budget.isShort;
		if (instance?.usable === true && keep) this.#idle.push(instance);
		else if (instance !== undefined) void instance.destroy();
		this.#running -= 1;
		this.#queue.shift()?.();
		if (this.#running === 0) this.#settleDrained?.();
	}

	/** A new instance, its module loaded or not. A zygote that dies meanwhile is made again. */
	async #start(call: Call, limit: CallLimit): Promise<Started> {
		const {limits, zygote} = this.settings;
		const release = await this.#host.budget.reserve(
			limits.memoryMb,
			limit.remainingMs,
			(missingMb) => this.#host.makeRoom(missingMb),
			limit.signal,
		);
		try {
			if (!zygote) return await this.#startCold(call, limit, release);
			for (let attempt = 1; ; attempt += 1) {
				try {
					return await this.#startForked(call, limit, release);
				} catch (error) {
					if (!(error instanceof ForktreeError) || error.code !== 'ZygoteFailed' || attempt === maxForks) throw error;
				}
			}
		} catch (error) {
			release();
			if (error instanceof SyscallError) throw new CallEnded(outcomeError('StartFailed', error.message));
			throw error;
		}
	}

	async #startForked(call: Call, limit: CallLimit, release: () => void): Promise<Started> {
		const asked = performance.now();
		const place = await limit.race(this.#host.imports.find(this.settings.packages));
		return this.#fork(place, 'forked', performance.now() - asked, call, limit, release);
	}

	async #startCold(call: Call, limit: CallLimit, release: () => void): Promise<Started> {
		const asked = performance.now();
		const making = this.#host.imports.cold(this.settings.packages);
		const zygote = await limit.race(making).catch((error: unknown) => {
			void making.then((late) => late.release()).catch(() => undefined);
			throw error;
		});
		// Kept until its only leaf has ended: before Linux 6.15 nobody else knows how that ended.
		const releaseBoth = () => {
			zygote.release();
			release();
		};
		try {
			const place = {zygote, packages: undefined, preloaded: []};
			return await this.#fork(place, 'cold', performance.now() - asked, call, limit, releaseBoth);
		} catch (error) {
			zygote.release();
			throw error;
		}
	}

	async #fork(
		{zygote, packages, preloaded}: ForkPlace,
		start: StartKind,
		zygoteMs: number,
		call: Call,
		limit: CallLimit,
		release: () => void,
	): Promise<Started> {
		const {name, limits, entryFile, environment} = this.settings;
		const load = encodeLoad(entryFile, environment);
		const {leaf, born} = await zygote.forkLeaf({
			...pythonLeaf(this.#code, packages),
			takeCgroup: () => this.#host.cgroups.take({...limits, swapMb: 0}),
			scratchMb: limits.scratchMb,
			openFiles: limits.openFiles,
			maxFrame: limits.resultMb * 1024 * 1024 + frameSlack,
			greet: (made) => made.send(frameType.load, load),
		});
		// All that the start needs is made while the zygote forks: then nothing is left to do but to wait.
		let isBorn = false;
		const instance = new Instance(leaf, limits, preloaded, () => {
			this.#instances.delete(instance);
			if (!isBorn) return; // whoever started it is told, and gives back what was reserved
			release();
			this.#host.onDestroyed({function: name, sandbox: leaf.id});
		});
		this.#instances.add(instance);
		const birth = born().then((timings) => {
			isBorn = true;
			this.#host.onCreated({function: name, sandbox: leaf.id, start});
			return timings;
		});
		const loading = instance.answer(call);
		limit.guard(instance);
		const [{prepareMs, forkMs, isolateMs, bornAtMs}, loaded] = await Promise.all([birth, loading]);
		setImmediate(() => {
			if (start === 'forked') zygote.refill();
			this.#host.cgroups.refill({...limits, swapMb: 0});
			this.#code.refill();
			packages?.refill();
		});
		const loadMs = performance.now() - bornAtMs;
		return {instance, start, phases: {zygoteMs, prepareMs, forkMs, isolateMs, loadMs}, loaded};
	}
}

/** What is noted of a call for its outcome. */
class CallRecord {
	readonly #asked: number;
	readonly #memoryDetails: boolean;
	#start: StartKind;
	#phases = noPhases;
	#queueMs = 0;
	#startedAt: number | undefined;
	#instance: Instance | undefined;

	/** @param start the kind, should the call end before one was made */
	constructor(asked: number, start: StartKind, memoryDetails: boolean) {
		this.#asked = asked;
		this.#start = start;
		this.#memoryDetails = memoryDetails;
	}

	leaveQueue(): void {
		this.#queueMs = performance.now() - this.#asked;
	}

	/** The instance can take the event, or could not be loaded. */
	begin(instance: Instance, start: StartKind, phases: Phases = noPhases): void {
		this.#instance = instance;
		this.#start = start;
		this.#phases = phases;
		this.#startedAt = performance.now();
	}

	outcome(result: CallResult, call: Call): Outcome {
		const ended = performance.now();
		const startedAt = this.#startedAt ?? ended;
		const instance = this.#instance;
		const details = this.#memoryDetails ? instance?.memory(true) : undefined;
		let memory: OutcomeMemory | undefined = details;
		return {
			...result,
			start: this.#start,
			timings: {
				...this.#phases,
				queueMs: this.#queueMs,
				startMs: startedAt - this.#asked,
				handlerMs: ended - startedAt,
				totalMs: ended - this.#asked,
			},
			get memory() {
				memory ??= instance?.memory(false) ?? {currentMiB: 0, peakMiB: undefined};
				return memory;
			},
			logs: {stdout: call.stdout.text, stderr: call.stderr.text},
			limitsHit: Instance.limitsHit(call),
			sandbox: instance?.leaf.id ?? '',
			preloaded: instance?.preloaded ?? [],
		};
	}
}

/** A call's deadline and signal: whichever comes first ends what the call is waiting for. */
class CallLimit {
	readonly #endsAt: number;
	readonly #timeoutMs: number;
	readonly #timer: NodeJS.Timeout;
	readonly #signal: AbortSignal | undefined;
	readonly #onAbort = () => this.#end(outcomeError('Killed', 'the caller aborted'));
	#instance: Instance | undefined;
	#reject: ((error: Error) => void) | undefined;
	#ended: OutcomeError | undefined;

	constructor(timeoutMs: number, signal: AbortSignal | undefined) {
		this.#timeoutMs = timeoutMs;
		this.#endsAt = performance.now() + timeoutMs;
		this.#timer = setTimeout(() => this.#end(this.#timeout()), timeoutMs);
		this.#signal = signal;
		signal?.addEventListener('abort', this.#onAbort, {once: true});
	}

	get signal(): AbortSignal | undefined {
		return this.#signal;
	}

	get remainingMs(): number {
		return Math.max(0, this.#endsAt - performance.now());
	}

	#timeout(): OutcomeError {
		return outcomeError('Timeout', `the call took longer than ${this.#timeoutMs} ms (limits.timeoutMs)`);
	}

	/** @throws {ForktreeError} `Aborted` */
	checkAborted(): void {
		if (this.#signal?.aborted === true) {
			throw new ForktreeError('Aborted', 'the call was aborted', {cause: this.#signal.reason});
		}
	}

	/** From now on, an end of the limit ends the instance. */
	guard(instance: Instance): void {
		this.#instance = instance;
		if (this.#ended !== undefined) void instance.destroy(this.#ended);
	}

	/** Waits, but no longer than the limit: then a {@link CallEnded} is thrown, and what was waited for goes on. */
	async race<T>(promise: Promise<T>): Promise<T> {
		const ended = new Promise<never>((_resolve, reject) => {
			this.#reject = reject;
			if (this.#ended !== undefined) reject(new CallEnded(this.#ended));
		});
		try {
			return await Promise.race([promise, ended]);
		} catch (error) {
			this.checkAborted();
			throw error;
		} finally {
			this.#reject = undefined;
			ended.catch(() => undefined);
		}
	}

	close(): void {
		clearTimeout(this.#timer);
		this.#signal?.removeEventListener('abort', this.#onAbort);
	}

	#end(error: OutcomeError): void {
		this.#ended ??= error;
		this.#reject?.(new CallEnded(error));
		void this.#instance?.destroy(error);
	}
}

/** An event as it travels. @throws {TypeError} when it is not JSON, {RangeError} when it is too large */
export function encodeEvent(event: JsonValue | Uint8Array, maxMb: number): EncodedEvent {
	const encoded = event instanceof Uint8Array ? event : JSON.stringify(event);
	if (encoded === undefined) throw new TypeError(`expected an event that is JSON or a Uint8Array, got ${typeof event}`);
	const size = Buffer.byteLength(encoded);
	if (size > maxMb * 1024 * 1024) {
		throw new RangeError(`expected an event of at most ${maxMb} MiB (limits.eventMb), got ${size} bytes`);
	}
	return encoded;
}
