/** Puts one package into the store: a folder that is made elsewhere, and appears complete or not at all. */
import {chmod, mkdir, rename} from 'node:fs/promises';
import {availableParallelism} from 'node:os';
import {basename, dirname, join} from 'node:path';
import {ForktreeError} from '../errors.ts';
import {type SealedTree, sealTree} from '../native.ts';
import type {Archives} from './archives.ts';
import {statusOf, syncFolder, writeSynced} from './disk.ts';
import {isUsable, names, readInstalled, sha256} from './installed.ts';
import {type Layout, type PackageId, packageIdOf} from './layout.ts';
import type {LockedDistribution} from './lock.ts';
import type {StoreLocks} from './locks.ts';
import type {DistributionMetadata} from './metadata.ts';
import {publish} from './publish.ts';
import {writeContents, writeSummary} from './records.ts';
import {withScratch} from './scratch.ts';
import {Slots} from './slots.ts';
import type {InstallSteps, StepOptions} from './steps.ts';

export type InstallationOptions = {
	readonly layout: Layout;
	readonly locks: StoreLocks;
	readonly abi: string;
	readonly archives: Archives;
	readonly steps: InstallSteps;
	/** Whether nothing may be downloaded. */
	readonly offline: boolean;
};

/** As many as an index serves at once without being put upon. */
const MAX_DOWNLOADS = 8;
const MAX_FILES = {maxEntries: 1_000_000, maxBytes: 32 * 1024 ** 3};

/** Installs packages of one store. */
export class Installation {
	readonly #layout: Layout;
	readonly #locks: StoreLocks;
	readonly #abi: string;
	readonly #steps: InstallSteps;
	readonly #offline: boolean;
	readonly #archives: Archives;
	/**
	 * Taken while holding the lock of an archive, for what waits for nobody. A build is none of it: it waits for what it
	 * requires to be installed, which takes slots as well.
	 */
	readonly #downloads = new Slots(MAX_DOWNLOADS);
	readonly #processors = new Slots(availableParallelism());

	constructor({layout, locks, abi, archives, steps, offline}: InstallationOptions) {
		this.#layout = layout;
		this.#locks = locks;
		this.#abi = abi;
		this.#steps = steps;
		this.#offline = offline;
		this.#archives = archives;
	}

	/**
	 * Installs a package that is not there, or not usable, or has this inode. To be called by who holds its version.
	 * After a failure everything is as it was.
	 * @throws {ForktreeError} naming the package and what was done with it; or what a step throws
	 */
	async install(distribution: LockedDistribution, options: StepOptions, damagedInode?: number): Promise<void> {
		const id = packageIdOf(this.#abi, distribution);
		await this.#locks.withArchive(id.hash, options.signal, async () => {
			// Another process may have been first.
			const found = readInstalled(this.#layout, id);
			if (isUsable(found) && found.inode !== damagedInode) return;
			await explain(describe(distribution, 'preparing'), () =>
				withScratch(this.#layout, (scratch) => this.#make(distribution, id, scratch, options)),
			);
		});
	}

	async #make(distribution: LockedDistribution, id: PackageId, scratch: string, options: StepOptions): Promise<void> {
		const archive = await this.#downloads.run(options.signal, () => this.#archive(distribution, scratch, options));
		const wheel =
			distribution.archive.kind === 'wheel' ? archive : await this.#build(distribution, archive, scratch, options);
		const made = join(scratch, 'package');
		await this.#processors.run(options.signal, async () => {
			await mkdir(made, {mode: 0o700});
			await this.#unpack(distribution, wheel, made, options);
		});
		options.signal.throwIfAborted();
		await explain(describe(distribution, 'putting it into the store'), () => publish(this.#layout, id, made));
	}

	async #archive(distribution: LockedDistribution, scratch: string, options: StepOptions): Promise<string> {
		const {archive, name, version} = distribution;
		const kept = await this.#archives.find(archive, options.signal);
		if (kept !== undefined) return kept;
		if (this.#offline) {
			throw new ForktreeError('Offline', `${name} ${version} is not installed, and its archive is not in the store`);
		}
		return explain(describe(distribution, 'downloading'), async () => {
			const folder = join(scratch, 'archive');
			await mkdir(folder, {mode: 0o700});
			await this.#steps.fetch(archive, join(folder, archive.file), options);
			options.signal.throwIfAborted();
			return this.#archives.keep(archive, folder);
		});
	}

	async #build(
		distribution: LockedDistribution,
		sdist: string,
		scratch: string,
		options: StepOptions,
	): Promise<string> {
		const built = await this.#archives.findBuilt(distribution.archive, options.signal);
		if (built !== undefined) return built;
		return explain(describe(distribution, 'building'), async () => {
			const building = await makeOpenFolder(join(scratch, 'build'));
			const wheel = await this.#steps.build(distribution, sdist, building, options);
			options.signal.throwIfAborted();
			// Alone, as the folder may hold anything else that the build has left.
			const folder = join(scratch, 'built');
			await mkdir(folder, {mode: 0o700});
			if (dirname(wheel) !== building || statusOf(wheel)?.isFile() !== true) {
				throw new Error(`expected a wheel in ${building}, got ${wheel}`);
			}
			const moved = join(folder, basename(wheel));
			await rename(wheel, moved);
			await takeOver(distribution, folder);
			return this.#archives.keepBuilt(distribution.archive, moved, folder, options.signal);
		});
	}

	/** Fills the folder of a package. It is on the disk then. */
	async #unpack(distribution: LockedDistribution, wheel: string, made: string, options: StepOptions): Promise<void> {
		const files = await makeOpenFolder(join(made, 'files'));
		const metadata = await explain(describe(distribution, 'unpacking'), () =>
			this.#steps.unpack(distribution, wheel, files, options),
		);
		options.signal.throwIfAborted();
		const found = await takeOver(distribution, files);
		if (found.files !== metadata.files.length || found.sizeBytes !== metadata.sizeBytes) {
			const expected = `${metadata.files.length} files of ${metadata.sizeBytes} bytes`;
			const got = `${found.files} of ${found.sizeBytes}`;
			throw new ForktreeError(
				'InstallFailed',
				`${describe(distribution, 'unpacking')}: expected ${expected}, got ${got}`,
			);
		}
		await explain(describe(distribution, 'describing'), () => this.#describe(distribution, metadata, made));
	}

	async #describe(
		{name, version, archive}: LockedDistribution,
		{modules, requires, extras, files, sizeBytes, nativeLibraries}: DistributionMetadata,
		made: string,
	): Promise<void> {
		const contents = writeContents({files, nativeLibraries});
		const summary = {name, version, modules, requires, extras, sizeBytes, archive, contentsSha256: sha256(contents)};
		await writeSynced(join(made, names.contents), contents);
		await writeSynced(join(made, names.summary), writeSummary(summary));
		await chmod(made, 0o755);
		await syncFolder(made);
	}
}

/** A folder that a sandbox, which has a user of its own, can fill. Nobody else gets to it. */
async function makeOpenFolder(path: string): Promise<string> {
	await mkdir(path);
	await chmod(path, 0o777); // whatever the umask
	return path;
}

/** Also what could be wrong with it is said of the package. */
async function takeOver(distribution: LockedDistribution, folder: string): Promise<SealedTree> {
	try {
		return await sealTree(folder, MAX_FILES);
	} catch (error) {
		const code = error instanceof ForktreeError && error.code !== 'Syscall' ? error.code : 'InstallFailed';
		const doing = describe(distribution, 'taking over its files');
		throw new ForktreeError(code, `${doing}: ${(error as Error).message}`, {cause: error});
	}
}

function describe({name, version}: LockedDistribution, doing: string): string {
	return `could not install ${name} ${version}, ${doing}`;
}

/** Says of errors that are not ours what was being done. */
async function explain<Result>(doing: string, work: () => Promise<Result>): Promise<Result> {
	try {
		return await work();
	} catch (error) {
		if (error instanceof ForktreeError && error.code !== 'Syscall') throw error;
		throw new ForktreeError('InstallFailed', `${doing}: ${(error as Error).message}`, {cause: error});
	}
}
