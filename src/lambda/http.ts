/** HTTP as functions see it: requests on their way to a sandbox, and the heads of answers on their way back. */
import type {FramePayload} from '../kernel/frames.ts';
import {checkSize, type EncodedEvent} from './event.ts';

/** A request to a function. */
export type HttpRequest = {
	readonly method: string;
	/** Where the function is, for example `/run/hello`: a WSGI application's SCRIPT_NAME. Percent-encoded, without a slash at its end. */
	readonly root: string;
	/** The rest of the path, percent-encoded: empty, or it begins with a slash. */
	readonly path: string;
	/** What comes after the question mark, as it came. */
	readonly query: string;
	/** By default `http`. */
	readonly scheme?: 'http' | 'https';
	/** Names and values in turn, in order, as Node's `rawHeaders`. */
	readonly headers: readonly string[];
	readonly body: Uint8Array;
	readonly client?: {readonly address: string; readonly port: number};
};

/** What an answer begins with. */
export type HttpHead = {
	/** 200 to 599. */
	readonly status: number;
	/** In order; without those that concern a connection alone. */
	readonly headers: ReadonlyArray<readonly [name: string, value: string]>;
};

/** Hears an answer as it comes. */
export type HttpListener = {
	/** Called once, before any of the body. */
	onHead(head: HttpHead): void;
	/** A promise holds the function back until it settles. */
	onBody(bytes: Uint8Array): void | Promise<void>;
};

/** More than any server takes. */
const maxHeadBytes = 512 * 1024;
const headerBytes = 5;
// Of RFC 9110, section 5.6.2 and 5.5: a token; no control characters but tabs.
const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const fieldValue = /^[\t\x20-\x7e\x80-\xff]*$/;
/** Section 7.6.1 there: they are between two hops, and ours is a socket without any. */
const hopByHop: ReadonlySet<string> = new Set([
	'connection',
	'keep-alive',
	'proxy-authenticate',
	'proxy-authorization',
	'proxy-connection',
	'te',
	'trailer',
	'transfer-encoding',
	'upgrade',
]);

/**
 * A request as it travels: the size of its head (4 bytes), whether its body is an event of bytes (1 byte), its head as JSON, its body.
 * @throws {TypeError} when a part is none, {RangeError} when it is too large
 */
export function encodeRequest(request: HttpRequest, maxMb: number): EncodedEvent {
	const {method, root, path, query, scheme = 'http', headers, body, client} = request;
	if (!token.test(method)) throw new TypeError(`expected a method of HTTP, got ${JSON.stringify(method)}`);
	if (path !== '' && !path.startsWith('/'))
		throw new TypeError(`expected a path that begins with '/', got ${JSON.stringify(path)}`);
	checkSize(body.byteLength, maxMb, 'a body');
	const from = client === undefined ? null : [client.address, client.port];
	const head = Buffer.from(JSON.stringify([method, root, path, query, scheme, from, headers]));
	if (head.length > maxHeadBytes) {
		throw new RangeError(`expected a request’s head of at most ${maxHeadBytes} bytes, got ${head.length}`);
	}
	const payload = Buffer.allocUnsafe(headerBytes + head.length + body.byteLength);
	payload.writeUInt32LE(head.length, 0);
	payload[4] = isBytes(headers) ? 1 : 0;
	head.copy(payload, headerBytes);
	payload.set(body, headerBytes + head.length);
	return {kind: 'http', payload};
}

/** Whether a handler that takes events gets the body as it is. */
function isBytes(headers: readonly string[]): boolean {
	for (let index = 0; index + 1 < headers.length; index += 2) {
		if (headers[index]?.toLowerCase() !== 'content-type') continue;
		const [type = ''] = (headers[index + 1] ?? '').split(';', 1);
		return type.trim().toLowerCase() === 'application/octet-stream';
	}
	return false;
}

/** What a sandbox, which may say anything, has sent as a head. @returns undefined when it is none */
export function decodeHead(payload: FramePayload): HttpHead | undefined {
	try {
		const [status, headers] = JSON.parse(String(payload)) as unknown[];
		if (typeof status !== 'number' || !Number.isInteger(status) || status < 200 || status > 599) return undefined;
		if (!Array.isArray(headers) || !headers.every(isField)) return undefined;
		return {status, headers: headers.filter(([name]) => !hopByHop.has(name.toLowerCase()))};
	} catch {
		return undefined;
	}
}

function isField(field: unknown): field is readonly [string, string] {
	if (!Array.isArray(field) || field.length !== 2) return false;
	const [name, value] = field as unknown[];
	return typeof name === 'string' && token.test(name) && typeof value === 'string' && fieldValue.test(value);
}
