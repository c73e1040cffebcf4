/** What an allow-list comes to inside a sandbox: names that lead to loopback, ports that listen there, and variables. */
import {type Address, bitsOf, type Network, networkOf, parseAddress, writeAddress} from './addresses.ts';
import type {Destination, Rule} from './rules.ts';

/** Beside the pidfd as many descriptors come with a birth; native/guest/network.h has the same. */
const maxListeners = 14;
const proxyPort = 3128;
const proxyAddress = '127.200.255.254';
const proxy = `http://${proxyAddress}:${proxyPort}`;
const direct = 'localhost,127.0.0.1,::1';

/** Of whatever runs in such a sandbox. Some programs know the small ones only, since a web server makes `HTTP_PROXY` of a header. */
export const proxyVariables: Readonly<Record<string, string>> = {
	HTTP_PROXY: proxy,
	HTTPS_PROXY: proxy,
	NO_PROXY: direct,
	http_proxy: proxy,
	https_proxy: proxy,
	no_proxy: direct,
};

/** Names get the addresses behind this one. */
const firstAlias = 0x7f_c8_00_00;

/** How to serve a sandbox's connections, and what it is set up with. */
export type NetworkLayout = {
	/** The text of its `/etc/hosts`. */
	readonly hosts: string;
	/** As native/guest/network.h has it. */
	readonly setUp: string;
	/** How many sockets listen in it. */
	readonly listeners: number;
	/** Whom somebody wants who connects to this address and port in it; `proxy`: he will say. */
	find(address: Address, port: number): Destination | 'proxy';
};

/** @throws {RangeError} when the rules have too many different ports */
export function layOut(rules: readonly Rule[], label: string): NetworkLayout {
	const names = [...new Set(rules.flatMap(({host}) => (host.kind === 'name' ? [host.name] : [])))];
	const ports = [...new Set(rules.flatMap(({host, port}) => (host.kind === 'below' ? [] : [port])))];
	if (ports.length >= maxListeners) {
		throw new RangeError(
			`${label}: expected at most ${maxListeners - 1} different ports in rules without '*', got ${ports.length}`,
		);
	}
	const aliases = new Map(names.map((name, index) => [firstAlias + index + 1, name]));
	const lines = [...aliases].map(([alias, name]) => `${writeAddress({family: 4, value: BigInt(alias)})} ${name}\n`);
	const listening = [...new Set([proxyPort, ...ports])];
	const routes = new Set(
		rules.flatMap(({host}) =>
			host.kind === 'network' && !isLoopback(host.network) ? [encodeRoute(host.network)] : [],
		),
	);
	return {
		hosts: `127.0.0.1 localhost sandbox\n::1 localhost\n${lines.join('')}`,
		setUp: [...listening.map((port) => `p${port};`), ...routes].join(''),
		listeners: listening.length,
		find: (address, port) => {
			const shown = writeAddress(address);
			const text = address.family === 4 ? `${shown}:${port}` : `[${shown}]:${port}`;
			if (text === `${proxyAddress}:${proxyPort}`) return 'proxy';
			const name = address.family === 4 ? aliases.get(Number(address.value)) : undefined;
			if (name === undefined) return {host: {address}, port, text};
			return {host: {name}, port, text: `${name}:${port}`};
		},
	};
}

/** What every namespace has as its own. */
function isLoopback({family, first, prefix}: Network): boolean {
	const own = family === 4 ? '127.0.0.0' : '::1';
	const bits = family === 4 ? 8 : 128;
	const loopback = parseAddress(own);
	return prefix >= bits && networkOf({family, value: first}, bits).first === loopback?.value;
}

function encodeRoute({family, first, prefix}: Network): string {
	return `r${first.toString(16).padStart(bitsOf(family) / 4, '0')}/${prefix};`;
}
