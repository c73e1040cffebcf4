/** Routes whose other methods are refused, rather than unknown. */
import type {FastifyInstance} from 'fastify';
import {Refusal} from './refusal.ts';

/** Refuses the methods of a path that no route was added for. */
export function refuseOtherMethods(server: FastifyInstance, url: string, allowed: readonly string[]): void {
	const taken = new Set(allowed.includes('GET') ? [...allowed, 'HEAD'] : allowed);
	server.route({
		method: server.supportedMethods.filter((method) => !taken.has(method)),
		url,
		schema: {hide: true},
		handler: async () => {
			const headers = {allow: allowed.join(', ')};
			throw new Refusal(405, 'MethodNotAllowed', `expected ${allowed.join(' or ')}`, {headers});
		},
	});
}
