/** Removes what nobody needs until the store takes no more than it may, and what was not used for too long. */
import {rename} from 'node:fs/promises';
import {join} from 'node:path';
import {namesIn, removeManyFiles, sizeOf, statusOf} from './disk.ts';
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

/** What may stay. */
export type Allowance = {
	/** Of all of it. */
	readonly maxBytes: number;
	/** For how long it may not have been used, in milliseconds; to the minute. */
	readonly maxIdleMs: number;
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
 * Removes what was not used for longer than it may, and then goes on until at most `maxBytes` are left: what is in quarantine; archives of packages that are not installed; packages
 * that nobody needs, each followed by its archive; archives of the others. Of each kind those that were not used for
 * longest go first. What a deployed function or a process needs stays, however much it takes and however old it is; so do the archives of
 * what stays, unless there is no room.
 */
export async function collectGarbage(
	layout: Layout,
	locks: StoreLocks,
	users: Users,
	allowance: Allowance,
): Promise<GarbageReport> {
	// Out of the way while nothing may change, and removed afterwards, which takes longer.
	return withScratch(layout, async (trash) => {
		const report = await locks.withUsers(async () => new Collection(layout, locks, trash, allowance).run(users));
		await removeManyFiles(trash);
		return report;
	});
}

class Collection {
	readonly #layout: Layout;
	readonly #locks: StoreLocks;
	readonly #trash: string;
	readonly #maxBytes: number;
	readonly #oldestMs: number;
	readonly #removed: PackageId[] = [];
	#sizeBytes = 0;
	#freedBytes = 0;
	#moved = 0;

	constructor(layout: Layout, locks: StoreLocks, trash: string, {maxBytes, maxIdleMs}: Allowance) {
		this.#layout = layout;
		this.#locks = locks;
		this.#trash = trash;
		this.#maxBytes = maxBytes;
		this.#oldestMs = Date.now() - maxIdleMs;
	}

	async run(users: Users): Promise<GarbageReport> {
		const {packages: installed} = await readStore(this.#layout);
		const packages = (await this.#packages(installed)).sort(byUse);
		const archives = (await this.#archives(packages)).sort(byUse);
		const quarantined = (await this.#quarantined()).sort(byUse);
		for (const {sizeBytes} of [...packages, ...archives, ...quarantined]) this.#sizeBytes += sizeBytes;
		const needed = users.byPackage();
		const left = new Map<string | undefined, number>();
		for (const {id} of packages) left.set(id?.hash, (left.get(id?.hash) ?? 0) + 1);
		const isOrphan = ({hash}: Candidate): boolean => (left.get(hash) ?? 0) === 0;
		const byHash = new Map<string | undefined, Candidate[]>();
		for (const each of archives) byHash.set(each.hash, [...(byHash.get(each.hash) ?? []), each]);

		for (const each of quarantined) await this.#removePackage(each);
		for (const each of archives.filter(isOrphan)) await this.#removeArchive(each);
		for (const each of packages) {
			if (each.id === undefined || needed.has(this.#layout.relative(each.id))) continue;
			if (!(await this.#removePackage(each))) continue;
			this.#removed.push(each.id);
			const {hash} = each.id;
			left.set(hash, (left.get(hash) ?? 0) - 1);
			for (const archive of byHash.get(hash) ?? []) if (isOrphan(archive)) await this.#removeArchive(archive);
		}
		for (const each of archives) if (this.#isTooMuch()) await this.#removeArchive(each);
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
		if (id === undefined || !this.#mayGo(candidate)) return false;
		const isOfNobody = statusOf(this.#layout.version(id)) === undefined;
		const remove = (): Promise<void> => this.#remove(candidate);
		if (!isOfNobody) return this.#locks.withFreeVersion(id, remove);
		await remove(); // in quarantine; there is nothing that a process could hold
		return true;
	}

	async #removeArchive(candidate: Candidate): Promise<void> {
		if (candidate.hash === undefined || !this.#mayGo(candidate) || statusOf(candidate.path) === undefined) return;
		await this.#locks.withFreeArchive(candidate.hash, () => this.#remove(candidate));
	}

	async #remove({path, sizeBytes}: Candidate): Promise<void> {
		this.#moved += 1;
		await rename(path, join(this.#trash, String(this.#moved)));
		this.#freedBytes += sizeBytes;
		this.#sizeBytes -= sizeBytes;
	}

	#mayGo({usedMs}: Candidate): boolean {
		return this.#isTooMuch() || usedMs < this.#oldestMs;
	}

	#isTooMuch(): boolean {
		return this.#sizeBytes > this.#maxBytes;
	}
}

function byUse(one: Candidate, other: Candidate): number {
	return one.usedMs - other.usedMs;
}
