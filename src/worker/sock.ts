/** The mode `sock`: sandboxes themselves, made, paused and ended over HTTP; nothing is run in them. */
import path from 'node:path';
import type {FastifyInstance, FastifyPluginAsync} from 'fastify';
import type {Sandbox, SandboxPool} from '../index.ts';
import {requireLocalClient, requireToken, TokenCheck} from './access.ts';
import {answerError} from './plugin.ts';
import {Refusal} from './refusal.ts';

type Named = {Params: {id: string}};

const maxBodyBytes = 64 * 1024;
/** Where a sandbox has its code. */
const codeFolder = '/handler';

/** Adds the routes of the reference's low-level mode to a server. Sandboxes that have ended are forgotten. */
export function sockPlugin(pool: SandboxPool, token: string | undefined): FastifyPluginAsync {
	return async (server) => {
		server.setErrorHandler(answerError);
		server.removeAllContentTypeParsers();
		server.addContentTypeParser('*', {parseAs: 'string', bodyLimit: maxBodyBytes}, (_request, body, done) =>
			done(null, body),
		);
		server.all('/status', async (_request, reply) => reply.type('text/plain; charset=utf-8').send('ready\n'));
		await server.register(async (admin) => {
			if (token === undefined) requireLocalClient(admin);
			else requireToken(admin, new TokenCheck(token));
			addSandboxRoutes(admin, pool);
		});
	};
}

function addSandboxRoutes(server: FastifyInstance, pool: SandboxPool): void {
	const sandboxes = new Map<string, Sandbox>();
	const find = (id: string): Sandbox => {
		const sandbox = sandboxes.get(id);
		if (sandbox === undefined) throw new Refusal(404, 'NotFound', `no sandbox ${JSON.stringify(id)} is alive`);
		return sandbox;
	};
	pool.on('destroyed', (id) => sandboxes.delete(id));
	server.post('/create', async ({body}, reply) => {
		const code = readCode(body);
		const sandbox = await pool.create({mounts: [{source: code, target: codeFolder}]});
		sandboxes.set(sandbox.id, sandbox);
		return reply.type('text/plain').send(`${sandbox.id}\n`);
	});
	server.post<Named>('/destroy/:id', async ({params: {id}}, reply) => {
		await find(id).destroy();
		return reply.send();
	});
	server.post<Named>('/pause/:id', async ({params: {id}}, reply) => {
		await find(id).pause();
		return reply.send();
	});
	server.post<Named>('/unpause/:id', async ({params: {id}}, reply) => {
		await find(id).resume();
		return reply.send();
	});
	server.post('/debug', async (_request, reply) => {
		const lines = [...sandboxes.values()].map(({id, isPaused}) => `${id}: ${isPaused ? 'paused' : 'running'}\n`);
		return reply.type('text/plain').send(`sandboxes: ${sandboxes.size}\n${lines.join('')}`);
	});
}

/** The folder of a request to create a sandbox. @throws {Refusal} when it wants what there is not */
function readCode(body: unknown): string {
	const {code, leaf = true, parent = '', pkgs = []} = parse(body);
	if (typeof code !== 'string' || !path.isAbsolute(code)) throw refuse('code', 'the absolute path of a folder', code);
	if (leaf !== true) throw refuse('leaf', 'true', leaf);
	if (parent !== '') throw refuse('parent', '"": sandboxes of this mode are forked from none', parent);
	if (!Array.isArray(pkgs) || pkgs.length > 0) throw refuse('pkgs', '[]: packages are for functions', pkgs);
	return code;
}

function parse(body: unknown): Readonly<Record<string, unknown>> {
	try {
		const value: unknown = JSON.parse(String(body));
		if (typeof value === 'object' && value !== null) return value as Readonly<Record<string, unknown>>;
	} catch {
		// Told below.
	}
	throw new Refusal(400, 'BadRequest', 'expected a body that is a JSON object');
}

function refuse(key: string, expected: string, got: unknown): Refusal {
	return new Refusal(400, 'BadRequest', `${key}: expected ${expected}, got ${JSON.stringify(got)}`);
}
