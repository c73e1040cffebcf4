/** A runtime that only says what a test tells it to say: for what a door does with whatever comes. */
import {EventEmitter} from 'node:events';
import fastify, {type FastifyInstance} from 'fastify';
import {
	ForktreeError,
	type HttpListener,
	type HttpRequest,
	type InvokeOptions,
	type JsonValue,
	type Outcome,
	type OutcomeError,
	type Runtime,
} from '../../src/index.ts';
import {type WorkerPluginOptions, workerPlugin} from '../../src/worker/plugin.ts';

const timings = {
	queueMs: 1,
	zygoteMs: 2,
	prepareMs: 3,
	forkMs: 4,
	isolateMs: 5,
	loadMs: 6,
	startMs: 21,
	handlerMs: 9,
	totalMs: 30,
};
const common: Omit<Outcome, 'ok' | 'value' | 'error'> = {
	start: 'forked',
	spare: undefined,
	timings,
	memory: {currentMiB: 1, peakMiB: 1},
	logs: {stdout: '', stderr: ''},
	limitsHit: [],
	sandbox: 'sandbox-1',
	preloaded: [],
	ownZygote: false,
};

export function success(value: JsonValue = null): Outcome {
	return {...common, ok: true, value};
}

export function failure(code: OutcomeError['code'], error: Partial<OutcomeError> = {}): Outcome {
	return {...common, ok: false, error: {code, type: '', message: '', traceback: '', ...error}};
}

/** Answers a request. */
export type Handler = (request: HttpRequest, listener: HttpListener, options: InvokeOptions) => Promise<Outcome>;

/** Its functions are what a test gives it. */
export class FakeRuntime extends EventEmitter {
	readonly functions = new Map<string, Handler>();
	readonly maxEventMb: number;

	constructor(functions: Readonly<Record<string, Handler>>, maxEventMb = 1) {
		super();
		this.maxEventMb = maxEventMb;
		for (const [name, handler] of Object.entries(functions)) this.functions.set(name, handler);
	}

	describe(name: string): object {
		this.#find(name);
		return {name, limits: {eventMb: this.maxEventMb}, network: 'none'};
	}

	dormant(): string[] {
		return [];
	}

	list(): object[] {
		return [...this.functions.keys()].map((name) => this.describe(name));
	}

	async deploy(): Promise<void> {}

	async remove(name: string): Promise<void> {
		this.functions.delete(name);
	}

	async request(name: string, request: HttpRequest, listener: HttpListener, options: InvokeOptions): Promise<Outcome> {
		return this.#find(name)(request, listener, options);
	}

	async stats(): Promise<object> {
		const counts = {running: 1, idle: 2, paused: 3, parked: 4, spares: 5, waiting: 6};
		return {
			functions: [...this.functions.keys()].map((name) => ({name, ...counts})),
			zygotes: [{packages: '', modules: ['json'], pid: 1}],
			memory: {budgetMb: 100, reservedMb: 50, zygotesMb: 25},
			isolation: {level: 'full'},
			python: {executable: '/usr/bin/python3', version: '3.11.2'},
		};
	}

	#find(name: string): Handler {
		const handler = this.functions.get(name);
		if (handler === undefined) throw new ForktreeError('UnknownFunction', `expected a function; deployed: a, b`);
		return handler;
	}
}

/** A Fastify server with the plugin, on a free port. */
export async function serve(
	functions: Readonly<Record<string, Handler>>,
	{maxEventMb, ...options}: WorkerPluginOptions & {readonly maxEventMb?: number} = {},
): Promise<{readonly url: string; readonly server: FastifyInstance; readonly runtime: FakeRuntime}> {
	const server = fastify();
	const runtime = new FakeRuntime(functions, maxEventMb);
	await server.register(workerPlugin(runtime as unknown as Runtime, options));
	const url = await server.listen({host: '127.0.0.1', port: 0});
	return {url, server, runtime};
}

/** Answers with a text of a known length. */
export function answering(text: string, status = 200): Handler {
	return async (_request, listener) => {
		const body = Buffer.from(text);
		listener.onHead({
			status,
			headers: [
				['content-type', 'text/plain'],
				['content-length', String(body.length)],
			],
		});
		await listener.onBody(body);
		return success();
	};
}
