/** Who may ask what: a token if there is one, else only this machine, and no page of a foreign site. */
import {createHash, timingSafeEqual} from 'node:crypto';
import {isIP} from 'node:net';
import type {FastifyInstance, FastifyRequest} from 'fastify';
import {Refusal} from './refusal.ts';

/** Whether an address to listen on is of this machine alone. */
export function isLoopback(host: string): boolean {
	const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
	if (bare === 'localhost' || bare.endsWith('.localhost') || bare === '::1') return true;
	return isIP(bare) === 4 && bare.startsWith('127.');
}

/** Checks bearer tokens, in a time that does not depend on them. */
export class TokenCheck {
	readonly #digest: Buffer;

	constructor(token: string) {
		this.#digest = digest(token);
	}

	/** @param header of `authorization` */
	accepts(header: string | undefined): boolean {
		const [, token] = /^bearer +(\S+)$/i.exec(header ?? '') ?? [];
		return token !== undefined && timingSafeEqual(digest(token), this.#digest);
	}
}

function digest(text: string): Buffer {
	return createHash('sha256').update(text).digest();
}

/** From now on, routes that are added to this server want the token. */
export function requireToken(server: FastifyInstance, check: TokenCheck): void {
	server.addHook('onRequest', async ({headers}) => {
		if (check.accepts(headers.authorization)) return;
		const challenge = {'www-authenticate': 'Bearer'};
		throw new Refusal(401, 'Unauthorized', 'expected the header authorization: Bearer TOKEN', {headers: challenge});
	});
}

/**
 * From now on, routes that are added to this server are not for browsers that a foreign page has sent here: what asks by another name
 * than this machine's (DNS rebinding), or from another origin, is refused. For servers without a token.
 */
export function requireLocalClient(server: FastifyInstance): void {
	server.addHook('onRequest', async (request) => {
		if (!isLoopback(hostOf(request))) throw forbidden('expected localhost or a loopback address as the host');
		const {origin} = request.headers;
		if (origin !== undefined && origin !== `http://${request.headers.host}`) {
			throw forbidden('expected no request of another site');
		}
	});
}

function hostOf({headers}: FastifyRequest): string {
	return (headers.host ?? '').replace(/:\d+$/, '');
}

function forbidden(message: string): Refusal {
	return new Refusal(403, 'Forbidden', `${message}; a worker with a token takes any`);
}
