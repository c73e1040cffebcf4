/** Serves the connections of one sandbox, as far as its rules and limits go. */
import {Socket} from 'node:net';
import {resetOnClose} from '../../native.ts';
import {Connection, type Reached} from './connection.ts';
import {dial, type Lookup, Refusal, type RefusalCode, resolve} from './dial.ts';
import {Passage, refuseConnection} from './passage.ts';
import {HttpProxy} from './proxy.ts';
import type {Destination, Rule} from './rules.ts';
import type {ResolvedNetwork} from './settings.ts';

/** What is told of a sandbox's connections. */
export type NetworkEvents = {
	/** It reached somebody. */
	connected: [Reached];
	/** That has ended. */
	disconnected: [
		Reached & {
			/** By the sandbox, to whom it reached. */
			readonly sentBytes: number;
			readonly receivedBytes: number;
			readonly durationMs: number;
			readonly reason: string;
		},
	];
	/** It did not get to whom it asked for; nothing was sent there. */
	connectionRefused: [Pick<Reached, 'destination' | 'via'> & {readonly code: RefusalCode; readonly message: string}];
};

/** Told each of them. */
export type TellNetwork = <Name extends keyof NetworkEvents>(name: Name, ...details: NetworkEvents[Name]) => void;

/** How long things may take, in milliseconds. */
export type GatewayDeadlines = {
	/** Looking a name up, and again connecting. */
	readonly dialMs: number;
	/** Until the head of a request to the proxy is there. */
	readonly headMs: number;
	/** Nothing goes either way. */
	readonly idleMs: number;
};

export const defaultDeadlines: GatewayDeadlines = {dialMs: 10_000, headMs: 10_000, idleMs: 15 * 60_000};

export type GatewayOptions = {
	readonly rules: readonly Rule[];
	readonly limits: Pick<ResolvedNetwork, 'connections' | 'transferMb'>;
	readonly lookup: Lookup;
	readonly deadlines: GatewayDeadlines;
	readonly tell: TellNetwork;
};

/** What an event shows of what a sandbox has asked for. */
const maxShown = 300;

/** Owns its connections. */
export class Gateway {
	readonly #options: GatewayOptions;
	readonly #connections = new Set<Connection | Passage>();
	/** Those that ask the proxy. */
	readonly #asking = new Map<Socket, Connection>();
	readonly #proxy: HttpProxy;
	#leftBytes: number;
	readonly #settleEmpty: Array<() => void> = [];
	#closed = false;

	constructor(options: GatewayOptions) {
		this.#options = options;
		this.#leftBytes = options.limits.transferMb * 1024 * 1024;
		this.#proxy = new HttpProxy({
			headMs: options.deadlines.headMs,
			reach: (guest, destination) => this.#reach(guest, destination),
			onBadRequest: (_guest, message) => this.#refused('', 'proxy', new Refusal('BadRequest', message)),
			join: (guest, remote) => this.#asking.get(guest)?.join(remote),
			note: (guest) => this.#asking.get(guest)?.note(),
		});
	}

	/** How many connections there are, those that are being made included. */
	get size(): number {
		return this.#connections.size;
	}

	/** Takes a connection of the sandbox over. @param wanted whom it is to reach; `proxy`: it will say */
	serve(fd: number, wanted: Destination | 'proxy'): void {
		const isProxy = wanted === 'proxy';
		const refusal = this.#refusal();
		if (refusal !== undefined) {
			this.#refused(isProxy ? '' : wanted.text, isProxy ? 'proxy' : 'socket', refusal);
			refuseConnection(fd);
		} else if (isProxy) {
			this.#serveProxy(fd);
		} else {
			void this.#pass(fd, wanted);
		}
	}

	#serveProxy(fd: number): void {
		const guest = new Socket({fd, readable: true, writable: true, allowHalfOpen: true}).setNoDelay();
		const connection = new Connection(guest, {
			idleMs: this.#options.deadlines.idleMs,
			count: (bytes) => this.#count(bytes),
			breakOff: () => {
				// Not resetAndDestroy(): that waits for whoever does not read, and loses the descriptor when it fails meanwhile.
				if (!guest.destroyed) resetOnClose(fd);
				guest.destroy();
			},
			onEnd: () => {
				this.#asking.delete(guest);
				this.#ended(connection);
			},
		});
		this.#connections.add(connection);
		this.#asking.set(guest, connection);
		this.#proxy.serve(guest);
	}

	async #pass(fd: number, destination: Destination): Promise<void> {
		const {rules, lookup, deadlines, tell} = this.#options;
		let reached: Reached | undefined;
		let beganMs = 0;
		const passage = new Passage(fd, {
			idleMs: deadlines.idleMs,
			dialMs: deadlines.dialMs,
			count: (bytes) => this.#count(bytes),
			onEnd: () => {
				const durationMs = performance.now() - beganMs;
				if (reached !== undefined) {
					tell('disconnected', {...reached, ...passage.counts, durationMs, reason: passage.reason ?? ''});
				}
				this.#ended(passage);
			},
		});
		this.#connections.add(passage);
		try {
			const addresses = await resolve(destination, {rules, lookup, deadlineMs: deadlines.dialMs});
			if (passage.reason !== undefined) return;
			await passage.connect(addresses, destination.port, (address) => {
				beganMs = performance.now();
				reached = {destination: destination.text, address, via: 'socket'};
				tell('connected', reached);
			});
		} catch (error) {
			if (error instanceof Refusal && !this.#closed) this.#refused(destination.text, 'socket', error);
			passage.end(error instanceof Error ? error.message : String(error));
		}
	}

	/** Ends every connection, and takes no more. Settles when the last event was told. */
	async close(): Promise<void> {
		this.#closed = true;
		this.#endAll('its sandbox has ended');
		if (this.#connections.size > 0) await new Promise<void>((resolve) => this.#settleEmpty.push(resolve));
	}

	#endAll(reason: string): void {
		for (const connection of [...this.#connections]) connection.end(reason);
	}

	#ended(connection: Connection | Passage): void {
		this.#connections.delete(connection);
		if (this.#connections.size === 0) for (const settle of this.#settleEmpty.splice(0)) settle();
	}

	#refusal(): Refusal | undefined {
		const {connections, transferMb} = this.#options.limits;
		if (this.#closed) return new Refusal('NotReached', 'its sandbox has ended');
		if (this.#leftBytes <= 0)
			return new Refusal('TooMany', `it has transferred ${transferMb} MiB (network.transferMb)`);
		if (this.#connections.size < connections) return undefined;
		return new Refusal('TooMany', `it has ${connections} connections already (network.connections)`);
	}

	/** For the proxy. */
	async #reach(guest: Socket, destination: Destination): Promise<Socket> {
		const via = 'proxy';
		const connection = this.#asking.get(guest);
		if (connection === undefined) throw new Refusal('NotReached', 'nobody wants it any more');
		const {rules, lookup, deadlines, tell} = this.#options;
		const {signal} = connection;
		const dialled = dial(destination, {rules, lookup, deadlineMs: deadlines.dialMs, signal});
		const {remote, address} = await dialled.catch((error: unknown) => {
			if (error instanceof Refusal && !signal.aborted) this.#refused(destination.text, via, error);
			throw error;
		});
		if (signal.aborted) {
			remote.destroy();
			throw new Refusal('NotReached', 'nobody wants it any more');
		}
		const reached = {destination: destination.text, address, via} as const;
		const beganMs = performance.now();
		connection.attach(remote);
		tell('connected', reached);
		remote.once('close', () => {
			const durationMs = performance.now() - beganMs;
			tell('disconnected', {...reached, ...connection.counts, durationMs, reason: connection.reason});
		});
		return remote;
	}

	#refused(text: string, via: Reached['via'], {code, message}: Refusal): void {
		this.#options.tell('connectionRefused', {destination: text.slice(0, maxShown), via, code, message});
	}

	#count(bytes: number): void {
		this.#leftBytes -= bytes;
		if (this.#leftBytes <= 0)
			this.#endAll(`the sandbox has transferred ${this.#options.limits.transferMb} MiB (network.transferMb)`);
	}
}
