/** As whom sandboxes are made: as root, as whom root has given ids to, or as somebody with no other id than their own. */
import {existsSync, readFileSync, readlinkSync} from 'node:fs';
import {userInfo} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {execa} from 'execa';
import {ForktreeError} from '../errors.ts';
import {isExecutable} from '../native.ts';
import type {IdRange} from './uid-range.ts';

/**
 * `root`: with the host's privileges. `subordinate`: in a user namespace of our own that has, besides our own id, those that
 * root has given us in /etc/subuid and /etc/subgid. `own`: in one that has our own id alone.
 */
export type Identity =
	| {readonly kind: 'root'}
	| {readonly kind: 'own'}
	| {readonly kind: 'subordinate'; readonly uids: IdRange; readonly gids: IdRange};

const sysAdmin = 21n;
const helperDeadlineMs = 10_000;
/** Fewer would not do for a tree of zygotes. */
const leastIds = 65_536;

/** Who we are. */
export function findIdentity(): Identity {
	if (hasHostPrivileges()) return {kind: 'root'};
	const [uids, gids] = [givenIds('/etc/subuid'), givenIds('/etc/subgid')];
	if (uids === undefined || gids === undefined || missingHelper() !== undefined) return {kind: 'own'};
	return {kind: 'subordinate', uids, gids};
}

function hasHostPrivileges(): boolean {
	const [, effective = '0'] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1')) ?? [];
	return process.geteuid?.() === 0 && ((BigInt(`0x${effective}`) >> sysAdmin) & 1n) === 1n;
}

/** The first range of our user that is large enough, see subuid(5). */
function givenIds(file: string): IdRange | undefined {
	if (!existsSync(file)) return undefined;
	const {username, uid} = userInfo();
	for (const line of readFileSync(file, 'utf8').split('\n')) {
		const [owner, start, count] = line.split(':');
		const range = {start: Number(start), count: Number(count)};
		if ((owner === username || owner === String(uid)) && range.start > 0 && range.count >= leastIds) return range;
	}
	return undefined;
}

/** The program that is not there, of those that map given ids, see newuidmap(1). */
function missingHelper(): string | undefined {
	const folders = (process.env.PATH ?? '').split(path.delimiter);
	return ['newuidmap', 'newgidmap'].find((name) => !folders.some((folder) => isExecutable(path.join(folder, name))));
}

/**
 * Maps ids into the user namespace of a process of ours: our own as 0, then those that were given to us.
 * @throws {ForktreeError} `NotPermitted` with what the helper says
 */
export async function mapGivenIds(pid: number, {uids, gids}: Identity & {kind: 'subordinate'}): Promise<void> {
	const maps = [
		['newuidmap', process.geteuid?.(), uids],
		['newgidmap', process.getegid?.(), gids],
	] as const;
	for (const [helper, own, {start, count}] of maps) {
		const words = [pid, 0, own ?? 0, 1, 1, start, count].map(String);
		const {failed, stderr, shortMessage} = await execa(helper, words, {reject: false, timeout: helperDeadlineMs});
		if (failed) throw new ForktreeError('NotPermitted', `mapping ids by ${helper}: ${stderr.trim() || shortMessage}`);
	}
}

/** Of the namespaces that the kernel starts with, see PROC_USER_INIT_INO and its like in include/linux/proc_ns.h. */
const firstNamespaces = {user: 0xeffffffd, pid: 0xeffffffc} as const;

/** Whether we are in a container: in namespaces that somebody has made. */
export function isInContainer(): boolean {
	return Object.entries(firstNamespaces).some(([name, inode]) => {
		return readlinkSync(`/proc/self/ns/${name}`) !== `${name}:[${inode}]`;
	});
}
