/** One connection of a sandbox: its end there, the end at whom it reached, and what went between them. */
import type {Socket} from 'node:net';

/** What a connection is known by. */
export type Reached = {
	/** Whom it was asked to, as `host:port`. */
	readonly destination: string;
	/** The address that it was made to. */
	readonly address: string;
	/** Whether it was asked of the proxy, or made to an address in the sandbox. */
	readonly via: 'proxy' | 'socket';
};

export type ConnectionOptions = {
	/** For so long nothing may go either way, in milliseconds. */
	readonly idleMs: number;
	/** Told of bytes that went either way. */
	readonly count: (bytes: number) => void;
	/** Ends the sandbox's end at once, so that it sees a reset. */
	readonly breakOff: () => void;
	/** Both ends are closed. */
	readonly onEnd: () => void;
};

/** Owns both ends. */
export class Connection {
	readonly guest: Socket;
	readonly #options: ConnectionOptions;
	readonly #aborting = new AbortController();
	#remote: Socket | undefined;
	#counted = 0;
	#reason: string | undefined;

	constructor(guest: Socket, options: ConnectionOptions) {
		this.guest = guest;
		this.#options = options;
		guest.on('error', () => undefined); // its end follows
		guest.once('close', (hadError) => this.#closed(hadError, 'the sandbox closed it'));
	}

	/** Aborted when nobody waits for the other end any more. */
	get signal(): AbortSignal {
		return this.#aborting.signal;
	}

	/** Takes the other end over. */
	attach(remote: Socket): void {
		this.#remote = remote;
		remote.on('error', () => undefined);
		remote.once('close', (hadError) => this.#closed(hadError, 'the other side closed it'));
		for (const socket of [this.guest, remote]) {
			socket.setTimeout(this.#options.idleMs, () => {
				this.end(`nothing went either way for ${this.#options.idleMs} ms`);
			});
		}
		if (this.guest.destroyed) remote.destroy();
	}

	/** Has each end get what the other one sends, until both have ended. */
	join(remote: Socket): void {
		const {guest} = this;
		const note = () => this.note();
		guest.on('data', note).pipe(remote);
		remote.on('data', note).pipe(guest);
	}

	/** To be called when something went either way. */
	note(): void {
		const {sentBytes, receivedBytes} = this.counts;
		const bytes = sentBytes + receivedBytes - this.#counted;
		this.#counted += bytes;
		this.#options.count(bytes);
	}

	/** What the sandbox has sent to the other end and received from there. */
	get counts(): {readonly sentBytes: number; readonly receivedBytes: number} {
		return {sentBytes: this.#remote?.bytesWritten ?? 0, receivedBytes: this.#remote?.bytesRead ?? 0};
	}

	/** Why it has ended, or is to. */
	get reason(): string {
		return this.#reason ?? 'it is open';
	}

	/** Ends it at once; the sandbox sees a reset. */
	end(reason: string): void {
		this.#reason ??= reason;
		this.#aborting.abort();
		this.#options.breakOff();
		this.#remote?.destroy();
	}

	#closed(hadError: boolean, reason: string): void {
		this.#reason ??= reason;
		const remote = this.#remote;
		this.#aborting.abort();
		if (hadError) this.end(reason);
		else if (this.guest.closed) remote?.destroySoon();
		if (this.guest.closed && remote?.closed !== false) this.#options.onEnd();
	}
}
