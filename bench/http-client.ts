/** An HTTP client that costs little, so that what is measured is the server: one connection, one request at a time. */
import {once} from 'node:events';
import net from 'node:net';

/** Called with each piece of a body. */
type OnBody = (bytes: number) => void;

/** A kept connection. Owns a socket. */
export class HttpClient {
	readonly #socket: net.Socket;
	#received: Buffer = Buffer.alloc(0);
	#wake: (() => void) | undefined;
	#isClosed = false;

	private constructor(socket: net.Socket) {
		this.#socket = socket;
		socket.setNoDelay(true);
		socket.on('data', (data: Buffer) => {
			this.#received = this.#received.length === 0 ? data : Buffer.concat([this.#received, data]);
			this.#wake?.();
		});
		socket.on('close', () => {
			this.#isClosed = true;
			this.#wake?.();
		});
		socket.on('error', () => undefined);
	}

	static async connect(url: string): Promise<HttpClient> {
		const {hostname, port} = new URL(url);
		const socket = net.connect({host: hostname.replace(/^\[|\]$/g, ''), port: Number(port)});
		await once(socket, 'connect');
		return new HttpClient(socket);
	}

	/** Posts JSON; answers the status, when all of the body is there. */
	async post(path: string, json: string, onBody: OnBody = () => undefined): Promise<number> {
		this.#socket.write(
			`POST ${path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(json)}\r\n\r\n${json}`,
		);
		const head = (await this.#takeUntil('\r\n\r\n')).toLowerCase();
		const length = /\r\ncontent-length: *(\d+)/.exec(head)?.[1];
		if (length !== undefined) await this.#take(Number(length), onBody);
		else if (/\r\ntransfer-encoding: *chunked/.test(head)) await this.#takeChunks(onBody);
		return Number(head.slice(9, 12));
	}

	close(): void {
		this.#socket.destroy();
	}

	async #takeChunks(onBody: OnBody): Promise<void> {
		for (;;) {
			const size = Number.parseInt(await this.#takeUntil('\r\n'), 16);
			await this.#take(size, onBody);
			await this.#take(2, () => undefined);
			if (size === 0) return;
		}
	}

	async #takeUntil(mark: string): Promise<string> {
		while (!this.#received.includes(mark)) await this.#more();
		const end = this.#received.indexOf(mark);
		const text = this.#received.toString('latin1', 0, end);
		this.#received = this.#received.subarray(end + mark.length);
		return text;
	}

	async #take(bytes: number, onBody: OnBody): Promise<void> {
		for (let missing = bytes; missing > 0; ) {
			if (this.#received.length === 0) await this.#more();
			const taken = Math.min(missing, this.#received.length);
			this.#received = this.#received.subarray(taken);
			missing -= taken;
			onBody(taken);
		}
	}

	async #more(): Promise<void> {
		if (this.#isClosed) throw new Error('the server closed the connection');
		await new Promise<void>((resolve) => {
			this.#wake = resolve;
		});
		this.#wake = undefined;
		if (this.#isClosed && this.#received.length === 0) throw new Error('the server closed the connection');
	}
}
