/** What every leaf of a zygote gets, whatever it runs. */
import type {LeafSpec} from '../sandbox/leaf-birth.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {hostsFile, type LeafNetwork} from '../sandbox/network/sandbox-network.ts';
import {inside} from '../sandbox/rootfs.ts';

/** Every spare as well. */
export const pythonSpare = {hostname: 'sandbox', uid: undefined, ownNetwork: true, filter: true} as const;

/** @param code and `packages`: for a zygote that has none of its own */
export function pythonLeaf(
	code: LockedFolder | undefined,
	packages: LockedFolder | undefined,
	network?: LeafNetwork,
): Pick<LeafSpec, 'mounts' | 'folder' | 'network' | 'workFolder' | 'writable' | keyof typeof pythonSpare> {
	const attach = (folder: LockedFolder | undefined, target: string) => (folder === undefined ? [] : [{folder, target}]);
	return {
		...pythonSpare,
		mounts: [
			...attach(code, inside.handler),
			...attach(packages, inside.packages),
			...attach(network?.hosts, hostsFile),
		],
		network,
		folder: inside.handler,
		workFolder: false,
		writable: 'none',
	};
}
