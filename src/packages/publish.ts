/** The one moment at which a package comes to be. */
import {rename} from 'node:fs/promises';
import {dirname} from 'node:path';
import {syncFolder} from './disk.ts';
import type {Layout, PackageId} from './layout.ts';
import {setAside} from './quarantine.ts';

/** Renames a folder, which is complete and on the disk, to a package's place. To be called by who holds its version and its archive. */
export async function publish(layout: Layout, id: PackageId, made: string): Promise<void> {
	const place = layout.package(id);
	const former = await setAside(layout, id);
	try {
		await rename(made, place);
	} catch (error) {
		if (former !== undefined) await rename(former, place);
		throw error;
	}
	await syncFolder(layout.version(id));
	await syncFolder(dirname(layout.version(id)));
}
