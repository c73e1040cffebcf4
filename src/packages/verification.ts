/** Compares packages with what was noted when they were installed, and replaces those that differ. */
import {rename} from 'node:fs/promises';
import {join} from 'node:path';
import {ForktreeError} from '../errors.ts';
import {isCode} from './disk.ts';
import type {HashedTree} from './hashes.ts';
import {type Installed, names, readContentsOf, readInstalled} from './installed.ts';
import type {Layout} from './layout.ts';
import type {StoreLocks} from './locks.ts';
import {setAside} from './quarantine.ts';
import type {PackageContents} from './records.ts';

/** What is wrong with one file of a package. */
export type Damage = {
	/** Relative to the folder that goes on `sys.path`; empty for all of them, or for the package's own records. */
	readonly path: string;
	readonly problem: 'changed' | 'missing' | 'added' | 'not a file' | 'unreadable';
};

/**
 * What became of a damaged package: made anew; moved to `quarantine`, as it could not be; marked, as it could not be
 * and some process needs it, to be made anew before it is given to anybody else; or left, as it is in a shared store.
 */
export type Remedy = 'reinstalled' | 'quarantined' | 'marked' | 'left';

/** So many files of a package are named. */
const MAX_NAMED = 100;

/** Looks for damage of a package. */
export async function examine(
	installed: Installed,
	hash: (path: string) => Promise<HashedTree>,
): Promise<readonly Damage[]> {
	const contents = readContentsOf(installed);
	if (contents === undefined) return [{path: '', problem: 'unreadable'}];
	if (installed.isMarkedDamaged) return [{path: '', problem: 'changed'}];
	try {
		return compare(contents, await hash(installed.layout.files(installed.id))).slice(0, MAX_NAMED);
	} catch {
		return [{path: '', problem: 'unreadable'}];
	}
}

/** What differs between what a package should hold and what it does. */
export function compare({files: expected}: PackageContents, {files, others}: HashedTree): Damage[] {
	const damage: Damage[] = others.map((path) => ({path, problem: 'not a file'}));
	const unexpected = new Map(files);
	for (const [path, sha256, sizeBytes] of expected) {
		const found = files.get(path);
		unexpected.delete(path);
		if (found === undefined) {
			if (!others.includes(path)) damage.push({path, problem: 'missing'});
		} else if (found[0] !== sha256 || found[1] !== sizeBytes) {
			damage.push({path, problem: 'changed'});
		}
	}
	for (const path of unexpected.keys()) damage.push({path, problem: 'added'});
	return damage;
}

/**
 * Takes a damaged package out of use, unless it was replaced meanwhile. Where some process needs it, it stays: a damaged
 * package may well do, and a missing one does not.
 */
export async function takeOutOfUse(
	layout: Layout,
	locks: StoreLocks,
	{id, inode}: Installed,
	signal: AbortSignal,
): Promise<Remedy> {
	return locks.withArchive(id.hash, signal, async () => {
		if (readInstalled(layout, id)?.inode !== inode) return 'reinstalled';
		const isFree = await locks.withFreeVersion(id, async () => void (await setAside(layout, id)));
		if (isFree) return 'quarantined';
		const folder = layout.package(id);
		await rename(join(folder, names.summary), join(folder, names.damaged)).catch((error: unknown) => {
			if (!isCode(error, 'ENOENT')) throw error; // it is marked, or of no use anyway
		});
		return 'marked';
	});
}

/** @throws {ForktreeError} `Aborted` */
export function throwIfAborted(signal: AbortSignal): void {
	if (signal.aborted) throw new ForktreeError('Aborted', 'verifying was aborted', {cause: signal.reason});
}
