/** Evaluates environment markers, as PEP 508 defines them, and PEP 751 for those of locks. */
import {machine, release, version as systemVersion, type} from 'node:os';
import {satisfies, valid, validRange} from '@renovatebot/pep440';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {normaliseName} from './requirement.ts';
import {invalidRequirements, type LogicalLine, type Place} from './requirement-lines.ts';

/** Answers whether markers hold. */
export type MarkerEnvironment = {
	/** By the name of a variable. */
	readonly variables: ReadonlyMap<string, string>;
	/** The variables of locks that are sets: which extras and which dependency groups are wanted. */
	readonly sets: ReadonlyMap<string, ReadonlySet<string>>;
};

type Operand = {readonly value: string | ReadonlySet<string>; readonly variable: string | undefined};

const MAX_CHARACTERS = 64 * 1024;
const MAX_DEPTH = 50;
const TOKEN = /[ \t\n]*(?:([()])|'([^']*)'|"([^"]*)"|(===|~=|==|!=|<=|>=|<|>)|([a-z_]+))/y;
/** Those that are compared as versions when both sides are some; others are text. */
const VERSIONS: ReadonlySet<string> = new Set([
	'python_version',
	'python_full_version',
	'implementation_version',
	'platform_release',
]);
const NAMES: ReadonlySet<string> = new Set(['extra', 'extras', 'dependency_groups']);

/**
 * The environment of functions on this machine: what CPython would say there.
 * @param groups dependency groups that are wanted
 */
export function markerEnvironment(
	{version}: Pick<Interpreter, 'version'>,
	groups: readonly string[] = [],
): MarkerEnvironment {
	return {
		variables: new Map([
			['python_version', version.split('.').slice(0, 2).join('.')],
			['python_full_version', version],
			['implementation_name', 'cpython'],
			['implementation_version', version],
			['platform_python_implementation', 'CPython'],
			['os_name', 'posix'],
			['sys_platform', 'linux'],
			['platform_system', type()],
			['platform_machine', machine()],
			['platform_release', release()],
			['platform_version', systemVersion()],
			// None is asked for.
			['extra', ''],
		]),
		sets: new Map([
			['extras', new Set<string>()],
			['dependency_groups', new Set(groups.map(normaliseName))],
		]),
	};
}

/**
 * Whether a marker holds.
 * @throws {ForktreeError} `InvalidRequirements` when it is none
 */
export function holds({content, place}: LogicalLine, environment: MarkerEnvironment): boolean {
	if (content.length > MAX_CHARACTERS) {
		throw invalidRequirements(place, `at most ${MAX_CHARACTERS} characters in a marker`, undefined);
	}
	return new MarkerReader(content, place, environment).read();
}

/** Reads by recursive descent, and evaluates on the way; all of it is read, whatever the answer is. */
class MarkerReader {
	readonly #text: string;
	readonly #place: Place;
	readonly #environment: MarkerEnvironment;
	#at = 0;

	constructor(text: string, place: Place, environment: MarkerEnvironment) {
		this.#text = text.trimEnd();
		this.#place = place;
		this.#environment = environment;
	}

	read(): boolean {
		const answer = this.#alternatives(0);
		if (this.#at < this.#text.length) throw this.#unexpected('and, or, or the end of the marker');
		return answer;
	}

	#alternatives(depth: number): boolean {
		if (depth > MAX_DEPTH) throw this.#unexpected(`at most ${MAX_DEPTH} nested parentheses`);
		let answer = this.#conjunction(depth);
		while (this.#takeWord('or')) answer = this.#conjunction(depth) || answer;
		return answer;
	}

	#conjunction(depth: number): boolean {
		let answer = this.#term(depth);
		while (this.#takeWord('and')) answer = this.#term(depth) && answer;
		return answer;
	}

	#term(depth: number): boolean {
		if (!this.#takeWord('(')) return this.#comparison();
		const answer = this.#alternatives(depth + 1);
		if (!this.#takeWord(')')) throw this.#unexpected('and, or, or )');
		return answer;
	}

	#comparison(): boolean {
		const left = this.#operand();
		const operator = this.#operator();
		const right = this.#operand();
		const variable = left.variable ?? right.variable;
		if (variable === undefined) throw this.#unexpected('a variable on one side of a comparison');
		const [first, second] = NAMES.has(variable) ? [normalised(left), normalised(right)] : [left.value, right.value];
		if (typeof first !== 'string') throw this.#unexpected(`in before ${left.variable}`);
		if (operator === 'in') return typeof second === 'string' ? second.includes(first) : second.has(first);
		if (operator === 'not in') return typeof second === 'string' ? !second.includes(first) : !second.has(first);
		if (typeof second !== 'string') throw this.#unexpected(`in before ${right.variable}`);
		return compare(first, operator, second, VERSIONS.has(variable));
	}

	#operand(): Operand {
		const start = this.#at;
		const [, , single, double, , word] = this.#next() ?? [];
		const literal = single ?? double;
		if (literal !== undefined) return {value: literal, variable: undefined};
		const {variables, sets} = this.#environment;
		const value = word === undefined ? undefined : (variables.get(word) ?? sets.get(word));
		if (value !== undefined) return {value, variable: word};
		this.#at = start;
		throw this.#unexpected('a variable of PEP 508 or a text in quotes');
	}

	#operator(): string {
		const start = this.#at;
		const [, , , , sign, word] = this.#next() ?? [];
		if (sign !== undefined || word === 'in') return sign ?? 'in';
		if (word === 'not' && this.#takeWord('in')) return 'not in';
		this.#at = start;
		throw this.#unexpected('a comparison');
	}

	#takeWord(expected: string): boolean {
		const start = this.#at;
		const [, parenthesis, , , , word] = this.#next() ?? [];
		if ((parenthesis ?? word) === expected) return true;
		this.#at = start;
		return false;
	}

	#next(): RegExpExecArray | undefined {
		TOKEN.lastIndex = this.#at;
		const found = TOKEN.exec(this.#text);
		if (found === null) return undefined;
		this.#at = TOKEN.lastIndex;
		return found;
	}

	#unexpected(expected: string) {
		return invalidRequirements(this.#place, expected, this.#text.slice(this.#at).trimStart());
	}
}

function normalised({value}: Operand): Operand['value'] {
	return typeof value === 'string' ? normaliseName(value) : value;
}

function compare(left: string, operator: string, right: string, areVersions: boolean): boolean {
	if (areVersions && valid(left) !== null && validRange(`${operator}${right}`)) {
		return satisfies(left, `${operator}${right}`, {prereleases: true});
	}
	switch (operator) {
		case '==':
		case '===':
			return left === right;
		case '!=':
			return left !== right;
		case '<':
			return left < right;
		case '<=':
			return left <= right;
		case '>':
			return left > right;
		case '>=':
			return left >= right;
		default:
			return false;
	}
}
