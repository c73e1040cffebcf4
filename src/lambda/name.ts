/** What may be called what: names of functions, and paths of files inside a function's folder. */
import {ForktreeError} from '../errors.ts';

const FUNCTION_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** Bounds of a path inside a function's folder. */
export const pathLimits = {
	/** Deeper trees are no Python packages, and folders are walked recursively. */
	depth: 100,
	/** `NAME_MAX` of every common Linux file system. */
	partBytes: 255,
	/** Leaves room for the folders above it within the kernel's `PATH_MAX` of 4096. */
	pathBytes: 1024,
} as const;

/** A value as messages show it: text in JSON’s quotes, so that blanks and control characters are seen, and cut. */
export function quote(value: unknown): string {
	if (typeof value === 'string') return JSON.stringify(value.length > 200 ? `${value.slice(0, 200)}…` : value);
	if (typeof value === 'number' || typeof value === 'boolean' || value === null) return String(value);
	return Array.isArray(value) ? 'an array' : `of type ${typeof value}`;
}

/**
 * Refuses what cannot be the name of a function: names become parts of paths, addresses and cgroup names.
 * @throws {ForktreeError} `InvalidName`
 */
export function checkName(name: string): void {
	if (typeof name === 'string' && FUNCTION_NAME.test(name) && !name.includes('..')) return;
	throw new ForktreeError(
		'InvalidName',
		`${quote(name)} is not a function’s name: expected 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or digit, and no '..'`,
	);
}

/** What is wrong with a path as that of a file inside a folder, as words that follow the path; `undefined` if nothing. */
export function pathFault(path: string): string | undefined {
	if (path === '') return 'is empty';
	if (path.includes('\0')) return 'holds a NUL character';
	if (path.startsWith('/')) return 'is absolute';
	// A lone surrogate would become U+FFFD on disk, so two different paths could become one.
	if (Buffer.from(path).toString() !== path) return 'is not well-formed Unicode';
	if (Buffer.byteLength(path) > pathLimits.pathBytes) return `is longer than ${pathLimits.pathBytes} bytes`;
	const parts = path.split('/');
	if (parts.length > pathLimits.depth) return `is more than ${pathLimits.depth} levels deep`;
	for (const part of parts) {
		if (part === '' || part === '.' || part === '..') return `has the part ${quote(part)}`;
		if (Buffer.byteLength(part) > pathLimits.partBytes) return `has a part longer than ${pathLimits.partBytes} bytes`;
	}
	return undefined;
}
