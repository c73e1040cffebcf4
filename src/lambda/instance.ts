/** One sandbox with a loaded handler: takes one event at a time and answers with what became of it. */
import {performance} from 'node:perf_hooks';
import type {OutcomeCode} from '../errors.ts';
import type {FrameError, FramePayload} from '../kernel/frames.ts';
import type {MemoryDetails} from '../kernel/memory.ts';
import type {Leaf, LeafEnd} from '../sandbox/leaf.ts';
import type {Limits} from '../sandbox/limits.ts';
import type {TellNetwork} from '../sandbox/network/gateway.ts';
import {OutputSink} from '../sandbox/output.ts';
import type {Origin} from '../zygote/fork-point.ts';
import {frameType} from '../zygote/protocol.ts';
import {
	type Answer,
	type CallResult,
	HttpAnswer,
	type OnChunk,
	plainError,
	type Step,
	tooLargeError,
	ValueAnswer,
} from './answer.ts';
import {type EncodedEvent, sendEvent} from './event.ts';
import type {HttpListener} from './http.ts';
import type {LimitHit, OutcomeError, OutcomeMemory} from './outcome.ts';

const mebibyte = 1024 * 1024;

/** Hears what a call prints and yields, as it comes. */
export type CallListener = {
	readonly onStdout?: ((text: string) => void) | undefined;
	readonly onStderr?: ((text: string) => void) | undefined;
	/** Told of each chunk of a generator. */
	readonly onChunk?: OnChunk | undefined;
	/** Told of the answer to an HTTP request, which the event is. */
	readonly http?: HttpListener | undefined;
	/** Whether that request is one for the head alone. */
	readonly isHead?: boolean | undefined;
};

/** A call in progress, from the first sign of a start to its outcome. */
export class Call {
	readonly stdout: OutputSink;
	readonly stderr: OutputSink;
	readonly listener: CallListener;

	constructor(limits: Limits, listener: CallListener) {
		this.stdout = new OutputSink(limits.outputMb * mebibyte, listener.onStdout);
		this.stderr = new OutputSink(limits.outputMb * mebibyte, listener.onStderr);
		this.listener = listener;
	}

	/** Begins with what was printed before. */
	follow({stdout, stderr}: Call): void {
		this.stdout.follow(stdout);
		this.stderr.follow(stderr);
	}
}

/** How loading a handler went, and when that was known, as `performance.now()` counts. */
export type Loading = {readonly result: CallResult; readonly atMs: number};

type Waiting = {
	readonly call: Call;
	/** Told when its handler is loaded; until then nothing is answered. */
	onLoaded: (() => void) | undefined;
	readonly answer: Answer;
	/** Parts that were handed over and not taken yet; while there are any, nothing more is read. */
	untaken: number;
	settle(result: CallResult): void;
};

/** Codes that a guest may give itself; whatever else it claims is a breach of protocol. */
const guestCodes: ReadonlySet<string> = new Set<OutcomeCode>([
	'HandlerError',
	'Exited',
	'ImportFailed',
	'ResultNotSerializable',
	'ProtocolError',
]);

const answerTypes: ReadonlySet<number> = new Set([
	frameType.resultJson,
	frameType.resultBytes,
	frameType.chunkJson,
	frameType.chunkBytes,
	frameType.responseHead,
]);

/** What can come of loading. */
const loadingTypes: ReadonlySet<number> = new Set([frameType.loaded, frameType.failed, frameType.error]);

function toMiB(bytes: number | undefined): number | undefined {
	return bytes === undefined ? undefined : bytes / mebibyte;
}

function decodeError(payload: FramePayload): OutcomeError {
	try {
		const value = JSON.parse(String(payload)) as Record<string, unknown>;
		const text = (name: string) => (typeof value[name] === 'string' ? (value[name] as string) : '');
		if (!guestCodes.has(text('code'))) throw new TypeError('unknown code');
		const {status} = value;
		return {
			code: text('code') as OutcomeCode,
			type: text('type'),
			message: text('message'),
			traceback: text('traceback'),
			...(typeof status === 'number' ? {exitStatus: status} : {}),
		};
	} catch {
		return plainError('ProtocolError', 'expected an error report, got something else');
	}
}

/** Whether somebody reads along what is printed. */
export function isLive({onStdout, onStderr}: CallListener): boolean {
	return onStdout !== undefined || onStderr !== undefined;
}

function answerOf({listener}: Call, limits: Limits): Answer {
	const {http, isHead = false, onChunk} = listener;
	return http === undefined ? new ValueAnswer(limits, onChunk) : new HttpAnswer(limits, http, isHead);
}

/** Owns a sandbox. */
export class Instance {
	readonly leaf: Leaf;
	readonly origin: Origin;
	readonly #limits: Limits;
	readonly #onEnd: (end: LeafEnd) => void;
	#waiting: Waiting | undefined;
	#broken: FrameError | 'end' | undefined;
	#memory: OutcomeMemory | undefined;
	#ended = false;

	/**
	 * @param network told of its connections
	 * @param onEnd called once when the sandbox has ended and everything is given back
	 */
	constructor(leaf: Leaf, limits: Limits, origin: Origin, network: TellNetwork, onEnd: (end: LeafEnd) => void) {
		this.leaf = leaf;
		this.origin = origin;
		this.#limits = limits;
		this.#onEnd = onEnd;
		leaf.listen({
			frame: (type, payload) => this.#take(type, payload),
			broken: (error) => void this.#break(error),
			network,
		});
	}

	/** Whether it can take another event. */
	get usable(): boolean {
		return !this.#ended && this.#broken === undefined && this.#waiting === undefined;
	}

	/** Whether it is ending, or has ended: its memory comes free soon. */
	get isEnding(): boolean {
		return this.#broken !== undefined;
	}

	/** Stops everything in it until {@link resume}: what a handler left running takes no CPU time between calls. */
	pause(): void {
		if (this.usable) this.leaf.pause();
	}

	/** Takes away what memory it may use beyond that which it does. @returns what is left to it, in MiB; undefined: it has not stopped yet */
	park(): number | undefined {
		return this.leaf.park();
	}

	/** Lets it go on, with its own memory limit. Does nothing when it is not paused. */
	resume(): void {
		this.leaf.resume();
	}

	/** Hands over an event; {@link answer} must follow before the event loop turns. */
	hand(event: EncodedEvent, listener: CallListener): void {
		sendEvent(this.leaf, event, isLive(listener));
	}

	/**
	 * Waits until the handler's module is loaded; and by `answer` for what becomes of the event, if one was sent with what loads it.
	 * What ends the loading ends both.
	 */
	load(call: Call, hasEvent: boolean): {readonly loading: Promise<Loading>; readonly answer: Promise<CallResult>} {
		let note!: (result: CallResult) => void;
		const loading = new Promise<Loading>((resolve) => {
			note = (result) => resolve({result, atMs: performance.now()});
		});
		const loaded = {ok: true, value: null} as const;
		const answer = this.#wait(call, () => (hasEvent ? note(loaded) : this.#settle(loaded)));
		void answer.then(note);
		return {loading, answer};
	}

	/** Waits for what becomes of the event. */
	answer(call: Call): Promise<CallResult> {
		return this.#wait(call, undefined);
	}

	#wait(call: Call, onLoaded: (() => void) | undefined): Promise<CallResult> {
		if (this.#broken !== undefined) {
			return Promise.resolve({ok: false, error: plainError('Evicted', 'the instance had ended')});
		}
		const result = new Promise<CallResult>((settle) => {
			this.#waiting = {call, onLoaded, answer: answerOf(call, this.#limits), untaken: 0, settle};
		});
		this.leaf.streams?.stdout.direct(call.stdout);
		this.leaf.streams?.stderr.direct(call.stderr);
		return result;
	}

	/** What its cgroup is charged, or was when it ended. */
	memory(details: boolean): OutcomeMemory {
		if (this.#memory !== undefined) return this.#memory;
		const {current, peak} = this.leaf.memory();
		const counted: MemoryDetails | undefined = details ? this.leaf.memoryDetails() : undefined;
		return {currentMiB: toMiB(current), peakMiB: toMiB(peak), ...counted};
	}

	/** Limits that the call reached and survived. */
	static limitsHit(call: Call): LimitHit[] {
		const hits: LimitHit[] = [];
		if (call.stdout.cut) hits.push('stdout');
		if (call.stderr.cut) hits.push('stderr');
		return hits;
	}

	/** Ends it; a call in progress gets `error`, or `Evicted`. */
	async destroy(error: OutcomeError = plainError('Evicted', 'the instance was taken away')): Promise<void> {
		this.#broken ??= 'end';
		const waiting = this.#waiting;
		this.#waiting = undefined;
		this.#noteMemory();
		this.#gone(await this.leaf.destroy());
		waiting?.settle({ok: false, error});
	}

	#take(type: number, payload: FramePayload): void {
		const waiting = this.#waiting;
		if (this.#broken !== undefined) return;
		if (waiting === undefined) {
			this.#breach('expected silence between events');
			return;
		}
		const {onLoaded} = waiting;
		if (onLoaded === undefined ? type === frameType.loaded : !loadingTypes.has(type)) {
			this.#breach('expected to be told that the handler is loaded, once and before it answers');
			return;
		}
		if (type === frameType.loaded) {
			waiting.onLoaded = undefined;
			onLoaded?.();
		} else if (type === frameType.failed || type === frameType.error) {
			this.#fail(decodeError(payload));
		} else {
			this.#step(waiting, waiting.answer.take(type, payload));
		}
	}

	#step(waiting: Waiting, step: Step): void {
		if (step === undefined) return;
		if (step instanceof Promise) this.#hold(waiting, step);
		else if (step.type === 'result') this.#settle(step.result);
		else void this.destroy(step.error);
	}

	/** Reads nothing more until then. */
	#hold(waiting: Waiting, taken: Promise<void>): void {
		waiting.untaken += 1;
		this.leaf.pauseReading();
		const go = () => {
			waiting.untaken -= 1;
			if (waiting.untaken === 0 && this.#waiting === waiting) this.leaf.resumeReading();
		};
		void taken.then(go, go);
	}

	#breach(message: string): void {
		void this.destroy(plainError('ProtocolError', message));
	}

	/** An error that the guest reported. With some it goes on, with others it is ending. */
	#fail(error: OutcomeError): void {
		if (error.code === 'HandlerError' || error.code === 'ResultNotSerializable') this.#settle({ok: false, error});
		else void this.destroy(error);
	}

	#settle(result: CallResult): void {
		const waiting = this.#waiting;
		this.#waiting = undefined;
		if (waiting !== undefined && waiting.untaken > 0) this.leaf.resumeReading();
		waiting?.settle(result);
	}

	/** The channel broke: find out how the sandbox ended. */
	async #break(error: FrameError | undefined): Promise<void> {
		if (this.#broken !== undefined) return;
		this.#broken = error ?? 'end';
		this.#noteMemory();
		const end = await (error === undefined ? this.leaf.finish() : this.leaf.destroy());
		this.#gone(end);
		const waiting = this.#waiting;
		this.#waiting = undefined;
		waiting?.settle({ok: false, error: error === undefined ? this.#explain(end) : this.#explainFrame(error)});
	}

	#explainFrame({type, message}: FrameError): OutcomeError {
		return answerTypes.has(type) ? tooLargeError(this.#limits) : plainError('ProtocolError', message);
	}

	#explain(end: LeafEnd): OutcomeError {
		if (!end.byItself) return plainError('ProtocolError', 'the handler closed its channel');
		if (end.oomKills > 0 && end.process.type !== 'exited') {
			const peak = this.#memory?.peakMiB;
			const used = peak === undefined ? '' : `; ${peak.toFixed(0)} MiB were used`;
			return plainError('OutOfMemory', `the sandbox exceeded ${this.#limits.memoryMb} MiB (limits.memoryMb)${used}`);
		}
		switch (end.process.type) {
			case 'exited':
				return plainError('Exited', `the handler’s process exited with status ${end.process.code}`, {
					exitStatus: end.process.code,
				});
			case 'killed':
				return plainError('Killed', `the handler’s process was killed by ${end.process.signal}`, {
					signal: end.process.signal,
				});
			case 'unknown':
				return plainError('Exited', 'the handler’s process ended; its zygote, which would know how, is gone as well');
		}
	}

	#noteMemory(): void {
		this.#memory ??= this.memory(false);
	}

	#gone(end: LeafEnd): void {
		if (this.#ended) return;
		this.#ended = true;
		this.#onEnd(end);
	}
}
