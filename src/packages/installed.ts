/** What is installed, as the store's folder has it: read anew each time, since other processes change it as well. */
import {createHash} from 'node:crypto';
import {utimesSync} from 'node:fs';
import {join} from 'node:path';
import {setImmediate as nextTurn} from 'node:timers/promises';
import {isFolder, namesIn, readSmall, statusOf} from './disk.ts';
import {isAbi, isSha256, type Layout, type PackageId, readPackageId, stampName, storeFolders} from './layout.ts';
import {
	type MeasuredCost,
	type PackageContents,
	type PackageSummary,
	readContents,
	readCost,
	readSummary,
} from './records.ts';

/** Files of a package's folder, besides `files`. */
export const names = {
	summary: 'metadata.json',
	contents: 'files.json',
	cost: 'cost.json',
	/** The summary's name when the package must be replaced before it is used again. */
	damaged: 'damaged.json',
} as const;

/** A package's folder. */
export type Installed = {
	/** Of the store that it is in. */
	readonly layout: Layout;
	readonly id: PackageId;
	/** Undefined when it can't be read: then the package is not usable. */
	readonly summary: PackageSummary | undefined;
	readonly isMarkedDamaged: boolean;
	/** When it was last given to somebody, in milliseconds since 1970. */
	readonly usedMs: number;
	/** Tells it from one that replaced it. */
	readonly inode: number;
};

/** A package that may be given to somebody. */
export type Usable = Installed & {readonly summary: PackageSummary};

/** What a look through the store's folder found. */
export type StoreContent = {
	readonly packages: readonly Installed[];
	/** Paths, relative to the store, of what it did not put there. */
	readonly foreign: readonly string[];
};

/** The most bytes that a record of a package may have. */
export const maxRecordBytes = {summary: 16 * 1024 * 1024, contents: 256 * 1024 * 1024, cost: 64 * 1024} as const;
/** A use is noted no more often than this. */
const STAMP_MS = 60_000;
const NO_HASH = '0'.repeat(16);
/** So many versions are looked at before Node's thread is left to others. */
const TURN = 16;

/** Reads one package; undefined when its folder is not there. */
export function readInstalled(layout: Layout, id: PackageId): Installed | undefined {
	const folder = layout.package(id);
	const status = statusOf(folder);
	if (status?.isDirectory() !== true) return undefined;
	const whole = isFolder(layout.files(id)) ? readSmall(join(folder, names.summary), maxRecordBytes.summary) : undefined;
	const damaged = whole === undefined ? readSmall(join(folder, names.damaged), maxRecordBytes.summary) : undefined;
	const text = whole ?? damaged;
	const summary = text === undefined ? undefined : readSummary(text, id);
	return {
		layout,
		id,
		summary: summary?.archive.sha256.startsWith(id.hash) && isSha256(summary.archive.sha256) ? summary : undefined,
		isMarkedDamaged: damaged !== undefined,
		usedMs: status.mtimeMs,
		inode: status.ino,
	};
}

/** Whether a package may be given to somebody. */
export function isUsable(installed: Installed | undefined): installed is Usable {
	return installed?.summary !== undefined && !installed.isMarkedDamaged;
}

/** Notes that a package is used. What can't be noted is not worth failing for. */
export function stampUse(layout: Layout, id: PackageId, before = 0): void {
	const now = new Date();
	if (now.getTime() - before < STAMP_MS) return;
	try {
		utimesSync(layout.package(id), now, now);
	} catch {
		// on a read-only or full file system, or the package is gone
	}
}

/** The list of a package's files; undefined when it can't be read or is not the one of its summary. */
export function readContentsOf({layout, id, summary}: Installed): PackageContents | undefined {
	const text = readSmall(join(layout.package(id), names.contents), maxRecordBytes.contents);
	if (text === undefined || sha256(text) !== summary?.contentsSha256) return undefined;
	return readContents(text);
}

/** What importing a package was measured to take, if it was. */
export function readCostOf({layout, id}: Installed): MeasuredCost | undefined {
	const path = join(layout.package(id), names.cost);
	// Most have none, and this is quicker than to try.
	const text = statusOf(path) === undefined ? undefined : readSmall(path, maxRecordBytes.cost);
	return text === undefined ? undefined : readCost(text);
}

/** In hex. */
export function sha256(text: string): string {
	return createHash('sha256').update(text).digest('hex');
}

/** Looks through the folders of all interpreters. */
export async function readStore(layout: Layout): Promise<StoreContent> {
	const packages: Installed[] = [];
	const foreign = namesIn(layout.dir).filter((name) => !isOurs(name) && !isAbiFolder(layout, name));
	let seen = 0;
	for (const {abi, version, hashes} of versionsOf(layout)) {
		seen += 1;
		if (seen % TURN === 0) await nextTurn();
		if (hashes === undefined) foreign.push(join(abi, version));
		for (const hash of hashes ?? []) {
			const id = readPackageId(abi, version, hash);
			const installed = id === undefined ? undefined : readInstalled(layout, id);
			if (installed === undefined) foreign.push(join(abi, version, hash));
			else packages.push(installed);
		}
	}
	return {packages, foreign};
}

/** Versions whose folders hold nothing: a package of each that could be there. */
export function emptyVersions(layout: Layout): PackageId[] {
	return [...versionsOf(layout)].flatMap(({abi, version, hashes}) =>
		hashes?.length === 0 ? (readPackageId(abi, version, NO_HASH) ?? []) : [],
	);
}

type VersionFolder = {
	readonly abi: string;
	readonly version: string;
	/** The names in it; undefined when it is no folder of a version. */
	readonly hashes: readonly string[] | undefined;
};

function* versionsOf(layout: Layout): Generator<VersionFolder> {
	for (const abi of namesIn(layout.dir).filter((name) => isAbiFolder(layout, name))) {
		for (const version of namesIn(join(layout.dir, abi))) {
			const folder = join(layout.dir, abi, version);
			const isVersion = readPackageId(abi, version, NO_HASH) !== undefined && isFolder(folder);
			yield {abi, version, hashes: isVersion ? namesIn(folder) : undefined};
		}
	}
}

function isOurs(name: string): boolean {
	return name === stampName || (storeFolders as readonly string[]).includes(name);
}

function isAbiFolder(layout: Layout, name: string): boolean {
	return !isOurs(name) && isAbi(name) && isFolder(join(layout.dir, name));
}
