/**
 * Reads an archive of packages on a thread of its own: checks each entry against the records before it, and writes it to a
 * folder of work under way, from the chunks that messages hold. See import.ts, and transfer-format.ts for the order.
 */
import {createHash, type Hash} from 'node:crypto';
import {closeSync, mkdirSync, openSync, writeFileSync, writeSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {parentPort, workerData} from 'node:worker_threads';
import {Parser, type ReadEntry} from 'tar';
import {type ErrorCode, ForktreeError} from '../errors.ts';
import {statusOf} from './disk.ts';
import type {ToImport} from './import.ts';
import {isUsable, maxRecordBytes, names, readInstalled, sha256} from './installed.ts';
import {Layout, type PackageId, packageIdOf} from './layout.ts';
import {type Archive, createLock} from './lock.ts';
import {readMetadata} from './metadata.ts';
import {
	type PackageContents,
	type PackageSummary,
	readContents,
	readCost,
	readSummary,
	writeSummary,
} from './records.ts';
import {type ListedPackage, listName, maxListBytes, readList} from './transfer-format.ts';

/** A package of the archive, as it lies in the folder of work under way: a folder of its number in each of two. */
export type StagedPackage = {
	readonly id: PackageId;
	/** In `records/<number>`, and its files in `sealed/<number>/files`; not when it was in the store already. */
	readonly isStaged: boolean;
	/** What it was made from, if that is in `sealed/<number>/archive`. */
	readonly archive: Archive | undefined;
};

/** What becomes of the archive; `isTaken` is said of each chunk. */
export type ImportNews =
	| {readonly isTaken: true}
	| {readonly packages: readonly StagedPackage[]}
	| {readonly failed: {readonly code: ErrorCode; readonly message: string}};

/** The entry that has to come next. A text is kept in memory; a file is written, unless it has no target. */
type Wanted =
	| {readonly path: string; readonly maxBytes: number}
	| {
			readonly path: string;
			readonly target: string | undefined;
			readonly sha256: string | undefined;
			readonly sizeBytes: number | undefined;
	  };

/** An entry that is being read. */
type Open = {readonly wanted: Wanted; readonly chunks: Buffer[]; readonly hash: Hash | undefined; readonly fd?: number};

const MAX_ARCHIVE_BYTES = 4 * 1024 ** 3;
const MAX_PACKAGE_BYTES = 32 * 1024 ** 3;
const {abi, dir, folder} = workerData as ToImport;
const layout = new Layout(dir);
const staged: StagedPackage[] = [];
const made = new Set<string>();

/** Asks for one entry after the other; is given the content of texts. */
function* entries(): Generator<Wanted, void, string> {
	const list = readList(yield {path: listName, maxBytes: maxListBytes});
	if (list.abi !== abi) {
		throw new ForktreeError('InvalidStore', `expected an archive of packages for ${abi}, got one for ${list.abi}`);
	}
	for (const [number, each] of list.packages.entries()) yield* packageEntries(each, String(number));
}

function* packageEntries(
	{id, hasCost, hasArchive, built}: ListedPackage,
	number: string,
): Generator<Wanted, void, string> {
	const at = layout.relative(id);
	const summaryText = yield {path: join(at, names.summary), maxBytes: maxRecordBytes.summary};
	const contentsText = yield {path: join(at, names.contents), maxBytes: maxRecordBytes.contents};
	const {summary, contents} = readRecords(id, summaryText, contentsText);
	const costText = hasCost ? yield {path: join(at, names.cost), maxBytes: maxRecordBytes.cost} : undefined;
	const isStaged = !isUsable(readInstalled(layout, id));
	if (isStaged) {
		const records = join(folder, 'records', number);
		makeFolder(records);
		makeFolder(join(folder, 'sealed', number, 'files'));
		writeRecord(records, names.contents, contentsText);
		writeRecord(records, names.summary, writeSummary(summary));
		if (costText !== undefined && readCost(costText) !== undefined) writeRecord(records, names.cost, costText);
	}
	for (const [path, hash, sizeBytes] of contents.files) {
		const target = isStaged ? join(folder, 'sealed', number, 'files', path) : undefined;
		yield {path: join(at, 'files', path), target, sha256: hash, sizeBytes};
	}
	const {archive} = summary;
	const isKept = !hasArchive || statusOf(layout.folder('archives', archive.sha256)) !== undefined;
	const target = (...parts: readonly string[]) =>
		isKept ? undefined : join(folder, 'sealed', number, 'archive', ...parts);
	const from = join('archives', archive.sha256);
	if (hasArchive) {
		yield {
			path: join(from, archive.file),
			target: target(archive.file),
			sha256: archive.sha256,
			sizeBytes: archive.sizeBytes,
		};
		if (built !== undefined) {
			const below = join(abi, built.sha256, built.file);
			yield {path: join(from, below), target: target(below), sha256: built.sha256, sizeBytes: undefined};
		}
	}
	staged.push({id, isStaged, archive: isKept ? undefined : archive});
}

/** @throws {ForktreeError} `TransferFailed` for records that are none, or do not fit together */
function readRecords(
	id: PackageId,
	summaryText: string,
	contentsText: string,
): {readonly summary: PackageSummary; readonly contents: PackageContents} {
	const what = `the records of ${id.name} ${id.version}`;
	const summary = readSummary(summaryText, id);
	const contents = readContents(contentsText);
	if (summary === undefined || contents === undefined)
		throw new ForktreeError('TransferFailed', `${what} can not be read`);
	try {
		const {name, version, archive} = summary;
		const [distribution] = createLock(id.abi, [{name, version, archive}]).distributions;
		if (distribution === undefined || packageIdOf(id.abi, distribution).hash !== id.hash) {
			throw new Error(`they are of an archive with the hash ${archive.sha256}`);
		}
		const {files} = readMetadata({...summary, ...contents}, id);
		if (summary.sizeBytes > MAX_PACKAGE_BYTES) throw new Error(`they tell of ${summary.sizeBytes} bytes`);
		if (summary.contentsSha256 !== sha256(contentsText)) throw new Error('the list of files is another one');
		return {summary, contents: {...contents, files}};
	} catch (error) {
		throw new ForktreeError('TransferFailed', `${what} are not valid: ${(error as Error).message}`, {cause: error});
	}
}

function writeRecord(records: string, name: string, text: string): void {
	writeFileSync(join(records, name), text, {flag: 'wx', mode: 0o644});
}

function makeFolder(path: string): void {
	if (made.has(path)) return;
	mkdirSync(path, {recursive: true, mode: 0o700});
	made.add(path);
}

class Reading {
	readonly #parser = new Parser({strict: true, brotli: false, zstd: false});
	readonly #entries = entries();
	#wanted: Wanted | undefined;
	#open: Open | undefined;
	#fault: unknown;
	#isEnded = false;

	constructor() {
		this.#wanted = this.#entries.next().value ?? undefined;
		this.#parser.on('entry', (entry: ReadEntry) => {
			entry.on('end', () => this.#unlessFailed(() => this.#end()));
			this.#unlessFailed(() => this.#begin(entry));
			entry.on('data', (chunk) => this.#unlessFailed(() => this.#write(chunk)));
		});
		this.#parser.on('ignoredEntry', (entry: ReadEntry) => this.#unlessFailed(() => this.#begin(entry)));
		this.#parser.on('error', (error: Error) => {
			this.#fault ??= new ForktreeError('TransferFailed', `expected a tar file as it was exported: ${error.message}`);
		});
		this.#parser.on('eof', () => {
			this.#isEnded = true;
		});
		// The parser would unzip what starts like a zipped file; an empty block first keeps it from looking.
		this.#parser.write(Buffer.alloc(512));
	}

	/** @throws what is wrong with it */
	write(chunk: Uint8Array): void {
		// What follows the end is padding; the parser would keep all of it in memory.
		if (!this.#isEnded) this.#parser.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
		if (this.#fault !== undefined) throw this.#fault;
	}

	/** @throws what is wrong with it */
	end(): void {
		this.#parser.end();
		if (this.#fault !== undefined) throw this.#fault;
		if (this.#wanted !== undefined) {
			throw new ForktreeError('TransferFailed', `the archive is not complete: expected ${this.#wanted.path} next`);
		}
	}

	/** Closes what is open. */
	close(): void {
		if (this.#open?.fd !== undefined) closeSync(this.#open.fd);
		this.#open = undefined;
	}

	/** After the first fault nothing is done any more. */
	#unlessFailed(work: () => void): void {
		if (this.#fault !== undefined) return;
		try {
			work();
		} catch (error) {
			this.#fault = error;
		}
	}

	#begin({path, type, size, mode = 0}: ReadEntry): void {
		const shown = JSON.stringify(path).slice(0, 300);
		if (type !== 'File' && type !== 'OldFile') {
			throw new ForktreeError('UnsafeArchive', `expected plain files alone, got a ${type} at ${shown}`);
		}
		const wanted = this.#wanted;
		if (wanted === undefined || path !== wanted.path) {
			throw new ForktreeError('UnsafeArchive', `expected ${wanted?.path ?? 'nothing'} next, got ${shown}`);
		}
		if ('maxBytes' in wanted) {
			if (size > wanted.maxBytes) throw tooLarge(wanted.path, wanted.maxBytes, size);
			this.#open = {wanted, chunks: [], hash: undefined};
			return;
		}
		if (wanted.sizeBytes !== undefined && size !== wanted.sizeBytes) {
			throw new ForktreeError('HashMismatch', `${path}: expected ${wanted.sizeBytes} bytes, got ${size}`);
		}
		if (wanted.sizeBytes === undefined && size > MAX_ARCHIVE_BYTES) throw tooLarge(path, MAX_ARCHIVE_BYTES, size);
		if (wanted.target === undefined) {
			this.#open = {wanted, chunks: [], hash: undefined};
			return;
		}
		makeFolder(dirname(wanted.target));
		const fd = openSync(wanted.target, 'wx', (mode & 0o100) === 0 ? 0o600 : 0o700);
		this.#open = {wanted, chunks: [], hash: createHash('sha256'), fd};
	}

	#write(chunk: Buffer): void {
		if (this.#open === undefined) return;
		const {wanted, chunks, hash, fd} = this.#open;
		if ('maxBytes' in wanted) chunks.push(chunk);
		if (hash === undefined || fd === undefined) return;
		hash.update(chunk);
		for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
	}

	#end(): void {
		if (this.#open === undefined) return;
		const {wanted, chunks, hash} = this.#open;
		this.close();
		if (hash !== undefined && 'sha256' in wanted) {
			const found = hash.digest('hex');
			if (found !== wanted.sha256) {
				throw new ForktreeError('HashMismatch', `${wanted.path}: expected sha256 ${wanted.sha256}, got ${found}`);
			}
		}
		this.#wanted = this.#entries.next(Buffer.concat(chunks).toString('utf8')).value ?? undefined;
	}
}

function tooLarge(path: string, maxBytes: number, size: number): ForktreeError {
	return new ForktreeError('UnsafeArchive', `${path}: expected at most ${maxBytes} bytes, got ${size}`);
}

function tell(news: ImportNews): void {
	parentPort?.postMessage(news);
}

const reading = new Reading();
parentPort?.on('message', (chunk: Uint8Array | undefined) => {
	try {
		if (chunk === undefined) {
			reading.end();
			tell({packages: staged});
			return;
		}
		reading.write(chunk);
		tell({isTaken: true});
	} catch (error) {
		reading.close();
		const {message} = error as Error;
		tell({failed: {code: error instanceof ForktreeError ? error.code : 'TransferFailed', message}});
	}
});
