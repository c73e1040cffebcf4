/** What a sandbox answers, frame by frame: the values of an event's handler, or an HTTP answer. */
import type {OutcomeCode} from '../errors.ts';
import type {FramePayload} from '../kernel/frames.ts';
import type {Limits} from '../sandbox/limits.ts';
import {frameType} from '../zygote/protocol.ts';
import {decodeHead, type HttpHead, type HttpListener} from './http.ts';
import type {JsonValue, OutcomeError} from './outcome.ts';

const mebibyte = 1024 * 1024;
/** What a chunk counts besides its content: even an empty one takes memory here. */
const chunkCostBytes = 64;

/** What became of the handler in one call. */
export type CallResult =
	| {readonly ok: true; readonly value: JsonValue | Uint8Array | ReadonlyArray<JsonValue | Uint8Array>}
	| {readonly ok: false; readonly error: OutcomeError};

/** Called with each chunk of a generator; a promise holds the generator back until it settles. */
export type OnChunk = (chunk: JsonValue | Uint8Array) => void | Promise<void>;

/** What a frame comes to: nothing yet, something to wait for before the next, the result, or what the sandbox is ended for. */
export type Step =
	| undefined
	| Promise<void>
	| {readonly type: 'result'; readonly result: CallResult}
	| {readonly type: 'fault'; readonly error: OutcomeError};

/** Reads one answer. What it is told comes from a sandbox, which may say anything. */
export type Answer = {
	take(type: number, payload: FramePayload): Step;
};

/** An error that is no exception of the handler's. */
export function plainError(code: OutcomeCode, message: string, extra: Partial<OutcomeError> = {}): OutcomeError {
	return {code, type: '', message, traceback: '', ...extra};
}

/** The error of an answer that exceeds its limit. */
export function tooLargeError({resultMb}: Limits): OutcomeError {
	return plainError('ResultTooLarge', `the answer exceeds ${resultMb} MiB (limits.resultMb)`);
}

/** Whether it takes more bytes than the answer may. A character takes up to three, so that most need not be counted. */
function isTooLarge(payload: FramePayload, {resultMb}: Limits): boolean {
	const most = resultMb * mebibyte;
	return payload.length * 3 > most && Buffer.byteLength(payload) > most;
}

function fault(error: OutcomeError): Step {
	return {type: 'fault', error};
}

function breach(message: string): Step {
	return fault(plainError('ProtocolError', message));
}

function success(value: Extract<CallResult, {ok: true}>['value']): Step {
	return {type: 'result', result: {ok: true, value}};
}

/** A value, or the chunks of a generator. */
export class ValueAnswer implements Answer {
	readonly #limits: Limits;
	readonly #onChunk: OnChunk | undefined;
	readonly #chunks: Array<JsonValue | Uint8Array> = [];
	#chunkBytes = 0;

	/** @param onChunk undefined: the chunks are the value */
	constructor(limits: Limits, onChunk: OnChunk | undefined) {
		this.#limits = limits;
		this.#onChunk = onChunk;
	}

	take(type: number, payload: FramePayload): Step {
		switch (type) {
			case frameType.resultJson:
			case frameType.resultBytes:
				return this.#decode(payload, success);
			case frameType.chunkJson:
			case frameType.chunkBytes:
				return this.#decode(payload, (chunk) => this.#takeChunk(chunk, payload));
			case frameType.chunksEnd:
				return success(this.#onChunk === undefined ? this.#chunks : null);
			default:
				return breach(`expected a frame type of an answer, got ${type}`);
		}
	}

	#decode(payload: FramePayload, take: (value: JsonValue | Uint8Array) => Step): Step {
		if (isTooLarge(payload, this.#limits)) return fault(tooLargeError(this.#limits));
		if (typeof payload !== 'string') return take(new Uint8Array(payload));
		let value: JsonValue;
		try {
			value = JSON.parse(payload) as JsonValue;
		} catch {
			return breach('expected strict JSON');
		}
		return take(value);
	}

	#takeChunk(chunk: JsonValue | Uint8Array, payload: FramePayload): Step {
		this.#chunkBytes += Buffer.byteLength(payload) + chunkCostBytes;
		if (this.#chunkBytes > this.#limits.resultMb * mebibyte) return fault(tooLargeError(this.#limits));
		if (this.#onChunk !== undefined) return this.#onChunk(chunk) ?? undefined;
		this.#chunks.push(chunk);
		return undefined;
	}
}

/** Heads of handlers that take events, and answer a value or chunks. */
const types = {json: 'application/json', bytes: 'application/octet-stream', lines: 'application/x-ndjson'} as const;
const bodiless: ReadonlySet<number> = new Set([204, 304]);

/**
 * An HTTP answer: that of a web application, or a value, which is a JSON document or bytes, or chunks: lines of JSON, or bytes. No limit
 * but that of a frame: nothing of it is kept.
 */
export class HttpAnswer implements Answer {
	readonly #limits: Limits;
	readonly #listener: HttpListener;
	readonly #isHead: boolean;
	#head: HttpHead | undefined;
	/** What is announced and not there yet; undefined: nothing was announced. */
	#missingBytes: number | undefined;
	#hasLines = false;

	/** @param isHead whether it answers a HEAD request, and has no body whatever is sent */
	constructor(limits: Limits, listener: HttpListener, isHead: boolean) {
		this.#limits = limits;
		this.#listener = listener;
		this.#isHead = isHead;
	}

	take(type: number, payload: FramePayload): Step {
		if (isTooLarge(payload, this.#limits)) return fault(tooLargeError(this.#limits));
		switch (type) {
			case frameType.responseHead:
				return this.#takeHead(decodeHead(payload));
			case frameType.resultJson:
			case frameType.resultBytes:
				return this.#takeValue(Buffer.from(payload as Buffer), typeof payload === 'string');
			case frameType.chunkJson:
				return this.#takeLine(Buffer.from(`${payload}\n`));
			case frameType.chunkBytes:
				return this.#takeBytes(payload as Buffer);
			case frameType.chunksEnd:
				return this.#finish();
			default:
				return breach(`expected a frame type of an answer, got ${type}`);
		}
	}

	#takeHead(head: HttpHead | undefined): Step {
		if (head === undefined) return breach('expected the head of an HTTP answer');
		if (this.#head !== undefined) return breach('expected one head of an HTTP answer');
		const lengths = head.headers.filter(([name]) => name.toLowerCase() === 'content-length').map(([, value]) => value);
		if (new Set(lengths).size > 1 || !lengths.every((value) => /^\d{1,15}$/.test(value)))
			return breach('expected one content-length, a number of bytes');
		this.#head = head;
		const isBodiless = this.#isHead || bodiless.has(head.status);
		if (lengths[0] !== undefined && !isBodiless) this.#missingBytes = Number(lengths[0]);
		this.#listener.onHead(head);
		return undefined;
	}

	#begin(type: string, length: number | undefined): Step {
		const size = length === undefined ? [] : [['content-length', String(length)] as const];
		return this.#takeHead({status: 200, headers: [['content-type', type], ...size]});
	}

	#takeValue(bytes: Buffer, isJson: boolean): Step {
		const step = this.#begin(isJson ? types.json : types.bytes, bytes.length) ?? this.#takeBody(bytes);
		// Whether the reader keeps up matters to nobody: this is all.
		return step === undefined || step instanceof Promise ? success(null) : step;
	}

	#takeLine(line: Buffer): Step {
		if (this.#head === undefined) {
			this.#hasLines = true;
			this.#begin(types.lines, undefined);
		}
		return this.#hasLines ? this.#takeBody(line) : breach('expected chunks that are all bytes, as the first one');
	}

	#takeBytes(bytes: Buffer): Step {
		if (this.#head === undefined) this.#begin(types.bytes, undefined);
		if (this.#hasLines) return breach('expected chunks that are all JSON, as the first one');
		return this.#takeBody(bytes);
	}

	#takeBody(bytes: Uint8Array): Step {
		if (this.#missingBytes !== undefined) {
			this.#missingBytes -= bytes.byteLength;
			if (this.#missingBytes < 0) return breach('expected no more of a body than its content-length');
		}
		if (this.#isHead || bodiless.has(this.#head?.status ?? 0)) return undefined;
		return this.#listener.onBody(bytes) ?? undefined;
	}

	#finish(): Step {
		if (this.#head === undefined) this.#begin(types.lines, 0);
		if (this.#missingBytes !== undefined && this.#missingBytes > 0) {
			return breach(`expected a body of its content-length, ${this.#missingBytes} bytes more`);
		}
		return success(null);
	}
}
