/**
 * Where packages go that must not be used any more. They are not removed at once: what was mounted from them before
 * stays as it was, whoever looks for the damage finds it, and a package that is replaced is gone for no longer than
 * between two renames.
 */
import {randomBytes} from 'node:crypto';
import {rename} from 'node:fs/promises';
import {statusOf} from './disk.ts';
import {type Layout, type PackageId, readPackageId} from './layout.ts';

/** Moves what is at a package's place, if anything is; answers where to. */
export async function setAside(layout: Layout, id: PackageId): Promise<string | undefined> {
	if (statusOf(layout.package(id)) === undefined) return undefined;
	const {abi, name, version, hash} = id;
	const folder = layout.folder('quarantine', `${abi}@${name}==${version}@${hash}@${randomBytes(8).toString('hex')}`);
	await rename(layout.package(id), folder);
	return folder;
}

/** Which package something in quarantine was; undefined when it was none. */
export function readQuarantined(name: string): PackageId | undefined {
	const [abi = '', version = '', hash = '', unique, ...more] = name.split('@');
	return unique === undefined || more.length > 0 ? undefined : readPackageId(abi, version, hash);
}
