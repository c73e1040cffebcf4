/** Folders and files for work under way, named after their process, and removed when it is dead. */
import {randomBytes} from 'node:crypto';
import {mkdtemp, rename} from 'node:fs/promises';
import {namesIn, removeTree, syncFolder, writeSynced} from './disk.ts';
import type {Layout} from './layout.ts';
import {isAbandoned, ownerPrefix} from './owner.ts';

/** Runs work with an empty folder (0700) on the store's file system, and removes it. */
export async function withScratch<Result>(layout: Layout, work: (folder: string) => Promise<Result>): Promise<Result> {
	const path = await mkdtemp(layout.folder('scratch', await ownerPrefix()));
	try {
		return await work(path);
	} finally {
		await removeTree(path);
	}
}

/** Puts a file with this text at a path, at once and on the disk, whatever was there. */
export async function replaceFile(layout: Layout, folder: string, name: string, text: string): Promise<void> {
	const temporary = layout.folder('scratch', `${await ownerPrefix()}${randomBytes(8).toString('hex')}`);
	try {
		await writeSynced(temporary, text);
		await rename(temporary, `${folder}/${name}`);
	} catch (error) {
		await removeTree(temporary);
		throw error;
	}
	await syncFolder(folder);
}

/** Removes what dead processes left. */
export async function sweepScratch(layout: Layout): Promise<void> {
	for (const name of namesIn(layout.folder('scratch'))) {
		const path = layout.folder('scratch', name);
		// Two processes may sweep at once; what is left over is the next one's.
		if (await isAbandoned(path)) await removeTree(path).catch(() => undefined);
	}
}
