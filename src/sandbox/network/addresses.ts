/** IP addresses, networks of them, and which are not those of the public internet. */
import {isIPv4, isIPv6} from 'node:net';

/** An address as a number of 32 or 128 bits. */
export type Address = {readonly family: 4 | 6; readonly value: bigint};

/** All addresses whose first `prefix` bits are those of `first`. */
export type Network = {readonly family: 4 | 6; readonly first: bigint; readonly prefix: number};

/** How many bits an address of that family has. */
export function bitsOf(family: 4 | 6): number {
	return family === 4 ? 32 : 128;
}

function readIPv4(text: string): bigint {
	return text.split('.').reduce((value, part) => value * 256n + BigInt(part), 0n);
}

/** The parts between colons of one side of `::`; an IPv4 address at the end is two of them. */
function readParts(text: string): bigint[] {
	if (text === '') return [];
	return text.split(':').flatMap((part) => {
		if (!part.includes('.')) return [BigInt(`0x${part}`)];
		const value = readIPv4(part);
		return [value >> 16n, value & 0xffffn];
	});
}

function readIPv6(text: string): bigint {
	const [before = '', after] = text.split('::');
	const [head, tail] = [readParts(before), readParts(after ?? '')];
	const zeros = Array.from({length: 8 - head.length - tail.length}, () => 0n);
	return [...head, ...zeros, ...tail].reduce((value, part) => value * 65_536n + part, 0n);
}

/** Undefined: not an address as it is usually written; one with a zone (`%eth0`) is none either. */
export function parseAddress(text: string): Address | undefined {
	if (isIPv4(text)) return {family: 4, value: readIPv4(text)};
	if (isIPv6(text) && !text.includes('%')) return {family: 6, value: readIPv6(text)};
	return undefined;
}

function writeIPv4(value: bigint): string {
	return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join('.');
}

/** As {@link parseAddress} reads it; an IPv6 address is not shortened. */
export function writeAddress({family, value}: Address): string {
	if (family === 4) return writeIPv4(value);
	const digits = value.toString(16).padStart(32, '0');
	return (digits.match(/.{4}/g) ?? []).map((part) => part.replace(/^0+(?=.)/, '')).join(':');
}

/** The address in the form in which a socket that serves both families tells an IPv4 one. */
export function unmapped(address: Address): Address {
	const isMapped = address.family === 6 && address.value >> 32n === 0xffffn;
	return isMapped ? {family: 4, value: address.value & 0xffff_ffffn} : address;
}

/** The network with that prefix that an address is in. */
export function networkOf({family, value}: Address, prefix: number): Network {
	const rest = BigInt(bitsOf(family) - prefix);
	return {family, first: (value >> rest) << rest, prefix};
}

export function contains(network: Network, {family, value}: Address): boolean {
	return family === network.family && networkOf({family, value}, network.prefix).first === network.first;
}

function isWithin(inner: Network, outer: Network): boolean {
	return inner.prefix >= outer.prefix && contains(outer, {family: inner.family, value: inner.first});
}

function readNetwork(text: string): Network {
	const [address = '', prefix] = text.split('/');
	const parsed = parseAddress(address);
	if (parsed === undefined) throw new TypeError(`expected a network, got ${text}`);
	return networkOf(parsed, Number(prefix));
}

/**
 * What is not to be reached because somebody's name leads there: the host itself, networks around it, services of clouds for their
 * machines, everything that is no single host, and IPv6 addresses that stand for IPv4 ones.
 */
const special: ReadonlyArray<readonly [network: Network, words: string]> = (
	[
		['0.0.0.0/8', 'this host'],
		['10.0.0.0/8', 'a private network'],
		['100.64.0.0/10', 'a carrier’s network'],
		['127.0.0.0/8', 'loopback'],
		['168.63.129.16/32', 'a cloud’s service for its machines'],
		['169.254.0.0/16', 'link-local, as metadata services are'],
		['172.16.0.0/12', 'a private network'],
		['192.0.0.0/24', 'reserved'],
		['192.0.2.0/24', 'for documents'],
		['192.88.99.0/24', 'a relay to IPv6'],
		['192.168.0.0/16', 'a private network'],
		['198.18.0.0/15', 'for benchmarks'],
		['198.51.100.0/24', 'for documents'],
		['203.0.113.0/24', 'for documents'],
		['224.0.0.0/4', 'multicast'],
		['240.0.0.0/4', 'reserved'],
		['::/96', 'loopback, or IPv4 in IPv6'],
		['::ffff:0:0/96', 'IPv4 in IPv6'],
		['64:ff9b::/96', 'IPv4 in IPv6'],
		['64:ff9b:1::/48', 'IPv4 in IPv6'],
		['100::/64', 'reserved'],
		['2001::/23', 'reserved'],
		['2001:db8::/32', 'for documents'],
		['2002::/16', 'IPv4 in IPv6'],
		['3fff::/20', 'for documents'],
		['5f00::/16', 'reserved'],
		['fc00::/7', 'a private network'],
		['fe80::/10', 'link-local'],
		['fec0::/10', 'a private network'],
		['ff00::/8', 'multicast'],
	] as const
).map(([network, words]) => [readNetwork(network), words]);

/** What is special about an address, if something is. */
export function specialWords(address: Address): string | undefined {
	return special.find(([network]) => contains(network, address))?.[1];
}

/**
 * Whether a network that somebody has listed is meant to have this address in it: a special one only if all of the network is
 * special, so that `0.0.0.0/0` is the public internet.
 */
export function isMeant(listed: Network, address: Address): boolean {
	if (!contains(listed, address)) return false;
	const places = special.filter(([network]) => contains(network, address));
	return places.length === 0 || places.some(([network]) => isWithin(listed, network));
}
