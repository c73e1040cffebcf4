/** What a client is told of a failure: a status, a stable code, and words that name nothing of the host. */
import {type ErrorCode, errorCodes, ForktreeError, httpStatus, type OutcomeError, outcomeCodes} from '../index.ts';

/** Codes of failures that the worker itself notices, besides `ErrorCode` and `OutcomeCode`. */
export type RefusalCode =
	| 'AlreadyExists'
	| 'BadRequest'
	| 'EventTooLarge'
	| 'Forbidden'
	| 'Internal'
	| 'MethodNotAllowed'
	| 'NoName'
	| 'NotFound'
	| 'NotImplemented'
	| 'Unauthorized'
	| 'UploadTooLarge';

type Details = {
	readonly headers?: Readonly<Record<string, string>>;
	/** The exception's type, when Python raised one. */
	readonly type?: string;
	/** As Python prints it: then it is the text of the answer. */
	readonly traceback?: string;
	/** What only the log is told. */
	readonly cause?: unknown;
};

/** An answer that is no function's. */
export class Refusal extends Error {
	readonly status: number;
	/** For `x-forktree-error`. */
	readonly code: string;
	readonly headers: Readonly<Record<string, string>>;
	readonly type: string;
	readonly traceback: string;

	constructor(
		status: number,
		code: string,
		message: string,
		{headers = {}, type = '', traceback = '', cause}: Details = {},
	) {
		super(message, cause === undefined ? undefined : {cause});
		this.status = status;
		this.code = code;
		this.headers = headers;
		this.type = type;
		this.traceback = traceback;
	}
}

/** What a {@link Refusal} is as an answer. */
export type RefusalAnswer = {
	readonly status: number;
	readonly headers: Readonly<Record<string, string>>;
	readonly body: Buffer;
};

/** Whoever may come again is told so: in a second. */
const later = {'retry-after': '1'};
/** Words of these are about the function's files, which the client sent or can read; of others they may name the host's. */
const harmless: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
	'EntryFileMissing',
	'HashMismatch',
	'InterpreterMismatch',
	'InvalidConfig',
	'InvalidName',
	'InvalidRequirements',
	'InvalidSyntax',
	'NoMatchingDistribution',
	'UnsafeArchive',
]);

/** A call that was accepted, and failed. What is the sandbox's own end (502) may be told in words of the host: those go to the log. */
export function refuseOutcome(error: OutcomeError): Refusal {
	const {code, type, message, traceback} = error;
	const status = httpStatus(code);
	if (status !== 502 && code !== 'StartFailed') return new Refusal(status, code, message, {type, traceback});
	return new Refusal(502, code, `${outcomeCodes[code]}${detail(error)}`, {type, cause: error});
}

function detail({exitStatus, signal}: OutcomeError): string {
	if (exitStatus !== undefined) return `, with status ${exitStatus}`;
	return signal === undefined ? '' : ` (${signal})`;
}

/** Whatever was thrown instead of an outcome. */
export function toRefusal(error: unknown): Refusal {
	if (error instanceof Refusal) return error;
	if (error instanceof ForktreeError) return refuseForktreeError(error);
	// An event can be larger as the runtime sends it than as it came.
	if (error instanceof RangeError) return new Refusal(413, 'EventTooLarge', error.message);
	return new Refusal(500, 'Internal', 'the worker failed; its log says more of this request', {cause: error});
}

/** The reference's words, which list methods as Go does. */
export function refuseMethod(method: string, allowed: readonly string[]): Refusal {
	const message = `HTTP method not allowed. Sent: ${method}, Allowed: [${allowed.join(' ')}]`;
	return new Refusal(405, 'MethodNotAllowed', message, {headers: {allow: allowed.join(', ')}});
}

function refuseForktreeError(error: ForktreeError): Refusal {
	const {code} = error;
	const status = httpStatus(code);
	if (status === 429) return new Refusal(status, code, 'lambda function queue is full', {headers: later});
	if (status === 503) return new Refusal(status, code, errorCodes[code], {headers: later});
	return new Refusal(status, code, harmless.has(code) ? error.message : errorCodes[code], {cause: error});
}

/** As text, or as JSON when the client prefers it. */
export function renderRefusal(refusal: Refusal, accept: string | undefined, requestId: string): RefusalAnswer {
	const {status, code, message, type, traceback, headers} = refusal;
	const asJson = accept?.includes('application/json') === true;
	const body = asJson ? JSON.stringify({code, message, type, traceback, requestId}) : textOf(refusal);
	return {
		status,
		headers: {
			'content-type': asJson ? 'application/json' : 'text/plain; charset=utf-8',
			'x-forktree-error': code,
			'x-request-id': requestId,
			...headers,
		},
		body: Buffer.from(body),
	};
}

/** The traceback if there is one; the words alone where the reference has them; ends with a line break. */
function textOf({status, code, message, traceback}: Refusal): string {
	const text = traceback !== '' ? traceback : status === 502 || status >= 504 ? `${code}: ${message}` : message;
	return text.endsWith('\n') ? text : `${text}\n`;
}
