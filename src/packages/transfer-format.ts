/**
 * What an archive of packages is, which carries a part of a store to another machine: a plain tar file of paths as the store has
 * them, in exactly this order:
 *
 *     forktree-packages.json                             which packages follow
 *     <abi>/<name>==<version>/<hash>/metadata.json       for each of them its records, its files sorted by path, …
 *     <abi>/<name>==<version>/<hash>/files.json
 *     <abi>/<name>==<version>/<hash>/cost.json
 *     <abi>/<name>==<version>/<hash>/files/…
 *     archives/<sha256>/<file>                           … and what it was made from
 *     archives/<sha256>/<abi>/<sha256 of it>/<wheel>
 *
 * So whoever reads one knows what has to come next, and with which size and hash.
 */
import {ForktreeError, quote} from '../errors.ts';
import {isAbi, isFileName, isSha256, type PackageId, readPackageId} from './layout.ts';

/** A wheel that was built from an archive. */
export type BuiltWheel = {readonly sha256: string; readonly file: string};

/** A package of an archive. */
export type ListedPackage = {
	readonly id: PackageId;
	/** Whether what importing it takes was measured. */
	readonly hasCost: boolean;
	/** Whether what it was made from follows it. */
	readonly hasArchive: boolean;
	/** Follows that, if it had to be built. */
	readonly built: BuiltWheel | undefined;
};

/** The first file. */
export type PackageList = {readonly abi: string; readonly packages: readonly ListedPackage[]};

export const listName = 'forktree-packages.json';
export const maxListBytes = 16 * 1024 * 1024;

const FORMAT = 1;
const MAX_PACKAGES = 100_000;

export function writeList({abi, packages}: PackageList): string {
	const rows = packages.map(({id: {name, version, hash}, ...rest}) => ({name, version, hash, ...rest}));
	return `${JSON.stringify({format: FORMAT, abi, packages: rows})}\n`;
}

/** @throws {ForktreeError} `InvalidStore` for one of another format; `TransferFailed` for what is none */
export function readList(text: string): PackageList {
	const {format, abi, packages} = checkObject(parse(text), 'an object');
	if (format !== FORMAT) {
		throw new ForktreeError(
			'InvalidStore',
			`expected an archive of packages of format ${FORMAT}, got ${shown(format)}`,
		);
	}
	if (typeof abi !== 'string' || !isAbi(abi)) throw malformed('the tag of an interpreter', abi);
	if (!Array.isArray(packages) || packages.length > MAX_PACKAGES) throw malformed('a list of packages', packages);
	const listed = packages.map((each) => readPackage(abi, each));
	const keys = new Set(listed.map(({id: {name, version, hash}}) => `${name}==${version}/${hash}`));
	if (keys.size < listed.length) throw malformed('each package once', [...keys]);
	return {abi, packages: listed};
}

function readPackage(abi: string, value: unknown): ListedPackage {
	const {name, version, hash, hasCost, hasArchive, built} = checkObject(value, 'a package');
	const id = readPackageId(abi, `${String(name)}==${String(version)}`, String(hash));
	const areFlags = typeof hasCost === 'boolean' && typeof hasArchive === 'boolean';
	if (id === undefined || !areFlags) throw malformed('a package', value);
	return {id, hasCost, hasArchive, built: built === undefined ? undefined : readBuilt(built)};
}

function readBuilt(value: unknown): BuiltWheel {
	const {sha256, file} = checkObject(value, 'a wheel');
	const isWheel = typeof sha256 === 'string' && isSha256(sha256) && typeof file === 'string' && isFileName(file);
	if (!isWheel) throw malformed('a wheel', value);
	return {sha256, file};
}

function parse(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		throw malformed('JSON', text);
	}
}

function checkObject(value: unknown, expected: string): Readonly<Record<string, unknown>> {
	if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
	throw malformed(expected, value);
}

function malformed(expected: string, got: unknown): ForktreeError {
	return new ForktreeError('TransferFailed', `${listName}: expected ${expected}, got ${shown(got)}`);
}

function shown(value: unknown): string {
	return quote(value).slice(0, 200);
}
