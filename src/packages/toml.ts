/** Reads TOML files that users wrote: within bounds, and every error names the file and the field. */
import {parse, TomlError} from 'smol-toml';
import {invalidRequirements, type LogicalLine, type Place} from './requirement-lines.ts';

/** Bounds of what is read. */
export const tomlLimits = {
	/** A lock of a thousand packages takes less. */
	sizeBytes: 4 * 1024 * 1024,
	lines: 200_000,
	/** Without it one key of two million parts takes seconds. */
	lineCharacters: 64 * 1024,
	depth: 100,
} as const;

/**
 * Reads a document.
 * @param file for messages
 * @param firstLine where in the file the text begins, counted from 1
 * @throws {ForktreeError} `InvalidRequirements` for what is no TOML, and beyond {@link tomlLimits}.
 */
export function parseToml(text: string, file: string, firstLine = 1): TomlTable {
	const {sizeBytes, lines, lineCharacters, depth} = tomlLimits;
	const tooLarge = (limit: string) => invalidRequirements({file, line: undefined}, `at most ${limit}`, undefined);
	if (Buffer.byteLength(text) > sizeBytes) throw tooLarge(`${sizeBytes} bytes`);
	const split = text.split('\n', lines + 1);
	if (split.length > lines) throw tooLarge(`${lines} lines`);
	if (split.some(({length}) => length > lineCharacters)) throw tooLarge(`${lineCharacters} characters a line`);
	try {
		return new TomlTable(parse(text.replace(/^\uFEFF/, ''), {maxDepth: depth}), {file, line: undefined});
	} catch (error) {
		if (!(error instanceof TomlError)) throw error;
		const reason = error.message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '');
		throw invalidRequirements({file, line: firstLine + error.line - 1}, `TOML (${reason})`, split[error.line - 1]);
	}
}

/** A table of a document. A field that is not there is `undefined`; one of another type is an error. */
export class TomlTable {
	readonly place: Place;
	readonly #fields: {readonly [name: string]: unknown};

	constructor(fields: object, place: Place) {
		this.#fields = fields as {readonly [name: string]: unknown};
		this.place = place;
	}

	has(name: string): boolean {
		return Object.hasOwn(this.#fields, name);
	}

	/** Of its fields. */
	names(): readonly string[] {
		return Object.keys(this.#fields);
	}

	/** The place of a field. */
	placeOf(name: string): Place {
		const {file, line, field} = this.place;
		return {file, line, field: field === undefined ? name : `${field}.${name}`};
	}

	text(name: string): string | undefined {
		const value = this.#get(name);
		return value === undefined ? undefined : checkText(value, this.placeOf(name));
	}

	number(name: string): number | undefined {
		const value = this.#get(name);
		if (value === undefined || typeof value === 'number') return value;
		throw unexpected(this.placeOf(name), 'a number', value);
	}

	/** A list of texts. */
	texts(name: string): readonly LogicalLine[] | undefined {
		return this.#list(name)?.map(([value, place]) => ({content: checkText(value, place), place}));
	}

	table(name: string): TomlTable | undefined {
		const value = this.#get(name);
		return value === undefined ? undefined : tableOf(value, this.placeOf(name));
	}

	/** A list of tables. */
	tables(name: string): readonly TomlTable[] | undefined {
		return this.#list(name)?.map(([value, place]) => tableOf(value, place));
	}

	/** Names of fields come from outside: they mean nothing else than fields. */
	#get(name: string): unknown {
		return Object.hasOwn(this.#fields, name) ? this.#fields[name] : undefined;
	}

	#list(name: string): ReadonlyArray<readonly [value: unknown, place: Place]> | undefined {
		const value = this.#get(name);
		if (value === undefined) return undefined;
		const place = this.placeOf(name);
		if (!Array.isArray(value)) throw unexpected(place, 'a list', value);
		return value.map((each, index) => [each, {...place, field: `${place.field}[${index}]`}]);
	}
}

function checkText(value: unknown, place: Place): string {
	if (typeof value === 'string') return value;
	throw unexpected(place, 'text', value);
}

function tableOf(value: unknown, place: Place): TomlTable {
	const isTable = typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
	if (isTable) return new TomlTable(value, place);
	throw unexpected(place, 'a table', value);
}

function unexpected(place: Place, expected: string, value: unknown) {
	const kind = Array.isArray(value) ? 'a list' : value instanceof Date ? 'a date' : `a ${typeof value}`;
	return invalidRequirements(place, expected, kind === 'a object' ? 'a table' : kind);
}
