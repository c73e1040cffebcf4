/** The option `network` of a sandbox or function whose way out is an allow-list. */
import {quote} from '../../errors.ts';
import {layOut} from './layout.ts';
import {parseRules} from './rules.ts';

/** What a sandbox may reach, and how much of it. */
export type NetworkOptions = {
	/**
	 * Rules `host:port`: a name (`db.example:5432`), all names below one (`*.example.com:443`), an address (`192.0.2.7:80`,
	 * `[2001:db8::7]:80`) or a network (`10.1.2.0/24:5432`, `[2001:db8::/32]:443`). An address that is not the public internet's
	 * is reached only if it is listed itself, also when a listed name leads there.
	 */
	readonly allow: readonly string[];
	/** Connections at a time, those that are being made included; 64 by default. One more is refused. */
	readonly connections?: number;
	/** New connections in a second; 64 by default. More wait. */
	readonly connectionsPerSecond?: number;
	/** MiB in both directions together while the sandbox lives; 1024 by default. Then its connections end, and it gets no more. */
	readonly transferMb?: number;
};

export type ResolvedNetwork = Required<NetworkOptions>;

const numbers = {connections: 64, connectionsPerSecond: 64, transferMb: 1024} as const;
const most = {connections: 4096, connectionsPerSecond: 100_000, transferMb: 2 ** 40} as const;

/**
 * Checks an allow-list and its limits.
 * @throws {TypeError} or {RangeError} naming the rule or limit, and what was expected
 */
export function resolveNetwork(value: unknown, label: string): ResolvedNetwork {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) {
		throw new TypeError(`${label}: expected an object with the rules as allow, got ${quote(value)}`);
	}
	const known = ['allow', ...Object.keys(numbers)];
	for (const key of Object.keys(value)) {
		if (!known.includes(key)) throw new TypeError(`${label}: expected ${known.join(', ')}, got ${quote(key)}`);
	}
	const {allow, ...given} = value as NetworkOptions;
	layOut(parseRules(allow, `${label}.allow`), `${label}.allow`);
	const limits = Object.entries(numbers).map(([name, byDefault]) => {
		const limit = given[name as keyof typeof numbers];
		return [name, limit === undefined ? byDefault : checkLimit(limit, name as keyof typeof numbers, label)];
	});
	return {allow: [...allow], ...(Object.fromEntries(limits) as Record<keyof typeof numbers, number>)};
}

function checkLimit(value: unknown, name: keyof typeof numbers, label: string): number {
	if (typeof value !== 'number') throw new TypeError(`${label}.${name}: expected a number, got ${quote(value)}`);
	const isWhole = name === 'transferMb' || Number.isInteger(value);
	if (isWhole && value > 0 && value <= most[name]) return value;
	const kind = name === 'transferMb' ? 'a number' : 'a whole number';
	throw new RangeError(`${label}.${name}: expected ${kind} above 0 and up to ${most[name]}, got ${value}`);
}
