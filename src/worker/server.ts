/** A worker that listens: a runtime of its own, behind the plugin's routes. */
import {lookup} from 'node:dns/promises';
import {METHODS, type ServerResponse} from 'node:http';
import type {AddressInfo} from 'node:net';
import {finished} from 'node:stream/promises';
import {setImmediate as nextTurn, setTimeout as sleep} from 'node:timers/promises';
import fastify, {type FastifyBaseLogger, type FastifyInstance, type FastifyPluginAsync, LogController} from 'fastify';
import {createRuntime, createSandboxPool, type RuntimeOptions} from '../index.ts';
import {isLoopback} from './access.ts';
import {createLog} from './log.ts';
import {answerError, type WorkerPluginOptions, workerPlugin} from './plugin.ts';
import {Refusal} from './refusal.ts';
import {requestIdOf} from './request-id.ts';
import {sockPlugin} from './sock.ts';
import {Stats, type StatsSnapshot} from './stats.ts';

export {type WorkerPluginOptions, workerPlugin} from './plugin.ts';

/** Options of {@link createWorker}, besides those of `createRuntime`. */
export type WorkerOptions = Omit<RuntimeOptions, 'restore'> &
	Pick<WorkerPluginOptions, 'registryCacheMs' | 'token' | 'logOutput'> & {
		/** The folder whose folders and `NAME.tar.gz` files are the functions, as a path or a `file://` URL. */
		readonly registry: string;
		/**
		 * `lambda`, the default, or `sock`: sandboxes are made, paused and ended one by one, in place of functions; of a runtime's options
		 * those of its state folder, memory and limits that can't be held apply then.
		 */
		readonly mode?: 'lambda' | 'sock';
		/** By default `localhost`: no other machine can reach it. Any other address needs a `token`. */
		readonly host?: string;
		/** By default 5000; 0 takes a free one. */
		readonly port?: number;
		/** Gives up the start; {@link createWorker} then rejects with its reason. */
		readonly signal?: AbortSignal;
		/** Hears of each call, and of what goes wrong; by default JSON lines on stderr. */
		readonly log?: FastifyBaseLogger | false;
	};

/** How long sent answers may take to arrive, once every call has ended and the worker closes. */
const flushDeadlineMs = 5000;
/** A client that has not sent a request's head, or all of it, by then is cut; an idle connection is closed. */
const timeouts = {headersMs: 10_000, requestMs: 120_000, keepAliveMs: 5000, checkMs: 1000};
const modes: ReadonlySet<string> = new Set(['lambda', 'sock']);
/** Of what is before a request's body. */
const maxHeadBytes = 16 * 1024;
/** Of a name in a path: the longest is 128 characters, each of which may be encoded as three. */
const maxParamLength = 384;

/** A listening worker. Made by {@link createWorker}. */
export class Worker implements AsyncDisposable {
	/** Where it listens, for example `http://localhost:5000`. */
	readonly url: string;
	readonly #server: FastifyInstance;
	readonly #service: Service;
	readonly #stats: Stats;
	readonly #answers: ReadonlySet<ServerResponse>;
	#closed: Promise<void> | undefined;

	/** Used by {@link createWorker}. */
	constructor(parts: {
		readonly url: string;
		readonly server: FastifyInstance;
		readonly service: Service;
		readonly stats: Stats;
		readonly answers: ReadonlySet<ServerResponse>;
	}) {
		this.url = parts.url;
		this.#server = parts.server;
		this.#service = parts.service;
		this.#stats = parts.stats;
		this.#answers = parts.answers;
	}

	/** What `/stats` answers: counts, and means of milliseconds, by name. */
	stats(): StatsSnapshot {
		return this.#stats.snapshot();
	}

	/** Takes no more requests, lets running calls finish for as long as the runtime does, and ends everything. */
	async close(): Promise<void> {
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.close();
	}

	async #close(): Promise<void> {
		for (const answer of this.#answers) answer.shouldKeepAlive = false;
		const stopped = this.#server.close();
		try {
			await this.#service.close();
			await nextTurn();
		} finally {
			await this.#flush();
			this.#server.server.closeAllConnections();
			await stopped;
		}
	}

	/** Waits for answers that are complete; whoever has not sent all of its request gets none. */
	async #flush(): Promise<void> {
		const complete = [...this.#answers].filter(({writableEnded}) => writableEnded);
		const sent = Promise.allSettled(complete.map((answer) => finished(answer)));
		await Promise.race([sent, sleep(flushDeadlineMs, undefined, {ref: false})]);
	}
}

/**
 * Serves a registry: `/run/NAME` calls a function, `/registry/` lists, takes and removes them, `/status` says `ready`;
 * docs/worker.md has all of it. Functions are deployed when they are first called.
 * @throws what `createRuntime` throws, what reading the registry or listening throws, or the signal's reason;
 * {TypeError} when other machines could reach it without a token
 * @example
 * const worker = await createWorker({registry: 'registry', port: 0});
 * try {
 * 	const response = await fetch(`${worker.url}/run/hello`, {method: 'POST', body: '{"name": "world"}'});
 * } finally {
 * 	await worker.close();
 * }
 */
export async function createWorker(options: WorkerOptions): Promise<Worker> {
	const {registry, registryCacheMs, token, logOutput, mode = 'lambda', ...others} = options;
	const {host = 'localhost', port = 5000, signal, log = createLog(), ...runtimeOptions} = others;
	if (token === undefined && !isLoopback(host)) {
		throw new TypeError(
			`token: expected one for ${JSON.stringify(host)}, which other machines may reach; or localhost as the host`,
		);
	}
	if (!modes.has(mode)) throw new TypeError(`mode: expected ${[...modes].join(' or ')}, got ${JSON.stringify(mode)}`);
	signal?.throwIfAborted();
	const stats = new Stats();
	const settings = {registry, stats, ...pick(options, ['registryCacheMs', 'token', 'logOutput'])};
	const service = mode === 'sock' ? await openPool(runtimeOptions, token) : await openRuntime(runtimeOptions, settings);
	let server: FastifyInstance | undefined;
	try {
		signal?.throwIfAborted();
		server = createServer(log);
		const answers = trackAnswers(server);
		await server.register(service.plugin());
		const url = await listen(server, host, port);
		signal?.throwIfAborted();
		return new Worker({url, server, service, stats, answers});
	} catch (error) {
		await server?.close();
		await service.close();
		throw error;
	}
}

/** What a worker serves, and owns. */
type Service = {
	/** @throws {TypeError} or {RangeError} for a wrong option */
	plugin(): FastifyPluginAsync;
	close(): Promise<void>;
};

async function openRuntime(options: RuntimeOptions, settings: WorkerPluginOptions): Promise<Service> {
	const runtime = await createRuntime({...options, restore: false});
	return {plugin: () => workerPlugin(runtime, settings), close: () => runtime.close()};
}

async function openPool(options: RuntimeOptions, token: string | undefined): Promise<Service> {
	const pool = await createSandboxPool(pick(options, ['stateDir', 'memoryBudgetMb', 'bestEffort']));
	return {plugin: () => sockPlugin(pool, token), close: () => pool.close()};
}

/** Those of some options that are given. */
function pick<T extends object, Key extends keyof T>(options: T, keys: readonly Key[]): Pick<T, Key> {
	const given = keys.filter((key) => options[key] !== undefined);
	return Object.fromEntries(given.map((key) => [key, options[key]])) as Pick<T, Key>;
}

/** All methods that Node knows are a function's, but CONNECT, which is none of HTTP's own. */
function createServer(log: FastifyBaseLogger | false): FastifyInstance {
	const server: FastifyInstance = fastify({
		...(log === false ? {} : {loggerInstance: log}),
		logController: new LogController({disableRequestLogging: true}),
		genReqId: ({headers}) => requestIdOf(headers),
		requestTimeout: timeouts.requestMs,
		keepAliveTimeout: timeouts.keepAliveMs,
		http: {
			headersTimeout: timeouts.headersMs,
			connectionsCheckingInterval: timeouts.checkMs,
			maxHeaderSize: maxHeadBytes,
		},
		frameworkErrors: answerError,
		routerOptions: {maxParamLength},
	});
	for (const method of METHODS) {
		if (method !== 'CONNECT' && !server.supportedMethods.includes(method))
			server.addHttpMethod(method, {hasBody: true});
	}
	server.setErrorHandler(answerError);
	server.setNotFoundHandler(async () => {
		throw new Refusal(404, 'NotFound', 'nothing is here; GET /openapi.json says what there is');
	});
	return server;
}

/** Answers that are not sent yet. */
function trackAnswers(server: FastifyInstance): ReadonlySet<ServerResponse> {
	const answers = new Set<ServerResponse>();
	server.server.on('request', (_request, response) => {
		answers.add(response);
		response.once('close', () => answers.delete(response));
	});
	return answers;
}

/** At one address, also where a name has several. */
async function listen(server: FastifyInstance, host: string, port: number): Promise<string> {
	const {address} = await lookup(host);
	await server.listen({host: address, port});
	const {port: taken} = server.server.address() as AddressInfo;
	return `http://${host.includes(':') ? `[${host}]` : host}:${taken}`;
}
