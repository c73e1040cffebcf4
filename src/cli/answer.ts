/** What a caller outside this process is told of a call: values as bytes, failures as text. */
import type {OutcomeError, Success} from '../index.ts';

/** A value, ready to be sent. */
export type EncodedValue = {
	readonly type: 'application/json' | 'application/octet-stream';
	readonly body: Uint8Array;
};

/** Puts `{"$base64": "…"}` in the place of bytes, which JSON lacks; for `JSON.stringify`. */
export function replaceBytes(_key: string, value: unknown): unknown {
	return value instanceof Uint8Array ? {$base64: Buffer.from(value).toString('base64')} : value;
}

/** Bytes, or a generator's chunks when all are bytes, stay as they are; all else becomes JSON. */
export function encodeValue(value: Success['value']): EncodedValue {
	const chunks: readonly unknown[] = Array.isArray(value) ? value : [value];
	if (chunks.length > 0 && chunks.every((chunk) => chunk instanceof Uint8Array)) {
		return {type: 'application/octet-stream', body: Buffer.concat(chunks)};
	}
	return {type: 'application/json', body: Buffer.from(JSON.stringify(value, replaceBytes))};
}

/** The traceback of an exception, else the code and the message; ends with a line break. */
export function describeFailure({code, type, message, traceback, exitStatus}: OutcomeError): string {
	if ((code === 'HandlerError' || code === 'ImportFailed') && traceback !== '') return traceback;
	if (code === 'Exited' && type === 'SystemExit') return `${code}: SystemExit(${message}), status ${exitStatus}\n`;
	return `${code}: ${message}\n`;
}
