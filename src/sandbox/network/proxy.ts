/** The HTTP proxy of a sandbox: `CONNECT`, and requests for `http://` addresses. Of TLS it sees nothing. */
import {createServer, type IncomingMessage, request, type Server, type ServerResponse} from 'node:http';
import type {Socket} from 'node:net';
import {Refusal, type RefusalCode} from './dial.ts';
import {type Destination, readDestination} from './rules.ts';

export type ProxyOptions = {
	/** Until the head of its request is there, in milliseconds. */
	readonly headMs: number;
	/** Connects for whoever is at that end. @throws {Refusal} */
	readonly reach: (guest: Socket, destination: Destination) => Promise<Socket>;
	/** Told of what is no request to a proxy. */
	readonly onBadRequest: (guest: Socket, message: string) => void;
	/** Has each end get what the other sends from now on. */
	readonly join: (guest: Socket, remote: Socket) => void;
	/** Something went either way. */
	readonly note: (guest: Socket) => void;
};

const maxHeadBytes = 16 * 1024;
const statuses: Readonly<Record<RefusalCode, readonly [status: number, words: string]>> = {
	BadRequest: [400, 'Bad Request'],
	NotListed: [403, 'Forbidden'],
	SpecialAddress: [403, 'Forbidden'],
	TooMany: [429, 'Too Many Requests'],
	NotResolved: [502, 'Bad Gateway'],
	NotReached: [502, 'Bad Gateway'],
};
/** Of one hop, see RFC 9110, 7.6.1; the framing is made anew, and the host is that of the address. */
const ofOneHop: ReadonlySet<string> = new Set([
	...['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer'],
	...['transfer-encoding', 'upgrade', 'host', 'expect'],
]);

/** Serves connections that were accepted elsewhere, each of them for one request. */
export class HttpProxy {
	readonly #options: ProxyOptions;
	readonly #server: Server;
	/** Until each has asked for something. */
	readonly #waiting = new Map<Socket, NodeJS.Timeout>();

	constructor(options: ProxyOptions) {
		this.#options = options;
		this.#server = createServer({maxHeaderSize: maxHeadBytes, noDelay: true, requireHostHeader: false});
		this.#server.on('request', (asked, response) => void this.#forward(asked, response));
		this.#server.on(
			'connect',
			(asked: IncomingMessage, socket, head) => void this.#tunnel(asked, socket as Socket, head),
		);
		this.#server.on('clientError', (error, socket) => this.#fail(socket as Socket, error.message));
	}

	/** Takes a connection over. */
	serve(guest: Socket): void {
		const late = setTimeout(
			() => this.#fail(guest, `no request came within ${this.#options.headMs} ms`),
			this.#options.headMs,
		);
		this.#waiting.set(guest, late);
		guest.once('close', () => this.#takeTurn(guest));
		this.#server.emit('connection', guest);
	}

	/** Whether this is its first request. */
	#takeTurn(guest: Socket): boolean {
		clearTimeout(this.#waiting.get(guest));
		return this.#waiting.delete(guest);
	}

	#fail(guest: Socket, message: string): void {
		if (!this.#takeTurn(guest)) return void guest.destroy(); // in the midst of one
		this.#options.onBadRequest(guest, message);
		refuse(guest, new Refusal('BadRequest', message));
	}

	async #tunnel({url = ''}: IncomingMessage, guest: Socket, head: Buffer): Promise<void> {
		if (!this.#takeTurn(guest)) return void guest.destroy();
		if (head.length > 0) guest.unshift(head); // now: the end of what it sends may come next
		try {
			const remote = await this.#options.reach(guest, destinationOf(url));
			guest.write('HTTP/1.1 200 Connection established\r\n\r\n');
			this.#options.join(guest, remote);
		} catch (error) {
			this.#tell(error, guest);
			refuse(guest, error);
		}
	}

	async #forward(asked: IncomingMessage, response: ServerResponse): Promise<void> {
		const guest = asked.socket;
		// What follows a request unasked was never for us.
		if (!this.#takeTurn(guest)) return void guest.destroy();
		response.shouldKeepAlive = false;
		try {
			const {destination, authority, path} = splitTarget(asked.url ?? '');
			const remote = await this.#options.reach(guest, destination);
			this.#exchange(asked, response, {remote, authority, path});
		} catch (error) {
			this.#tell(error, guest);
			const [status, words, text] = wordsOf(error);
			response.writeHead(status, words, {'content-type': 'text/plain; charset=utf-8'}).end(text);
		}
	}

	/** Both messages are read and written anew, so that the two sides can't disagree about where they end. */
	#exchange(
		asked: IncomingMessage,
		response: ServerResponse,
		{remote, authority, path}: {readonly remote: Socket; readonly authority: string; readonly path: string},
	): void {
		const {socket: guest, method = 'GET'} = asked;
		const note = () => this.#options.note(guest);
		const headers: Record<string, string | string[]> = {host: authority, ...passedOn(asked)};
		if (asked.headers['transfer-encoding'] !== undefined) headers['transfer-encoding'] = 'chunked';
		const fail = () => {
			if (response.headersSent) guest.destroy();
			else response.writeHead(502, 'Bad Gateway').end();
		};
		const forwarded = request({method, path, headers, createConnection: () => remote, maxHeaderSize: maxHeadBytes});
		forwarded.on('error', fail);
		forwarded.on('response', (answer) => {
			answer.on('error', () => guest.destroy()).on('data', note);
			try {
				response.writeHead(answer.statusCode ?? 502, answer.statusMessage, passedOn(answer));
				answer.pipe(response);
			} catch {
				fail(); // it says what can't be written again
			}
		});
		response.on('error', () => remote.destroy()).on('close', () => remote.destroySoon());
		asked
			.on('error', () => remote.destroy())
			.on('data', note)
			.pipe(forwarded);
	}

	/** Whoever connects tells his refusals himself. */
	#tell(error: unknown, guest: Socket): void {
		if (error instanceof Refusal && error.code === 'BadRequest') this.#options.onBadRequest(guest, error.message);
	}
}

function destinationOf(text: string, byDefault?: number): Destination {
	const destination = readDestination(text, byDefault);
	if (destination !== undefined) return destination;
	throw new Refusal('BadRequest', `expected a host and a port, got ${JSON.stringify(text.slice(0, 300))}`);
}

/** Of `http://host:port/path`. */
function splitTarget(target: string): {destination: Destination; authority: string; path: string} {
	const [, authority, path = ''] = /^http:\/\/([^/?#]+)([^#]*)$/i.exec(target) ?? [];
	if (authority === undefined) {
		throw new Refusal('BadRequest', `expected an http:// address, got ${JSON.stringify(target.slice(0, 300))}`);
	}
	return {destination: destinationOf(authority, 80), authority, path: path.startsWith('/') ? path : `/${path}`};
}

/** Headers that are not of one hop. */
function passedOn({headers, headersDistinct}: IncomingMessage): Record<string, string | string[]> {
	const named = (headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase());
	const passed = Object.entries(headersDistinct).flatMap(([name, values = []]) => {
		if (ofOneHop.has(name) || named.includes(name)) return [];
		return [[name, values.length === 1 ? (values[0] ?? '') : values] as const];
	});
	return Object.fromEntries(passed);
}

function wordsOf(error: unknown): [status: number, words: string, text: string] {
	if (!(error instanceof Refusal)) return [502, 'Bad Gateway', 'the request could not be passed on\n'];
	const [status, words] = statuses[error.code];
	return [status, words, `forktree: ${error.code}: ${error.message}\n`];
}

/** Answers on a connection whose request is not read by a server any more. */
function refuse(guest: Socket, error: unknown): void {
	const [status, words, text] = wordsOf(error);
	const head = `HTTP/1.1 ${status} ${words}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(text)}`;
	if (guest.writable) guest.end(`${head}\r\nconnection: close\r\n\r\n${text}`, () => guest.destroy());
	else guest.destroy();
}
