/** Lists what an installer put into a folder. The metadata is the packages' own and so is not trusted. */
import {lstat, readdir, readFile} from 'node:fs/promises';
import {join} from 'node:path';
import {normaliseName} from './requirements.ts';

/** An installed distribution. */
export type Distribution = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	/** Importable top-level names, sorted. None for tools such as pip, which nobody wants preloaded. */
	readonly modules: readonly string[];
};

const TOOLS = new Set(['pip', 'setuptools', 'wheel']);
const NOT_MODULES = new Set(['bin', 'test', 'tests']);
// Unlike Python's, without a leading underscore: such modules are private.
const MODULE_NAME = /^\p{XID_Start}\p{XID_Continue}*$/u;
const EXTENSION = /^([^.]+)(?:\.(?:cpython-[\w-]+|abi3))?\.so$/;
const MAX_METADATA_BYTES = 32 * 1024 * 1024;

/** Lists the distributions of a site folder, sorted by name. Metadata that makes no sense yields no modules. */
export async function listDistributions(siteDir: string): Promise<readonly Distribution[]> {
	const entries = new Set(await readdir(siteDir));
	const distributions: Distribution[] = [];
	for (const entry of [...entries].sort()) {
		const [, rawName, version] = /^(.+)-([^-]+)\.dist-info$/.exec(entry) ?? [];
		if (rawName === undefined || version === undefined) continue;
		const name = normaliseName(rawName);
		const modules = TOOLS.has(name) ? [] : await modulesOf(join(siteDir, entry), entries);
		distributions.push({name, version, modules});
	}
	return distributions;
}

async function modulesOf(infoDir: string, entries: ReadonlySet<string>): Promise<readonly string[]> {
	const record = await readMetadata(join(infoDir, 'RECORD'));
	if (record !== undefined) return modulesOfRecord(record, entries);
	const topLevel = await readMetadata(join(infoDir, 'top_level.txt'));
	const names = (topLevel ?? '').split(/\r?\n/).map((line) => line.trim());
	return unique(names.filter((name) => isModuleName(name) && isPresent(name, entries)));
}

/**
 * Reads the importable top-level names from the text of a RECORD file.
 * @param entries what the site folder really holds at its top; other paths, such as those that lead outside, are skipped.
 */
export function modulesOfRecord(record: string, entries: ReadonlySet<string>): readonly string[] {
	const names: string[] = [];
	for (const path of recordPaths(record)) {
		const name = entries.has(path.split('/', 1)[0] ?? '') ? moduleOfPath(path) : undefined;
		if (name !== undefined) names.push(name);
	}
	return unique(names);
}

/**
 * Importable top-level names of a distribution that is alone in its folder, sorted.
 * @param name normalised as PEP 503 says
 * @param paths of all its files
 */
export function modulesOfFiles(name: string, paths: readonly string[]): readonly string[] {
	return TOOLS.has(name) ? [] : unique(paths.map(moduleOfPath).filter((found) => found !== undefined));
}

function moduleOfPath(path: string): string | undefined {
	const [first = '', second, ...rest] = path.split('/');
	if (rest.length > 0) return undefined;
	const name = second === undefined ? moduleOfFile(first) : second === '__init__.py' ? first : undefined;
	return name !== undefined && isModuleName(name) ? name : undefined;
}

function moduleOfFile(file: string): string | undefined {
	return file.endsWith('.py') ? file.slice(0, -'.py'.length) : EXTENSION.exec(file)?.[1];
}

/** Whether a top-level name is one to import: public, and not one that everybody has. */
export function isModuleName(name: string): boolean {
	return MODULE_NAME.test(name) && !NOT_MODULES.has(name);
}

function isPresent(name: string, entries: ReadonlySet<string>): boolean {
	return [...entries].some((entry) => entry === name || moduleOfFile(entry) === name);
}

/**
 * The first field of every row of a CSV text. Doubled quotes stay so, as no module's name has any. Stops at a quote that
 * is never closed. By hand, since a regular expression with alternatives overflows the engine's stack on a quoted field
 * of megabytes.
 */
function* recordPaths(record: string): Generator<string> {
	for (let at = 0; at < record.length; at = endOfRow(record, at)) {
		if (record[at] !== '"') {
			yield record.slice(at, endOfField(record, at));
			continue;
		}
		const close = closingQuote(record, at + 1);
		if (close === -1) return;
		yield record.slice(at + 1, close);
		at = close;
	}
}

function closingQuote(record: string, from: number): number {
	let at = record.indexOf('"', from);
	while (at !== -1 && record[at + 1] === '"') at = record.indexOf('"', at + 2);
	return at;
}

function endOfField(record: string, from: number): number {
	return search(/[,\r\n]/g, record, from);
}

function endOfRow(record: string, from: number): number {
	return search(/[\r\n]/g, record, from) + 1;
}

function search(pattern: RegExp, text: string, from: number): number {
	pattern.lastIndex = from;
	return pattern.exec(text)?.index ?? text.length;
}

async function readMetadata(path: string): Promise<string | undefined> {
	// Not followed: a link could lead to any file or to one that never ends.
	const stats = await lstat(path).catch(() => undefined);
	if (stats === undefined || !stats.isFile() || stats.size > MAX_METADATA_BYTES) return undefined;
	return readFile(path, 'utf8');
}

function unique(names: readonly string[]): readonly string[] {
	return [...new Set(names)].sort();
}
