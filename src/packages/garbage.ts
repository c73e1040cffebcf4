/** Removes what nobody needs until the store takes no more than it may. */
import {rename} from 'node:fs/promises';
import {join} from 'node:path';
import {namesIn, sizeOf, statusOf} from './disk.ts';
import {type Installed, readStore} from './installed.ts';
import {isSha256, type Layout, type PackageId} from './layout.ts';
import type {StoreLocks} from './locks.ts';
import {readQuarantined} from './quarantine.ts';
import {withScratch} from './scratch.ts';
import type {Users} from './users.ts';

/** What {@link collectGarbage} did. */
export type GarbageReport = {
	/** Packages that were removed. */
	readonly removed: readonly PackageId[];
	/** Of packages, archives and quarantine, in bytes. */
	readonly freedBytes: number;
	/** What is left of these, in bytes. */
	readonly sizeBytes: number;
};

/** Something that could be removed. */
type Candidate = {
	readonly path: string;
	readonly sizeBytes: number;
	readonly usedMs: number;
	/** Of archives: the first digits of their hash, by which packages have it. */
	readonly hash?: string;
	/** Of packages, and of those in quarantine. */
	readonly id?: PackageId;
};

/**
 * Removes, until at most `maxBytes` are left: what is in quarantine; archives of packages that are not installed; packages
 * that nobody needs, each followed by its archive; archives of the others. Of each kind those that were not used for
 * longest go first. What a deployed function or a process needs stays, however much it takes.
 */
export async function collectGarbage(
	layout: Layout,
	locks: StoreLocks,
	users: Users,
	maxBytes: number,
): Promise<GarbageReport> {
	// Out of the way while nothing may change, and removed afterwards, which takes longer.
	return withScratch(layout, (trash) =>
		locks.withUsers(async () => new Collection(layout, locks, trash, maxBytes).run(users)),
	);
}

class Collection {
	readonly #layout: Layout;
	readonly #locks: StoreLocks;
	readonly #trash: string;
	readonly #maxBytes: number;
	readonly #removed: PackageId[] = [];
	#sizeBytes = 0;
	#freedBytes = 0;
	#moved = 0;

	constructor(layout: Layout, locks: StoreLocks, trash: string, maxBytes: number) {
		this.#layout = layout;
		this.#locks = locks;
		this.#trash = trash;
		this.#maxBytes = maxBytes;
	}

	async run(users: Users): Promise<GarbageReport> {
		const {packages: installed} = await readStore(this.#layout);
		const packages = (await this.#packages(installed)).sort(byUse);
		const archives = (await this.#archives(packages)).sort(byUse);
		const quarantined = (await this.#quarantined()).sort(byUse);
		for (const {sizeBytes} of [...packages, ...archives, ...quarantined]) this.#sizeBytes += sizeBytes;
		const needed = users.byPackage();
		const left = new Set(packages);
		const isOrphan = ({hash}: Candidate): boolean => ![...left].some(({id}) => id?.hash === hash);

		for (const each of quarantined) await this.#removePackage(each);
		for (const each of archives.filter(isOrphan)) await this.#removeArchive(each);
		for (const each of packages) {
			if (each.id === undefined || needed.has(this.#layout.relative(each.id))) continue;
			if (!(await this.#removePackage(each))) continue;
			this.#removed.push(each.id);
			left.delete(each);
			const {hash} = each.id;
			for (const archive of archives)
				if (archive.hash === hash && isOrphan(archive)) await this.#removeArchive(archive);
		}
		for (const each of archives) await this.#removeArchive(each);
		return {removed: this.#removed, freedBytes: this.#freedBytes, sizeBytes: this.#sizeBytes};
	}

	async #packages(installed: readonly Installed[]): Promise<Candidate[]> {
		return Promise.all(
			installed.map(async ({id, summary, usedMs}) => {
				const path = this.#layout.package(id);
				return {path, id, usedMs, sizeBytes: summary?.sizeBytes ?? (await sizeOf(path))};
			}),
		);
	}

	/** An archive was last used when the last package from it was, if there is one. */
	async #archives(packages: readonly Candidate[]): Promise<Candidate[]> {
		const folder = this.#layout.folder('archives');
		return Promise.all(
			namesIn(folder)
				.filter(isSha256)
				.map(async (name) => {
					const path = join(folder, name);
					const hash = name.slice(0, 16);
					const uses = packages.filter(({id}) => id?.hash === hash).map(({usedMs}) => usedMs);
					const usedMs = Math.max(statusOf(path)?.mtimeMs ?? 0, ...uses);
					return {path, hash, usedMs, sizeBytes: await sizeOf(path)};
				}),
		);
	}

	async #quarantined(): Promise<Candidate[]> {
		const folder = this.#layout.folder('quarantine');
		const candidates = namesIn(folder).map(async (name) => {
			const id = readQuarantined(name);
			const path = join(folder, name);
			return id && {path, id, usedMs: statusOf(path)?.mtimeMs ?? 0, sizeBytes: await sizeOf(path)};
		});
		return (await Promise.all(candidates)).filter((each) => each !== undefined);
	}

	/** Answers whether it is gone. */
	async #removePackage(candidate: Candidate): Promise<boolean> {
		const {id} = candidate;
		if (id === undefined || this.#isDone()) return false;
		const isOfNobody = statusOf(this.#layout.version(id)) === undefined;
		const remove = (): Promise<void> => this.#remove(candidate);
		if (!isOfNobody) return this.#locks.withFreeVersion(id, remove);
		await remove(); // in quarantine; there is nothing that a process could hold
		return true;
	}

	async #removeArchive(candidate: Candidate): Promise<void> {
		if (candidate.hash === undefined || this.#isDone() || statusOf(candidate.path) === undefined) return;
		await this.#locks.withFreeArchive(candidate.hash, () => this.#remove(candidate));
	}

	async #remove({path, sizeBytes}: Candidate): Promise<void> {
		this.#moved += 1;
		await rename(path, join(this.#trash, String(this.#moved)));
		this.#freedBytes += sizeBytes;
		this.#sizeBytes -= sizeBytes;
	}

	#isDone(): boolean {
		return this.#sizeBytes <= this.#maxBytes;
	}
}

function byUse(one: Candidate, other: Candidate): number {
	return one.usedMs - other.usedMs;
}
