/** One connection that a sandbox made to an address of its own, passed on to whom it meant by it. */
import {constants} from 'node:os';
import {getSystemErrorName} from 'node:util';
import {closeFd, type NativeRelay, openRelay, resetOnClose} from '../../native.ts';
import type {ConnectionOptions} from './connection.ts';
import {Refusal} from './dial.ts';

export type PassageOptions = Omit<ConnectionOptions, 'breakOff'> & {
	/** For connecting to all of the addresses together, in milliseconds. */
	readonly dialMs: number;
};

/** Has a connection that is not served reset. */
export function refuseConnection(fd: number): void {
	resetOnClose(fd);
	closeFd(fd);
}

/** Owns both ends. */
export class Passage {
	readonly #options: PassageOptions;
	readonly #relay: NativeRelay;
	#counted = 0;
	#timer: NodeJS.Timeout | undefined;
	#connecting: ((error: number) => void) | undefined;
	#reason: string | undefined;

	/** @param fd of the connection, which it takes over */
	constructor(fd: number, options: PassageOptions) {
		this.#options = options;
		this.#relay = openRelay(fd, (event, value) => {
			if (event === 2) this.#note();
			else if (event === 3) this.#over(value === 0 ? 'both sides have ended it' : getSystemErrorName(value));
			else this.#connecting?.(value);
		});
	}

	/**
	 * Connects to the first of the addresses that takes it; from then on bytes go both ways.
	 * @param onConnected told that address, before any byte goes
	 * @throws {Refusal} `NotReached`
	 */
	async connect(addresses: readonly string[], port: number, onConnected: (address: string) => void): Promise<void> {
		const {dialMs} = this.#options;
		this.#timer = setTimeout(() => this.end(`it took longer than ${dialMs} ms to connect`), dialMs);
		let last = '';
		for (const address of addresses) {
			const error = await this.#tryToConnect(address, port);
			if (this.#reason !== undefined) throw new Refusal('NotReached', this.#reason);
			if (error === 0) {
				this.#watchIdle();
				onConnected(address);
				return this.#relay.start();
			}
			last = `connect ${getSystemErrorName(error)} ${address}`;
		}
		throw new Refusal('NotReached', last);
	}

	async #tryToConnect(address: string, port: number): Promise<number> {
		const result = this.#relay.connect(address, port);
		if (result !== 0) return Math.min(result, 0); // it has connected already, or can't
		return new Promise((settle) => {
			this.#connecting = (error) => {
				this.#connecting = undefined;
				settle(error);
			};
		});
	}

	/** Looks now and then whether something went: to be told of each piece would take longer than to pass it on. */
	#watchIdle(): void {
		const {idleMs} = this.#options;
		clearTimeout(this.#timer);
		let before = -1;
		this.#timer = setInterval(() => {
			const {sentBytes, receivedBytes} = this.counts;
			if (sentBytes + receivedBytes === before) this.end(`nothing went either way for ${idleMs} ms`);
			before = sentBytes + receivedBytes;
		}, idleMs);
	}

	/** What the sandbox has sent to the other end and received from there. */
	get counts(): {readonly sentBytes: number; readonly receivedBytes: number} {
		const [sentBytes, receivedBytes] = this.#relay.counts();
		return {sentBytes, receivedBytes};
	}

	/** Why it has ended; undefined: it is open. */
	get reason(): string | undefined {
		return this.#reason;
	}

	/** Ends it at once; the sandbox sees a reset. */
	end(reason: string): void {
		if (this.#reason !== undefined) return;
		this.#relay.end();
		this.#over(reason);
	}

	#note(): void {
		const {sentBytes, receivedBytes} = this.counts;
		const bytes = sentBytes + receivedBytes - this.#counted;
		this.#counted += bytes;
		this.#options.count(bytes);
	}

	#over(reason: string): void {
		if (this.#reason !== undefined) return;
		this.#reason = reason;
		clearTimeout(this.#timer);
		this.#note();
		this.#connecting?.(-constants.errno.ECANCELED);
		this.#options.onEnd();
	}
}
