/** Profiles of the worker itself: its heap, and where its CPU time goes. */
import {Session} from 'node:inspector/promises';
import {getHeapSnapshot} from 'node:v8';
import type {FastifyInstance} from 'fastify';
import {Refusal} from './refusal.ts';

const tags = ['profiles'];
const binary = 'application/octet-stream';

/** Adds `/pprof` to a server. What it answers is for the developer tools of Chrome: `.heapsnapshot` and `.cpuprofile`. */
export function addProfilingRoutes(server: FastifyInstance): void {
	let session: Session | undefined;
	const stop = () => {
		session?.disconnect();
		session = undefined;
	};
	server.all(
		'/pprof/mem',
		{schema: {tags, summary: 'A snapshot of the heap; the worker stands still meanwhile'}},
		async (_request, reply) => {
			return reply.type(binary).send(getHeapSnapshot());
		},
	);
	server.all(
		'/pprof/cpu-start',
		{schema: {tags, summary: 'Begins to record where CPU time goes'}},
		async (_request, reply) => {
			if (session !== undefined)
				throw new Refusal(400, 'BadRequest', 'a profile is being recorded; /pprof/cpu-stop ends it');
			session = new Session();
			session.connect();
			await session.post('Profiler.enable');
			await session.post('Profiler.start');
			return reply.send();
		},
	);
	server.all(
		'/pprof/cpu-stop',
		{schema: {tags, summary: 'Ends the recording, and answers it'}},
		async (_request, reply) => {
			if (session === undefined)
				throw new Refusal(400, 'BadRequest', 'no profile is being recorded; /pprof/cpu-start begins one');
			const {profile} = await session.post('Profiler.stop').finally(stop);
			return reply.type(binary).send(JSON.stringify(profile));
		},
	);
	server.addHook('onClose', async () => stop());
}
