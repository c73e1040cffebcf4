/** A function as a web-standard server: a Request in, a Response out. */
import type {HttpHead, HttpListener, HttpRequest} from './http.ts';
import {httpStatus} from './http-status.ts';
import type {Outcome, OutcomeError} from './outcome.ts';

/** Makes the call. */
export type Ask = (request: HttpRequest, listener: HttpListener, signal: AbortSignal) => Promise<Outcome>;

/** Statuses with which a Response may have no body, see the Fetch standard. */
const nullBodied: ReadonlySet<number> = new Set([204, 205, 304]);

/**
 * @param maxBytes of the request's body
 * @returns when the answer's head is there; its body comes as the function sends it, which waits while nobody reads. Of a call that
 * failed before: with the status that {@link httpStatus} names, and why as text
 * @throws what `ask` rejects with; {RangeError} when the body is too large
 */
export async function fetchFrom(
	ask: Ask,
	request: Request,
	maxBytes: number,
	signals: AbortSignal[],
): Promise<Response> {
	const body = await readBody(request, maxBytes);
	const {pathname, search, protocol} = new URL(request.url);
	const left = new AbortController();
	const exchange = new Exchange(request.method, () => left.abort());
	const outcome = ask(
		{
			method: request.method,
			root: '',
			path: pathname,
			query: search.slice(1),
			scheme: protocol === 'https:' ? 'https' : 'http',
			headers: [...request.headers].flat(),
			body,
		},
		exchange,
		AbortSignal.any([request.signal, left.signal, ...signals]),
	);
	outcome.then(
		(ended) => exchange.end(ended),
		(error: unknown) => exchange.fail(error),
	);
	return exchange.response;
}

/** An answer on its way into a Response. */
class Exchange implements HttpListener {
	readonly response: Promise<Response>;
	readonly #method: string;
	readonly #leave: () => void;
	#resolve!: (response: Response) => void;
	#reject!: (error: unknown) => void;
	#body: WritableStreamDefaultWriter<Uint8Array> | undefined;

	/** @param leave called when nobody reads the body any more */
	constructor(method: string, leave: () => void) {
		this.#method = method;
		this.#leave = leave;
		this.response = new Promise((resolve, reject) => {
			this.#resolve = resolve;
			this.#reject = reject;
		});
	}

	onHead({status, headers}: HttpHead): void {
		const init = {status, headers: headers.map(([name, value]): [string, string] => [name, value])};
		if (this.#method === 'HEAD' || nullBodied.has(status)) {
			this.#resolve(new Response(null, init));
			return;
		}
		const {readable, writable} = new TransformStream<Uint8Array, Uint8Array>();
		this.#body = writable.getWriter();
		this.#body.closed.catch(this.#leave);
		this.#resolve(new Response(readable, init));
	}

	onBody(bytes: Uint8Array): Promise<void> | undefined {
		return this.#body?.write(bytes).catch(this.#leave);
	}

	end(outcome: Outcome): void {
		if (outcome.ok) {
			this.#body?.close().catch(() => undefined);
			return;
		}
		this.#resolve(describe(outcome.error));
		this.#body?.abort(new Error(`the function failed: ${outcome.error.code}`)).catch(() => undefined);
	}

	fail(error: unknown): void {
		this.#reject(error);
		this.#body?.abort(error).catch(() => undefined);
	}
}

function describe({code, message, traceback}: OutcomeError): Response {
	const text = traceback === '' ? `${code}: ${message}\n` : traceback;
	return new Response(text, {status: httpStatus(code), headers: {'content-type': 'text/plain; charset=utf-8'}});
}

async function readBody(request: Request, maxBytes: number): Promise<Uint8Array> {
	if (request.body === null) return new Uint8Array();
	const chunks: Uint8Array[] = [];
	let bytes = 0;
	for await (const chunk of request.body as AsyncIterable<unknown>) {
		if (!(chunk instanceof Uint8Array)) throw new TypeError('expected a body of bytes');
		bytes += chunk.byteLength;
		if (bytes > maxBytes) throw new RangeError(`expected a body of at most ${maxBytes} bytes (limits.eventMb)`);
		chunks.push(chunk);
	}
	return Buffer.concat(chunks);
}
