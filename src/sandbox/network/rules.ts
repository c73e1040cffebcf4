/** The rules of an allow-list: which hosts and ports a sandbox may reach. */

import {domainToASCII} from 'node:url';
import {quote} from '../../errors.ts';
import {type Address, bitsOf, isMeant, type Network, networkOf, parseAddress, specialWords} from './addresses.ts';

/** Whom a rule is about. */
export type RuleHost =
	| {readonly kind: 'name'; readonly name: string}
	/** All names that end in this, which begins with a dot. */
	| {readonly kind: 'below'; readonly suffix: string}
	| {readonly kind: 'network'; readonly network: Network};

export type Rule = {readonly host: RuleHost; readonly port: number};

/** Whom a connection is asked to. */
export type Destination = {
	readonly host: {readonly name: string} | {readonly address: Address};
	readonly port: number;
	/** As it was asked for. */
	readonly text: string;
};

const maxRules = 256;
const maxName = 253;
const expected =
	"'host:port', where the host is a name, '*.' and a name, an IPv4 address, an IPv6 address in brackets, or one of these addresses with '/' and a prefix";

/**
 * Reads a list of rules.
 * @throws {TypeError} or {RangeError} naming the rule and what was expected
 */
export function parseRules(value: unknown, label: string): Rule[] {
	if (!Array.isArray(value)) throw new TypeError(`${label}: expected an array of rules, got ${quote(value)}`);
	if (value.length > maxRules)
		throw new RangeError(`${label}: expected at most ${maxRules} rules, got ${value.length}`);
	// A hole in it is no rule either; map() would pass it over.
	return Array.from(value, (rule: unknown, index) => parseRule(rule, `${label}[${index}]`));
}

function parseRule(text: unknown, label: string): Rule {
	if (typeof text !== 'string') throw new TypeError(`${label}: expected ${expected}, got ${quote(text)}`);
	const fail = (wanted: string) => new RangeError(`${label}: expected ${wanted}, got ${quote(text)}`);
	const parts = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(text);
	if (parts === null) throw fail(expected);
	const [, bracketed, plain = '', digits = ''] = parts;
	const port = parsePort(digits);
	if (port === undefined) throw fail('a port from 1 to 65535 behind the colon');
	const host = bracketed === undefined ? parseHost(plain, fail) : parseNetwork(bracketed, 6, fail);
	return {host, port};
}

function parsePort(digits: string): number | undefined {
	const port = /^[1-9]\d{0,4}$/.test(digits) ? Number(digits) : 0;
	return port >= 1 && port <= 65_535 ? port : undefined;
}

function parseNetwork(text: string, family: 4 | 6, fail: (wanted: string) => Error): RuleHost {
	const [host = '', mask, ...more] = text.split('/');
	const address = parseAddress(host);
	if (address?.family !== family || more.length > 0) throw fail(`an IPv${family} address`);
	const bits = bitsOf(family);
	const prefix = mask === undefined ? bits : /^(?:0|[1-9]\d{0,2})$/.test(mask) ? Number(mask) : -1;
	if (!(prefix >= 0 && prefix <= bits)) throw fail(`a prefix from 0 to ${bits} behind the slash`);
	const network = networkOf(address, prefix);
	if (network.first !== address.value) throw fail(`an address whose bits behind the first ${prefix} are 0`);
	return {kind: 'network', network};
}

function parseHost(text: string, fail: (wanted: string) => Error): RuleHost {
	const isAddress = /^[\d./]+$/.test(text);
	if (isAddress) return parseNetwork(text, 4, fail);
	const below = text.startsWith('*.');
	const name = readName(below ? text.slice(2) : text);
	if (name === undefined || text.includes('*', 1)) {
		throw fail(text.includes('*') ? "'*' only as the first label, with a name behind it" : 'the name of a host');
	}
	if (name === 'localhost' || name.endsWith('.localhost'))
		throw fail('the host’s own loopback by its address, 127.0.0.1');
	return below ? {kind: 'below', suffix: `.${name}`} : {kind: 'name', name};
}

/**
 * A name as it is compared: in ASCII and small letters, without a dot at the end. Undefined: not a name; what resolvers take for
 * an address (`127.1`, `0x7f000001`) is none.
 */
export function readName(text: string): string | undefined {
	// What a URL would have besides a host is no part of a name.
	if (!/^[\p{L}\p{M}\p{N}._-]*$/u.test(text)) return undefined;
	const isPlain = /^[\w.-]*$/.test(text);
	const name = (isPlain ? text.toLowerCase() : domainToASCII(text)).replace(/\.$/, '');
	const labels = name.split('.');
	if (name.length > maxName || !labels.every((label) => /^(?!-)[a-z\d_-]{1,63}(?<!-)$/.test(label))) return undefined;
	return /^(?:\d+|0x[\da-f]*)$/.test(labels.at(-1) ?? '') ? undefined : name;
}

/**
 * What is asked of a proxy, `host:port`.
 * @param byDefault the port when none is said
 * @returns undefined when it is not that
 */
export function readDestination(text: string, byDefault?: number): Destination | undefined {
	const [, bracketed, plain = '', digits] = /^(?:\[([^[\]]*)\]|([^:[\]]*))(?::(\d*))?$/.exec(text) ?? [];
	const port = digits === undefined ? byDefault : parsePort(digits);
	if (port === undefined) return undefined;
	const shown = digits === undefined ? `${text}:${port}` : text;
	const address = parseAddress(bracketed ?? plain);
	if (address !== undefined) {
		return (address.family === 6) === (bracketed !== undefined) ? {host: {address}, port, text: shown} : undefined;
	}
	const name = bracketed === undefined ? readName(plain) : undefined;
	return name === undefined ? undefined : {host: {name}, port, text: shown};
}

/** Whether somebody may connect to that name, as far as the name goes. */
export function isNameListed(rules: readonly Rule[], name: string, port: number): boolean {
	return rules.some(({host, port: listed}) => {
		if (listed !== port) return false;
		return host.kind === 'name' ? host.name === name : host.kind === 'below' && name.endsWith(host.suffix);
	});
}

/** Whether an address is listed as such. */
export function isAddressListed(rules: readonly Rule[], address: Address, port: number): boolean {
	return rules.some(({host, port: listed}) => {
		return listed === port && host.kind === 'network' && isMeant(host.network, address);
	});
}

/** Why a listed name may not lead to that address; undefined: it may. */
export function refusalOfAddress(rules: readonly Rule[], address: Address, port: number): string | undefined {
	const words = specialWords(address);
	return words === undefined || isAddressListed(rules, address, port) ? undefined : words;
}
