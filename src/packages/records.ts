/** The store's own files: what they hold, and how it is read back. They may be damaged: nothing of them is believed unseen. */
import type {Archive, LockedDistribution} from './lock.ts';
import {type DistributionMetadata, type ImportCost, readImportCost} from './metadata.ts';

/** What is known of an installed package, apart from the list of its files. */
export type PackageSummary = Omit<DistributionMetadata, 'files' | 'nativeLibraries'> & {
	readonly archive: Archive;
	/** The sha256 of the text that {@link writeContents} made for it. */
	readonly contentsSha256: string;
};

/** The rest of what is known of it, which is larger. */
export type PackageContents = Pick<DistributionMetadata, 'files' | 'nativeLibraries'>;

/** What importing a package takes, and with what that was measured. */
export type MeasuredCost = ImportCost & {
	/** An interpreter's `build`; not there in records of the time when it was not noted. */
	readonly interpreter?: string;
};

/** What a deployed function needs. */
export type UserRecord = {
	readonly id: string;
	/** Where the function's own record is: one that is gone needs nothing. From the root, and from the store's folder. */
	readonly manifest: readonly [absolute: string, relative: string];
	/** Of packages, relative to the store. */
	readonly packages: readonly string[];
};

const FORMAT = 1;

export function writeSummary(summary: PackageSummary): string {
	return format(summary);
}

/** Undefined when the text is not of a summary, or not of that distribution. */
export function readSummary(
	text: string,
	{name, version}: {name: string; version: string},
): PackageSummary | undefined {
	const value = parse(text);
	if (value === undefined || value.name !== name || value.version !== version) return undefined;
	const {modules, requires, extras, sizeBytes, contentsSha256} = value;
	const archive = readArchive(value.archive);
	if (!isArrayOf(modules, isText) || !isArrayOf(requires, isText) || !isExtras(extras) || archive === undefined) {
		return undefined;
	}
	if (!isSize(sizeBytes) || !isText(contentsSha256)) return undefined;
	return {name, version, modules, requires, extras, sizeBytes, archive, contentsSha256};
}

export function writeContents({files, nativeLibraries}: PackageContents): string {
	return format({files, nativeLibraries});
}

export function readContents(text: string): PackageContents | undefined {
	const value = parse(text);
	if (value === undefined) return undefined;
	const {files, nativeLibraries} = value;
	return isArrayOf(files, isFile) && isArrayOf(nativeLibraries, isLibrary) ? {files, nativeLibraries} : undefined;
}

export function writeCost(cost: MeasuredCost): string {
	return format(cost);
}

export function readCost(text: string): MeasuredCost | undefined {
	const value = parse(text);
	try {
		if (value === undefined) return undefined;
		const {interpreter} = value;
		return {...readImportCost(value), ...(isText(interpreter) ? {interpreter} : {})};
	} catch {
		return undefined;
	}
}

export function writeUser(user: UserRecord): string {
	return format(user);
}

export function readUser(text: string): UserRecord | undefined {
	const value = parse(text);
	if (value === undefined) return undefined;
	const {id, manifest, packages} = value;
	if (!isText(id) || !isArrayOf(manifest, isText) || !isArrayOf(packages, isText)) return undefined;
	const [absolute, relative, ...more] = manifest;
	if (absolute === undefined || relative === undefined || more.length > 0) return undefined;
	return {id, manifest: [absolute, relative], packages};
}

/** What a package was installed from. */
export function distributionOf({name, version, archive}: PackageSummary): LockedDistribution {
	return {name, version, archive};
}

function format(value: object): string {
	return `${JSON.stringify({format: FORMAT, ...value})}\n`;
}

function parse(text: string): Record<string, unknown> | undefined {
	try {
		const value: unknown = JSON.parse(text);
		return isObject(value) && value.format === FORMAT ? value : undefined;
	} catch {
		return undefined;
	}
}

function readArchive(value: unknown): Archive | undefined {
	if (!isObject(value)) return undefined;
	const {kind, file, url, sha256, sizeBytes} = value;
	if ((kind !== 'wheel' && kind !== 'sdist') || !isText(file) || !isText(url) || !isText(sha256)) return undefined;
	if (sizeBytes !== undefined && !isSize(sizeBytes)) return undefined;
	return {kind, file, url, sha256, sizeBytes};
}

function isExtras(value: unknown): value is Record<string, readonly string[]> {
	return isObject(value) && Object.values(value).every((names) => isArrayOf(names, isText));
}

function isFile(value: unknown): value is readonly [string, string, number] {
	if (!Array.isArray(value) || value.length !== 3) return false;
	const [path, sha256, sizeBytes] = value as unknown[];
	return isText(path) && isText(sha256) && isSize(sizeBytes);
}

function isLibrary(value: unknown): value is {readonly file: string; readonly needs: readonly string[]} {
	return isObject(value) && isText(value.file) && isArrayOf(value.needs, isText);
}

function isObject(value: unknown): value is Record<string, unknown> {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isArrayOf<Item>(value: unknown, isItem: (item: unknown) => item is Item): value is readonly Item[] {
	return Array.isArray(value) && value.every(isItem);
}

function isText(value: unknown): value is string {
	return typeof value === 'string';
}

function isSize(value: unknown): value is number {
	return typeof value === 'number' && value >= 0 && Number.isSafeInteger(value);
}
