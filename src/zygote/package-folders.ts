/** Package folders that sandboxes and zygotes see as one: locked when they are first needed, for as long as their set is. */
import type {PackageSet} from '../packages/package-store.ts';
import type {Keeper} from '../sandbox/keeper.ts';
import {LockedFolder} from '../sandbox/mounts.ts';

/** Owns them. */
export class PackageFolders {
	readonly #keeper: Keeper;
	/** By the set's key. */
	readonly #folders = new Map<string, Promise<LockedFolder>>();

	constructor(keeper: Keeper) {
		this.#keeper = keeper;
	}

	/** Undefined when the set is empty. */
	async get({folders, key}: PackageSet): Promise<LockedFolder | undefined> {
		if (folders.length === 0) return undefined;
		let folder = this.#folders.get(key);
		if (folder === undefined) {
			folder = LockedFolder.createLayers(this.#keeper, `packages-${key}`, folders);
			this.#folders.set(key, folder);
			folder.catch(() => this.#folders.delete(key));
		}
		return folder;
	}

	/** Nobody needs that set any more. Who sees it goes on seeing it. */
	async drop(key: string): Promise<void> {
		const locked = this.#folders.get(key);
		this.#folders.delete(key);
		const folder = await locked?.catch(() => undefined);
		await folder?.close();
	}

	async close(): Promise<void> {
		await Promise.all([...this.#folders.keys()].map((key) => this.drop(key)));
	}
}
