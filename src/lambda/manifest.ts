/** What a state folder keeps of a deployed function: its code, in a folder for each version, and which of them is the current one. */
import {mkdirSync, renameSync, writeFileSync} from 'node:fs';
import {readdir, readFile, rm} from 'node:fs/promises';
import path from 'node:path';
import {type Lock, readLock, writeLock} from '../packages/lock.ts';
import type {FunctionSettings} from './starter.ts';
import {defaultTriggers} from './triggers.ts';

/** Of the current version. */
export type Manifest = {
	readonly version: string;
	/** Where its code is, in the function's home. */
	readonly directory: string;
	/** SHA-256 of the code, and of its requirements. */
	readonly digests: {readonly source: string; readonly requirements: string};
	/** What its requirements were resolved to. */
	readonly lock: Lock;
	readonly settings: Omit<FunctionSettings, 'packages' | 'name' | 'version'>;
};

const fileName = 'function.json';

/** @param home the function's folder */
export function manifestFile(home: string): string {
	return path.join(home, fileName);
}

/** Undefined when there is none, or none that is understood: then the function must be deployed again. */
export async function readManifest(home: string): Promise<Manifest | undefined> {
	try {
		const manifest = JSON.parse(await readFile(manifestFile(home), 'utf8')) as Manifest;
		const {settings} = manifest;
		// One that was written before there was one of these has none.
		return {
			...manifest,
			lock: readLock(manifest.lock),
			settings: {
				...settings,
				network: settings.network ?? 'none',
				path: settings.path ?? [],
				triggers: settings.triggers ?? defaultTriggers,
				noNewExecutables: settings.noNewExecutables ?? false,
			},
		};
	} catch {
		return undefined;
	}
}

/** Moves staged code to its place and makes it the current version. Synchronous: to leave Node's thread and come back takes longer. */
export function publish(home: string, manifest: Manifest, staging: string): void {
	const file = manifestFile(home);
	mkdirSync(home, {recursive: true, mode: 0o755});
	renameSync(staging, path.join(home, manifest.directory));
	writeFileSync(`${file}.new`, JSON.stringify({...manifest, lock: JSON.parse(writeLock(manifest.lock))}));
	renameSync(`${file}.new`, file);
}

/** @param current the folder that stays */
export async function removeOtherVersions(home: string, current: string): Promise<void> {
	for (const entry of await readdir(home)) {
		if (entry !== current && entry !== fileName) await rm(path.join(home, entry), {recursive: true, force: true});
	}
}
