/** Takes the text of a requirements file apart into lines as pip does: continued lines joined, comments dropped. */
import {ForktreeError} from '../errors.ts';

/** Where something stands, for messages. */
export type Place = {
	/** The file's path relative to the function's folder; `undefined` for lines given in a program. */
	readonly file: string | undefined;
	/** Counted from 1; of a continued line, its first. */
	readonly line: number | undefined;
	/** The path of a field, where a file has fields, for example `project.dependencies[2]`. */
	readonly field?: string;
};

/** A line without comment and outer blanks; never empty. */
export type LogicalLine = {readonly place: Place; readonly content: string};

/** Bounds of what is read. */
export const requirementsLimits = {
	/** Of all files together: a locked set of a thousand packages with their hashes takes less. */
	sizeBytes: 4 * 1024 * 1024,
	/** Lines of one file. */
	lines: 50_000,
	/** Of one line as it stands in the file. */
	lineBytes: 4 * 1024,
	/** Of a continued line, when joined: some packages come in hundreds of files, each with its hash. */
	joinedBytes: 64 * 1024,
} as const;

const EXCERPT_CHARACTERS = 60;

/**
 * Splits and joins the lines of a file, and drops what is not meant for anybody.
 * @throws {ForktreeError} `InvalidRequirements` for texts and lines beyond {@link requirementsLimits}, control
 * characters, text that is not well-formed, and variables of the environment.
 */
export function logicalLines(text: string, file: string | undefined): LogicalLine[] {
	const {sizeBytes, lines: maxLines, joinedBytes} = requirementsLimits;
	if (Buffer.byteLength(text) > sizeBytes) throw tooLarge({file, line: undefined}, `${sizeBytes} bytes`);
	const physical = text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/, maxLines + 2);
	if (physical.length > maxLines + 1) throw tooLarge({file, line: undefined}, `${maxLines} lines`);
	const lines: LogicalLine[] = [];
	let pieces: string[] = [];
	let start = 1;
	for (const [index, line] of physical.entries()) {
		checkCharacters(line, {file, line: index + 1});
		if (pieces.length === 0) start = index + 1;
		const isComment = /^[ \t]*#/.test(line);
		// The space keeps a comment that ends a continued line apart from what it would otherwise be glued to.
		pieces.push(isComment ? ` ${line}` : withoutBackslashes(line));
		if (!isComment && line.endsWith('\\') && index + 1 < physical.length) continue;
		const place = {file, line: start};
		const joined = pieces.join('');
		pieces = [];
		if (Buffer.byteLength(joined) > joinedBytes) throw tooLarge(place, `${joinedBytes} bytes in a continued line`);
		const content = withoutComment(joined).trim();
		if (content === '') continue;
		checkVariables(content, place);
		lines.push({place, content});
	}
	return lines;
}

function checkCharacters(line: string, place: Place): void {
	const {lineBytes} = requirementsLimits;
	if (Buffer.byteLength(line) > lineBytes) throw tooLarge(place, `${lineBytes} bytes a line`);
	// Installers written in Python also break lines at these, so a "comment" could hold a requirement of its own.
	const control = /[^\P{Cc}\t]|[\u2028\u2029]/u.exec(line)?.[0];
	if (control !== undefined) throw invalidRequirements(place, 'text without control characters', control);
	const surrogate = /\p{Cs}/u.exec(line)?.[0];
	if (surrogate !== undefined) throw invalidRequirements(place, 'well-formed Unicode', surrogate);
}

/** Installers would put the host’s environment in their place. */
function checkVariables(content: string, place: Place): void {
	const variable = /\$\{[A-Za-z0-9_]+\}/.exec(content)?.[0];
	if (variable === undefined) return;
	throw invalidRequirements(place, 'text as it is meant; variables of the environment are not put in', variable);
}

/** Not by a pattern: one for a run at the end is tried again at each of its characters. */
function withoutBackslashes(line: string): string {
	let end = line.length;
	while (line[end - 1] === '\\') end -= 1;
	return line.slice(0, end);
}

function withoutComment(line: string): string {
	if (line.startsWith('#')) return '';
	const start = line.search(/[ \t]#/);
	return start === -1 ? line : line.slice(0, start);
}

function tooLarge(place: Place, limit: string): ForktreeError {
	return invalidRequirements(place, `at most ${limit}`, undefined);
}

/**
 * The error for something that is not as expected.
 * @param found what stands there instead, of which a message shows the beginning, and no password of a URL; `''` at the
 * end of a line, `undefined` for more than expected.
 */
export function invalidRequirements(place: Place, expected: string, found: string | undefined): ForktreeError {
	return new ForktreeError('InvalidRequirements', `${placeText(place)}: expected ${expected}; found ${excerpt(found)}`);
}

/** A place in words, for example `requirements.txt, line 3`. */
export function placeText({file = 'requirements', line, field}: Place): string {
	return `${file}${line === undefined ? '' : `, line ${line}`}${field === undefined ? '' : `, ${field}`}`;
}

function excerpt(found: string | undefined): string {
	if (found === undefined) return 'more';
	if (found === '') return 'the end of the line';
	return JSON.stringify(found.replace(/\/\/[^/\s]*@/g, '//****@').slice(0, EXCERPT_CHARACTERS));
}
