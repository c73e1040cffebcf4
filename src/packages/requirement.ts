/**
 * Reads one requirement: the part of PEP 508 that an index serves. The grammar here is deliberately narrower than the
 * installers': whatever they would take for an option, a path, a URL or an environment variable is refused or cannot
 * be spelled, so the normalised text is safe to hand to them.
 *
 * Own code, since the kept libraries read requirements with a memoising grammar: a megabyte of short lines took one of
 * them a minute and 2.5 GB, nested parentheses overflow its stack, and it knows neither hashes nor options.
 */
import type {ForktreeError} from '../errors.ts';
import {invalidRequirements, type Place} from './requirement-lines.ts';

/** One requirement. Markers are kept, not evaluated: the installer knows the interpreter. */
export type Requirement = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	/** Normalised, sorted, each once. */
	readonly extras: readonly string[];
	/** Comma-separated clauses without spaces, for example `>=1.0,<2`; empty when any version will do. */
	readonly specifier: string;
	/** For example `python_version < "3.11"`. */
	readonly marker: string | undefined;
	/** Of the files that are allowed, for example `sha256:9f86…`, sorted, each once; none when all are. */
	readonly hashes: readonly string[];
};

const MAX_BYTES = 4 * 1024;
const MAX_DEPTH = 50;

const NAME = /[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?/y;
const CLAUSE = /(===|~=|==|!=|<=|>=|<|>)[ \t]*([A-Za-z0-9][A-Za-z0-9.*+!_-]*)/y;
// The versions of PEP 440, appendix B, with what its section on version specifiers allows after each operator.
const RELEASE = 'v?(?:[0-9]+!)?[0-9]+';
const SUFFIX =
	'(?:[-_.]?(?:alpha|beta|preview|pre|a|b|c|rc)[-_.]?[0-9]*)?(?:-[0-9]+|[-_.]?(?:post|rev|r)[-_.]?[0-9]*)?(?:[-_.]?dev[-_.]?[0-9]*)?';
const LOCAL = '(?:\\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?';
const EXACT = new RegExp(`^${RELEASE}(?:\\.[0-9]+)*(?:\\.\\*|${SUFFIX}${LOCAL})$`, 'i');
const COMPATIBLE = new RegExp(`^${RELEASE}(?:\\.[0-9]+)+${SUFFIX}$`, 'i');
const ORDERED = new RegExp(`^${RELEASE}(?:\\.[0-9]+)*${SUFFIX}$`, 'i');
const SPACE = /[ \t]*/y;
// Installers would expand `${NAME}`, cut at ` #` and split at ` -` inside a quoted string, so those cannot be spelled.
const MARKER_STRING =
	/'(?:[A-Za-z0-9(){}.,;:/?[\]!~`@%^&=+|<>*_"-]| (?!-))*'|"(?:[A-Za-z0-9(){}.,;:/?[\]!~`@%^&=+|<>*_'-]| (?!-))*"/y;
// With a point: older spellings, which installers still take.
const MARKER_VARIABLE =
	/(?:python_version|python_full_version|os[._]name|sys[._]platform|platform_release|platform_system|platform[._]version|platform[._]machine|platform[._]python_implementation|python_implementation|implementation_name|implementation_version|extra)(?![A-Za-z0-9_])/y;
const MARKER_OPERATOR = /===|~=|==|!=|<=|>=|<|>|in(?![A-Za-z0-9_])|not[ \t]+in(?![A-Za-z0-9_])/y;
const BOOLEAN = /(?:and|or)(?![A-Za-z0-9_])/y;
const ARCHIVE = /\.(?:whl|zip|egg|tgz|tar|tbz|txz|tlz|tar\.\w+)$/i;
const EXPECTED_NAME = 'a package name, as in numpy or numpy==1.26.4';

/** Normalises a distribution's name as PEP 503 says: lower case, runs of `-`, `_` and `.` become one `-`. */
export function normaliseName(name: string): string {
	return name.replace(/[-_.]+/g, '-').toLowerCase();
}

/**
 * Reads a requirement without comment and options.
 * @throws {ForktreeError} `InvalidRequirements` naming the place and what was expected there: for URLs, paths, direct
 * references (`name @ …`), anything else that is not PEP 508, versions that are not PEP 440, and more than 4 KiB.
 */
export function parseRequirement(content: string, place: Place): Omit<Requirement, 'hashes'> {
	if (Buffer.byteLength(content) > MAX_BYTES) {
		throw invalidRequirements(place, `at most ${MAX_BYTES} bytes a requirement`, undefined);
	}
	return new RequirementParser(content, place).parse();
}

/**
 * Reads the name of a package alone.
 * @returns it, normalised
 * @throws {ForktreeError} `InvalidRequirements` as {@link parseRequirement}, and for more than a name
 */
export function parseName(content: string, place: Place): string {
	const requirement = parseRequirement(content, place);
	if (formatRequirement(requirement) === requirement.name) return requirement.name;
	throw invalidRequirements(place, 'the name of a package alone', content);
}

/**
 * Reads the versions that something allows, as `requires-python` has them.
 * @returns clauses as {@link Requirement} has them
 * @throws {ForktreeError} `InvalidRequirements` as {@link parseRequirement}
 */
export function parseSpecifier(content: string, place: Place): string {
	if (Buffer.byteLength(content) > MAX_BYTES) {
		throw invalidRequirements(place, `at most ${MAX_BYTES} bytes of versions`, undefined);
	}
	return new RequirementParser(content, place).parseSpecifier();
}

/** The requirement as one line, without its hashes. */
export function formatRequirement({name, extras, specifier, marker}: Omit<Requirement, 'hashes'>): string {
	return `${name}${extras.length > 0 ? `[${extras.join(',')}]` : ''}${specifier}${marker === undefined ? '' : ` ; ${marker}`}`;
}

/** Whether a requirement allows one version only. */
export function isPinned({specifier}: Requirement): boolean {
	return /^={2,3}[^,*]+$/.test(specifier);
}

/** Reads by recursive descent; every pattern is sticky or anchored, and linear, so hostile lines stay cheap. */
class RequirementParser {
	readonly #line: string;
	readonly #place: Place;
	#at = 0;

	constructor(line: string, place: Place) {
		this.#line = line;
		this.#place = place;
	}

	parse(): Omit<Requirement, 'hashes'> {
		this.#refuseOthers();
		const name = this.#expect(NAME, EXPECTED_NAME);
		if (ARCHIVE.test(name)) throw this.#unexpected('the name of a package, not of a file', 0);
		const extras = this.#extras();
		const specifier = this.#specifier();
		const marker = this.#take(/;/y) === undefined ? undefined : this.#markerList(0);
		this.#skipSpace();
		if (this.#at < this.#line.length) {
			throw this.#unexpected(
				marker === undefined ? 'a version as in ==1.0, or ; and a marker' : 'and, or, or the end of the line',
			);
		}
		return {name: normaliseName(name), extras, specifier, marker};
	}

	parseSpecifier(): string {
		const specifier = this.#specifier();
		this.#skipSpace();
		if (this.#at < this.#line.length) throw this.#unexpected('a version, as in >=3.9 or >=3.9,<4');
		return specifier;
	}

	#refuseOthers(): void {
		const subject = this.#line.split(';', 1)[0] ?? '';
		if (/^[./~\\]|:\/\/|^[A-Za-z0-9._-]*\//.test(subject)) {
			throw this.#unexpected('a package name; URLs and paths are not allowed');
		}
		if (subject.includes('@')) throw this.#unexpected('name==version; direct references with @ are not allowed');
	}

	#extras(): readonly string[] {
		if (this.#take(/\[/y) === undefined) return [];
		const extras = new Set<string>();
		if (this.#take(/\]/y) !== undefined) return [];
		do {
			extras.add(normaliseName(this.#expect(NAME, 'the name of an extra')));
		} while (this.#take(/,/y) !== undefined);
		this.#expect(/\]/y, 'a comma or ] after an extra');
		return [...extras].sort();
	}

	#specifier(): string {
		const parenthesised = this.#take(/\(/y) !== undefined;
		const clauses = new Set<string>();
		this.#skipSpace();
		if (parenthesised || /[=<>!~]/.test(this.#line.charAt(this.#at))) {
			do {
				clauses.add(this.#clause());
			} while (this.#take(/,/y) !== undefined);
		}
		if (parenthesised) this.#expect(/\)/y, 'a comma or ) after a version');
		return [...clauses].join(',');
	}

	#clause(): string {
		this.#skipSpace();
		const start = this.#at;
		const clause = this.#expect(CLAUSE, 'a version, as in ==1.0 or >=1.0,<2').replace(/[ \t]+/g, '');
		if (ARCHIVE.test(clause)) throw this.#unexpected('a version, not the name of a file');
		const fault = clauseFault(clause);
		if (fault !== undefined) throw this.#unexpected(fault, start);
		return clause;
	}

	#markerList(depth: number): string {
		if (depth > MAX_DEPTH) throw this.#unexpected(`at most ${MAX_DEPTH} nested parentheses`);
		let marker = this.#marker(depth);
		for (let word = this.#take(BOOLEAN); word !== undefined; word = this.#take(BOOLEAN)) {
			marker += ` ${word} ${this.#marker(depth)}`;
		}
		return marker;
	}

	#marker(depth: number): string {
		if (this.#take(/\(/y) !== undefined) {
			const inner = this.#markerList(depth + 1);
			this.#expect(/\)/y, 'and, or, or )');
			return `(${inner})`;
		}
		const left = this.#markerOperand();
		const operator = this.#expect(MARKER_OPERATOR, 'a comparison').replace(/[ \t]+/g, ' ');
		return `${left} ${operator} ${this.#markerOperand()}`;
	}

	#markerOperand(): string {
		const variable = this.#take(MARKER_VARIABLE);
		if (variable === 'python_implementation') return 'platform_python_implementation';
		if (variable !== undefined) return variable.replace('.', '_');
		const quoted = this.#expect(MARKER_STRING, 'a marker such as python_version < "3.11"');
		const inner = quoted.slice(1, -1);
		return inner.includes('"') ? quoted : `"${inner}"`;
	}

	#take(pattern: RegExp): string | undefined {
		this.#skipSpace();
		return this.#match(pattern);
	}

	#expect(pattern: RegExp, expected: string): string {
		const found = this.#take(pattern);
		if (found === undefined) throw this.#unexpected(expected);
		return found;
	}

	#skipSpace(): void {
		this.#match(SPACE);
	}

	#match(pattern: RegExp): string | undefined {
		pattern.lastIndex = this.#at;
		const found = pattern.exec(this.#line)?.[0];
		if (found !== undefined) this.#at += found.length;
		return found;
	}

	#unexpected(expected: string, at = this.#at): ForktreeError {
		return invalidRequirements(this.#place, expected, this.#line.slice(at));
	}
}

/** What a clause should have been; `undefined` when it is one of PEP 440. */
function clauseFault(clause: string): string | undefined {
	const operator = /^[=<>!~]+/.exec(clause)?.[0] ?? '';
	const version = clause.slice(operator.length);
	switch (operator) {
		case '===':
			return undefined;
		case '==':
		case '!=':
			return EXACT.test(version) ? undefined : 'a version of PEP 440, as in ==1.0, ==1.*, ==1!2.0rc1 or ==1.0+local';
		case '~=':
			return COMPATIBLE.test(version) ? undefined : 'a version of at least two numbers, as in ~=1.0';
		default:
			return ORDERED.test(version) ? undefined : `a version of PEP 440 without * and +, as in ${operator}1.0`;
	}
}
