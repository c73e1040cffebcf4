/**
 * Reads requirements.txt: the part of PEP 508 that an index serves. The grammar here is deliberately narrower than the
 * installers': whatever they would take for an option, a path, a URL or an environment variable is refused or cannot
 * be spelled, so the normalised text is safe to hand to them.
 */
import {ForktreeError} from '../errors.ts';

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
};

/** The requirements of one function. Two texts that differ in order, comments or spelling have the same `text`. */
export type RequirementList = {
	readonly lines: readonly Requirement[];
	/** One requirement a line, sorted, each once; empty when there are none. */
	readonly text: string;
};

const MAX_BYTES = 1024 * 1024;
const MAX_LINES = 10_000;
const MAX_LINE_BYTES = 4 * 1024;
const MAX_DEPTH = 50;

const NAME = /[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?/y;
const CLAUSE = /(===|~=|==|!=|<=|>=|<|>)[ \t]*([A-Za-z0-9][A-Za-z0-9.*+!_-]*)/y;
const SPACE = /[ \t]*/y;
// Installers would expand `${NAME}`, cut at ` #` and split at ` -` inside a quoted string, so those cannot be spelled.
const MARKER_STRING =
	/'(?:[A-Za-z0-9(){}.,;:/?[\]!~`@%^&=+|<>*_"-]| (?!-))*'|"(?:[A-Za-z0-9(){}.,;:/?[\]!~`@%^&=+|<>*_'-]| (?!-))*"/y;
const MARKER_VARIABLE =
	/(?:python_version|python_full_version|os_name|sys_platform|platform_release|platform_system|platform_version|platform_machine|platform_python_implementation|implementation_name|implementation_version|extra)(?![A-Za-z0-9_])/y;
const MARKER_OPERATOR = /===|~=|==|!=|<=|>=|<|>|in(?![A-Za-z0-9_])|not[ \t]+in(?![A-Za-z0-9_])/y;
const BOOLEAN = /(?:and|or)(?![A-Za-z0-9_])/y;
const ARCHIVE = /\.(?:whl|zip|egg|tgz|tar|tbz|txz|tlz|tar\.\w+)$/i;
const EXPECTED_NAME = 'a package name, as in numpy or numpy==1.26.4';

/** Normalises a distribution's name as PEP 503 says: lower case, runs of `-`, `_` and `.` become one `-`. */
export function normaliseName(name: string): string {
	return name.replace(/[-_.]+/g, '-').toLowerCase();
}

/**
 * Reads the text of a requirements.txt file.
 * @throws {ForktreeError} `InvalidRequirements` naming the line and what was expected there: for options, URLs, paths,
 * direct references (`name @ …`), anything else that is not PEP 508, and texts of more than 1 MiB, 10,000 lines or
 * 4 KiB a line.
 */
export function parseRequirements(text: string): RequirementList {
	const byText = new Map<string, Requirement>();
	for (const {number, content} of logicalLines(text)) {
		const requirement = new LineParser(content, number).parse();
		byText.set(format(requirement), requirement);
	}
	const sorted = [...byText].sort(([left], [right]) => (left < right ? -1 : 1));
	return {lines: sorted.map(([, requirement]) => requirement), text: sorted.map(([line]) => `${line}\n`).join('')};
}

function format({name, extras, specifier, marker}: Requirement): string {
	return `${name}${extras.length > 0 ? `[${extras.join(',')}]` : ''}${specifier}${marker === undefined ? '' : ` ; ${marker}`}`;
}

type LogicalLine = {readonly number: number; readonly content: string};

/** Joins continued lines and drops comments and blanks, in the order in which pip does. */
function logicalLines(text: string): LogicalLine[] {
	if (Buffer.byteLength(text) > MAX_BYTES) throw invalid(undefined, `at most ${MAX_BYTES} bytes`, 'more');
	const physical = text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/);
	if (physical.length > MAX_LINES + 1) throw invalid(undefined, `at most ${MAX_LINES} lines`, `${physical.length}`);
	const lines: LogicalLine[] = [];
	let pieces: string[] = [];
	let start = 1;
	for (const [index, line] of physical.entries()) {
		checkCharacters(line, index + 1);
		if (pieces.length === 0) start = index + 1;
		const isComment = /^[ \t]*#/.test(line);
		// The space keeps a comment that ends a continued line apart from what it would otherwise be glued to.
		pieces.push(isComment ? ` ${line}` : line.replace(/\\+$/, ''));
		if (!isComment && line.endsWith('\\') && index + 1 < physical.length) continue;
		const joined = pieces.join('');
		pieces = [];
		if (Buffer.byteLength(joined) > MAX_LINE_BYTES) throw tooLong(start);
		const content = withoutComment(joined).trim();
		if (content !== '') lines.push({number: start, content});
	}
	return lines;
}

function checkCharacters(line: string, number: number): void {
	if (Buffer.byteLength(line) > MAX_LINE_BYTES) throw tooLong(number);
	// Installers written in Python also break lines at these, so a "comment" could hold a requirement of its own.
	const found = /[^\P{Cc}\t]|[\u2028\u2029]/u.exec(line);
	if (found !== null) throw invalid(number, 'text without control characters', JSON.stringify(found[0]));
}

function withoutComment(line: string): string {
	if (line.startsWith('#')) return '';
	const start = line.search(/[ \t]#/);
	return start === -1 ? line : line.slice(0, start);
}

/** Reads one requirement by recursive descent; every pattern is sticky and linear, so hostile lines stay cheap. */
class LineParser {
	readonly #line: string;
	readonly #number: number;
	#at = 0;

	constructor(line: string, number: number) {
		this.#line = line;
		this.#number = number;
	}

	parse(): Requirement {
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

	#refuseOthers(): void {
		if (this.#line.startsWith('-')) throw this.#unexpected('a requirement; options are not allowed');
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
		const clause = this.#expect(CLAUSE, 'a version, as in ==1.0 or >=1.0,<2').replace(/[ \t]+/g, '');
		if (ARCHIVE.test(clause)) throw this.#unexpected('a version, not the name of a file');
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
		if (variable !== undefined) return variable;
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
		const rest = this.#line.slice(at, at + 60);
		return invalid(this.#number, expected, rest === '' ? 'the end of the line' : JSON.stringify(rest));
	}
}

function tooLong(number: number): ForktreeError {
	return invalid(number, `at most ${MAX_LINE_BYTES} bytes a line`, 'more');
}

function invalid(line: number | undefined, expected: string, found: string): ForktreeError {
	const where = line === undefined ? 'requirements' : `requirements, line ${line}`;
	return new ForktreeError('InvalidRequirements', `${where}: expected ${expected}; found ${found}`);
}
