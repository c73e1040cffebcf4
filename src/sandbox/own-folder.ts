/** Folders below the machine's temporary one that only we can change. */
import {lstatSync, mkdirSync} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError} from '../errors.ts';

/** Where ours is, whether it is there or not. */
export function ownFolder(suffix = ''): string {
	return path.join(path.resolve(tmpdir()), `forktree-${process.geteuid?.() ?? 0}${suffix}`);
}

/** Makes it, if need be. @throws {ForktreeError} `NotPermitted` when others can change what is in it */
export function makeOwnFolder(folder: string): void {
	mkdirSync(folder, {recursive: true, mode: 0o700});
	checkOwnFolder(folder);
}

/** @throws {ForktreeError} as {@link makeOwnFolder} */
export function checkOwnFolder(folder: string): void {
	const status = lstatSync(folder);
	if (!status.isDirectory() || status.uid !== process.geteuid?.() || (status.mode & 0o022) !== 0) {
		throw new ForktreeError('NotPermitted', `expected ${folder} to be a folder that only we can write to; remove it`);
	}
}
