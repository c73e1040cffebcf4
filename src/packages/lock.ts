/** What a set of requirements was resolved to: exact distributions, each by the hash of the file that it comes in. */
import {createHash} from 'node:crypto';
import {machine} from 'node:os';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {normaliseName} from './requirements.ts';

/** A file that a distribution comes in. */
export type Archive = {
	readonly kind: 'wheel' | 'sdist';
	/** Its name. */
	readonly file: string;
	/** `http:`, `https:` or `file:`, without credentials. */
	readonly url: string;
	/** Hexadecimal. */
	readonly sha256: string;
	/** As the index says; undefined when it says nothing. */
	readonly sizeBytes: number | undefined;
};

/** A distribution in one version, from one file. */
export type LockedDistribution = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	readonly archive: Archive;
};

/** A set of requirements, resolved for one interpreter. */
export type Lock = {
	/** 32 hexadecimal digits that name the content: of the interpreter's ABI, and of each name, version and hash. */
	readonly key: string;
	/** What {@link abiOf} answers. */
	readonly abi: string;
	/** Sorted by name, each once. */
	readonly distributions: readonly LockedDistribution[];
};

const FORMAT = 1;
const MAX_DISTRIBUTIONS = 10_000;
const MAX_URL_BYTES = 8 * 1024;
const MAX_FILE_BYTES = 255;

const ABI = /^[a-z0-9]+(?:[._-][a-z0-9]+)*$/i;
const NAME = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;
// The characters of PEP 440, and those of the versions that came before it. A folder can be named by it.
const VERSION = /^[A-Za-z0-9](?:[A-Za-z0-9.+!_-]{0,126}[A-Za-z0-9])?$/;
const FILE = /^[A-Za-z0-9][A-Za-z0-9._+!-]*$/;
const WHEEL = /^([^-]+)-([^-]+)(?:-\d[^-]*)?(?:-[^-]+){3}\.whl$/;
const SDIST = /^(.+)\.(?:tar\.gz|tgz|tar\.bz2|tar\.xz|tar|zip)$/i;
const SHA256 = /^[0-9a-f]{64}$/;

/** Names what byte code and native modules of an interpreter fit, for example `cpython-311-x86_64`. */
export function abiOf({cacheTag}: Interpreter): string {
	return `${cacheTag}-${machine()}`;
}

/**
 * Makes a lock of distributions in any order.
 * @throws {ForktreeError} `InvalidRequirements` naming the field that is not valid, or a name that is there twice.
 */
export function createLock(abi: string, distributions: readonly LockedDistribution[]): Lock {
	if (!ABI.test(abi)) throw invalid('abi', 'one such as cpython-311-x86_64', abi);
	if (distributions.length > MAX_DISTRIBUTIONS) {
		throw invalid('distributions', `at most ${MAX_DISTRIBUTIONS}`, distributions.length);
	}
	const sorted = distributions.map(checkDistribution).sort((left, right) => (left.name < right.name ? -1 : 1));
	for (const [index, {name}] of sorted.entries()) {
		if (sorted[index + 1]?.name === name) throw invalid('distributions', 'each name once', name);
	}
	return {key: keyOf(abi, sorted), abi, distributions: sorted};
}

function keyOf(abi: string, sorted: readonly LockedDistribution[]): string {
	const lines = sorted.map(({name, version, archive}) => `${name}==${version} ${archive.sha256}\n`);
	return createHash('sha256').update(`${abi}\n`).update(lines.join('')).digest('hex').slice(0, 32);
}

/** The text of a file that keeps a lock; {@link readLock} reads what `JSON.parse` makes of it. */
export function writeLock({key, abi, distributions}: Lock): string {
	return `${JSON.stringify({format: FORMAT, key, abi, distributions}, undefined, '\t')}\n`;
}

/**
 * Reads a lock that was kept.
 * @param json what `JSON.parse` made of the text of {@link writeLock}; anything else is refused
 * @throws {ForktreeError} `InvalidRequirements` naming the field that is not valid.
 */
export function readLock(json: unknown): Lock {
	const {format, key, abi, distributions} = checkObject(json, 'lock');
	if (format !== FORMAT) throw invalid('format', `${FORMAT}`, format);
	if (!Array.isArray(distributions)) throw invalid('distributions', 'a list', distributions);
	const lock = createLock(checkText(abi, 'abi'), distributions as LockedDistribution[]);
	if (key !== lock.key) throw invalid('key', lock.key, key);
	return lock;
}

/** The lock as a file of requirements with hashes, to show to a person: what a comment says of URLs no installer reads. */
export function lockAsText({abi, distributions}: Lock): string {
	const entries = distributions.map(
		({name, version, archive}) => `# ${archive.url}\n${name}==${version} --hash=sha256:${archive.sha256}\n`,
	);
	return `# for ${abi}\n${entries.join('')}`;
}

function checkDistribution(value: unknown): LockedDistribution {
	const fields = checkObject(value, 'distribution');
	const name = checkText(fields.name, 'name');
	if (!NAME.test(name) || name.length > MAX_FILE_BYTES) throw invalid('name', 'a normalised name', name);
	const version = checkText(fields.version, `version of ${name}`);
	if (!VERSION.test(version)) throw invalid(`version of ${name}`, 'one such as 1.0.2', version);
	return {name, version, archive: checkArchive(fields.archive, name, version)};
}

function checkArchive(value: unknown, name: string, version: string): Archive {
	const label = `archive of ${name}`;
	const {kind, file, url, sha256, sizeBytes} = checkObject(value, label);
	if (kind !== 'wheel' && kind !== 'sdist') throw invalid(label, 'a wheel or an sdist', kind);
	const hash = checkText(sha256, `sha256 of ${name}`);
	if (!SHA256.test(hash)) throw invalid(`sha256 of ${name}`, '64 hexadecimal digits in lower case', hash);
	if (sizeBytes !== undefined && !(Number.isSafeInteger(sizeBytes) && (sizeBytes as number) >= 0)) {
		throw invalid(`size of ${name}`, 'a number of bytes', sizeBytes);
	}
	return {
		kind,
		file: checkFile(kind, checkText(file, `file of ${name}`), name, version),
		url: checkUrl(checkText(url, `url of ${name}`), name),
		sha256: hash,
		sizeBytes: sizeBytes as number | undefined,
	};
}

function checkFile(kind: Archive['kind'], file: string, name: string, version: string): string {
	const label = `file of ${name}`;
	if (!FILE.test(file) || file.length > MAX_FILE_BYTES) throw invalid(label, 'the name of a file', file);
	const found = readArchiveName(file, name);
	if (found?.kind !== kind || !isSameVersion(found.version, version)) {
		throw invalid(label, `a ${kind} of ${name} ${version}`, file);
	}
	return file;
}

/**
 * Reads the name of an archive.
 * @returns what it is of the distribution of that name, its version as it is spelled there; undefined when it is none of it
 */
export function readArchiveName(
	file: string,
	name: string,
): {readonly kind: Archive['kind']; readonly version: string} | undefined {
	const [, wheelName, wheelVersion] = WHEEL.exec(file) ?? [];
	if (wheelName !== undefined && wheelVersion !== undefined) {
		return normaliseName(wheelName) === name ? {kind: 'wheel', version: wheelVersion} : undefined;
	}
	const stem = SDIST.exec(file)?.[1] ?? '';
	// Before PEP 625 names were written in any way, dashes included: the version begins where a name ends that is ours.
	for (let dash = stem.indexOf('-'); dash !== -1; dash = stem.indexOf('-', dash + 1)) {
		if (normaliseName(stem.slice(0, dash)) === name) return {kind: 'sdist', version: stem.slice(dash + 1)};
	}
	return undefined;
}

/**
 * Whether two spellings are of one version, as PEP 440 normalises; a bit more generous than that, since an archive that
 * passes for another of its own project must have the right hash all the same.
 */
export function isSameVersion(left: string, right: string): boolean {
	return normaliseVersion(left) === normaliseVersion(right);
}

const SPELLINGS: Readonly<Record<string, string>> = {alpha: 'a', beta: 'b', c: 'rc', pre: 'rc', preview: 'rc', v: ''};
const POST: ReadonlySet<string> = new Set(['post', 'rev', 'r']);

function normaliseVersion(version: string): string {
	const parts = version.toLowerCase().match(/\d+|[a-z]+/g) ?? [];
	const words = parts
		.filter((part) => !POST.has(part))
		.map((part) => (/^\d/.test(part) ? part.replace(/^0+(?=\d)/, '') : (SPELLINGS[part] ?? part)))
		.filter((part) => part !== '');
	// Zeros at the end of a release mean nothing.
	return words.join('.').replace(/(?:\.0)+(?=\.[a-z]|$)/g, '');
}

function checkUrl(text: string, name: string): string {
	const label = `url of ${name}`;
	const url = URL.canParse(text) && Buffer.byteLength(text) <= MAX_URL_BYTES ? new URL(text) : undefined;
	// Without the text: it may hold a password.
	if (url === undefined || !['http:', 'https:', 'file:'].includes(url.protocol)) {
		throw invalid(label, `an address of http, https or file with at most ${MAX_URL_BYTES} bytes`);
	}
	if (url.username !== '' || url.password !== '') throw invalid(label, 'no credentials');
	if (url.protocol === 'file:' && url.host !== '') throw invalid(label, 'a file of this machine');
	return url.href;
}

type Fields = {readonly [key: string]: unknown};

function checkObject(value: unknown, label: string): Fields {
	if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
	throw invalid(label, 'an object', value);
}

function checkText(value: unknown, label: string): string {
	if (typeof value === 'string') return value;
	throw invalid(label, 'text', value);
}

function invalid(label: string, expected: string, ...found: readonly unknown[]): ForktreeError {
	const shown = found.map((value) => `; found ${(JSON.stringify(value) ?? `${value}`).slice(0, 100)}`).join('');
	return new ForktreeError('InvalidRequirements', `lock, ${label}: expected ${expected}${shown}`);
}
