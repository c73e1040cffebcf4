/** What a worker tells of itself: statistics, metrics, its sandboxes, and what handlers print. */
import {pipeline} from 'node:stream/promises';
import type {FastifyInstance} from 'fastify';
import type {Runtime} from '../index.ts';
import {describeRuntime} from './debug.ts';
import type {Metrics} from './metrics.ts';
import type {OutputLog} from './output.ts';
import {formatStats, type Stats} from './stats.ts';

/** Who is asked. */
export type WatchParts = {
	readonly runtime: Runtime;
	readonly stats: Stats;
	readonly metrics: Metrics;
	readonly output: OutputLog;
};

const tags = ['worker'];
const lines = 'application/x-ndjson';

/** Adds `/stats`, `/metrics`, `/debug` and `/logs` to a server. */
export function addWatchRoutes(server: FastifyInstance, {runtime, stats, metrics, output}: WatchParts): void {
	server.all('/stats', {schema: {tags, summary: 'Counts, and means of milliseconds'}}, async (_request, reply) => {
		return reply.type('application/json').send(formatStats(stats.snapshot()));
	});
	server.all(
		'/debug',
		{schema: {tags, summary: 'Functions, instances and zygotes, for people'}},
		async (_request, reply) => {
			return reply.type('text/plain; charset=utf-8').send(describeRuntime(await runtime.stats()));
		},
	);
	server.get('/metrics', {schema: {tags, summary: 'Metrics, as Prometheus reads them'}}, async (_request, reply) => {
		return reply.type(metrics.contentType).send(await metrics.read());
	});
	addLogs(server, output);
}

function addLogs(server: FastifyInstance, output: OutputLog): void {
	const schema = {
		tags,
		summary: 'What a function has printed lately',
		description: 'One JSON document a line. With follow=1 the answer goes on with whatever is printed from now on.',
		params: {type: 'object', properties: {name: {type: 'string'}}},
		querystring: {type: 'object', properties: {follow: {type: 'string', enum: ['0', '1']}}},
	} as const;
	server.get<{Params: {name: string}; Querystring: {follow?: string}}>(
		'/logs/:name',
		{schema},
		async (request, reply) => {
			const {name} = request.params;
			if (request.query.follow !== '1') return reply.type(lines).send(output.read(name));
			reply.hijack();
			reply.raw.writeHead(200, {'content-type': lines}).flushHeaders();
			// Whoever leaves has heard enough.
			await pipeline(output.follow(name), reply.raw).catch(() => undefined);
		},
	);
}
