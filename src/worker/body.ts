/** Reads what a client sends, and never more than is allowed. */
import type {IncomingMessage} from 'node:http';

/** Thrown when nobody waits for an answer any more. */
export class ClientLeft extends Error {}

const nothing = Buffer.alloc(0);

/**
 * Reads a body whole. Node itself throws away what is left of one that is not wanted, until the request's deadline.
 * @param refuse makes the error for one that is larger
 * @throws {ClientLeft}, or what `refuse` makes: before any byte is read, if the client has said how many there are
 */
export async function readBody(request: IncomingMessage, maxBytes: number, refuse: () => Error): Promise<Buffer> {
	const {'content-length': length, 'transfer-encoding': coding} = request.headers;
	if (length === undefined && coding === undefined) return nothing;
	if (Number(length ?? 0) > maxBytes) throw refuse();
	return new Promise((resolve, reject) => {
		const chunks: Buffer[] = [];
		let bytes = 0;
		request.on('data', (chunk: Buffer) => {
			bytes += chunk.length;
			if (bytes <= maxBytes) {
				chunks.push(chunk);
				return;
			}
			chunks.length = 0;
			reject(refuse());
		});
		request.once('end', () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks)));
		const leave = () => {
			if (!request.readableEnded) reject(new ClientLeft());
		};
		request.once('error', leave).once('close', leave);
	});
}
