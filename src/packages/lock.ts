/** What a resolution comes to: exact distributions, each with the one archive that it is installed from. */
import {machine} from 'node:os';
import type {Interpreter} from '../sandbox/interpreter.ts';

/** A file that a distribution comes in. */
export type Archive = {
	readonly kind: 'wheel' | 'sdist';
	/** Its name, without a folder. */
	readonly file: string;
	readonly url: string;
	/** In hex. */
	readonly sha256: string;
	readonly sizeBytes: number | undefined;
};

/** One distribution of a lock. */
export type LockedDistribution = {
	/** Normalised as PEP 503 says. */
	readonly name: string;
	readonly version: string;
	readonly archive: Archive;
};

/** A set of distributions that were resolved together. */
export type Lock = {
	/** 32 hex digits that stand for the abi and for the name, version and content of every distribution. */
	readonly key: string;
	readonly abi: string;
	/** Sorted by name. */
	readonly distributions: readonly LockedDistribution[];
};

/** What compiled files of an interpreter are bound to, for example `cpython-311-x86_64`. */
export function abiOf({cacheTag}: Interpreter): string {
	return `${cacheTag}-${machine()}`;
}
