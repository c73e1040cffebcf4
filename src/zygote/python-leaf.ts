/** What every leaf of a zygote gets, whatever it runs. */
import type {LeafSpec} from '../sandbox/leaf-birth.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {inside} from '../sandbox/rootfs.ts';

/** Every spare as well. */
export const pythonSpare = {hostname: 'sandbox', uid: undefined, ownNetwork: true, filter: true} as const;

/** @param code and `packages`: for a zygote that has none of its own */
export function pythonLeaf(
	code: LockedFolder | undefined,
	packages: LockedFolder | undefined,
): Pick<LeafSpec, 'mounts' | 'folder' | 'workFolder' | keyof typeof pythonSpare> {
	const attach = (folder: LockedFolder | undefined, target: string) => (folder === undefined ? [] : [{folder, target}]);
	return {
		...pythonSpare,
		mounts: [...attach(code, inside.handler), ...attach(packages, inside.packages)],
		folder: inside.handler,
		workFolder: false,
	};
}
