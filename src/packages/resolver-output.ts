/** Reads what resolvers answer. It was made in a sandbox, of what an index says, and so is not trusted. */
import {parse} from 'smol-toml';
import {normaliseName} from './requirements.ts';

/** A file that a resolver found, not checked further than its types. */
export type FoundFile = {
	readonly file: string;
	/** As the resolver gave it: it may hold credentials, or lead to a folder of the sandbox. */
	readonly url: string;
	readonly sha256: string;
	readonly sizeBytes: number | undefined;
};

/** A distribution that a resolver chose. */
export type Found = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	/** Wheels that the interpreter can use; at least one. */
	readonly files: readonly FoundFile[];
};

type Fields = {readonly [key: string]: unknown};

/**
 * Reads a `pylock.toml`, see PEP 751.
 * @throws {SyntaxError} when it is not one, or names something else than wheels.
 */
export function readPylock(text: string): Found[] {
	const {packages} = parseToml(text);
	return listOf(packages ?? [], 'packages').map((each) => {
		const {name: named, version, wheels} = fieldsOf(each, 'package');
		const name = textOf(named, 'name');
		const files = listOf(wheels, `wheels of ${name}`).map((wheel) => {
			const {url, size, hashes} = fieldsOf(wheel, `wheel of ${name}`);
			const address = textOf(url, `url of ${name}`);
			const {sha256} = fieldsOf(hashes, `hashes of ${name}`);
			return foundFile(address, textOf(sha256, `sha256 of ${name}`), size);
		});
		return found(name, version, files);
	});
}

/**
 * Reads an installation report of pip.
 * @throws {SyntaxError} when it is not one.
 */
export function readPipReport(text: string): Found[] {
	const {install} = fieldsOf(JSON.parse(text), 'report');
	return listOf(install, 'install').map((each) => {
		const {download_info: download, metadata} = fieldsOf(each, 'install');
		const {name: named, version} = fieldsOf(metadata, 'metadata');
		const name = textOf(named, 'name');
		const {url, archive_info: archive} = fieldsOf(download, `download of ${name}`);
		const {hash, hashes} = fieldsOf(archive, `archive of ${name}`);
		// Since pip 23.1 a table, before that one `sha256=…`.
		const sha256 = isFields(hashes) ? hashes.sha256 : /^sha256=(.*)$/.exec(textOf(hash, `hash of ${name}`))?.[1];
		return found(name, version, [foundFile(textOf(url, `url of ${name}`), textOf(sha256, `sha256 of ${name}`))]);
	});
}

function parseToml(text: string): Fields {
	try {
		return fieldsOf(parse(text), 'lock');
	} catch (error) {
		throw new SyntaxError(error instanceof Error ? error.message : `${error}`, {cause: error});
	}
}

function found(name: string, version: unknown, files: readonly FoundFile[]): Found {
	if (files.length === 0) throw new SyntaxError(`expected wheels of ${name}`);
	return {name: normaliseName(name), version: textOf(version, `version of ${name}`), files};
}

function foundFile(address: string, sha256: string, size?: unknown): FoundFile {
	return {file: fileOf(address), url: address, sha256, sizeBytes: typeof size === 'number' ? size : undefined};
}

/** The name of the file that an address leads to. */
export function fileOf(address: string): string {
	if (!URL.canParse(address)) throw new SyntaxError('expected an address of a file');
	const last = new URL(address).pathname.split('/').pop() ?? '';
	try {
		return decodeURIComponent(last);
	} catch {
		return last;
	}
}

function isFields(value: unknown): value is Fields {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fieldsOf(value: unknown, label: string): Fields {
	if (isFields(value)) return value;
	throw new SyntaxError(`expected ${label} to be a table`);
}

function listOf(value: unknown, label: string): readonly unknown[] {
	if (Array.isArray(value)) return value;
	throw new SyntaxError(`expected ${label} to be a list`);
}

function textOf(value: unknown, label: string): string {
	if (typeof value === 'string') return value;
	throw new SyntaxError(`expected ${label} to be text`);
}
