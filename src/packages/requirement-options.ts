/** Reads the options that may stand in a requirements file, in the spellings that pip documents. */
import type {ForktreeError} from '../errors.ts';
import {normaliseName} from './requirement.ts';
import {invalidRequirements, type Place} from './requirement-lines.ts';

/** An option with what it was given. */
export type Option =
	| {readonly kind: 'requirement' | 'constraint' | 'editable'; readonly path: string}
	| {readonly kind: 'index-url' | 'extra-index-url' | 'find-links'; readonly url: string}
	| {readonly kind: 'find-folder'; readonly folder: string}
	| {readonly kind: 'no-binary' | 'only-binary'; readonly names: readonly string[]}
	| {readonly kind: 'hash'; readonly hash: string}
	| {readonly kind: 'no-index' | 'pre' | 'prefer-binary' | 'require-hashes'};

const SHORT: ReadonlyMap<string, string> = new Map([
	['-r', '--requirement'],
	['-c', '--constraint'],
	['-i', '--index-url'],
	['-f', '--find-links'],
	['-e', '--editable'],
]);
const EXPECTED_OPTION =
	'one of -r, -c, -e, -i, --extra-index-url, -f, --no-index, --pre, --no-binary, --only-binary, --prefer-binary, --require-hashes, and --hash after a requirement';
const EXPECTED_URL = 'a URL that starts with https:// or http://';
const WORD = /(?:[^ \t'"\\]|'[^']*'|"[^"\\]*")+/y;

/**
 * Reads options up to the end of a line.
 * @throws {ForktreeError} `InvalidRequirements` for others, and values that are not usable.
 */
export function parseOptions(text: string, place: Place): Option[] {
	const words = splitWords(text, place);
	const options: Option[] = [];
	for (let word = words.shift(); word !== undefined; word = words.shift()) {
		const {name, value} = splitOption(word);
		options.push(
			createOption(name, value, words, (expected, found = word) => invalidRequirements(place, expected, found)),
		);
	}
	return options;
}

/** As a shell does, but for backslashes. */
function splitWords(text: string, place: Place): string[] {
	const words: string[] = [];
	let at = 0;
	while (at < text.length) {
		if (text[at] === ' ' || text[at] === '\t') {
			at += 1;
			continue;
		}
		WORD.lastIndex = at;
		const word = WORD.exec(text)?.[0];
		if (word === undefined) {
			throw invalidRequirements(place, 'closed quotes and no backslash in an option', text.slice(at));
		}
		words.push(word.replace(/'([^']*)'|"([^"]*)"/g, '$1$2'));
		at += word.length;
	}
	return words;
}

/** Takes `--name=value` and `-nvalue` apart. */
function splitOption(word: string): {readonly name: string; readonly value: string | undefined} {
	if (!word.startsWith('--')) {
		const short = word.slice(0, 2);
		return {name: SHORT.get(short) ?? word, value: word.length > 2 ? word.slice(2) : undefined};
	}
	const end = word.indexOf('=');
	return end === -1 ? {name: word, value: undefined} : {name: word.slice(0, end), value: word.slice(end + 1)};
}

type Fail = (expected: string, found?: string) => ForktreeError;

/** @param rest the words that follow, of which the option takes its value when it has none yet. */
function createOption(name: string, given: string | undefined, rest: string[], fail: Fail): Option {
	const value = () => {
		const found = given ?? rest.shift();
		if (found === undefined || found === '') throw fail(`a value after ${name}`);
		return found;
	};
	switch (name) {
		case '--requirement':
			return {kind: 'requirement', path: value()};
		case '--constraint':
			return {kind: 'constraint', path: value()};
		case '--editable':
			return {kind: 'editable', path: value()};
		case '--index-url':
			return {kind: 'index-url', url: checkUrl(value(), name, fail)};
		case '--extra-index-url':
			return {kind: 'extra-index-url', url: checkUrl(value(), name, fail)};
		case '--find-links':
			return readLinks(value(), name, fail);
		case '--no-binary':
			return {kind: 'no-binary', names: checkNames(value(), name, fail)};
		case '--only-binary':
			return {kind: 'only-binary', names: checkNames(value(), name, fail)};
		case '--hash':
			return {kind: 'hash', hash: checkHash(value(), fail)};
		case '--no-index':
		case '--pre':
		case '--prefer-binary':
		case '--require-hashes':
			if (given !== undefined) throw fail(`${name} without a value`);
			return {kind: name.slice(2) as 'no-index' | 'pre' | 'prefer-binary' | 'require-hashes'};
		case '--trusted-host':
			throw fail('another option; --trusted-host would leave off the check of certificates');
		default:
			throw fail(name.startsWith('-') ? EXPECTED_OPTION : 'an option, or the end of the line');
	}
}

/** A page, or a folder beside the file. */
function readLinks(value: string, name: string, fail: Fail): Option {
	if (/^\.{1,2}\//.test(value)) return {kind: 'find-folder', folder: value};
	return {kind: 'find-links', url: checkUrl(value, name, fail)};
}

/** Answers the URL in normal form. What is wrong with it is not shown whole, since it may hold a password. */
function checkUrl(value: string, name: string, fail: Fail): string {
	const scheme = /^[a-z][a-z+.-]*:/i.exec(value)?.[0].toLowerCase();
	if (scheme === undefined) throw fail(`${EXPECTED_URL} after ${name}, not a path`, value);
	// Spelled as it is sent, so that nobody has to guess how an installer encodes it.
	const isSound = /^https?:\/\/[!#-;=?-[\]_a-z~]+$/i.test(value) && URL.canParse(value);
	if (!isSound) throw fail(`${EXPECTED_URL} after ${name}, percent-encoded where needed`, `${scheme}…`);
	return new URL(value).href;
}

function checkNames(value: string, name: string, fail: Fail): readonly string[] {
	return value.split(',').map((item) => {
		if (item === ':all:' || item === ':none:') return item;
		if (/^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(item)) return normaliseName(item);
		throw fail(`names with commas between them, :all: or :none: after ${name}`, item);
	});
}

function checkHash(value: string, fail: Fail): string {
	const hash = readHash(value);
	if (hash === undefined) throw fail('--hash=sha256: and 64 hexadecimal digits', value);
	return hash;
}

/** Answers a hash in lower case; `undefined` when it is not one of SHA-256. */
export function readHash(value: string): string | undefined {
	return /^sha256:[0-9a-f]{64}$/i.test(value) ? value.toLowerCase() : undefined;
}
