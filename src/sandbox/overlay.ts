/** Folders of the host in which sandboxes keep what they write. */
import {lstatSync} from 'node:fs';
import path from 'node:path';
import {ForktreeError, SyscallError} from '../errors.ts';
import {closeFd, lockFile} from '../native.ts';
import type {Identity} from './identity.ts';
import {invalidBase} from './sandbox-options.ts';

/**
 * Takes a folder for one sandbox: two that write to the same would spoil it.
 * @returns gives it back
 * @throws {ForktreeError} `InvalidSource` for what is no folder, is in use, or is open to others
 */
export function lockOverlay(folder: string): () => void {
	const status = lstatSync(folder, {throwIfNoEntry: false});
	if (status?.isDirectory() !== true) throw invalidBase(`writable.overlay: expected a folder, got ${folder}`);
	// A sandbox may leave files there that belong to root and are set-uid.
	if (status.uid !== 0 || (status.mode & 0o077) !== 0) {
		throw invalidBase(`writable.overlay: expected a folder of root that nobody else may enter; chmod 700 ${folder}`);
	}
	const lock = lockFile(path.join(folder, 'lock'));
	if (lock === undefined) throw invalidBase(`writable.overlay: ${folder} is in use by another sandbox`);
	return () => closeFd(lock);
}

/** @throws {ForktreeError} `NotSupported` for who is not root */
export function checkOverlays({kind}: Identity): void {
	if (kind === 'root') return;
	throw new ForktreeError(
		'NotSupported',
		'writable: expected none or scratch, since only root can map the ids of mounts, which an overlay over the host’s files takes',
	);
}

/** Says what the kernel or a file system lacks. */
export function explainOverlay(error: unknown): never {
	if (error instanceof SyscallError && error.step === 'open folder of writable root') {
		throw invalidBase(`writable.overlay: a sandbox before has put something else in the place of ${error.path}`, error);
	}
	if (!(error instanceof SyscallError) || !['map ids of mount', 'mount overlay'].includes(error.step)) throw error;
	throw new ForktreeError(
		'NotSupported',
		`writable: expected Linux 5.19 or later, and folders on a file system with idmapped mounts such as ext4, xfs or btrfs: ${error.message}`,
		{cause: error},
	);
}
