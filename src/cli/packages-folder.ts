/** Where packages are kept that were installed from the command line. */
import {homedir} from 'node:os';
import path from 'node:path';
import process from 'node:process';

/** Shared by all runs of one user: packages are installed once. */
export function packagesFolder(): string {
	const given = process.env.XDG_CACHE_HOME;
	const cache = given !== undefined && path.isAbsolute(given) ? given : path.join(homedir(), '.cache');
	return path.join(cache, 'forktree', 'packages');
}
