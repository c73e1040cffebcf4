/** Takes packages over from an archive that another store wrote: all of it is checked before any of it is seen. */
import {once} from 'node:events';
import {chmod, mkdir, rename} from 'node:fs/promises';
import {join} from 'node:path';
import type {Readable} from 'node:stream';
import {Worker} from 'node:worker_threads';
import {ForktreeError} from '../errors.ts';
import {sealTree} from '../native.ts';
import type {Archives} from './archives.ts';
import {statusOf} from './disk.ts';
import type {ImportNews, StagedPackage} from './import-worker.ts';
import {isUsable, readInstalled} from './installed.ts';
import type {Layout} from './layout.ts';
import type {StoreLocks} from './locks.ts';
import {publish} from './publish.ts';
import {withScratch} from './scratch.ts';

/** What became of an archive; each is `name==version`. */
export type ImportReport = {
	readonly imported: readonly string[];
	/** What was there already. */
	readonly found: readonly string[];
};

/** What the thread that reads is told. */
export type ToImport = {
	/** Of the interpreter. */
	readonly abi: string;
	/** The store's. */
	readonly dir: string;
	/** Where it writes to. */
	readonly folder: string;
};

export type ImportContext = {
	readonly layout: Layout;
	readonly locks: StoreLocks;
	readonly archives: Archives;
	readonly abi: string;
};

/** As built, also when we are not: whatever loads our TypeScript does not do so on other threads. */
const script = new URL('../../dist/packages/import-worker.js', import.meta.url);
/** So many chunks are on their way to the thread: enough to keep it busy. */
const MAX_WAITING = 8;
/** How long nothing may come of a source, or the thread take for what it was given. */
const STALL_MS = 10 * 60_000;
const NO_LIMIT = {maxEntries: Number.MAX_SAFE_INTEGER, maxBytes: Number.MAX_SAFE_INTEGER};

/**
 * Reads an archive of packages, whoever made it. A package appears complete or not at all; when the archive is not whole, or
 * does not fit, nothing of it appears.
 * @throws {ForktreeError} `InvalidStore` for one of another interpreter or format; `UnsafeArchive` for what is no plain file, or
 * not where it belongs; `HashMismatch`; `TransferFailed`, `InstallTimeout`, `Aborted`
 */
export async function importPackages(
	context: ImportContext,
	source: Readable,
	signal: AbortSignal,
): Promise<ImportReport> {
	const {layout, abi} = context;
	source.on('error', () => undefined); // it is told when something is read
	try {
		return await withScratch(layout, async (folder) => {
			await mkdir(join(folder, 'sealed'), {mode: 0o700});
			const staged = await read(source, {abi, dir: layout.dir, folder}, signal);
			// Their sizes and numbers were checked. This also brings everything to the disk, at once.
			await sealTree(join(folder, 'sealed'), NO_LIMIT);
			const imported: string[] = [];
			const found: string[] = [];
			for (const [number, each] of staged.entries()) {
				const isNew = await putIntoPlace(
					context,
					each,
					join(folder, 'sealed', `${number}`),
					join(folder, 'records', `${number}`),
					signal,
				);
				(isNew ? imported : found).push(`${each.id.name}==${each.id.version}`);
			}
			return {imported, found};
		});
	} catch (error) {
		if (error instanceof ForktreeError && error.code !== 'Syscall') throw error;
		throw new ForktreeError('TransferFailed', `could not import: ${(error as Error).message}`, {cause: error});
	} finally {
		source.destroy();
	}
}

/** Answers whether it was not there already. */
async function putIntoPlace(
	{layout, locks, archives}: ImportContext,
	{id, isStaged, archive}: StagedPackage,
	sealed: string,
	records: string,
	signal: AbortSignal,
): Promise<boolean> {
	const release = await locks.holdVersion(id, true, signal);
	let isNew = false;
	try {
		await locks.withArchive(id.hash, signal, async () => {
			// Another process may have been first.
			const isKept = archive === undefined || statusOf(layout.folder('archives', archive.sha256)) !== undefined;
			if (!isKept) await archives.keep(archive, join(sealed, 'archive'));
			if (!isStaged || isUsable(readInstalled(layout, id))) return;
			await rename(join(sealed, 'files'), join(records, 'files'));
			await chmod(records, 0o755);
			await publish(layout, id, records);
			isNew = true;
		});
	} finally {
		release?.();
		// What nothing came of is not left empty.
		if (!isNew) await locks.withFreeVersion(id, async () => undefined);
	}
	return isNew;
}

/** Has the thread read it. Answers when all of it has been checked and written; the thread has ended then, however it went. */
async function read(source: Readable, work: ToImport, signal: AbortSignal): Promise<readonly StagedPackage[]> {
	const worker = new Worker(script, {execArgv: [], workerData: work});
	const ending = new AbortController();
	const stalled = setTimeout(() => ending.abort(stall()), STALL_MS);
	const abort = (): void =>
		ending.abort(new ForktreeError('Aborted', 'the import was aborted', {cause: signal.reason}));
	signal.addEventListener('abort', abort, {once: true});
	if (signal.aborted) abort();
	try {
		const answer = answerOf(worker, ending.signal, () => stalled.refresh());
		const [packages] = await Promise.all([answer, feed(worker, source, ending.signal)]);
		return packages;
	} finally {
		clearTimeout(stalled);
		signal.removeEventListener('abort', abort);
		source.destroy();
		await worker.terminate();
	}
}

function answerOf(worker: Worker, signal: AbortSignal, onTaken: () => void): Promise<readonly StagedPackage[]> {
	return new Promise((resolve, reject) => {
		signal.addEventListener('abort', () => reject(signal.reason), {once: true});
		if (signal.aborted) reject(signal.reason);
		worker.on('error', reject);
		worker.on('exit', () => reject(new ForktreeError('TransferFailed', 'the thread that reads the archive has ended')));
		worker.on('message', (news: ImportNews) => {
			if ('packages' in news) resolve(news.packages);
			else if ('failed' in news) reject(new ForktreeError(news.failed.code, news.failed.message));
			else onTaken();
		});
	});
}

async function feed(worker: Worker, source: Readable, signal: AbortSignal): Promise<void> {
	let waiting = 0;
	worker.on('message', () => {
		waiting -= 1;
	});
	for await (const chunk of source) {
		const bytes = chunk as Buffer;
		// One that has its memory for itself goes there without being copied.
		const isAlone = bytes.byteLength === bytes.buffer.byteLength;
		worker.postMessage(bytes, isAlone ? [bytes.buffer as ArrayBuffer] : []);
		waiting += 1;
		while (waiting >= MAX_WAITING) await once(worker, 'message', {signal});
	}
	worker.postMessage(undefined);
}

function stall(): ForktreeError {
	return new ForktreeError('InstallTimeout', `importing: nothing came for ${STALL_MS / 60_000} minutes`);
}
