/** The registry: a folder whose folders and `NAME.tar.gz` files are the functions. It may change at any time, by anybody. */
import {createHash, randomBytes} from 'node:crypto';
import {type BigIntStats, createReadStream} from 'node:fs';
import {lstat, open, readdir, rename, rm, stat, unlink} from 'node:fs/promises';
import path from 'node:path';
import type {Readable} from 'node:stream';
import {fileURLToPath} from 'node:url';
import {create as packFolder} from 'tar';
import {checkFunctionName, ForktreeError} from '../index.ts';
import {Refusal} from './refusal.ts';

/** Where a function's code is, and which state it is in. */
export type Source = {
	readonly path: string;
	readonly kind: 'archive' | 'folder';
	/** Differs when the code has been changed since. */
	readonly version: string;
};

const suffix = '.tar.gz';
/** Hidden, as what is not complete yet has to be. */
const uploadPrefix = '.upload-';
/** What an upload that a killed worker has left must have reached before it is removed. */
const maxUploadAgeMs = 60 * 60_000;
/** Compressed; what it unpacks to has limits of its own. */
export const maxUploadBytes = 256 * 1024 * 1024;
/** A deploy refuses larger ones. */
const maxFolderEntries = 20_000;
const skippedFolders: ReadonlySet<string> = new Set(['.git', '__pycache__', 'node_modules', '.venv']);

/** One folder of functions. */
export class FunctionRegistry {
	readonly #folder: string;

	private constructor(folder: string) {
		this.#folder = folder;
	}

	/**
	 * Opens a registry, and removes what uploads of killed workers have left in it.
	 * @param location a path or a `file://` URL
	 * @throws {ForktreeError} `InvalidSource` when it is no folder that can be read; {TypeError} for another URL
	 */
	static async open(location: string): Promise<FunctionRegistry> {
		const registry = new FunctionRegistry(resolveLocation(location));
		const entries = await registry.#entries();
		for (const entry of entries) if (entry.startsWith(uploadPrefix)) await registry.#removeOldUpload(entry);
		return registry;
	}

	/** Names of all functions, sorted. Other files, and what starts with a dot, are none. */
	async names(): Promise<string[]> {
		const names = new Set<string>();
		for (const entry of await readdir(this.#folder, {withFileTypes: true})) {
			const name =
				entry.name.endsWith(suffix) && !entry.isDirectory() ? entry.name.slice(0, -suffix.length) : entry.name;
			if (!isFunctionName(name)) continue;
			if (name !== entry.name || entry.isDirectory() || (await this.#leadsToFolder(entry.name))) names.add(name);
		}
		return [...names].sort();
	}

	/**
	 * Where a function's code is now; undefined when there is none.
	 * @throws {Refusal} when there are two
	 */
	async find(name: string): Promise<Source | undefined> {
		if (!isFunctionName(name)) return undefined;
		const [folder, archive] = [path.join(this.#folder, name), path.join(this.#folder, name + suffix)];
		const [folderStats, archiveStats] = await Promise.all([statOf(folder), statOf(archive)]);
		const [isFolder, isArchive] = [folderStats?.isDirectory() === true, archiveStats?.isFile() === true];
		if (isFolder && isArchive) {
			throw new Refusal(
				500,
				'InvalidSource',
				`the registry has a folder and an archive of ${JSON.stringify(name)}; expected one`,
			);
		}
		if (isFolder) return {path: folder, kind: 'folder', version: await versionOfFolder(folder)};
		return isArchive && archiveStats !== undefined
			? {path: archive, kind: 'archive', version: versionOf(archiveStats)}
			: undefined;
	}

	/**
	 * Puts an archive in the place of a function's.
	 * @param check looks at it before anything is replaced
	 * @throws {Refusal} 409 when the function is a folder, 413 when the archive is too large; what `check` throws. Then nothing has changed.
	 */
	async save(name: string, archive: AsyncIterable<Buffer>, check: (file: string) => Promise<void>): Promise<void> {
		checkFunctionName(name);
		const target = path.join(this.#folder, name + suffix);
		if ((await statOf(path.join(this.#folder, name)))?.isDirectory()) {
			throw new Refusal(
				409,
				'AlreadyExists',
				`the function is a folder of the registry, expected an archive or nothing; DELETE removes it`,
			);
		}
		const upload = path.join(this.#folder, `${uploadPrefix}${randomBytes(8).toString('hex')}${suffix}`);
		try {
			await writeDown(archive, upload);
			await check(upload);
			await rename(upload, target);
		} catch (error) {
			await rm(upload, {force: true});
			throw error;
		}
	}

	/** Takes a function's code away; false when there is none. A link is removed, not what it leads to. */
	async remove(name: string): Promise<boolean> {
		if (!isFunctionName(name)) return false;
		const removed = await Promise.all([this.#remove(name), this.#remove(name + suffix)]);
		return removed.includes(true);
	}

	/** A function's code as a gzip tar archive; undefined when there is none. */
	async read(name: string): Promise<Readable | undefined> {
		const source = await this.find(name);
		if (source === undefined) return undefined;
		if (source.kind === 'archive') return createReadStream(source.path);
		const filter = (entry: string) => !entry.split('/').some((part) => skippedFolders.has(part));
		const names = await readdir(source.path);
		return packFolder(
			{gzip: true, portable: true, cwd: source.path, filter},
			names.map((each) => `./${each}`),
		) as unknown as Readable;
	}

	/** Out of sight at once, whatever it takes to remove it. */
	async #remove(entry: string): Promise<boolean> {
		const place = path.join(this.#folder, entry);
		const stats = await lstat(place).catch(() => undefined);
		if (stats === undefined) return false;
		if (!stats.isDirectory()) {
			await unlink(place);
			return true;
		}
		const hidden = path.join(this.#folder, `${uploadPrefix}${randomBytes(8).toString('hex')}`);
		await rename(place, hidden);
		await rm(hidden, {recursive: true, force: true});
		return true;
	}

	async #removeOldUpload(entry: string): Promise<void> {
		const place = path.join(this.#folder, entry);
		const stats = await lstat(place).catch(() => undefined);
		if (stats !== undefined && Date.now() - stats.mtimeMs > maxUploadAgeMs)
			await rm(place, {recursive: true, force: true});
	}

	async #leadsToFolder(entry: string): Promise<boolean> {
		return (await statOf(path.join(this.#folder, entry)))?.isDirectory() === true;
	}

	async #entries(): Promise<string[]> {
		try {
			return await readdir(this.#folder);
		} catch (cause) {
			const reason = cause instanceof Error ? cause.message : cause;
			throw new ForktreeError('InvalidSource', `expected ${this.#folder} to be a folder of functions: ${reason}`, {
				cause,
			});
		}
	}
}

function resolveLocation(location: string): string {
	if (typeof location !== 'string' || location === '')
		throw new TypeError('registry: expected a path or a file:// URL');
	const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):\/\//.exec(location)?.[1]?.toLowerCase();
	if (scheme === undefined) return path.resolve(location);
	if (scheme === 'file') return fileURLToPath(location);
	throw new TypeError(`registry: expected a path or a file:// URL, got one of ${scheme}`);
}

export function tooLargeUpload(): Refusal {
	return new Refusal(413, 'UploadTooLarge', `expected an archive of at most ${maxUploadBytes} bytes`);
}

function isFunctionName(name: string): boolean {
	try {
		checkFunctionName(name);
		return true;
	} catch {
		return false;
	}
}

async function statOf(file: string): Promise<BigIntStats | undefined> {
	return stat(file, {bigint: true}).catch(() => undefined);
}

/** The change time is the kernel's own: whoever sets the others back can't hide a change. */
function versionOf({ino, size, mtimeNs, ctimeNs, mode}: BigIntStats): string {
	return [ino, size, mtimeNs, ctimeNs, mode].join(' ');
}

async function versionOfFolder(folder: string): Promise<string> {
	const hash = createHash('sha256');
	const pending = [''];
	let count = 0;
	for (let below = pending.shift(); below !== undefined && count <= maxFolderEntries; below = pending.shift()) {
		const parent = below;
		const entries = await readdir(path.join(folder, parent), {withFileTypes: true}).catch(() => []);
		count += entries.length;
		const names = entries.map(({name}) => path.join(parent, name)).sort();
		const folders = new Set(entries.filter((entry) => entry.isDirectory()).map(({name}) => path.join(parent, name)));
		const versions = await Promise.all(
			names.map((name) => lstat(path.join(folder, name), {bigint: true}).catch(() => undefined)),
		);
		for (const [index, name] of names.entries()) {
			const stats = versions[index];
			// What is written into a folder that is skipped changes nothing.
			if (folders.has(name) && skippedFolders.has(path.basename(name))) continue;
			hash.update(`${name}\0${stats === undefined || folders.has(name) ? '' : versionOf(stats)}\0`);
			if (folders.has(name)) pending.push(name);
		}
	}
	return hash.digest('hex');
}

/** Whole and on the disk, or an error. */
async function writeDown(archive: AsyncIterable<Buffer>, file: string): Promise<void> {
	const handle = await open(file, 'wx', 0o644);
	try {
		let bytes = 0;
		for await (const chunk of archive) {
			bytes += chunk.length;
			if (bytes > maxUploadBytes) throw tooLargeUpload();
			await handle.writeFile(chunk);
		}
		await handle.sync();
	} finally {
		await handle.close();
	}
}
