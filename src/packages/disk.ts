/** What the store does to files, whatever they hold. Links are never followed. */
import {closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readSync, type Stats} from 'node:fs';
import {lstat, open, readdir, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {execa} from 'execa';

/** Writes a new file, which everybody may read, and waits until it is on the disk. */
export async function writeSynced(path: string, text: string): Promise<void> {
	const file = await open(path, 'wx', 0o644);
	try {
		await writeFile(file, text);
		await file.sync();
	} finally {
		await file.close();
	}
}

/** Waits until the names in a folder are on the disk. */
export async function syncFolder(path: string): Promise<void> {
	const folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
	try {
		await folder.sync();
	} finally {
		await folder.close();
	}
}

/** Removes whatever is at a path, if anything is. */
export async function removeTree(path: string): Promise<void> {
	await rm(path, {recursive: true, force: true, maxRetries: 5, retryDelay: 50});
}

/**
 * Removes as {@link removeTree}, by a program: what takes Node several turns of its loop for each file takes that one a single
 * call. Whatever it leaves is the caller's.
 */
export async function removeManyFiles(path: string): Promise<void> {
	await execa('rm', ['-rf', '--', path], {reject: false, timeout: 10 * 60_000, stdio: 'ignore'});
}

/** The text of a small file; undefined when there is none, or something else. */
export function readSmall(path: string, maxBytes: number): string | undefined {
	let fd: number | undefined;
	try {
		fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
		const status = fstatSync(fd);
		if (!status.isFile() || status.size > maxBytes) return undefined;
		const bytes = Buffer.allocUnsafe(status.size);
		let size = 0;
		for (let more = 1; more > 0 && size < bytes.length; size += more) {
			more = readSync(fd, bytes, size, bytes.length - size, null);
		}
		return bytes.toString('utf8', 0, size);
	} catch {
		return undefined;
	} finally {
		if (fd !== undefined) closeSync(fd);
	}
}

/** What is at a path, a link for itself; undefined when nothing is. */
export function statusOf(path: string): Stats | undefined {
	try {
		return lstatSync(path, {throwIfNoEntry: false});
	} catch {
		return undefined; // below something that is no folder
	}
}

export function isFolder(path: string): boolean {
	return statusOf(path)?.isDirectory() === true;
}

/** The names in a folder, sorted; none when there is no such folder. */
export function namesIn(path: string): string[] {
	if (!isFolder(path)) return []; // a link would be followed
	try {
		return readdirSync(path).sort();
	} catch {
		return []; // it went just now
	}
}

/** The bytes of all files below a path, and of what is there itself if it is a file. */
export async function sizeOf(path: string): Promise<number> {
	const status = await lstat(path).catch(() => undefined);
	if (status?.isDirectory() !== true) return status?.size ?? 0;
	let bytes = 0;
	for (const name of await readdir(path).catch(() => [])) bytes += await sizeOf(join(path, name));
	return bytes;
}

export function isCode(error: unknown, ...codes: readonly string[]): boolean {
	return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
