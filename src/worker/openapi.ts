/** The worker's own description, for clients that are made from one. */
import swagger from '@fastify/swagger';
import type {FastifyInstance} from 'fastify';

const info = {
	title: 'forktree worker',
	description: 'Runs functions of a registry, each call in a sandbox.',
	version: '1.0.0',
};

/** Notes the routes that are added to this server from now on. @returns whether it does; its owner may do so already */
export async function noteRoutes(server: FastifyInstance): Promise<boolean> {
	if (server.hasDecorator('swagger')) return false;
	await server.register(swagger, {openapi: {info}});
	return true;
}

/** Adds `/openapi.json` to a server whose routes are noted. */
export function addOpenApiRoute(server: FastifyInstance): void {
	server.get('/openapi.json', {schema: {hide: true}}, async () => server.swagger());
}
