/** The worker as a Fastify plugin: all routes, on a runtime that somebody else owns. */
import type {
	FastifyBaseLogger,
	FastifyError,
	FastifyInstance,
	FastifyPluginAsync,
	FastifyReply,
	FastifyRequest,
} from 'fastify';
import type {Runtime} from '../index.ts';
import {requireLocalClient, requireToken, TokenCheck} from './access.ts';
import {hear} from './events.ts';
import {DeployedFunctions, PulledFunctions} from './functions.ts';
import {Metrics} from './metrics.ts';
import {addOpenApiRoute, noteRoutes} from './openapi.ts';
import {OutputLog} from './output.ts';
import {addProfilingRoutes} from './profiling.ts';
import {Refusal, renderRefusal, toRefusal} from './refusal.ts';
import {FunctionRegistry} from './registry.ts';
import {addRegistryRoutes} from './registry-routes.ts';
import {requestIdOf} from './request-id.ts';
import {addRunRoutes} from './run.ts';
import {Stats} from './stats.ts';
import {addWatchRoutes} from './watch-routes.ts';

/** Options of {@link workerPlugin}. */
export type WorkerPluginOptions = {
	/**
	 * The folder whose folders and `NAME.tar.gz` files are the functions, as a path or a `file://` URL. By default there are the
	 * functions that the runtime's owner deploys, and no routes to change them.
	 */
	readonly registry?: string;
	/** Milliseconds for which a function is used before the registry is looked at again; 5000 by default. */
	readonly registryCacheMs?: number;
	/**
	 * What all but `GET /status` must be asked with, as `authorization: Bearer TOKEN`. By default nothing: then the routes that change
	 * or tell something are for clients of this machine, and for no pages of other sites.
	 */
	readonly token?: string;
	/** Whether the log has what handlers print; by default it has. `/logs` has it in any case. */
	readonly logOutput?: boolean;
	/** Counts what `/stats` answers; by default one of its own. */
	readonly stats?: Stats;
};

const defaultCacheMs = 5000;

/**
 * Serves a runtime's functions in a Fastify server of your own.
 * @throws (when it is registered) {ForktreeError} `InvalidSource` when the registry can't be read; {TypeError} or {RangeError} for a wrong option
 * @example
 * const server = fastify();
 * await server.register(workerPlugin(runtime, {registry: 'functions'}), {prefix: '/functions'});
 */
export function workerPlugin(runtime: Runtime, options: WorkerPluginOptions = {}): FastifyPluginAsync {
	const {token, logOutput: logsOutput = true, stats = new Stats()} = options;
	checkToken(token);
	const cacheMs = checkCacheMs(options.registryCacheMs);
	return async (server) => {
		const {log} = server;
		const metrics = new Metrics(runtime);
		const output = new OutputLog();
		const tokenCheck = token === undefined ? undefined : new TokenCheck(token);
		passBodiesOn(server);
		server.setErrorHandler(answerError);
		server.addHook('preClose', async () => output.close());
		const registry = options.registry === undefined ? undefined : await FunctionRegistry.open(options.registry);
		const pulled =
			registry &&
			new PulledFunctions(runtime, registry, {
				cacheMs,
				onPulled: (durationMs) => stats.note('pull-lambda', durationMs),
				onFailed: (name, error) => log.warn({function: name, err: error}, 'deploy failed'),
			});
		await pulled?.removeStrangers();
		const deafen = listen(runtime, stats, log);
		server.addHook('onClose', async () => {
			deafen();
			metrics.close();
		});
		const functions = pulled ?? new DeployedFunctions(runtime);
		const isOwnAuthorization = (header: string) => tokenCheck?.accepts(header) === true;
		const hasOpenApi = await noteRoutes(server);
		server.get('/status', {schema: {tags: ['worker'], summary: 'Whether it takes calls'}}, async (_request, reply) => {
			return reply.type('text/plain; charset=utf-8').send('ready\n');
		});
		await server.register(async (calls) => {
			if (tokenCheck !== undefined) requireToken(calls, tokenCheck);
			addRunRoutes(calls, {runtime, functions, log, stats, metrics, output, logsOutput, isOwnAuthorization});
		});
		await server.register(async (admin) => {
			if (tokenCheck === undefined) requireLocalClient(admin);
			else requireToken(admin, tokenCheck);
			addWatchRoutes(admin, {runtime, stats, metrics, output});
			addProfilingRoutes(admin);
			addKafkaRoute(admin);
			if (hasOpenApi) addOpenApiRoute(admin);
			if (registry !== undefined && pulled !== undefined) {
				addRegistryRoutes(admin, {runtime, registry, functions: pulled, output});
			}
		});
	};
}

/** Bodies are read by those routes that want one, whatever their type. */
function passBodiesOn(server: FastifyInstance): void {
	server.removeAllContentTypeParsers();
	// Fastify refuses types that are none, and methods without one. What functions are told is in `rawHeaders`.
	server.addHook('onRequest', (request, _reply, done) => {
		request.raw.headers['content-type'] = 'application/octet-stream';
		done();
	});
	server.addContentTypeParser('*', (_request, _payload, done) => done(null));
}

function addKafkaRoute(server: FastifyInstance): void {
	server.all('/kafka/register/:name', {schema: {hide: true}}, async () => {
		throw new Refusal(501, 'NotImplemented', 'this worker consumes no Kafka topics');
	});
}

/** Answers with a {@link Refusal}, whatever was thrown. */
export function answerError(error: FastifyError | Refusal, request: FastifyRequest, reply: FastifyReply): void {
	const requestId = requestIdOf(request.headers, request.id);
	const refusal = refuse(error);
	const {status, headers, body} = renderRefusal(refusal, request.headers.accept, requestId);
	const line = {
		requestId,
		method: request.method,
		url: request.url,
		status,
		code: refusal.code,
		reason: refusal.message,
		err: refusal.cause,
	};
	if (status >= 500) request.log.warn(line, 'request failed');
	else request.log.info(line, 'request refused');
	void reply.code(status).headers(headers).send(body);
}

/** Fastify's own errors have a status. */
function refuse(error: FastifyError | Refusal): Refusal {
	if (error instanceof Refusal || error.statusCode === undefined || error.statusCode >= 500) return toRefusal(error);
	return new Refusal(error.statusCode, 'BadRequest', error.message);
}

/** @returns ends it */
function listen(runtime: Runtime, stats: Stats, log: FastifyBaseLogger): () => void {
	return hear(runtime, {
		installed: ({packages, durationMs}) => {
			for (const _package of packages) stats.note('pull-package', durationMs / packages.length);
			log.info({packages, durationMs}, 'packages installed');
		},
		deployed: ({function: name, version}) => log.info({function: name, version}, 'deployed'),
		removed: ({function: name}) => log.info({function: name}, 'removed'),
		destroyed: () => stats.note('Destroy()', 0),
		importFailed: (failed) => log.warn(failed, 'a zygote could not import a module'),
		collectFailed: ({error}) => log.warn({err: error}, 'packages could not be removed'),
	});
}

/** @throws {TypeError} for what can't be sent in a header */
function checkToken(token: unknown): void {
	if (token === undefined || (typeof token === 'string' && /^[\x21-\x7e]+$/.test(token))) return;
	throw new TypeError('token: expected printable ASCII characters without blanks');
}

function checkCacheMs(value: unknown = defaultCacheMs): number {
	if (typeof value !== 'number') throw new TypeError('registryCacheMs: expected a number of milliseconds');
	if (!(value >= 0)) throw new RangeError(`registryCacheMs: expected milliseconds from 0, got ${value}`);
	return value;
}
