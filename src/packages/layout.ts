/**
 * Where things are in the store's folder:
 *
 *     <abi>/<name>==<version>/<first 16 digits of the archive's hash>/    a package: `files`, and what is known of them
 *     archives/<hash>/    what packages were made from
 *     scratch/            work under way, each in a folder named after its process
 *     locks/              see locks.ts
 *     users/              which packages deployed functions need
 *     quarantine/         packages that were found damaged
 *     cache/              of those who resolve requirements
 *     store.json          see store-format.ts
 *
 * Only names that are checked here become paths. Whatever else lies in the folder is left alone.
 */
import {join} from 'node:path';
import {ForktreeError} from '../errors.ts';
import type {LockedDistribution} from './lock.ts';
import {normaliseName} from './requirements.ts';

/** A package: one archive of one version of a distribution, as installed for one kind of interpreter. */
export type PackageId = {
	readonly abi: string;
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	/** The first 16 hex digits of the archive's sha256. */
	readonly hash: string;
};

/** How much of an archive's hash names the folder of what was made from it. */
export const hashLength = 16;

/** The folders that the store itself has, besides those of interpreters. */
export const storeFolders = ['archives', 'scratch', 'locks', 'users', 'quarantine', 'cache'] as const;

/** The file that says which format all of it has. */
export const stampName = 'store.json';

const ABI = /^[a-z]+-\d+[a-z]*-[a-z0-9_]+$/;
const NAME = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
/** PEP 440 in any of the spellings that it reads, apart from white space and a `v` in front. */
const VERSION =
	/^(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:alpha|a|beta|b|preview|pre|c|rc)[-_.]?\d*)?(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?$/i;
const HASH = /^[0-9a-f]{16}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const FILE = /^[A-Za-z0-9_][A-Za-z0-9._+!-]*$/;
const MAX_NAME = 128;

export function isAbi(text: string): boolean {
	return text.length <= MAX_NAME && ABI.test(text);
}

export function isSha256(text: string): boolean {
	return SHA256.test(text);
}

/** Whether a text is the name of a file as archives have it, which leads nowhere else. */
export function isFileName(text: string): boolean {
	return text.length <= 255 && FILE.test(text);
}

/** Reads the names of a package's three folders; undefined when they are not those of a package. */
export function readPackageId(abi: string, distribution: string, hash: string): PackageId | undefined {
	const [name = '', version = '', ...more] = distribution.split('==');
	if (more.length > 0 || !isAbi(abi) || !isName(name) || !isVersion(version) || !HASH.test(hash)) return undefined;
	return {abi, name, version, hash};
}

/**
 * Which package a locked distribution is.
 * @throws {ForktreeError} `InstallFailed` when what would become a path is no name, version, hash or file name
 */
export function packageIdOf(abi: string, {name, version, archive}: LockedDistribution): PackageId {
	if (!isAbi(abi)) throw unusable('the tag of an interpreter, as in cpython-311-x86_64', abi);
	if (!isName(name)) throw unusable('a normalised name of a package', name);
	if (!isVersion(version)) throw unusable(`a version of ${name} as in 1.2.3`, version);
	if (!isSha256(archive.sha256)) throw unusable(`64 hex digits as the hash of ${name} ${version}`, archive.sha256);
	if (!isFileName(archive.file)) throw unusable(`the file name of an archive of ${name} ${version}`, archive.file);
	return {abi, name, version, hash: archive.sha256.slice(0, hashLength)};
}

function unusable(expected: string, got: string): ForktreeError {
	return new ForktreeError('InstallFailed', `expected ${expected}, got ${JSON.stringify(got.slice(0, MAX_NAME))}`);
}

function isName(text: string): boolean {
	return text.length <= MAX_NAME && NAME.test(text) && normaliseName(text) === text;
}

function isVersion(text: string): boolean {
	return text.length <= MAX_NAME && VERSION.test(text);
}

/** Paths of one store. */
export class Layout {
	/** Absolute, and no link. */
	readonly dir: string;

	constructor(dir: string) {
		this.dir = dir;
	}

	folder(name: (typeof storeFolders)[number], ...below: readonly string[]): string {
		return join(this.dir, name, ...below);
	}

	/** A package's folder, relative to the store. */
	relative({abi, name, version, hash}: PackageId): string {
		return join(abi, `${name}==${version}`, hash);
	}

	/** A package's folder. */
	package(id: PackageId): string {
		return join(this.dir, this.relative(id));
	}

	/** The folder that goes on `sys.path`. */
	files(id: PackageId): string {
		return join(this.package(id), 'files');
	}

	/** The folder of all archives of a version, whose lock stands for the packages in it. */
	version(id: PackageId): string {
		return join(this.dir, id.abi, `${id.name}==${id.version}`);
	}
}
