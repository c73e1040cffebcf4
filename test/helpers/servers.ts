/** Servers on this machine's loopback that sandboxes are to reach, or not. */
import {once} from 'node:events';
import {createServer as createHttpServer} from 'node:http';
import {type AddressInfo, createServer, type Server, type Socket} from 'node:net';
import type {ExecutionContext} from 'ava';

/** Has a server listen until the test's end. @returns its port */
export async function listen(t: ExecutionContext, server: Server): Promise<number> {
	const sockets = new Set<Socket>();
	server.on('connection', (socket: Socket) => sockets.add(socket.on('error', () => undefined)));
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.teardown(() => {
		server.close();
		for (const socket of sockets) socket.destroy();
	});
	return (server.address() as AddressInfo).port;
}

/** Answers what it gets, and ends when the other side does. */
export async function listenEcho(t: ExecutionContext): Promise<number> {
	return listen(
		t,
		createServer({allowHalfOpen: true}, (socket) => void socket.pipe(socket)),
	);
}

/** Answers any request with the host and the path that it names. */
export async function listenHttp(t: ExecutionContext): Promise<number> {
	return listen(
		t,
		createHttpServer((asked, response) => void response.end(`${asked.headers.host} ${asked.url}`)),
	);
}

/** Looks names up in a table that tests may change. */
export const names = new Map<string, readonly string[]>();

export async function lookUpInTable(name: string): Promise<readonly string[]> {
	const found = names.get(name);
	if (found === undefined) throw new Error(`${name} is in no table`);
	return found;
}
