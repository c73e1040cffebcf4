/** The answer to a call, as it is sent: it waits for slow clients, and cuts those that take nothing. */
import type {ServerResponse} from 'node:http';
import type {HttpHead, HttpListener} from '../index.ts';
import {type Refusal, renderRefusal} from './refusal.ts';
import {requestIdHeader} from './request-id.ts';

/** How long a client may take nothing of what is ready for it. */
const maxStallMs = 60_000;

/** Writes a function's answer to the raw response. */
export class Answer implements HttpListener {
	readonly #response: ServerResponse;
	readonly #requestId: string;
	#hasBody = false;

	constructor(response: ServerResponse, requestId: string) {
		this.#response = response;
		this.#requestId = requestId;
		// Else a handler that states a wrong length could put words into the next answer of the connection.
		response.strictContentLength = true;
	}

	/** Whether the client has been told a status, which no failure can take back. */
	get begun(): boolean {
		return this.#response.headersSent;
	}

	get status(): number {
		return this.#response.statusCode;
	}

	onHead({status, headers}: HttpHead): void {
		const lines: string[] = [];
		for (const [name, value] of headers) if (name.toLowerCase() !== requestIdHeader) lines.push(name, value);
		lines.push(requestIdHeader, this.#requestId);
		this.#response.writeHead(status, lines);
		// Together with a body that comes at once, else alone.
		setImmediate(() => {
			if (!this.#hasBody && !this.#response.writableEnded) this.#response.flushHeaders();
		});
	}

	onBody(bytes: Uint8Array): void | Promise<void> {
		this.#hasBody = true;
		if (this.#response.destroyed || this.#response.write(bytes)) return;
		return this.#drained();
	}

	/** The function's answer is complete. @throws when it is not as long as it said */
	end(): void {
		this.#response.end();
		this.#cutStalled();
	}

	refuse(refusal: Refusal, accept: string | undefined): void {
		const {status, headers, body} = renderRefusal(refusal, accept, this.#requestId);
		this.#response.writeHead(status, {...headers, 'content-length': body.byteLength});
		this.#response.end(body);
		this.#cutStalled();
	}

	/** The client sees a broken connection rather than an answer that looks complete. */
	breakOff(): void {
		this.#response.destroy();
	}

	#drained(): Promise<void> {
		const response = this.#response;
		return new Promise((resolve) => {
			const timer = setTimeout(() => response.destroy(), maxStallMs);
			const done = () => {
				clearTimeout(timer);
				response.off('drain', done).off('close', done);
				resolve();
			};
			response.once('drain', done).once('close', done);
		});
	}

	#cutStalled(): void {
		if (!this.#response.writableFinished) this.#response.setTimeout(maxStallMs, () => this.#response.destroy());
	}
}
