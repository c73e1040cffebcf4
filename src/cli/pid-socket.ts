/** `ol.sock`: where a worker tells its pid, and nothing else. The kernel closes its connections when the worker ends. */
import {createServer} from 'node:http';
import {connect} from 'node:net';
import process from 'node:process';

/** What the kernel takes as the address of a socket, its end included. */
const maxAddressBytes = 108;
const answerDeadlineMs = 2000;
const maxAnswerLength = 4096;
const question = 'GET /pid HTTP/1.1\r\nhost: worker\r\n\r\n';
const answer = /^HTTP\/1\.1 200 [\s\S]*?\r\n\r\n(\d+)\n/;

/** A connection to a worker. */
export type PidConnection = {
	/** Undefined when it did not tell one in time. */
	readonly pid: number | undefined;
	/** Settles when the worker's process has ended. */
	readonly closed: Promise<void>;
	destroy(): void;
};

/**
 * Listens until this process ends, which it does not hold up.
 * @param file where, mode 0600; must not be there
 * @throws {RangeError} when the path is too long for a socket; Node's own error when it can't listen
 */
export async function tellPid(file: string): Promise<void> {
	if (Buffer.byteLength(file) >= maxAddressBytes) {
		throw new RangeError(
			`worker_dir: expected a folder whose ol.sock has a path of less than ${maxAddressBytes} bytes, got ${file}`,
		);
	}
	const server = createServer({keepAliveTimeout: 0, requestTimeout: 0}, (asked, response) => {
		const isPid = asked.url === '/pid' && asked.method === 'GET';
		const body = isPid ? `${process.pid}\n` : 'expected GET /pid\n';
		response.writeHead(isPid ? 200 : 404, {'content-type': 'text/plain', 'content-length': body.length}).end(body);
	});
	server.on('connection', (socket) => socket.unref());
	const listening = new Promise<void>((resolve, reject) => server.once('listening', resolve).once('error', reject));
	const before = process.umask(0o177);
	try {
		server.listen(file); // the file is made before this returns
	} finally {
		process.umask(before);
	}
	await listening;
	server.unref();
}

/** Asks who listens; undefined when nobody does. */
export async function askPid(file: string): Promise<PidConnection | undefined> {
	const socket = connect(file).setEncoding('latin1');
	const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
	socket.on('error', () => undefined); // it is closed then
	const told = new Promise<number | undefined>((resolve) => {
		let heard = '';
		socket.on('data', (text: string) => {
			heard += text;
			const pid = answer.exec(heard)?.[1];
			if (pid !== undefined || heard.length > maxAnswerLength) resolve(pid === undefined ? undefined : Number(pid));
		});
		socket.setTimeout(answerDeadlineMs, () => resolve(undefined));
		void closed.then(() => resolve(undefined));
	});
	socket.write(question);
	const pid = await told;
	if (socket.closed) return undefined;
	socket.setTimeout(0);
	return {pid, closed, destroy: () => void socket.destroy()};
}
