/** Names temporary folders after the process that fills them, so that others can tell when it is dead. */
import {readFile, readlink, stat} from 'node:fs/promises';
import {basename} from 'node:path';

const NAME = /^tmp-(\d+)-(\d+)-(\d+)-([0-9a-f]{8})-/;
// No installation takes that long, so an older folder is abandoned even when its owner cannot be seen from here.
const FOREIGN_AGE_MS = 24 * 60 * 60_000;

/** The start of the names of this process's temporary folders: pid, start time, pid namespace and boot. */
export async function ownerPrefix(): Promise<string> {
	const [start, namespace, boot] = await Promise.all([startTime('self'), pidNamespace(), bootId()]);
	return `tmp-${process.pid}-${start ?? 0}-${namespace}-${boot}-`;
}

/** Whether a folder is one of {@link ownerPrefix} whose process is dead. Any other folder is not abandoned. */
export async function isAbandoned(path: string): Promise<boolean> {
	const [, pid, start, namespace, boot] = NAME.exec(basename(path)) ?? [];
	if (pid === undefined) return false;
	if (boot !== (await bootId())) return true;
	// A pid says nothing in another container; one that is busy there must not lose its folder.
	if (namespace !== (await pidNamespace())) return (await ageOf(path)) > FOREIGN_AGE_MS;
	return (await startTime(pid)) !== start;
}

async function ageOf(path: string): Promise<number> {
	const stats = await stat(path).catch(() => undefined);
	return stats === undefined ? 0 : Date.now() - stats.mtimeMs;
}

async function startTime(pid: string): Promise<string | undefined> {
	const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
	// The second field is the command's name in parentheses and may itself hold spaces and parentheses.
	const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ');
	// A zombie's pid is still taken, but it no longer does anything.
	return fields?.[0] === 'Z' || fields?.[0] === 'X' ? undefined : fields?.[19];
}

async function pidNamespace(): Promise<string> {
	return /\d+/.exec(await readlink('/proc/self/ns/pid'))?.[0] ?? '0';
}

async function bootId(): Promise<string> {
	return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).slice(0, 8);
}
