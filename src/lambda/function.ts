/** A lambda function: one deployed version of a handler, its instances, and the calls that wait for one. */
import {performance} from 'node:perf_hooks';
import {ForktreeError} from '../errors.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {Spares} from '../sandbox/spares.ts';
import {SharedWorkingSet} from '../sandbox/working-set.ts';
import {CallEnded, CallLimit} from './call-limit.ts';
import {CallRecord} from './call-record.ts';
import {Call, type CallListener, type EncodedEvent, type Instance} from './instance.ts';
import type {JsonValue, Outcome, StartKind} from './outcome.ts';
import {type FunctionHost, type FunctionSettings, type Started, Starter} from './starter.ts';

/** How a call is made. */
export type CallOptions = CallListener & {
	readonly timeoutMs: number;
	readonly signal: AbortSignal | undefined;
	readonly memoryDetails: boolean;
};

/** A spare: an instance with its module loaded, and what that printed. It serves one call, or none. */
type Loaded = {readonly instance: Instance; readonly printed: Call};
/** An instance that can take an event at once: an idle one, or a spare. */
type Ready = Loaded | {readonly instance: Instance; readonly printed: undefined};

type Idle = {readonly instance: Instance; readonly sinceMs: number; readonly priority: number};

/** Owns its instances. */
export class LambdaFunction {
	readonly settings: FunctionSettings;
	readonly #host: FunctionHost;
	readonly #code: LockedFolder;
	readonly #starter: Starter;
	readonly #spares: Spares<Loaded>;
	/** What waits longest comes first, and with it what goes first. */
	readonly #idle: Idle[] = [];
	/** Of its sandboxes that were not started ahead. */
	readonly #workingSet = new SharedWorkingSet();
	#uses = 0;
	/** What its last start took. */
	#startMs = 0;
	readonly #queue: Array<() => void> = [];
	#running = 0;
	#closed = false;
	#settleDrained: (() => void) | undefined;

	constructor(settings: FunctionSettings, code: LockedFolder, host: FunctionHost) {
		this.settings = settings;
		this.#code = code;
		this.#host = host;
		this.#starter = new Starter(settings, code, host);
		this.#spares = new Spares({
			most: settings.spares,
			reserve: () => {
				const {memoryMb} = settings.limits;
				return host.budget.hasRoom(memoryMb) ? host.budget.charge(memoryMb) : undefined;
			},
			make: (release) => this.#makeSpare(release),
			isUsable: ({instance}) => instance.usable,
			dispose: ({instance}) => {
				this.#workingSet.noteUnused(instance.leaf);
				return instance.destroy();
			},
		});
	}

	/** Counts for stats. */
	get counts(): {running: number; idle: number; spares: number; waiting: number} {
		return {running: this.#running, idle: this.#idle.length, spares: this.#spares.size, waiting: this.#queue.length};
	}

	/**
	 * One event in, one outcome out.
	 * @throws {ForktreeError} `Aborted`, `QueueFull`, `RuntimeClosed`, or what forktree itself failed at; a failed handler is an outcome
	 */
	async invoke(event: EncodedEvent, options: CallOptions): Promise<Outcome> {
		const asked = performance.now();
		this.#uses += 1;
		// A ready instance gets its event at once: what the call needs besides is made while the handler runs.
		const ready = options.signal?.aborted === true ? undefined : this.#enterReady();
		ready?.instance.hand(event, options);
		const record = new CallRecord(asked, this.settings.zygote ? 'forked' : 'cold', options.memoryDetails);
		const call = new Call(this.settings.limits, options);
		const limit = new CallLimit(options.timeoutMs, options.signal);
		try {
			if (ready === undefined) return await this.#invokeInTurn(event, call, limit, record);
			return await this.#finish(ready, call, limit, record);
		} catch (error) {
			if (!(error instanceof CallEnded)) throw error;
			return record.outcome({ok: false, error: error.error}, call);
		} finally {
			limit.close();
		}
	}

	/** Takes an instance that waits, if a call may begin now and there is one. */
	#enterReady(): Ready | undefined {
		if (this.#closed || this.#running >= this.settings.concurrency) return undefined;
		const ready = this.#takeReady();
		if (ready !== undefined) this.#running += 1;
		return ready;
	}

	/** Waits for its turn, takes or starts an instance, and hands it the event. */
	async #invokeInTurn(event: EncodedEvent, call: Call, limit: CallLimit, record: CallRecord): Promise<Outcome> {
		await this.#enter(limit);
		record.leaveQueue();
		const ready = this.#takeReady();
		if (ready !== undefined) {
			ready.instance.hand(event, call.listener);
			return this.#finish(ready, call, limit, record);
		}
		let started: Started | undefined;
		try {
			started = (await this.#takeSpare(call, limit)) ?? (await this.#start(call, limit));
			const {instance} = started;
			record.begin(instance, started.start, started.phases, started.spare);
			limit.checkAborted();
			if (!started.loaded.ok) return record.outcome(started.loaded, call);
			const begunMs = performance.now();
			instance.hand(event, call.listener);
			const result = await instance.answer(call);
			if (result.ok) started.noteFirstCall(performance.now() - begunMs);
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			const looking = this.#lookAt(started);
			// One that is to be ended waits for that; one that is kept can take the next call meanwhile.
			if (looking === undefined || this.settings.reuse) this.#leave(started?.instance);
			else void looking.finally(() => this.#leave(started?.instance));
		}
	}

	/** What pages its first call took, once in a while. */
	#lookAt(started: Started | undefined): Promise<unknown> | undefined {
		// A cold one shares no pages with those that come later.
		if (started?.start !== 'forked' || started.spare === 'function' || !started.instance.usable) return undefined;
		return this.#workingSet.noteCall() ? this.#workingSet.look(started.instance.leaf) : undefined;
	}

	/** Waits for what becomes of an event that a ready instance was handed. */
	async #finish({instance, printed}: Ready, call: Call, limit: CallLimit, record: CallRecord): Promise<Outcome> {
		const begunMs = performance.now();
		try {
			if (printed === undefined) {
				record.begin(instance, 'warm');
			} else {
				call.follow(printed);
				record.begin(instance, this.#startKind, undefined, 'function');
			}
			const answer = instance.answer(call);
			limit.guard(instance);
			const result = await answer;
			if (result.ok) this.#workingSet.noteFirstCall(instance.leaf, performance.now() - begunMs);
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			this.#leave(instance);
		}
	}

	get #startKind(): StartKind {
		return this.settings.zygote ? 'forked' : 'cold';
	}

	async #takeSpare(call: Call, limit: CallLimit): Promise<Started | undefined> {
		this.#noteStart();
		const taken = this.#spares.take();
		const spare = await limit.race(Promise.resolve(taken)).catch((error: unknown) => {
			void taken?.then((late) => late?.instance.destroy());
			throw error;
		});
		if (spare === undefined) return undefined;
		const {instance, printed} = spare;
		if (!instance.usable) return undefined;
		call.follow(printed);
		limit.guard(instance);
		return {
			instance,
			start: this.#startKind,
			phases: undefined,
			loaded: {ok: true, value: null},
			spare: 'function',
			noteFirstCall: (durationMs) => this.#workingSet.noteFirstCall(instance.leaf, durationMs),
		};
	}

	async #start(call: Call, limit: CallLimit): Promise<Started> {
		const {budget} = this.#host;
		const makeRoom = (missingMb: number) => this.#host.makeRoom(missingMb);
		const {memoryMb} = this.settings.limits;
		const release = await budget.reserve(memoryMb, limit.remainingMs, makeRoom, limit.signal);
		const began = performance.now();
		const started = await this.#starter.start(call, limit, release, true);
		this.#startMs = performance.now() - began;
		return started;
	}

	#noteStart(): void {
		this.#spares.note();
		this.#host.onStart(this.settings.packages);
	}

	/** Makes the zygote that a start would fork from. */
	async prewarm(): Promise<void> {
		if (this.settings.zygote) await this.#host.imports.find(this.settings.packages);
	}

	/** Ends one spare; false when there is none. */
	evictSpare(): boolean {
		return this.#spares.evict();
	}

	/** The priority of the idle instance that would go first, see {@link Ageing}; undefined when there is none. */
	get evictable(): number | undefined {
		return this.#idle[0]?.priority;
	}

	/** Ends one idle instance; false when there is none. */
	evictIdle(): boolean {
		const victim = this.#idle.shift();
		if (victim === undefined) return false;
		this.#host.ageing.noteEvicted(victim.priority);
		void victim.instance.destroy();
		return true;
	}

	/** Ends what has been idle since before then. */
	evictIdleSince(sinceMs: number): void {
		while ((this.#idle[0]?.sinceMs ?? sinceMs) < sinceMs) this.evictIdle();
	}

	/** Takes no new calls, lets running ones finish until the deadline, then ends them. */
	async close(deadlineMs: number): Promise<void> {
		this.#closed = true;
		for (const waiting of this.#queue.splice(0)) waiting();
		while (this.evictIdle());
		const spares = this.#spares.close();
		if (this.#running > 0) {
			const timer = setTimeout(() => this.#destroyAll(), deadlineMs);
			await new Promise<void>((resolve) => {
				this.#settleDrained = resolve;
			});
			clearTimeout(timer);
		}
		await this.#destroyAll();
		await spares;
		await this.#starter.close();
		await this.#code.close();
	}

	async #destroyAll(): Promise<void> {
		await Promise.all([...this.#starter.instances].map((instance) => instance.destroy()));
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
		const {name, maxQueue} = this.settings;
		if (this.#queue.length >= maxQueue)
			throw new ForktreeError('QueueFull', `expected at most ${maxQueue} calls to wait for '${name}' (maxQueue), got one more`);
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

	#takeReady(): Ready | undefined {
		for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
			if (idle.instance.usable) return {instance: idle.instance, printed: undefined};
		}
		const spare = this.#spares.takeReady();
		if (spare !== undefined) this.#noteStart();
		return spare;
	}

	/** What goes wrong here goes wrong again for the next call, which is told. */
	async #makeSpare(release: () => void): Promise<Loaded | undefined> {
		const printed = new Call(this.settings.limits, {});
		const limit = new CallLimit(this.settings.limits.timeoutMs, undefined);
		try {
			const {instance, loaded} = await this.#starter.start(printed, limit, release, false);
			if (loaded.ok && (await this.#populate(instance))) return {instance, printed};
			await instance.destroy();
			return undefined;
		} catch {
			return undefined;
		} finally {
			limit.close();
		}
	}

	async #populate(instance: Instance): Promise<boolean> {
		return this.#workingSet.populate(instance.leaf).then(
			() => true,
			() => false,
		);
	}

	#leave(instance: Instance | undefined): void {
		const keep = this.settings.reuse && !this.#closed && !this.#host.budget.isShort;
		if (instance?.usable === true && keep) this.#keep(instance);
		else if (instance !== undefined) void instance.destroy();
		this.#running -= 1;
		this.#queue.shift()?.();
		if (this.#running === 0) this.#settleDrained?.();
		// When whoever waits for this call has been told.
		setImmediate(() => this.#spares.refill());
	}

	#keep(instance: Instance): void {
		const priority = this.#host.ageing.priority(this.#uses, this.#startMs, this.settings.limits.memoryMb);
		this.#idle.push({instance, sinceMs: performance.now(), priority});
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
