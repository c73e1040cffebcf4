/** Reads what clients send, and never keeps more of it than is allowed: of one request, and of all. */
import type {IncomingMessage} from 'node:http';
import {Refusal} from './refusal.ts';

/** Thrown when nobody waits for an answer any more. */
export class ClientLeft extends Error {}

/** What a request's body, and all that are kept at once, may have. */
const maxKeptBytes = 512 * 1024 * 1024;
const nothing = Buffer.alloc(0);

/** Bodies of requests that are not answered yet, which are kept in memory. */
export class Bodies {
	readonly #maxBytes: number;
	#bytes = 0;

	/** @param maxBytes of all together */
	constructor(maxBytes = maxKeptBytes) {
		this.#maxBytes = maxBytes;
	}

	/** A body to be read. It counts until it is released. */
	open(request: IncomingMessage): Body {
		let kept = 0;
		return new Body(
			request,
			(bytes) => {
				if (this.#bytes + bytes > this.#maxBytes) throw tooMany();
				kept += bytes;
				this.#bytes += bytes;
			},
			() => {
				this.#bytes -= kept;
				kept = 0;
			},
		);
	}
}

/** One request's body. */
export class Body {
	/** It is needed no more. */
	readonly release: () => void;
	readonly #request: IncomingMessage;
	readonly #keep: (bytes: number) => void;

	/** @param keep throws when there is no room for so many bytes more */
	constructor(request: IncomingMessage, keep: (bytes: number) => void, release: () => void) {
		this.#request = request;
		this.#keep = keep;
		this.release = release;
	}

	/**
	 * Reads it whole. Node itself throws away what is left of one that is not wanted, until the request's deadline.
	 * @throws {ClientLeft}; {Refusal} 413 when it is larger, before any byte is read if the client has said how many there are; 503 when
	 * too many are kept
	 */
	async read(maxBytes: number): Promise<Buffer> {
		const request = this.#request;
		const {'content-length': length, 'transfer-encoding': coding} = request.headers;
		if (length === undefined && coding === undefined) return nothing;
		if (Number(length ?? 0) > maxBytes) throw tooLarge(maxBytes);
		const chunks: Buffer[] = [];
		let bytes = 0;
		await new Promise<void>((resolve, reject) => {
			const take = (chunk: Buffer) => {
				bytes += chunk.length;
				try {
					if (bytes > maxBytes) throw tooLarge(maxBytes);
					this.#keep(chunk.length);
					chunks.push(chunk);
				} catch (error) {
					chunks.length = 0;
					request.off('data', take).resume();
					reject(error);
				}
			};
			const leave = () => {
				if (!request.readableEnded) reject(new ClientLeft());
			};
			request.on('data', take).once('end', resolve).once('error', leave).once('close', leave);
		});
		return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
	}
}

function tooLarge(maxBytes: number): Refusal {
	return new Refusal(413, 'EventTooLarge', `expected a body of at most ${maxBytes} bytes`);
}

function tooMany(): Refusal {
	const headers = {'retry-after': '1'};
	return new Refusal(503, 'BudgetExceeded', 'too many bodies of requests are kept in memory', {headers});
}
