/**
 * A process: a bare HTTP server that forwards each body to an idle Python over a socket, and answers with what comes back.
 * Its argument is the interpreter; it prints its URL.
 */
import {spawn} from 'node:child_process';
import {createServer} from 'node:http';
import type {AddressInfo, Socket} from 'node:net';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';

const program = path.join(path.dirname(fileURLToPath(import.meta.url)), 'worker_floor.py');
const [, , python = 'python3'] = process.argv;

/** Who waits for an answer of the Python, in order. */
const waiting: Array<(body: Buffer) => void> = [];
let received: Buffer = Buffer.alloc(0);

const child = spawn(python, ['-I', '-S', program], {stdio: ['ignore', 'inherit', 'inherit', 'pipe']});
// A pipe of Node's to a child is a Unix socket, both ways.
const channel = child.stdio[3] as Socket;
channel.on('data', (data: Buffer) => {
	received = received.length === 0 ? data : Buffer.concat([received, data]);
	while (received.length >= 4 && received.length >= 4 + received.readUInt32LE(0)) {
		const size = received.readUInt32LE(0);
		waiting.shift()?.(received.subarray(4, 4 + size));
		received = received.subarray(4 + size);
	}
});
channel.resume();

const server = createServer((request, response) => {
	const chunks: Buffer[] = [];
	request.on('data', (chunk: Buffer) => chunks.push(chunk));
	request.on('end', () => {
		const body = Buffer.concat(chunks);
		const header = Buffer.alloc(4);
		header.writeUInt32LE(body.length);
		waiting.push((answer) => {
			response.writeHead(200, {'content-type': 'application/json', 'content-length': answer.length});
			response.end(answer);
		});
		channel.write(Buffer.concat([header, body]));
	});
});
server.listen(0, '127.0.0.1', () => {
	process.stdout.write(`http://127.0.0.1:${(server.address() as AddressInfo).port}\n`);
});
process.once('SIGTERM', () => {
	child.kill();
	process.exit(0);
});
