/** Events as they travel to a sandbox. */
import type {Leaf} from '../sandbox/leaf.ts';
import {frameType} from '../zygote/protocol.ts';
import type {JsonValue} from './outcome.ts';

/** An event, ready to be sent: JSON text, bytes, or an HTTP request. */
export type EncodedEvent = {readonly kind: 'json' | 'bytes' | 'http'; readonly payload: string | Uint8Array};

/** Types of an event's frame: when nobody reads along what the handler prints, and when somebody does. */
const frames = {
	json: [frameType.eventJson, frameType.liveEventJson],
	bytes: [frameType.eventBytes, frameType.liveEventBytes],
	http: [frameType.eventHttp, frameType.liveEventHttp],
} as const;

/** An event as it travels. @throws {TypeError} when it is not JSON, {RangeError} when it is too large */
export function encodeEvent(event: JsonValue | Uint8Array, maxMb: number): EncodedEvent {
	const isBytes = event instanceof Uint8Array;
	const payload = isBytes ? event : JSON.stringify(event);
	if (payload === undefined) throw new TypeError(`expected an event that is JSON or a Uint8Array, got ${typeof event}`);
	checkSize(Buffer.byteLength(payload), maxMb, 'an event');
	return {kind: isBytes ? 'bytes' : 'json', payload};
}

/** @throws {RangeError} when it is too large */
export function checkSize(bytes: number, maxMb: number, what: string): void {
	if (bytes <= maxMb * 1024 * 1024) return;
	throw new RangeError(`expected ${what} of at most ${maxMb} MiB (limits.eventMb), got ${bytes} bytes`);
}

/** Sends an event to a leaf that has loaded a handler, or has been sent what it loads. */
export function sendEvent(leaf: Leaf, {kind, payload}: EncodedEvent, isLive: boolean): void {
	leaf.send(frames[kind][isLive ? 1 : 0], payload);
}
