/** A lambda function: one deployed version of a handler, its instances, and the calls that wait for one. */
import {performance} from 'node:perf_hooks';
import {ForktreeError} from '../errors.ts';
import {countStart} from '../sandbox/awaited-starts.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import type {SandboxNetwork} from '../sandbox/network/sandbox-network.ts';
import {Spares} from '../sandbox/spares.ts';
import {SharedWorkingSet} from '../sandbox/working-set.ts';
import {CallEnded, CallLimit} from './call-limit.ts';
import {CallRecord} from './call-record.ts';
import type {EncodedEvent} from './event.ts';
import {IdleInstances} from './idle.ts';
import {Call, type CallListener, type Instance} from './instance.ts';
import type {Outcome, StartKind} from './outcome.ts';
import {Pace, type Work} from './pace.ts';
import {Share} from './share.ts';
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

/** A call in line. Who gives it its turn counts it with those that run. */
type Turn = {
	/** @param instance of the call before, if it is to be used again */
	give(instance: Instance | undefined): void;
	refuse(error: ForktreeError): void;
};

/** Owns its instances. */
export class LambdaFunction {
	readonly settings: FunctionSettings;
	readonly #host: FunctionHost;
	readonly #code: LockedFolder;
	readonly #network: SandboxNetwork | undefined;
	readonly #starter: Starter;
	readonly #spares: Spares<Loaded>;
	readonly #idle: IdleInstances;
	readonly #shares = new WeakMap<Instance, Share>();
	/** Of its sandboxes that were not started ahead. */
	readonly #workingSet = new SharedWorkingSet();
	#uses = 0;
	readonly #pace = new Pace();
	readonly #queue: Turn[] = [];
	#running = 0;
	#closed = false;
	#settleDrained: (() => void) | undefined;

	/** @param code and `network`: its own from now on */
	constructor(settings: FunctionSettings, code: LockedFolder, network: SandboxNetwork | undefined, host: FunctionHost) {
		this.settings = settings;
		this.#code = code;
		this.#network = network;
		this.#host = host;
		this.#starter = new Starter(settings, code, network, host);
		const {ageing, budget, instancePauseMs: pauseMs} = host;
		this.#idle = new IdleInstances({ageing, budget, pauseMs, memoryMb: settings.limits.memoryMb});
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
	get counts(): {running: number; idle: number; paused: number; parked: number; spares: number; waiting: number} {
		return {running: this.#running, ...this.#idle.counts, spares: this.#spares.size, waiting: this.#queue.length};
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
			return await this.#finish(ready, this.#pace.begin(asked), call, limit, record);
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
		const instance = await this.#enter(limit);
		record.leaveQueue();
		const ready =
			instance === undefined ? (this.#takeReady() ?? (await this.#wake(limit))) : {instance, printed: undefined};
		if (ready !== undefined) {
			ready.instance.hand(event, call.listener);
			return this.#finish(ready, this.#pace.begin(performance.now()), call, limit, record);
		}
		return this.#invokeStarted(event, call, limit, record);
	}

	/** An idle instance that waits for the memory that it has given back; undefined: there is none, or it had to go for others. */
	async #wake(limit: CallLimit): Promise<Ready | undefined> {
		const {missingMb} = this.#idle;
		if (missingMb === undefined) return undefined;
		const release = await this.#reserve(missingMb, limit).catch((error: unknown) => {
			this.#leave(undefined);
			throw error;
		});
		const instance = this.#idle.takeWith(missingMb, release);
		return instance === undefined ? undefined : {instance, printed: undefined};
	}

	async #invokeStarted(event: EncodedEvent, call: Call, limit: CallLimit, record: CallRecord): Promise<Outcome> {
		const work = this.#pace.beginStart(performance.now());
		let started: Started | undefined;
		try {
			started = await countStart(this.#takeOrStart(event, call, limit));
			const {instance, start, loading, phases, spare} = started;
			record.begin(instance, start, loading.atMs, {phases, spare});
			limit.checkAborted();
			if (!loading.result.ok) return record.outcome(loading.result, call);
			work.sinceMs = loading.atMs;
			const result = await started.answer;
			const endedMs = performance.now();
			this.#pace.end(work, endedMs);
			if (result.ok) started.noteFirstCall(endedMs - work.sinceMs);
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			this.#pace.abandon(work); // unless it got its answer
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
	async #finish(
		{instance, printed}: Ready,
		work: Work,
		call: Call,
		limit: CallLimit,
		record: CallRecord,
	): Promise<Outcome> {
		try {
			if (printed === undefined) {
				record.begin(instance, 'warm', performance.now());
			} else {
				call.follow(printed);
				record.begin(instance, this.#startKind, performance.now(), {spare: 'function'});
			}
			const answer = instance.answer(call);
			limit.guard(instance);
			const result = await answer;
			if (result.ok) this.#workingSet.noteFirstCall(instance.leaf, performance.now() - work.sinceMs);
			limit.checkAborted();
			return record.outcome(result, call);
		} finally {
			this.#pace.end(work, performance.now());
			this.#leave(instance);
		}
	}

	get #startKind(): StartKind {
		return this.settings.zygote ? 'forked' : 'cold';
	}

	async #takeSpare(event: EncodedEvent, call: Call, limit: CallLimit): Promise<Started | undefined> {
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
		instance.hand(event, call.listener);
		const answer = instance.answer(call);
		limit.guard(instance);
		return {
			instance,
			start: this.#startKind,
			phases: undefined,
			loading: {result: {ok: true, value: null}, atMs: performance.now()},
			answer,
			spare: 'function',
			noteFirstCall: (durationMs) => this.#workingSet.noteFirstCall(instance.leaf, durationMs),
		};
	}

	async #takeOrStart(event: EncodedEvent, call: Call, limit: CallLimit): Promise<Started> {
		return (await this.#takeSpare(event, call, limit)) ?? this.#start(event, call, limit);
	}

	async #start(event: EncodedEvent, call: Call, limit: CallLimit): Promise<Started> {
		const {memoryMb} = this.settings.limits;
		const share = new Share(this.#host.budget, memoryMb, await this.#reserve(memoryMb, limit));
		const release = () => share.release();
		const began = performance.now();
		// One that is kept would keep all that the zygote's spare has gone through, of which a function needs the smaller part.
		const started = await this.#starter.start({event, call, limit, release, takesSpare: !this.settings.reuse});
		this.#shares.set(started.instance, share);
		this.#pace.noteStart(performance.now() - began);
		return started;
	}

	async #reserve(megabytes: number, limit: CallLimit): Promise<() => void> {
		return this.#host.budget.reserve(megabytes, limit.remainingMs, () => this.#host.makeRoom(), limit.signal);
	}

	#noteStart(): void {
		this.#spares.note();
		this.#host.onStart(this.settings.packages);
	}

	/** Makes the zygote that a start would fork from. */
	async prewarm(): Promise<void> {
		if (this.settings.zygote) (await this.#host.imports.find(this.settings.packages)).leave();
	}

	/** Ends one spare; false when there is none. */
	evictSpare(): boolean {
		return this.#spares.evict();
	}

	/** What instances that are ending will give back. */
	get endingMb(): number {
		const ending = [...this.#starter.instances].filter(({isEnding}) => isEnding);
		const {memoryMb} = this.settings.limits;
		return ending.reduce((sum, instance) => sum + (this.#shares.get(instance)?.megabytes ?? memoryMb), 0);
	}

	/** The priority of the idle instance that would go first, see {@link Ageing}; undefined when there is none. */
	get evictable(): number | undefined {
		return this.#idle.evictable;
	}

	/** Ends one idle instance; answers the MiB that this will give back, undefined when there is none. */
	evictIdle(): number | undefined {
		return this.#idle.evict();
	}

	/** Ends what has been idle since before then. */
	evictIdleSince(sinceMs: number): void {
		this.#idle.evictSince(sinceMs);
	}

	/** Takes no new calls, lets running ones finish until the deadline, then ends them. */
	async close(deadlineMs: number): Promise<void> {
		this.#closed = true;
		for (const turn of this.#queue.splice(0)) turn.refuse(this.#closedError());
		this.#idle.close();
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
		await this.#network?.close();
	}

	async #destroyAll(): Promise<void> {
		await Promise.all([...this.#starter.instances].map((instance) => instance.destroy()));
	}

	/** Waits for its turn. @returns an instance that the call before has left to it, if there is one */
	async #enter(limit: CallLimit): Promise<Instance | undefined> {
		limit.checkAborted();
		if (this.#closed) throw this.#closedError();
		const {name, reuse, concurrency, maxQueue} = this.settings;
		const mayWait = this.#queue.length < maxQueue;
		if (this.#running >= concurrency) {
			if (mayWait) return this.#waitForTurn(limit, undefined);
			throw new ForktreeError(
				'QueueFull',
				`expected at most ${maxQueue} calls to wait for '${name}' (maxQueue), got one more`,
			);
		}
		const patienceMs = reuse && mayWait ? this.#pace.patienceMs(this.#queue.length, performance.now()) : 0;
		if (patienceMs > 0) return this.#waitForTurn(limit, patienceMs);
		this.#running += 1;
		return undefined;
	}

	/** @param patienceMs after which it gets its turn if not too many run; undefined: too many do */
	async #waitForTurn(limit: CallLimit, patienceMs: number | undefined): Promise<Instance | undefined> {
		let turn!: Turn;
		const given = new Promise<Instance | undefined>((give, refuse) => {
			turn = {give, refuse};
		});
		this.#queue.push(turn);
		const timer = patienceMs === undefined ? undefined : setTimeout(() => this.#hurry(turn), patienceMs);
		try {
			return await limit.race(given);
		} catch (error) {
			// Its turn may have come in the same moment: the next one's now.
			if (!this.#quit(turn))
				void given.then(
					(instance) => this.#leave(instance),
					() => undefined,
				);
			throw error;
		} finally {
			clearTimeout(timer);
		}
	}

	/** The instance that it was to wait for is not free in time. */
	#hurry(turn: Turn): void {
		if (this.#running >= this.settings.concurrency || !this.#quit(turn)) return;
		this.#running += 1;
		turn.give(undefined);
	}

	/** Takes it out of the line; false when it is in none. */
	#quit(turn: Turn): boolean {
		const index = this.#queue.indexOf(turn);
		if (index >= 0) this.#queue.splice(index, 1);
		return index >= 0;
	}

	#closedError(): ForktreeError {
		return new ForktreeError('RuntimeClosed', `function '${this.settings.name}' was closed`);
	}

	#takeReady(): Ready | undefined {
		const instance = this.#idle.take();
		if (instance !== undefined) return {instance, printed: undefined};
		const spare = this.#spares.takeReady();
		if (spare !== undefined) this.#noteStart();
		return spare;
	}

	/** What goes wrong here goes wrong again for the next call, which is told. */
	async #makeSpare(release: () => void): Promise<Loaded | undefined> {
		const printed = new Call(this.settings.limits, {});
		const limit = new CallLimit(this.settings.limits.timeoutMs, undefined);
		try {
			const share = new Share(this.#host.budget, this.settings.limits.memoryMb, release);
			const {instance, loading} = await this.#starter.start({
				event: undefined,
				call: printed,
				limit,
				release: () => share.release(),
				takesSpare: false,
			});
			this.#shares.set(instance, share);
			if (loading.result.ok && (await this.#populate(instance))) return {instance, printed};
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

	/** Whoever is next in line has its place, and its instance if that is to be used again. */
	#leave(instance: Instance | undefined): void {
		const keep = this.settings.reuse && !this.#closed && !this.#host.budget.isShort;
		const kept = keep && instance?.usable === true ? instance : undefined;
		const next = this.#queue.shift();
		const isAwaited = next !== undefined || this.#host.budget.isShort;
		if (kept === undefined && isAwaited) void instance?.destroy();
		if (next !== undefined) {
			next.give(kept);
		} else {
			if (kept !== undefined) this.#keep(kept);
			this.#running -= 1;
			if (this.#running === 0) this.#settleDrained?.();
		}
		// When whoever waits for this call has been told: to end a sandbox takes as long as the call may have.
		setImmediate(() => {
			if (kept === undefined) void instance?.destroy();
			this.#spares.refill();
		});
	}

	#keep(instance: Instance): void {
		const share = this.#shares.get(instance);
		if (share === undefined) throw new TypeError('expected an instance that this function has started');
		this.#idle.keep({instance, share}, {uses: this.#uses, rebuildMs: this.#pace.startMs ?? 0});
	}
}
