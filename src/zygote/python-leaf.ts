/** What every leaf of a zygote gets, whatever it runs. */
import type {LeafSpec} from '../sandbox/launcher.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {inside} from '../sandbox/rootfs.ts';

/** @param packages for a zygote that has none of its own */
export function pythonLeaf(
	code: LockedFolder,
	packages: LockedFolder | undefined,
): Pick<LeafSpec, 'mounts' | 'hostname' | 'folder' | 'uid' | 'ownNetwork' | 'filter' | 'workFolder'> {
	const attached = packages === undefined ? [] : [{folder: packages, target: inside.packages}];
	return {
		mounts: [{folder: code, target: inside.handler}, ...attached],
		hostname: 'sandbox',
		folder: inside.handler,
		uid: undefined,
		ownNetwork: true,
		filter: true,
		workFolder: false,
	};
}
