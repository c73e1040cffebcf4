/** What calls a function besides code: the `triggers` of its `ol.yaml`. */
import {checkKeys, checkRecord, type Fail} from './check.ts';
import {quote} from './name.ts';

/** A trigger by the clock. */
export type CronTrigger = {
	/** Five fields, see crontab(5). */
	readonly schedule: string;
};

/** A trigger by messages. */
export type KafkaTrigger = {
	/** Each is `host:port`. */
	readonly bootstrapServers: readonly string[];
	readonly topics: readonly string[];
	/** Where reading begins when nothing is known of an earlier reader. */
	readonly autoOffsetReset: 'latest' | 'earliest';
};

/** All of a function's triggers. */
export type Triggers = {
	/** Methods of HTTP that it takes, in upper case; `*` is any. */
	readonly http: readonly string[];
	readonly cron: readonly CronTrigger[];
	readonly kafka: readonly KafkaTrigger[];
};

/** Those of a function that names none. */
export const defaultTriggers: Triggers = {http: ['*'], cron: [], kafka: []};

const kinds = ['http', 'cron', 'kafka'] as const;
// A token of RFC 9110, section 5.6.2.
const method = /^(?:\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+)$/;
const offsets = ['latest', 'earliest'] as const;

/** Checks the triggers of a configuration; a list takes the place of the default. */
export function checkTriggers(value: unknown, label: string, fail: Fail): Triggers {
	const given = new Map(Object.entries(checkRecord(value, label, fail)));
	checkKeys(given.keys(), kinds, `${label}.`, fail);
	const read = <T>(kind: (typeof kinds)[number], check: (entry: Entry) => T): readonly T[] | undefined =>
		given.has(kind) ? checkEntries(given.get(kind), `${label}.${kind}`, fail).map(check) : undefined;
	return {
		http: read('http', checkMethod) ?? defaultTriggers.http,
		cron: read('cron', (entry) => ({schedule: entry.text('schedule')})) ?? defaultTriggers.cron,
		kafka: read('kafka', checkKafka) ?? defaultTriggers.kafka,
	};
}

/** One trigger of a list. */
class Entry {
	readonly label: string;
	readonly fail: Fail;
	readonly #values: ReadonlyMap<string, unknown>;

	constructor(value: unknown, label: string, fail: Fail) {
		this.label = label;
		this.fail = fail;
		this.#values = new Map(Object.entries(checkRecord(value, label, fail)));
	}

	only(...keys: readonly string[]): this {
		checkKeys(this.#values.keys(), keys, `${this.label}.`, this.fail);
		return this;
	}

	has(key: string): boolean {
		return this.#values.has(key);
	}

	text(key: string): string {
		const value = this.#values.get(key);
		if (typeof value === 'string' && value !== '') return value;
		throw this.fail(`${this.label}.${key} is ${quote(value)}, expected a non-empty string`, 'type');
	}

	texts(key: string): readonly string[] {
		const value = this.#values.get(key);
		const isRight = Array.isArray(value) && value.length > 0;
		if (isRight && value.every((each) => typeof each === 'string' && each !== '')) return value;
		throw this.fail(`${this.label}.${key} is ${quote(value)}, expected a list of non-empty strings`, 'type');
	}
}

function checkEntries(value: unknown, label: string, fail: Fail): readonly Entry[] {
	if (value === null) return [];
	if (!Array.isArray(value)) throw fail(`${label} is ${quote(value)}, expected a list`, 'type');
	return value.map((each, index) => new Entry(each, `${label}[${index}]`, fail));
}

function checkMethod(entry: Entry): string {
	const text = entry.only('method').text('method');
	if (method.test(text)) return text.toUpperCase();
	throw entry.fail(`${entry.label}.method is ${quote(text)}, expected a method of HTTP, or '*' for any`, 'range');
}

function checkKafka(entry: Entry): KafkaTrigger {
	entry.only('bootstrap_servers', 'topics', 'auto_offset_reset');
	const key = 'auto_offset_reset';
	const given = entry.has(key) ? entry.text(key) : 'latest';
	const autoOffsetReset = offsets.find((each) => each === given);
	if (autoOffsetReset === undefined) {
		throw entry.fail(`${entry.label}.${key} is ${quote(given)}, expected ${offsets.join(' or ')}`, 'range');
	}
	return {bootstrapServers: entry.texts('bootstrap_servers'), topics: entry.texts('topics'), autoOffsetReset};
}
