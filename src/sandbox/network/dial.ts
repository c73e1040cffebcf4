/** Connects to whom a sandbox asks for, if its rules allow that. */
import {lookup as lookUp} from 'node:dns/promises';
import {connect, type Socket} from 'node:net';
import {withDeadline} from '../../kernel/deadline.ts';
import {parseAddress, writeAddress} from './addresses.ts';
import {type Destination, isAddressListed, isNameListed, type Rule, refusalOfAddress} from './rules.ts';

/** Answers the addresses of a name; it may reject. */
export type Lookup = (name: string) => Promise<readonly string[]>;

/** Why a connection was not made. */
export type RefusalCode = 'NotListed' | 'SpecialAddress' | 'NotResolved' | 'NotReached' | 'TooMany' | 'BadRequest';

/** A connection that is not made. */
export class Refusal extends Error {
	readonly code: RefusalCode;

	constructor(code: RefusalCode, message: string) {
		super(message);
		this.code = code;
	}
}

export type DialOptions = {
	readonly rules: readonly Rule[];
	readonly lookup: Lookup;
	/** For looking the name up, and again for connecting, in milliseconds. */
	readonly deadlineMs: number;
	/** Ends it. */
	readonly signal: AbortSignal;
};

/** By the host's own resolver, its `/etc/hosts` included. */
export async function lookUpByHost(name: string): Promise<readonly string[]> {
	const found = await lookUp(name, {all: true});
	return found.map(({address}) => address);
}

/**
 * Connects to an address that was checked, see {@link resolve}.
 * @returns the other end, and its address
 * @throws {Refusal}
 */
export async function dial(
	destination: Destination,
	options: DialOptions,
): Promise<{readonly remote: Socket; readonly address: string}> {
	const addresses = await resolve(destination, options);
	let last: unknown;
	for (const address of addresses) {
		if (options.signal.aborted) break;
		try {
			return {remote: await connectTo(address, destination.port, options), address};
		} catch (error) {
			last = error;
		}
	}
	throw new Refusal('NotReached', last instanceof Error ? last.message : 'nobody wants it any more');
}

/**
 * Addresses that may be connected to; at least one. A name is looked up once, and only if it is listed.
 * @throws {Refusal}
 */
export async function resolve({host, port}: Destination, options: Omit<DialOptions, 'signal'>): Promise<string[]> {
	const {rules, lookup, deadlineMs} = options;
	if ('address' in host) {
		if (!isAddressListed(rules, host.address, port))
			throw new Refusal('NotListed', 'no rule lists this address with this port');
		return [writeAddress(host.address)];
	}
	if (!isNameListed(rules, host.name, port)) throw new Refusal('NotListed', 'no rule lists this name with this port');
	const late = () => new Error(`it took longer than ${deadlineMs} ms`);
	const found = await withDeadline(lookup(host.name), deadlineMs, late).catch((error: unknown) => {
		throw new Refusal('NotResolved', error instanceof Error ? error.message : String(error));
	});
	const known = found.map((text) => ({text, address: parseAddress(text)}));
	const refusals = new Set<string>();
	const usable = known.flatMap(({text, address}) => {
		const words = address === undefined ? 'no address' : refusalOfAddress(rules, address, port);
		if (words === undefined) return [text];
		refusals.add(`${text} (${words})`);
		return [];
	});
	if (usable.length > 0) return usable;
	if (refusals.size === 0) throw new Refusal('NotResolved', 'it has no address');
	throw new Refusal('SpecialAddress', `it leads to ${[...refusals].join(', ')}, which no rule lists`);
}

async function connectTo(host: string, port: number, {deadlineMs, signal}: DialOptions): Promise<Socket> {
	const remote = connect({host, port, allowHalfOpen: true, noDelay: true});
	return new Promise((settle, reject) => {
		const fail = (error: Error) => {
			remote.destroy();
			finish();
			reject(error);
		};
		const abort = () => fail(new Error('nobody wants it any more'));
		const timer = setTimeout(() => fail(new Error(`it took longer than ${deadlineMs} ms to connect`)), deadlineMs);
		const finish = () => {
			clearTimeout(timer);
			signal.removeEventListener('abort', abort);
		};
		signal.addEventListener('abort', abort, {once: true});
		remote.once('error', fail);
		remote.once('connect', () => {
			finish();
			remote.removeListener('error', fail);
			settle(remote);
		});
	});
}
