/** Writes what is installed to an archive that another machine's store can take over without a network. */
import {link, mkdir, writeFile} from 'node:fs/promises';
import {basename, dirname, join, relative} from 'node:path';
import type {Writable} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import {create} from 'tar';
import {ForktreeError} from '../errors.ts';
import type {Archives} from './archives.ts';
import {type HashedTree, withHashes} from './hashes.ts';
import {isUsable, names, readContentsOf, readCostOf, readInstalled, readStore, type Usable} from './installed.ts';
import type {Layout, PackageId} from './layout.ts';
import type {StoreLocks} from './locks.ts';
import {writeSummary} from './records.ts';
import {withScratch} from './scratch.ts';
import {type BuiltWheel, type ListedPackage, listName, writeList} from './transfer-format.ts';
import {examine, throwIfAborted} from './verification.ts';

/** What was written; each is `name==version`. */
export type ExportReport = {
	readonly packages: readonly string[];
	/**
	 * Those of which the store no longer has what they were made from. They can be used where the archive is imported, by a lock or
	 * by exact versions with hashes, but nothing that is less exact is resolved to them without a network.
	 */
	readonly withoutArchive: readonly string[];
};

export type ExportContext = {
	readonly layout: Layout;
	readonly locks: StoreLocks;
	readonly archives: Archives;
	readonly abi: string;
};

/** What is to be written: the names of entries by paths relative to the store, in order. */
type Entries = Map<string, string>;

/**
 * Writes all packages of an interpreter, which no process removes meanwhile. Every file is hashed before.
 * @param output is ended
 * @throws {ForktreeError} `PackageDamaged` for one that is not as it was installed; `TransferFailed`, `Aborted`
 */
export async function exportPackages(
	context: ExportContext,
	output: Writable,
	signal: AbortSignal,
): Promise<ExportReport> {
	const {layout, locks, abi} = context;
	const holds: Array<() => void> = [];
	output.on('error', () => undefined); // it is told when something is written
	try {
		const {packages} = await readStore(layout);
		const whole: Usable[] = [];
		for (const {id} of packages.filter((each) => each.id.abi === abi)) {
			const release = await locks.holdVersion(id, false, signal);
			if (release === undefined) continue; // removed meanwhile
			holds.push(release);
			const installed = readInstalled(layout, id);
			if (isUsable(installed)) whole.push(installed);
		}
		return await withScratch(layout, (scratch) => writeAll(context, whole, scratch, output, signal));
	} catch (error) {
		if (signal.aborted) throw new ForktreeError('Aborted', 'the export was aborted', {cause: signal.reason});
		if (error instanceof ForktreeError) throw error;
		throw new ForktreeError('TransferFailed', `could not export: ${(error as Error).message}`, {cause: error});
	} finally {
		output.destroy();
		for (const release of holds) release();
	}
}

async function writeAll(
	context: ExportContext,
	packages: readonly Usable[],
	scratch: string,
	output: Writable,
	signal: AbortSignal,
): Promise<ExportReport> {
	const {layout, abi} = context;
	const listed: ListedPackage[] = [];
	const list = join(scratch, listName);
	const entries: Entries = new Map([[relative(layout.dir, list), listName]]);
	await withHashes(async (hash) => {
		for (const [number, each] of packages.entries()) {
			throwIfAborted(signal);
			await checkWhole(each, (path) => hash(path, signal));
			const own = join(scratch, `${number}`);
			await mkdir(own);
			listed.push(await addPackage(context, each, own, entries, signal));
		}
	});
	await writeFile(list, writeList({abi, packages: listed}));
	const pack = create(
		{
			cwd: layout.dir,
			portable: true,
			noMtime: true,
			strict: true,
			onWriteEntry: (entry) => {
				entry.path = entries.get(entry.path) ?? entry.path;
			},
		},
		[...entries.keys()],
	);
	await pipeline(pack, output, {signal});
	return {
		packages: listed.map(({id}) => nameOf(id)),
		withoutArchive: listed.filter(({hasArchive}) => !hasArchive).map(({id}) => nameOf(id)),
	};
}

async function checkWhole(installed: Usable, hash: (path: string) => Promise<HashedTree>): Promise<void> {
	const [first] = await examine(installed, hash);
	if (first !== undefined) throw damaged(installed.id, `${first.problem}: ${first.path || 'its records'}`);
}

/** @param own a folder for what is not in the store in that form */
async function addPackage(
	{layout, locks, archives, abi}: ExportContext,
	installed: Usable,
	own: string,
	entries: Entries,
	signal: AbortSignal,
): Promise<ListedPackage> {
	const {id, summary} = installed;
	const contents = readContentsOf(installed);
	if (contents === undefined) throw damaged(id, 'its records can not be read');
	const at = layout.relative(id);
	const add = (path: string, name: string): unknown => entries.set(relative(layout.dir, path), name);
	await writeFile(
		join(own, names.summary),
		writeSummary({...summary, archive: {...summary.archive, url: plain(summary.archive.url)}}),
	);
	add(join(own, names.summary), join(at, names.summary));
	const hasCost = readCostOf(installed) !== undefined;
	const others = [
		names.contents,
		...(hasCost ? [names.cost] : []),
		...contents.files.map(([path]) => join('files', path)),
	];
	for (const path of others) add(join(layout.package(id), path), join(at, path));
	// Whoever makes room may remove these meanwhile: they get a second name for as long.
	return locks.withArchive(id.hash, signal, async () => {
		const {archive} = summary;
		const keep = async (path: string, name: string): Promise<void> => {
			await link(path, join(own, basename(path)));
			add(join(own, basename(path)), name);
		};
		const from = join('archives', archive.sha256);
		const kept = await archives.find(archive, signal);
		if (kept === undefined) return {id, hasCost, hasArchive: false, built: undefined};
		await keep(kept, join(from, archive.file));
		const wheel = archive.kind === 'sdist' ? await archives.findBuilt(archive, signal) : undefined;
		if (wheel === undefined) return {id, hasCost, hasArchive: true, built: undefined};
		const built: BuiltWheel = {sha256: basename(dirname(wheel)), file: basename(wheel)};
		await keep(wheel, join(from, abi, built.sha256, built.file));
		return {id, hasCost, hasArchive: true, built};
	});
}

/** Without what a server may have put into it for us alone. */
function plain(text: string): string {
	const url = new URL(text);
	url.username = '';
	url.password = '';
	url.search = '';
	url.hash = '';
	return url.href;
}

function damaged(id: PackageId, what: string): ForktreeError {
	return new ForktreeError(
		'PackageDamaged',
		`${nameOf(id)} is not as it was installed (${what}); verify the store first`,
	);
}

function nameOf({name, version}: PackageId): string {
	return `${name}==${version}`;
}
