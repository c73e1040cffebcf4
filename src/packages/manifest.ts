/** The manifest in every folder of the package store: written last, so a folder that has one is complete. */
import {lstat, open, readFile} from 'node:fs/promises';
import {basename, join} from 'node:path';
import type {Distribution} from './distributions.ts';

/** A set of packages that were installed together. */
export type PackageSet = {
	/** Names the set; `none` for the empty one. */
	readonly key: string;
	/** What sandboxes see as one folder on `sys.path`, the first one topmost; none for the empty set. */
	readonly folders: readonly string[];
	readonly distributions: readonly Distribution[];
};

export const SITE = 'site';
const MANIFEST = 'forktree.json';
const FORMAT = 1;
const MAX_BYTES = 16 * 1024 * 1024;

/** Writes the manifest and waits until it is on the disk. */
export async function writeManifest(dir: string, key: string, distributions: readonly Distribution[]): Promise<void> {
	const file = await open(join(dir, MANIFEST), 'wx', 0o644);
	try {
		await file.writeFile(`${JSON.stringify({format: FORMAT, key, distributions}, undefined, '\t')}\n`);
		await file.sync();
	} finally {
		await file.close();
	}
}

/** Reads the set that a folder of the store holds; `undefined` when it holds none that this version understands. */
export async function readSet(dir: string): Promise<PackageSet | undefined> {
	const manifest = parse(await readText(join(dir, MANIFEST)));
	// Paths come from where the folder is, not from the manifest, so a store can be moved.
	if (manifest === undefined || manifest.key !== basename(dir)) return undefined;
	return {key: manifest.key, folders: [join(dir, SITE)], distributions: manifest.distributions};
}

async function readText(path: string): Promise<string> {
	const stats = await lstat(path).catch(() => undefined);
	if (stats === undefined || !stats.isFile() || stats.size > MAX_BYTES) return '';
	return readFile(path, 'utf8').catch(() => '');
}

function parse(text: string): {key: string; distributions: readonly Distribution[]} | undefined {
	let value: unknown;
	try {
		value = JSON.parse(text);
	} catch {
		return undefined;
	}
	if (!isObject(value) || value.format !== FORMAT || typeof value.key !== 'string') return undefined;
	if (!isArrayOf(value.distributions, isDistribution)) return undefined;
	return {key: value.key, distributions: value.distributions};
}

function isDistribution(value: unknown): value is Distribution {
	if (!isObject(value) || typeof value.name !== 'string' || typeof value.version !== 'string') return false;
	return isArrayOf(value.modules, (name) => typeof name === 'string');
}

function isObject(value: unknown): value is {readonly [key: string]: unknown} {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isArrayOf<Item>(value: unknown, isItem: (item: unknown) => item is Item): value is readonly Item[] {
	return Array.isArray(value) && value.every(isItem);
}
