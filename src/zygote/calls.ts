/** Reads the calls that a tree is fitted to, in each of the forms in which they come. */
import {ForktreeError} from '../errors.ts';
import {normaliseName} from '../packages/requirements.ts';
import type {FitCall, FitInput, PackageCost} from './fit.ts';

/** Which calls of a file that has two halves: those to fit to, those to judge by, or both. */
export type CallsHalf = 'train' | 'test' | 'all';

const PIN = /^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9](?:[A-Za-z0-9.+!_-]*[A-Za-z0-9])?)$/;
const MAX_PIN_CHARACTERS = 256;
const MAX_CALL_PACKAGES = 1000;

/**
 * Reads calls from a file's text: what a worker recorded (`{calls, costs, closures}`), a benchmark of the form of ReqBench
 * (`{packages, functions, train, test}`), or a trace, in which each line is the JSON list of the packages of one call.
 * Equal calls are answered as one.
 * @param half only for a benchmark; by default all of it
 * @throws {ForktreeError} `InvalidCalls` naming the place, for example `calls[3].packages[0]`, and what was expected there
 */
export function parseCalls(text: string, half?: CallsHalf): FitInput {
	if (!text.trimStart().startsWith('{')) {
		if (half !== undefined) throw invalid('the file', 'the halves train and test', 'a trace');
		return readTrace(text);
	}
	const value = parseJson(text, 'the file');
	const document = asObject(value, 'the file');
	if ('calls' in document) {
		if (half !== undefined) throw invalid('the file', 'the halves train and test', 'calls without');
		return readCalls(document);
	}
	if ('functions' in document && 'train' in document) return readBenchmark(document, half ?? 'all');
	throw invalid(
		'the file',
		'calls, or packages, functions, train and test',
		Object.keys(document).slice(0, 5).map(show).join(', ') || 'none of them',
	);
}

/**
 * Reads what a worker recorded.
 * @param value what `JSON.parse` made of it: `{calls: [{packages, count}], costs: {…}, closures: {…}}`; without `closures` a
 * package's only closure is itself
 * @throws {ForktreeError} `InvalidCalls` as {@link parseCalls}
 */
export function readCalls(value: unknown): FitInput {
	const {calls, costs = {}, closures = {}} = asObject(value, 'the calls');
	const collection = new Collection();
	for (const [index, call] of asList(calls, 'calls').entries()) {
		const place = `calls[${index}]`;
		const {packages, count = 1} = asObject(call, place);
		if (!(Number.isSafeInteger(count) && (count as number) > 0)) {
			throw invalid(`${place}.count`, 'a whole number above 0', show(count));
		}
		collection.addCall(packages, `${place}.packages`, count as number);
	}
	for (const [pin, cost] of Object.entries(asObject(costs, 'costs'))) {
		const place = `costs[${show(pin)}]`;
		const {ms, mib = 0} = asObject(cost, place);
		collection.addCost(pin, place, {ms: readAmount(ms, `${place}.ms`), mib: readAmount(mib, `${place}.mib`)});
	}
	for (const [pin, lists] of Object.entries(asObject(closures, 'closures'))) {
		collection.addClosures(pin, lists, `closures[${show(pin)}]`);
	}
	return collection.finish();
}

function readTrace(text: string): FitInput {
	const collection = new Collection();
	for (const [index, line] of text.split('\n').entries()) {
		const place = `line ${index + 1}`;
		if (line.trim() !== '') collection.addCall(parseJson(line, place), place, 1);
	}
	return collection.finish();
}

function readBenchmark(document: Readonly<Record<string, unknown>>, half: CallsHalf): FitInput {
	const collection = new Collection();
	const functions = new Map<string, {readonly requirements: unknown; readonly place: string}>();
	for (const [index, each] of asList(document.functions, 'functions').entries()) {
		const place = `functions[${index}]`;
		const {id, requirements} = asObject(each, place);
		if (typeof id !== 'string') throw invalid(`${place}.id`, 'a text', show(id));
		functions.set(id, {requirements, place: `${place}.requirements`});
	}
	const counts = new Map<string, number>();
	for (const name of half === 'all' ? (['train', 'test'] as const) : [half]) {
		for (const [index, id] of asList(document[name], name).entries()) {
			if (typeof id !== 'string' || !functions.has(id)) {
				throw invalid(`${name}[${index}]`, 'the id of one of the functions', show(id));
			}
			counts.set(id, (counts.get(id) ?? 0) + 1);
		}
	}
	for (const [id, count] of counts) {
		const called = functions.get(id);
		if (called !== undefined) collection.addCall(called.requirements, called.place, count);
	}
	for (const [pin, details] of Object.entries(asObject(document.packages, 'packages'))) {
		const place = `packages[${show(pin)}]`;
		const {closures = [], cost} = asObject(details, place);
		const {ms, anon, mb = 0} = asObject(cost, `${place}.cost`);
		// What grows when it is imported; pages of files are shared by all that map them.
		const mib = readAmount(anon ?? mb, `${place}.cost.anon`);
		collection.addCost(pin, place, {ms: readAmount(ms, `${place}.cost.ms`), mib});
		collection.addClosures(pin, closures, `${place}.closures`);
	}
	return collection.finish();
}

/** What was read so far, with equal things as one. */
class Collection {
	readonly #calls = new Map<string, FitCall>();
	readonly #costs = new Map<string, PackageCost>();
	readonly #closures = new Map<string, ReadonlyArray<readonly string[]>>();
	/** By the spelling. */
	readonly #pins = new Map<string, string>();

	addCall(list: unknown, place: string, count: number): void {
		const packages = this.#readPins(list, place).sort();
		const names = new Map<string, string>();
		for (const pin of packages) {
			const name = pin.slice(0, pin.indexOf('=='));
			const other = names.get(name);
			if (other !== undefined) throw invalid(place, `one version of ${name}`, `${other} and ${pin}`);
			names.set(name, pin);
		}
		const key = packages.join(' ');
		this.#calls.set(key, {packages, count: count + (this.#calls.get(key)?.count ?? 0)});
	}

	addCost(pin: string, place: string, cost: PackageCost): void {
		this.#costs.set(this.#readPin(pin, place), cost);
	}

	addClosures(text: string, lists: unknown, place: string): void {
		const pin = this.#readPin(text, place);
		const closures = asList(lists, place).map((list, index) => {
			const closure = this.#readPins(list, `${place}[${index}]`);
			return closure.includes(pin) ? closure : [...closure, pin];
		});
		if (closures.length > 0) this.#closures.set(pin, closures);
	}

	finish(): FitInput {
		if (this.#calls.size === 0) throw invalid('the file', 'at least one call', 'none');
		return {calls: [...this.#calls.values()], costs: this.#costs, closures: this.#closures};
	}

	/** Each once, in order. */
	#readPins(list: unknown, place: string): string[] {
		const texts = asList(list, place);
		if (texts.length > MAX_CALL_PACKAGES) throw invalid(place, `at most ${MAX_CALL_PACKAGES} packages`, show(texts));
		const pins = new Set<string>();
		for (let index = 0; index < texts.length; index++) {
			const text = texts[index];
			const known = typeof text === 'string' ? this.#pins.get(text) : undefined;
			pins.add(known ?? this.#readPin(text, `${place}[${index}]`));
		}
		return [...pins];
	}

	#readPin(text: unknown, place: string): string {
		const isShort = typeof text === 'string' && text.length <= MAX_PIN_CHARACTERS;
		const [, name, version] = (isShort ? PIN.exec(text) : undefined) ?? [];
		if (name === undefined) throw invalid(place, 'name==version, as in numpy==1.26.4', show(text));
		const pin = `${normaliseName(name)}==${version}`;
		this.#pins.set(text as string, pin);
		return pin;
	}
}

function parseJson(text: string, place: string): unknown {
	try {
		return JSON.parse(text);
	} catch (cause) {
		throw new ForktreeError('InvalidCalls', `${place}: expected JSON, got ${show(text)}`, {cause});
	}
}

function asObject(value: unknown, place: string): Readonly<Record<string, unknown>> {
	if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
	throw invalid(place, 'an object', show(value));
}

function asList(value: unknown, place: string): readonly unknown[] {
	if (Array.isArray(value)) return value;
	throw invalid(place, 'a list', show(value));
}

function readAmount(value: unknown, place: string): number {
	if (typeof value === 'number' && value >= 0 && value < Number.POSITIVE_INFINITY) return value;
	throw invalid(place, 'a number from 0', show(value));
}

function invalid(place: string, expected: string, got: string): ForktreeError {
	return new ForktreeError('InvalidCalls', `${place}: expected ${expected}, got ${got}`);
}

function show(value: unknown): string {
	if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
	if (Array.isArray(value)) return `a list of ${value.length}`;
	if (value === undefined) return 'nothing';
	return typeof value === 'object' && value !== null ? 'an object' : String(value);
}
