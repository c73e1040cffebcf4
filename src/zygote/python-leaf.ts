/** What every leaf of a zygote gets, whatever it runs. */
import type {LeafSpec} from '../sandbox/leaf-birth.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {inside} from '../sandbox/rootfs.ts';

/** Every spare as well. */
export const pythonSpare = {hostname: 'sandbox', uid: undefined, ownNetwork: true, filter: true} as const;

/** @param packages for a zygote that has none of its own */
export function pythonLeaf(
	code: LockedFolder,
	packages: LockedFolder | undefined,
): Pick<LeafSpec, 'mounts' | 'folder' | 'workFolder' | keyof typeof pythonSpare> {
	const attached = packages === undefined ? [] : [{folder: packages, target: inside.packages}];
	return {
		...pythonSpare,
		mounts: [{folder: code, target: inside.handler}, ...attached],
		folder: inside.handler,
		workFolder: false,
	};
}
