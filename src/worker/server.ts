/** The worker: functions of a registry behind HTTP. A thin door on a runtime. */
import {createServer, type IncomingMessage, type Server, type ServerResponse} from 'node:http';
import type {AddressInfo} from 'node:net';
import {finished} from 'node:stream/promises';
import {setTimeout as sleep} from 'node:timers/promises';
import {
	createRuntime,
	ForktreeError,
	type JsonValue,
	type Outcome,
	type Runtime,
	type RuntimeOptions,
} from '../index.ts';
import {describeFailure, encodeValue} from './answer.ts';
import {deployRegistry, findSources, type RegisteredFunction} from './registry.ts';

/** Options of {@link createWorker}, besides those of `createRuntime`. */
export type WorkerOptions = RuntimeOptions & {
	/** The folder whose folders and `NAME.tar.gz` files are the functions. */
	readonly registry: string;
	/** By default `localhost`: no other machine can reach it. */
	readonly host?: string;
	/** By default 5000; 0 takes a free one. */
	readonly port?: number;
	/** Gives up the start; {@link createWorker} then rejects with its reason. */
	readonly signal?: AbortSignal;
	/** Told of each function that can't be deployed: calls of it are answered with 500, others go on. */
	readonly onDeployFailed?: (name: string, error: Error) => void;
	/** Told when packages that nothing needs could not be removed. */
	readonly onCollectFailed?: (error: ForktreeError) => void;
	/** Hears what handlers print on stdout and stderr. */
	readonly onOutput?: (name: string, text: string) => void;
};

/** How long sent answers may take to arrive, once every call has ended and the worker closes. */
const flushDeadlineMs = 5000;
const timeouts = {headersTimeout: 10_000, requestTimeout: 60_000, keepAliveTimeout: 5000};
/** By codes of errors by which a call was not refused for good. */
const busyStatuses: ReadonlyMap<string, number> = new Map([
	['QueueFull', 429],
	['BudgetExceeded', 503],
	['RuntimeClosed', 503],
]);

/** An answer other than a value. */
class Refusal extends Error {
	readonly status: number;
	readonly headers: Readonly<Record<string, string>>;

	constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
		super(message);
		this.status = status;
		this.headers = headers;
	}
}

/** Thrown when nobody waits for an answer any more. */
class ClientLeft extends Error {}

/** A listening worker. Made by {@link createWorker}. */
export class Worker implements AsyncDisposable {
	/** Where it listens, for example `http://localhost:5000`. */
	readonly url: string;
	readonly #server: Server;
	readonly #door: Door;
	#closed: Promise<void> | undefined;

	/** Used by {@link createWorker}. */
	constructor(server: Server, door: Door, url: string) {
		this.#server = server;
		this.#door = door;
		this.url = url;
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
		const stopped = new Promise<void>((resolve) => {
			this.#server.close(() => resolve());
		});
		try {
			await this.#door.close();
		} finally {
			this.#server.closeAllConnections();
			await stopped;
		}
	}
}

/** Answers requests. Owns the runtime. */
class Door {
	readonly #runtime: Runtime;
	readonly #functions: ReadonlyMap<string, RegisteredFunction>;
	readonly #onOutput: WorkerOptions['onOutput'];
	/** Answers to calls that have not left yet. */
	readonly #answers = new Set<Promise<void>>();
	#closing = false;

	constructor(
		runtime: Runtime,
		functions: ReadonlyMap<string, RegisteredFunction>,
		onOutput: WorkerOptions['onOutput'],
	) {
		this.#runtime = runtime;
		this.#functions = functions;
		this.#onOutput = onOutput;
	}

	async close(): Promise<void> {
		this.#closing = true;
		try {
			await this.#runtime.close();
		} finally {
			await Promise.race([Promise.all(this.#answers), sleep(flushDeadlineMs, undefined, {ref: false})]);
		}
	}

	/** Never rejects. */
	async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
		try {
			await this.#route(request, response);
		} catch (error) {
			if (error instanceof ClientLeft || response.headersSent) response.destroy();
			else this.#refuse(response, toRefusal(error));
		}
	}

	async #route(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const [pathname = ''] = (request.url ?? '').split('?', 1);
		if (pathname === '/status') {
			checkMethod(request, ['GET', 'HEAD']);
			this.#send(response, 200, 'text/plain; charset=utf-8', Buffer.from('ready\n'));
			return;
		}
		const encoded = /^\/run\/([^/]+)$/.exec(pathname)?.[1];
		if (encoded === undefined) throw new Refusal(404, 'expected POST /run/NAME or GET /status');
		checkMethod(request, ['POST']);
		await this.#run(decodeName(encoded), request, response);
	}

	async #run(name: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
		const found = this.#functions.get(name);
		if (found === undefined) throw new Refusal(404, `no function ${JSON.stringify(name)} is deployed`);
		if (!found.deployed) throw new Refusal(500, `the function could not be deployed: ${describe(found.error)}`);
		const left = new AbortController();
		response.once('close', () => left.abort());
		const event = decodeEvent(request, await readBody(request, found.maxEventBytes));
		const gone = finished(response).catch(() => undefined);
		const answered = gone.finally(() => this.#answers.delete(answered));
		this.#answers.add(answered);
		const onText = (text: string) => this.#onOutput?.(name, text);
		const listening = this.#onOutput === undefined ? {} : {onStdout: onText, onStderr: onText};
		this.#sendOutcome(response, await this.#runtime.invoke(name, event, {signal: left.signal, ...listening}));
	}

	#sendOutcome(response: ServerResponse, outcome: Outcome): void {
		if (!outcome.ok) throw new Refusal(500, describeFailure(outcome.error), {'x-forktree-error': outcome.error.code});
		const {type, body} = encodeValue(outcome.value);
		this.#send(response, 200, type, body);
	}

	#refuse(response: ServerResponse, {status, message, headers}: Refusal): void {
		const text = message.endsWith('\n') ? message : `${message}\n`;
		this.#send(response, status, 'text/plain; charset=utf-8', Buffer.from(text), headers);
	}

	#send(
		response: ServerResponse,
		status: number,
		type: string,
		body: Uint8Array,
		headers: Readonly<Record<string, string>> = {},
	): void {
		const lastOne = this.#closing ? {connection: 'close'} : {};
		response.writeHead(status, {'content-type': type, 'content-length': body.byteLength, ...headers, ...lastOne});
		response.end(body);
	}
}

function toRefusal(error: unknown): Refusal {
	if (error instanceof Refusal) return error;
	// An event can be larger as the runtime sends it than as it came: 1e20 has 21 digits.
	if (error instanceof RangeError) return new Refusal(413, error.message);
	const headers = error instanceof ForktreeError ? {'x-forktree-error': error.code} : {};
	const status = error instanceof ForktreeError ? busyStatuses.get(error.code) : undefined;
	return new Refusal(status ?? 500, describe(error), headers);
}

function describe(error: unknown): string {
	if (error instanceof ForktreeError) return `${error.code}: ${error.message}`;
	return error instanceof Error ? error.message : String(error);
}

function checkMethod({method = ''}: IncomingMessage, allowed: readonly string[]): void {
	if (!allowed.includes(method))
		throw new Refusal(405, `expected ${allowed.join(' or ')}`, {allow: allowed.join(', ')});
}

function decodeName(encoded: string): string {
	try {
		return decodeURIComponent(encoded);
	} catch {
		throw new Refusal(400, 'the function’s name is not a valid URL component');
	}
}

/** Node itself throws away what is left of a body that is not wanted, until the request's deadline. */
async function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
	const tooLarge = () => new Refusal(413, `expected a body of at most ${maxBytes} bytes`);
	if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge();
	return new Promise((resolve, reject) => {
		const chunks: Buffer[] = [];
		let bytes = 0;
		request.on('data', (chunk: Buffer) => {
			bytes += chunk.length;
			if (bytes <= maxBytes) {
				chunks.push(chunk);
				return;
			}
			chunks.length = 0;
			reject(tooLarge());
		});
		request.once('end', () => resolve(Buffer.concat(chunks)));
		request.once('error', () => reject(new ClientLeft()));
		request.once('close', () => reject(new ClientLeft()));
	});
}

function decodeEvent(request: IncomingMessage, body: Buffer): JsonValue | Uint8Array {
	const [type = ''] = (request.headers['content-type'] ?? '').split(';', 1);
	if (type.trim().toLowerCase() === 'application/octet-stream') return body;
	if (body.length === 0) return {};
	try {
		return JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(body)) as JsonValue;
	} catch (error) {
		throw new Refusal(400, `expected a body that is JSON: ${error instanceof Error ? error.message : error}`);
	}
}

function listen(server: Server, host: string, port: number): Promise<string> {
	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen({host, port}, () => {
			server.off('error', reject);
			const {port: taken} = server.address() as AddressInfo;
			resolve(`http://${host.includes(':') ? `[${host}]` : host}:${taken}`);
		});
	});
}

/**
 * Deploys a registry and serves it:
 * - `POST /run/NAME` with the event as JSON, or as bytes with `content-type: application/octet-stream`, is answered
 *   with the value, or with 500 and the traceback (the code is in `x-forktree-error`); with 429 when too many calls wait for the function.
 * - `GET /status` is answered with `ready`.
 * @throws what `createRuntime` throws, what reading the registry or listening throws, or the signal's reason
 * @example
 * const worker = await createWorker({registry: 'registry', port: 0});
 * try {
 * 	const response = await fetch(`${worker.url}/run/hello`, {method: 'POST', body: '{"name": "world"}'});
 * } finally {
 * 	await worker.close();
 * }
 */
export async function createWorker(options: WorkerOptions): Promise<Worker> {
	const {
		registry,
		host = 'localhost',
		port = 5000,
		signal,
		onDeployFailed,
		onCollectFailed,
		onOutput,
		...runtimeOptions
	} = options;
	signal?.throwIfAborted();
	const sources = await findSources(registry);
	const runtime = await createRuntime(runtimeOptions);
	runtime.on('collectFailed', ({error}) => onCollectFailed?.(error));
	// Ends installations; whatever it fails with is reported by the close below.
	const giveUp = () => void runtime.close().catch(() => undefined);
	signal?.addEventListener('abort', giveUp);
	try {
		const functions = await deployRegistry(runtime, sources, onDeployFailed ?? (() => undefined), signal);
		signal?.throwIfAborted();
		const door = new Door(runtime, functions, onOutput);
		const server = createServer(timeouts, (request, response) => void door.answer(request, response));
		const url = await listen(server, host, port);
		return new Worker(server, door, url);
	} catch (error) {
		await runtime.close();
		signal?.throwIfAborted();
		throw error;
	} finally {
		signal?.removeEventListener('abort', giveUp);
	}
}
