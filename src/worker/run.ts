/** Calls of functions: `/run/NAME` and all below it. The raw request goes in, the raw response comes out. */
import type {IncomingMessage, ServerResponse} from 'node:http';
import {performance} from 'node:perf_hooks';
import type {FastifyBaseLogger, FastifyInstance} from 'fastify';
import {ForktreeError, MethodNotAllowedError, type Outcome, type Runtime} from '../index.ts';
import {Answer} from './answer.ts';
import {Bodies, type Body, ClientLeft} from './body.ts';
import {parseCallPath} from './call-path.ts';
import type {CallableFunction, Functions} from './functions.ts';
import type {Metrics} from './metrics.ts';
import type {OutputLog} from './output.ts';
import {Refusal, refuseMethod, refuseOutcome, toRefusal} from './refusal.ts';
import {requestIdHeader, requestIdOf} from './request-id.ts';
import type {Stats} from './stats.ts';

/** What calls need, and who is told of them. */
export type CallParts = {
	readonly runtime: Runtime;
	readonly functions: Functions;
	readonly log: FastifyBaseLogger;
	readonly stats: Stats;
	readonly metrics: Metrics;
	readonly output: OutputLog;
	/** Whether the log has what handlers print. */
	readonly logsOutput: boolean;
	/** Whose `authorization` header is the worker's business, and not told to functions. */
	readonly isOwnAuthorization: (header: string) => boolean;
};

/** One call on its way. */
type CallContext = {
	readonly request: IncomingMessage;
	readonly body: Body;
	readonly answer: Answer;
	readonly requestId: string;
	readonly beganMs: number;
	readonly signal: AbortSignal;
	name: string;
	outcome: Outcome | undefined;
	hasPrinted: boolean;
};

const schema = {
	tags: ['functions'],
	summary: 'Calls a function',
	description:
		'Method, path below the name, query, headers and body are the function’s, as far as its ol.yaml allows the method; so is the answer.',
};

/** Adds `/run` to a server. All methods that it knows are passed on. */
export function addRunRoutes(server: FastifyInstance, parts: CallParts): void {
	const calls = new Calls(parts, `${server.prefix}/run/`);
	for (const url of ['/run', '/run/*']) {
		server.all(url, {schema}, (request, reply) => {
			reply.hijack();
			void calls.answer(request.raw, reply.raw, requestIdOf(request.raw.headers, request.id));
		});
	}
}

/** Answers calls. */
class Calls {
	readonly #parts: CallParts;
	readonly #mount: string;
	readonly #bodies = new Bodies();

	constructor(parts: CallParts, mount: string) {
		this.#parts = parts;
		this.#mount = mount;
	}

	/** Never rejects. */
	async answer(request: IncomingMessage, response: ServerResponse, requestId: string): Promise<void> {
		const leaving = new AbortController();
		response.once('close', () => {
			if (!response.writableFinished) leaving.abort();
		});
		const answer = new Answer(response, requestId);
		const beganMs = performance.now();
		const context = {
			request,
			body: this.#bodies.open(request),
			answer,
			requestId,
			beganMs,
			signal: leaving.signal,
			name: '',
			outcome: undefined,
			hasPrinted: false,
		};
		try {
			await this.#run(context);
			this.#note(context, undefined);
		} catch (error) {
			this.#fail(context, error);
		} finally {
			context.body.release();
		}
	}

	async #run(context: CallContext): Promise<void> {
		const {request, body, answer, signal} = context;
		const {name, ...place} = parseCallPath(request.url ?? '', this.#mount);
		if (name === '') throw noName();
		context.name = name;
		const found = this.#parts.functions.find(name);
		const lambda = found instanceof Promise ? await found : found;
		const event = await body.read(lambda.maxEventBytes);
		const outcome = await this.#parts.runtime.request(
			name,
			{
				...place,
				method: request.method ?? '',
				headers: this.#headersFor(context),
				body: event,
				client: {address: request.socket.remoteAddress ?? '', port: request.socket.remotePort ?? 0},
			},
			answer,
			{signal, ...this.#listeners(context)},
		);
		context.outcome = outcome;
		this.#noteOutcome(lambda, outcome);
		if (!outcome.ok) throw refuseOutcome(outcome.error);
		answer.end();
	}

	/** The request's own, with the id that the worker knows it by. */
	#headersFor({request: {rawHeaders}, requestId}: CallContext): string[] {
		const headers = [requestIdHeader, requestId];
		for (let index = 0; index < rawHeaders.length; index += 2) {
			const [name = '', value = ''] = [rawHeaders[index], rawHeaders[index + 1]];
			const lower = name.toLowerCase();
			if (lower === requestIdHeader) continue;
			if (lower === 'authorization' && this.#parts.isOwnAuthorization(value)) continue;
			headers.push(name, value);
		}
		return headers;
	}

	#listeners(context: CallContext) {
		const hear = (stream: 'stdout' | 'stderr') => (text: string) => {
			const {name, requestId} = context;
			context.hasPrinted = true;
			this.#parts.output.note(name, {requestId, stream, text});
			if (this.#parts.logsOutput) this.#parts.log.info({requestId, function: name, stream, text}, 'output');
		};
		return {onStdout: hear('stdout'), onStderr: hear('stderr')};
	}

	#noteOutcome(lambda: CallableFunction, outcome: Outcome): void {
		const {functions, stats, metrics} = this.#parts;
		stats.noteOutcome(outcome);
		metrics.noteOutcome(lambda.name, outcome);
		if (!outcome.ok && outcome.error.code === 'ImportFailed') functions.noteImportFailed(lambda, outcome.error);
	}

	#fail(context: CallContext, error: unknown): void {
		const {answer, request, signal} = context;
		const isAborted = error instanceof ClientLeft || (error instanceof ForktreeError && error.code === 'Aborted');
		if (isAborted || signal.aborted) {
			answer.breakOff();
			this.#note(context, new Refusal(499, 'Aborted', 'the client left'));
			return;
		}
		const refusal =
			error instanceof MethodNotAllowedError ? refuseMethod(request.method ?? '', error.allowed) : toRefusal(error);
		if (answer.begun) answer.breakOff();
		else answer.refuse(refusal, request.headers.accept);
		this.#note(context, refusal);
	}

	/** One line for each call. */
	#note(
		{request, answer, requestId, beganMs, name, outcome, hasPrinted}: CallContext,
		refusal: Refusal | undefined,
	): void {
		const {log, stats, metrics, output} = this.#parts;
		const durationMs = performance.now() - beganMs;
		const status = refusal?.status ?? answer.status;
		stats.note('web-request', durationMs);
		metrics.noteResponse(status);
		if (outcome !== undefined) output.noteEnd(name, {requestId, stream: 'end', status, durationMs}, hasPrinted);
		const line = {requestId, function: name, method: request.method, status, durationMs, start: outcome?.start};
		if (refusal === undefined) {
			log.info(line, 'call');
			return;
		}
		const {code, message, cause} = refusal;
		const told = {...line, code, reason: message, err: cause};
		if (status >= 500) log.warn(told, answer.begun ? 'call failed' : 'call refused');
		else log.info(told, 'call refused');
	}
}

function noName(): Refusal {
	const headers = {'access-control-allow-origin': '*'};
	return new Refusal(500, 'NoName', 'expected invocation format: /run/<lambda-name>', {headers});
}
