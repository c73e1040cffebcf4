/** The registry over HTTP: lists, takes, gives and removes functions. */
import type {FastifyInstance} from 'fastify';
import {checkFunctionName, ForktreeError, type Runtime, type SourceDescription} from '../index.ts';
import type {PulledFunctions} from './functions.ts';
import {refuseOtherMethods} from './methods.ts';
import type {OutputLog} from './output.ts';
import {Refusal, toRefusal} from './refusal.ts';
import {type FunctionRegistry, maxUploadBytes, tooLargeUpload} from './registry.ts';

/** What the registry's routes work with. */
export type RegistryParts = {
	readonly runtime: Runtime;
	readonly registry: FunctionRegistry;
	readonly functions: PulledFunctions;
	readonly output: OutputLog;
};

type Named = {Params: {name: string}};

const tags = ['registry'];
const params = {type: 'object', properties: {name: {type: 'string'}}} as const;
const gzip = 'application/gzip';

/** Adds `/registry` to a server. */
export function addRegistryRoutes(server: FastifyInstance, parts: RegistryParts): void {
	addListing(server, parts);
	addUpload(server, parts);
	addRemoval(server, parts);
	addDownload(server, parts);
	addConfig(server, parts);
	refuseOtherMethods(server, '/registry/', ['GET']);
	refuseOtherMethods(server, '/registry/:name', ['GET', 'POST', 'DELETE']);
	refuseOtherMethods(server, '/registry/:name/config', ['GET']);
}

function addListing(server: FastifyInstance, {registry}: RegistryParts): void {
	server.get('/registry', {schema: {hide: true}}, async (_request, reply) =>
		reply.redirect(`${server.prefix}/registry/`, 301),
	);
	const schema = {tags, summary: 'Names of all functions', response: {200: {type: 'array', items: {type: 'string'}}}};
	server.get('/registry/', {schema}, async () => registry.names());
}

function addUpload(server: FastifyInstance, {runtime, registry, functions}: RegistryParts): void {
	const schema = {
		tags,
		params,
		summary: 'Adds or replaces a function',
		description: 'The body is a gzip tar archive, whatever its content type. Calls that run finish on the old code.',
		response: {
			201: {type: 'string', description: 'It is there'},
			400: {type: 'string', description: 'A bad name, or no archive of a function; nothing has changed'},
			409: {type: 'string', description: 'The function is a folder of the registry'},
			413: {type: 'string', description: 'The archive is too large'},
		},
	};
	server.post<Named>('/registry/:name', {schema}, async ({params: {name}, raw}, reply) => {
		checkName(name);
		if (Number(raw.headers['content-length'] ?? 0) > maxUploadBytes) throw tooLargeUpload();
		try {
			await registry.save(
				name,
				raw.iterator({destroyOnReturn: false}),
				async (file) => void (await runtime.inspect(file)),
			);
		} catch (error) {
			throw refuseUpload(error);
		}
		functions.forget(name);
		return reply.code(201).type('text/plain').send(`Lambda ${name} uploaded successfully`);
	});
}

/** What is wrong with an archive is the client's fault; its path here is nobody's business. */
function refuseUpload(error: unknown): Refusal {
	if (error instanceof ForktreeError && error.code === 'InvalidSource') {
		return new Refusal(400, error.code, 'expected a sound gzip tar archive', {cause: error});
	}
	const refusal = toRefusal(error);
	const isClients = error instanceof ForktreeError && refusal.message === error.message;
	return isClients ? new Refusal(400, refusal.code, refusal.message) : refusal;
}

function addRemoval(server: FastifyInstance, {registry, functions, output}: RegistryParts): void {
	server.delete<Named>(
		'/registry/:name',
		{schema: {tags, params, summary: 'Removes a function'}},
		async ({params: {name}}, reply) => {
			checkName(name);
			const isRemoved = await registry.remove(name);
			functions.remove(name);
			output.forget(name);
			if (!isRemoved) throw unknown(name);
			return reply.type('text/plain').send(`Lambda ${name} deleted successfully`);
		},
	);
}

function addDownload(server: FastifyInstance, {registry}: RegistryParts): void {
	server.get<Named>(
		'/registry/:name',
		{schema: {tags, params, summary: 'A function’s code as a gzip tar archive'}},
		async ({params: {name}}, reply) => {
			checkName(name);
			const archive = await registry.read(name);
			if (archive === undefined) throw unknown(name);
			return reply.type(gzip).send(archive);
		},
	);
}

function addConfig(server: FastifyInstance, {registry, runtime}: RegistryParts): void {
	server.get<Named>(
		'/registry/:name/config',
		{schema: {tags, params, summary: 'A function’s ol.yaml, as the worker understands it'}},
		async ({params: {name}}) => {
			checkName(name);
			const source = await registry.find(name);
			if (source === undefined) throw unknown(name);
			return configOf(await runtime.inspect(source.path));
		},
	);
}

/** In the reference's spelling, which names fields as Go does, and knows no empty lists. */
function configOf({triggers, environment, reuse}: SourceDescription): object {
	const {http, cron, kafka} = triggers;
	const orNull = <T>(list: readonly T[]) => (list.length === 0 ? null : list);
	return {
		Triggers: {
			HTTP: orNull(http.map((method) => ({Method: method}))),
			Cron: orNull(cron.map(({schedule}) => ({Schedule: schedule}))),
			Kafka: orNull(
				kafka.map(({bootstrapServers, topics, autoOffsetReset}) => ({
					bootstrap_servers: bootstrapServers,
					topics,
					auto_offset_reset: autoOffsetReset,
				})),
			),
		},
		Environment: Object.keys(environment).length === 0 ? null : environment,
		ReuseSandbox: reuse,
	};
}

/** @throws {Refusal} 400 */
function checkName(name: string): void {
	try {
		checkFunctionName(name);
	} catch (error) {
		throw new Refusal(400, 'InvalidName', (error as Error).message);
	}
}

function unknown(name: string): Refusal {
	return new Refusal(404, 'UnknownFunction', `no function ${JSON.stringify(name)} is in the registry`);
}
