/**
 * What packages are made from, kept to make them again. Only whoever has the lock of an archive may use this for it.
 *
 *     archives/<sha256>/<file>                           a download
 *     archives/<sha256>/<abi>/<sha256 of it>/<wheel>     a wheel that was built from it
 *
 * Nothing of it is relied on to be whole: it is hashed before it is used.
 */
import {chmod, mkdir, rename} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {isFolder, namesIn, removeTree, statusOf} from './disk.ts';
import {withHashes} from './hashes.ts';
import {isFileName, isSha256, type Layout} from './layout.ts';
import type {Archive} from './lock.ts';

/** The archives of one store, and those that shared ones have besides. */
export class Archives {
	readonly #layout: Layout;
	readonly #abi: string;
	readonly #shared: readonly string[];

	/** @param shared folders of archives that are read alone */
	constructor(layout: Layout, abi: string, shared: readonly string[] = []) {
		this.#layout = layout;
		this.#abi = abi;
		this.#shared = shared;
	}

	/** The path of a download that is kept and whole. */
	async find({sha256, file}: Archive, signal: AbortSignal): Promise<string | undefined> {
		for (const folder of this.#folders(sha256)) {
			const path = join(folder, file);
			if (await hasHash(path, sha256, signal)) return path;
		}
		return undefined;
	}

	/** Keeps a download, whose folder holds nothing else. Answers its path. */
	async keep({sha256, file}: Archive, folder: string): Promise<string> {
		const kept = this.#folder(sha256);
		// For the users of sandboxes, who see nothing else of the store.
		await chmod(join(folder, file), 0o644);
		await chmod(folder, 0o755);
		await removeTree(kept);
		await rename(folder, kept);
		return join(kept, file);
	}

	/** The path of a wheel that was built from an archive for this interpreter, and is whole. */
	async findBuilt({sha256}: Archive, signal: AbortSignal): Promise<string | undefined> {
		for (const folder of this.#folders(sha256).map((each) => join(each, this.#abi))) {
			for (const hash of namesIn(folder).filter(isSha256)) {
				for (const file of namesIn(join(folder, hash)).filter(isFileName)) {
					const path = join(folder, hash, file);
					if (await hasHash(path, hash, signal)) return path;
				}
			}
		}
		return undefined;
	}

	/** Keeps a wheel, whose folder holds nothing else. Answers its path. */
	async keepBuilt({sha256}: Archive, wheel: string, folder: string, signal: AbortSignal): Promise<string> {
		const {files} = await withHashes((hash) => hash(wheel, signal));
		const built = join(this.#folder(sha256), this.#abi);
		const kept = join(built, files.get('')?.[0] ?? '');
		await removeTree(built);
		await mkdir(built, {mode: 0o755, recursive: true}); // what it was built from may be in a shared store
		await rename(folder, kept);
		return join(kept, basename(wheel));
	}

	#folder(sha256: string): string {
		return this.#layout.folder('archives', sha256);
	}

	/** Wherever an archive may be. */
	#folders(sha256: string): readonly string[] {
		return [...this.#shared.map((folder) => join(folder, sha256)), this.#folder(sha256)];
	}
}

async function hasHash(path: string, sha256: string, signal: AbortSignal): Promise<boolean> {
	if (!isFolder(join(path, '..')) || statusOf(path)?.isFile() !== true) return false;
	const {files} = await withHashes((hash) => hash(path, signal));
	return files.get('')?.[0] === sha256;
}
