/** Folders and files that sandboxes see: each is locked once in the keeper, and clones of it are kept ready for the next start. */
import {closeFd} from '../native.ts';
import type {FolderAccess, Keeper} from './keeper.ts';

/** How many clones wait ready: one start takes one, and it is made again meanwhile. */
const readyClones = 2;

/** A folder that can be attached in any number of sandboxes. Whoever made it closes it. */
export class LockedFolder {
	readonly #keeper: Keeper;
	/** Unique among the keeper's folders. */
	readonly id: string;
	readonly #ready: number[] = [];
	#making = 0;
	#closed = false;

	/** Where the keeper has it, for roots that it makes. */
	readonly place: string;

	private constructor(keeper: Keeper, id: string, place: string) {
		this.#keeper = keeper;
		this.id = id;
		this.place = place;
	}

	/** @param id unique among the keeper's folders */
	static async create(keeper: Keeper, id: string, directory: string, access?: FolderAccess): Promise<LockedFolder> {
		return LockedFolder.#open(keeper, id, await keeper.lock(id, directory, access));
	}

	/** Several folders seen as one, read-only; of what more than one of them has, the first one's is seen. */
	static async createLayers(keeper: Keeper, id: string, directories: readonly string[]): Promise<LockedFolder> {
		return LockedFolder.#open(keeper, id, await keeper.lockLayers(id, directories));
	}

	/** A file in place of a folder: it is attached where there is a file. It must be there as long as it is taken. */
	static async createFile(keeper: Keeper, id: string, file: string): Promise<LockedFolder> {
		await keeper.lockFile(id, file);
		return LockedFolder.#open(keeper, id, '');
	}

	static #open(keeper: Keeper, id: string, place: string): LockedFolder {
		const folder = new LockedFolder(keeper, id, place);
		folder.refill();
		return folder;
	}

	/** A detached mount as an fd; the caller closes it. */
	async take(): Promise<number> {
		return this.#ready.pop() ?? this.#keeper.clone(this.id);
	}

	/** Makes clones for the next starts. To be called when a start is over: it wakes the keeper. */
	refill(): void {
		while (!this.#closed && this.#ready.length + this.#making < readyClones) {
			this.#making += 1;
			this.#keeper
				.clone(this.id)
				.then(
					(fd) => (this.#closed ? closeFd(fd) : this.#ready.push(fd)),
					() => undefined, // the next take() asks again and reports it
				)
				.finally(() => {
					this.#making -= 1;
				});
		}
	}

	async close(): Promise<void> {
		this.#closed = true;
		for (const fd of this.#ready.splice(0)) closeFd(fd);
		await this.#keeper.unlock(this.id);
	}
}
