/** The install cache: one folder per package, keyed by what it was made from, shared by every process of the machine. */
import {setMaxListeners} from 'node:events';
import {mkdir, realpath} from 'node:fs/promises';
import {dirname, join, relative, resolve, sep} from 'node:path';
import type {Readable, Writable} from 'node:stream';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {Archives} from './archives.ts';
import {isFolder} from './disk.ts';
import {type ExportReport, exportPackages} from './export.ts';
import {type Allowance, collectGarbage, type GarbageReport} from './garbage.ts';
import {type HashedTree, withHashes} from './hashes.ts';
import {type ImportContext, type ImportReport, importPackages} from './import.ts';
import {Installation} from './installation.ts';
import {
	emptyVersions,
	type Installed,
	isUsable,
	names,
	readContentsOf,
	readCostOf,
	readInstalled,
	readStore,
	type StoreContent,
	stampUse,
	type Usable,
} from './installed.ts';
import {hashLength, Layout, type PackageId, packageIdOf, readPackageId, storeFolders} from './layout.ts';
import {abiOf, type Lock, type LockedDistribution} from './lock.ts';
import {StoreLocks} from './locks.ts';
import type {ImportCost} from './metadata.ts';
import {distributionOf, type MeasuredCost, type PackageContents, type PackageSummary, writeCost} from './records.ts';
import {replaceFile, sweepScratch} from './scratch.ts';
import {SharedJobs} from './shared-jobs.ts';
import {SharedStores} from './shared-stores.ts';
import type {InstallPhase, InstallSteps} from './steps.ts';
import {checkFormat, stampFormat} from './store-format.ts';
import {Users} from './users.ts';
import {type Damage, examine, type Remedy, takeOutOfUse, throwIfAborted} from './verification.ts';

export type {ExportReport} from './export.ts';
export type {GarbageReport} from './garbage.ts';
export type {ImportReport} from './import.ts';
export type {PackageId} from './layout.ts';
export type {Damage, Remedy} from './verification.ts';

/** Packages that a function sees together. */
export type PackageSet = {
	/** The lock's; `none` for the empty set. */
	readonly key: string;
	/** What goes on `sys.path`, absolute, in the lock's order. */
	readonly folders: readonly string[];
	readonly distributions: ReadonlyArray<{
		readonly name: string;
		readonly version: string;
		/** Importable top-level names, sorted. */
		readonly modules: readonly string[];
	}>;
};

/** A set that no process removes anything of until it is given back. */
export type HeldSet = {
	readonly set: PackageSet;
	/** Once is enough. The death of this process does the same. */
	readonly release: () => void;
};

/** What an installation is busy with. */
export type InstallProgress = {
	readonly name: string;
	readonly version: string;
	readonly phase: InstallPhase;
	readonly detail?: string | undefined;
};

export type OnProgress = (progress: InstallProgress) => void;

export type PackageStoreOptions = {
	/**
	 * The store's folder; made when missing. It must be of one machine, since liveness of owners is judged by pid, and on
	 * one file system. Nobody but root may write to it.
	 */
	readonly dir: string;
	/** Folders of stores whose packages are used rather than installed in this one, the first that has one first. Nothing is written there. */
	readonly shared?: readonly string[];
	readonly interpreter: Interpreter;
	readonly steps: InstallSteps;
	/** Whether nothing may be downloaded: what is neither installed nor kept as an archive is `Offline`. */
	readonly offline?: boolean;
	/** Told of every installation. */
	readonly onProgress?: OnProgress | undefined;
};

export type InstallOptions = {
	readonly signal?: AbortSignal | undefined;
	/** Also told of packages that another call has begun to install. */
	readonly onProgress?: OnProgress | undefined;
};

/** An installed package. */
export type PackageInfo = Omit<PackageSummary, 'contentsSha256'> & {
	readonly id: PackageId;
	/** What goes on `sys.path`. */
	readonly folder: string;
	/** What importing it takes, if that was measured. */
	readonly cost: MeasuredCost | undefined;
	/** When it was last given to somebody, to the minute; in a shared store as that has it. */
	readonly lastUsed: Date;
	/** Ids of the deployed functions that need it; none for a shared store's, which nobody removes. */
	readonly users: readonly string[];
	/** The shared store that it is in, if it is in one. */
	readonly shared?: string;
};

/** What can be told without looking at anything else. */
export type FoundPackage = Pick<PackageInfo, 'name' | 'version' | 'archive' | 'requires' | 'modules' | 'cost'>;

/** All that is known of it. */
export type PackageDetails = PackageInfo & PackageContents;

export type VerifyOptions = {
	/** Of distributions; by default all. */
	readonly names?: readonly string[] | undefined;
	readonly signal?: AbortSignal | undefined;
	readonly onProgress?: ((progress: {readonly done: number; readonly total: number}) => void) | undefined;
};

/** A package that was not as it was installed. */
export type DamagedPackage = {
	readonly id: PackageId;
	/** The shared store that it is in, if it is in one. */
	readonly shared?: string;
	readonly damage: readonly Damage[];
	readonly remedy: Remedy;
	/** Why it could not be made anew, if it could not. */
	readonly error?: ForktreeError | undefined;
};

export type VerifyReport = {
	/** How many packages were looked at. */
	readonly checked: number;
	readonly damaged: readonly DamagedPackage[];
	/** Paths relative to the store that it did not make, or can't read. They are left alone. */
	readonly foreign: readonly string[];
};

const NO_PACKAGES: PackageSet = {key: 'none', folders: [], distributions: []};

/**
 * Installs packages, each once, and answers sets of them. A package is a folder that is made elsewhere and renamed to its
 * place when it is complete and on the disk, so after a crash at any moment it is there or it is not. The packages of
 * several interpreters are side by side; a store is of one of them. See locks.ts for what several processes may do at once.
 *
 * What a shared store has is taken from there, whatever this one has: so a package has the same place for all who share it and at any
 * time, whatever is installed meanwhile, and its files are in memory once.
 */
export class PackageStore {
	readonly #layout: Layout;
	readonly #locks: StoreLocks;
	readonly #users: Users;
	readonly #shared: SharedStores;
	readonly #abi: string;
	readonly #build: string;
	readonly #installation: Installation;
	readonly #jobs = new SharedJobs<void>();
	/** Who is told of installations, by package. */
	readonly #watchers = new Map<string, Set<OnProgress>>();
	readonly #onProgress: OnProgress | undefined;

	private constructor(
		{interpreter, steps, offline = false, onProgress}: PackageStoreOptions,
		layout: Layout,
		shared: SharedStores,
	) {
		this.#layout = layout;
		this.#shared = shared;
		this.#locks = new StoreLocks(layout);
		this.#users = new Users(layout, this.#locks);
		this.#abi = abiOf(interpreter);
		this.#build = interpreter.build;
		const archives = new Archives(layout, this.#abi, shared.archives);
		this.#installation = new Installation({layout, locks: this.#locks, abi: this.#abi, archives, steps, offline});
		this.#onProgress = onProgress;
	}

	/**
	 * Makes the store's folder and removes what dead processes left in it.
	 * @throws {ForktreeError} `InstallFailed` when something else is where one of its folders belongs; `InvalidStore` for one of a
	 * format that we do not know, or a shared one that is none
	 */
	static async open(options: PackageStoreOptions): Promise<PackageStore> {
		const shared = await SharedStores.open(options.shared ?? [], options.dir);
		await mkdir(options.dir, {recursive: true, mode: 0o755});
		const layout = new Layout(await realpath(resolve(options.dir)));
		const isStamped = checkFormat(layout);
		const store = new PackageStore(options, layout, shared);
		await store.#makeFolders();
		if (!isStamped) await stampFormat(layout);
		await sweepScratch(store.#layout);
		for (const id of emptyVersions(store.#layout)) await store.#locks.withFreeVersion(id, async () => undefined);
		return store;
	}

	/** Folders in which archives are kept that packages can be made from, as `<sha256>/<file>`. */
	get archives(): readonly string[] {
		return [...this.#shared.archives, this.#layout.folder('archives')];
	}

	/**
	 * Installs what is missing of a lock. Nothing holds the set then: see {@link acquire}.
	 * @throws {ForktreeError} as {@link acquire}
	 */
	async install(lock: Lock, options: InstallOptions = {}): Promise<PackageSet> {
		const {set, release} = await this.acquire(lock, options);
		release();
		return set;
	}

	/**
	 * Installs what is missing of a lock, and holds the set from before it looks for what is there. Calls that want the
	 * same package share its installation, which is aborted when the signals of all of them have fired; other processes
	 * wait for it. A failure ends the installations of the call's other packages, is not remembered and leaves nothing
	 * behind; packages that were complete before stay.
	 * @throws {ForktreeError} what a step throws, `InstallFailed`, `InstallTimeout`, `UnsafeArchive`, `Offline` or `Aborted`
	 */
	async acquire(lock: Lock, options: InstallOptions = {}): Promise<HeldSet> {
		if (lock.distributions.length === 0) return {set: NO_PACKAGES, release: () => undefined};
		if (lock.abi !== this.#abi) throw failed(`expected a lock for ${this.#abi}, got one for ${lock.abi}`);
		const ids = lock.distributions.map((each) => packageIdOf(this.#abi, each));
		const holds: Array<() => void> = [];
		try {
			for (const id of ids) {
				if (this.#shared.find(id) !== undefined) continue; // nobody takes it away
				const release = await this.#hold(id, true, options.signal);
				if (release !== undefined) holds.push(release);
			}
			const missing = lock.distributions.filter((each) => this.#find(packageIdOf(this.#abi, each)) === undefined);
			if (missing.length > 0) await this.#installAll(missing, options);
			return {set: this.#setOf(lock.key, ids), release: () => releaseAll(holds)};
		} catch (error) {
			releaseAll(holds);
			for (const id of ids) await this.#locks.withFreeVersion(id, async () => undefined);
			throw error instanceof ForktreeError ? error : failed((error as Error).message, error);
		}
	}

	/**
	 * Holds a set of this store once more.
	 * @returns gives it back, once is enough
	 * @throws {ForktreeError} `PackageDamaged` when a package of it was removed or found damaged meanwhile
	 */
	async hold(set: PackageSet, options: {readonly signal?: AbortSignal | undefined} = {}): Promise<() => void> {
		const holds: Array<() => void> = [];
		try {
			for (const folder of set.folders) {
				const {layout, id} = this.#placeOf(folder);
				const isOwn = layout === this.#layout;
				const release = isOwn ? await this.#hold(id, false, options.signal) : undefined;
				if (release !== undefined) holds.push(release);
				if (!isUsable(readInstalled(layout, id))) {
					throw new ForktreeError('PackageDamaged', `${id.name} ${id.version} is no longer in the store, or damaged`);
				}
			}
			return () => releaseAll(holds);
		} catch (error) {
			releaseAll(holds);
			throw error;
		}
	}

	/**
	 * Notes that a deployed function needs a set, also after this process has ended: until {@link removeUser}, or until
	 * its manifest is gone. The set must be held until the manifest is there.
	 */
	async setUser(id: string, manifestPath: string, set: PackageSet): Promise<void> {
		const own = set.folders.map((folder) => this.#placeOf(folder)).filter(({layout}) => layout === this.#layout);
		await this.#users.set(
			id,
			manifestPath,
			own.map((each) => this.#layout.relative(each.id)),
		);
	}

	/** Forgets what a function needs; one that is not known is passed over. */
	async removeUser(id: string): Promise<void> {
		await this.#users.remove(id);
	}

	/** Lists the packages that are installed for this interpreter, sorted by name, each as it is given out. Damaged ones are left out. */
	async list(): Promise<PackageInfo[]> {
		const packages = await this.#readUsable();
		const users = this.#users.byPackage();
		return packages.map((each) => this.#infoOf(each, users));
	}

	/** A version that is installed for this interpreter from an archive with that hash; looks at nothing else. */
	find(name: string, version: string, sha256: string): FoundPackage | undefined {
		const id = readPackageId(this.#abi, `${name}==${version}`, sha256.slice(0, hashLength));
		const found = id === undefined ? undefined : this.#find(id);
		if (found?.summary.archive.sha256 !== sha256) return undefined;
		const {archive, requires, modules} = found.summary;
		return {name, version, archive, requires, modules, cost: this.#costOf(found)};
	}

	/** What is known of a folder of a set; undefined when it is there no more. */
	describe(folder: string): Pick<PackageInfo, 'requires' | 'cost'> | undefined {
		const {layout, id} = this.#placeOf(folder);
		const found = readInstalled(layout, id);
		return isUsable(found) ? {requires: found.summary.requires, cost: this.#costOf(found)} : undefined;
	}

	/** All that is known of a distribution's versions, or of one. Several archives of a version are several. */
	async info(name: string, version?: string): Promise<PackageDetails[]> {
		const packages = await this.#readUsable();
		const users = this.#users.byPackage();
		return packages
			.filter(({id}) => id.name === name && (version === undefined || id.version === version))
			.flatMap((each) => {
				const contents = readContentsOf(each);
				return contents === undefined ? [] : [{...this.#infoOf(each, users), ...contents}];
			});
	}

	/**
	 * Notes what importing a package takes, with this interpreter; of a shared store's for as long as this store is open.
	 * @throws {ForktreeError} `PackageDamaged` when it is not installed
	 */
	async setCost(distribution: LockedDistribution, cost: ImportCost): Promise<void> {
		const id = packageIdOf(this.#abi, distribution);
		const measured = {...cost, interpreter: this.#build};
		const shared = this.#shared.find(id);
		if (shared !== undefined) {
			this.#shared.setCost(shared, measured);
			return;
		}
		const release = await this.hold({key: '', folders: [this.#layout.files(id)], distributions: []});
		try {
			await replaceFile(this.#layout, this.#layout.package(id), names.cost, writeCost(measured));
		} finally {
			release();
		}
	}

	/**
	 * Hashes every file of the packages for this interpreter, on a thread of its own, and replaces those in which one is
	 * changed, missing or added, from the archive that is kept, or else the network. What was mounted from a damaged
	 * package before stays as it was; what is mounted afterwards is the new one. Damage in a shared store is told, and left.
	 * @throws {ForktreeError} `Aborted`
	 */
	async verify({names: wanted, signal, onProgress}: VerifyOptions = {}): Promise<VerifyReport> {
		const {packages, foreign} = await this.#read();
		const all = [...packages, ...(await this.#shared.read(this.#abi))];
		const chosen = all.filter(({id}) => wanted === undefined || wanted.includes(id.name));
		const damaged: DamagedPackage[] = [];
		const abort = signal ?? new AbortController().signal;
		await withHashes(async (hash) => {
			for (const [done, each] of chosen.entries()) {
				throwIfAborted(abort);
				onProgress?.({done, total: chosen.length});
				const found = await this.#verifyOne(each, (path) => hash(path, abort), abort);
				if (found !== undefined) damaged.push(found);
			}
		});
		onProgress?.({done: chosen.length, total: chosen.length});
		return {
			checked: chosen.length,
			damaged,
			foreign: [...foreign, ...this.#users.foreign().map((each) => join('users', each))],
		};
	}

	/**
	 * Removes packages, archives and what is in quarantine, of all interpreters: what was not used for longer than `maxIdleMs`, and
	 * whatever else until at most `maxBytes` are left. What is needed by a deployed function or by a process stays.
	 */
	async gc({
		maxBytes = Number.POSITIVE_INFINITY,
		maxIdleMs = Number.POSITIVE_INFINITY,
	}: Partial<Allowance>): Promise<GarbageReport> {
		return collectGarbage(this.#layout, this.#locks, this.#users, {maxBytes, maxIdleMs});
	}

	/**
	 * Writes all packages for this interpreter to an archive.
	 * @throws {ForktreeError} as {@link exportPackages}
	 */
	async export(output: Writable, signal: AbortSignal): Promise<ExportReport> {
		return exportPackages(this.#transfer, output, signal);
	}

	/**
	 * Takes packages over from an archive that another store wrote.
	 * @throws {ForktreeError} as {@link importPackages}
	 */
	async import(source: Readable, signal: AbortSignal): Promise<ImportReport> {
		return importPackages(this.#transfer, source, signal);
	}

	get #transfer(): ImportContext {
		const layout = this.#layout;
		return {layout, locks: this.#locks, archives: new Archives(layout, this.#abi), abi: this.#abi};
	}

	async #makeFolders(): Promise<void> {
		for (const name of [...storeFolders, this.#abi]) {
			const path = join(this.#layout.dir, name);
			const isPrivate = ['scratch', 'locks', 'quarantine', 'cache'].includes(name);
			await mkdir(path, {mode: isPrivate ? 0o700 : 0o755}).catch((error: unknown) => {
				if (!isFolder(path)) throw failed(`expected a folder at ${path}`, error);
			});
		}
	}

	/** A package that can be given to somebody, where it is given from. */
	#find(id: PackageId): Usable | undefined {
		const shared = this.#shared.find(id);
		if (shared !== undefined) return shared;
		const own = readInstalled(this.#layout, id);
		return isUsable(own) ? own : undefined;
	}

	#costOf(installed: Usable): MeasuredCost | undefined {
		return installed.layout === this.#layout ? readCostOf(installed) : this.#shared.costOf(installed, this.#build);
	}

	/** As {@link StoreLocks.holdVersion}; that the package was used is noted when it is given back. */
	async #hold(id: PackageId, make: boolean, signal: AbortSignal | undefined): Promise<(() => void) | undefined> {
		const release = await this.#locks.holdVersion(id, make, signal);
		if (release === undefined) return undefined;
		return () => {
			stampUse(this.#layout, id);
			release();
		};
	}

	#setOf(key: string, ids: readonly PackageId[]): PackageSet {
		const found = ids.map((id) => {
			const installed = this.#find(id);
			if (installed === undefined) throw failed(`${id.name} ${id.version} was removed from the store just now`);
			if (installed.layout === this.#layout) stampUse(this.#layout, id, installed.usedMs);
			return installed;
		});
		return {
			key,
			folders: found.map(({layout, id}) => layout.files(id)),
			distributions: found.map(({id, summary}) => ({name: id.name, version: id.version, modules: summary.modules})),
		};
	}

	/** The first failure ends the others, and is thrown when they have ended. */
	async #installAll(missing: readonly LockedDistribution[], {signal, onProgress}: InstallOptions): Promise<void> {
		const failing = new AbortController();
		const any = AbortSignal.any(signal === undefined ? [failing.signal] : [failing.signal, signal]);
		setMaxListeners(0, any); // as many as there are packages
		await Promise.allSettled(
			missing.map(async (each) => {
				try {
					await this.#installOne(each, any, onProgress);
				} catch (error) {
					failing.abort(error);
				}
			}),
		);
		if (signal?.aborted) throw new ForktreeError('Aborted', 'the installation was aborted', {cause: signal.reason});
		failing.signal.throwIfAborted();
	}

	async #installOne(
		distribution: LockedDistribution,
		signal: AbortSignal,
		onProgress?: OnProgress,
		damagedInode?: number,
	): Promise<void> {
		const {name, version} = distribution;
		const key = this.#layout.relative(packageIdOf(this.#abi, distribution));
		const tell = (phase: InstallPhase, detail?: string): void => {
			const progress = {name, version, phase, detail};
			this.#onProgress?.(progress);
			for (const watcher of this.#watchers.get(key) ?? []) watcher(progress);
		};
		const start = (shared: AbortSignal): Promise<void> =>
			this.#installation.install(distribution, {signal: shared, onProgress: tell}, damagedInode);
		const stopWatching = this.#watch(key, onProgress);
		try {
			await this.#jobs.run(key, start, signal);
		} finally {
			stopWatching();
		}
	}

	/** Tells somebody of a package's installation, whoever has begun it; answers how to stop. */
	#watch(key: string, onProgress: OnProgress | undefined): () => void {
		if (onProgress === undefined) return () => undefined;
		const watchers = this.#watchers.get(key) ?? new Set();
		this.#watchers.set(key, watchers);
		// Somebody may be told twice, by two calls: each ends for itself.
		const watcher: OnProgress = (progress) => onProgress(progress);
		watchers.add(watcher);
		return () => {
			watchers.delete(watcher);
			if (watchers.size === 0) this.#watchers.delete(key);
		};
	}

	async #verifyOne(
		installed: Installed,
		hash: (path: string) => Promise<HashedTree>,
		signal: AbortSignal,
	): Promise<DamagedPackage | undefined> {
		const {layout, id} = installed;
		if (layout !== this.#layout) {
			const damage = await examine(installed, hash);
			throwIfAborted(signal);
			return damage.length === 0 ? undefined : {id, shared: layout.dir, damage, remedy: 'left'};
		}
		const release = await this.#locks.holdVersion(id, false, signal);
		if (release === undefined) return undefined; // removed meanwhile
		try {
			const damage = await examine(installed, hash);
			throwIfAborted(signal);
			const isThere = readInstalled(this.#layout, id)?.inode === installed.inode;
			if (damage.length === 0 || !isThere) return undefined;
			const error = await this.#reinstall(installed, signal);
			if (error === undefined) return {id, damage, remedy: 'reinstalled'};
			throwIfAborted(signal);
			release();
			return {id, damage, remedy: await takeOutOfUse(this.#layout, this.#locks, installed, signal), error};
		} finally {
			release();
		}
	}

	/** Answers why it failed, if it did. */
	async #reinstall({summary, inode}: Installed, signal: AbortSignal): Promise<ForktreeError | undefined> {
		if (summary === undefined) return failed('what it was made from can not be read');
		try {
			await this.#installOne(distributionOf(summary), signal, undefined, inode);
			return undefined;
		} catch (error) {
			return error instanceof ForktreeError ? error : failed(String(error), error);
		}
	}

	#infoOf(installed: Usable, users: ReadonlyMap<string, readonly string[]>): PackageInfo {
		const {layout, id, usedMs} = installed;
		const {contentsSha256: _, ...known} = installed.summary;
		const isShared = layout !== this.#layout;
		return {
			...known,
			id,
			folder: layout.files(id),
			cost: this.#costOf(installed),
			lastUsed: new Date(usedMs),
			users: isShared ? [] : (users.get(layout.relative(id)) ?? []),
			...(isShared ? {shared: layout.dir} : {}),
		};
	}

	/** What can be given to somebody for this interpreter, each package once, sorted by name. */
	async #readUsable(): Promise<Usable[]> {
		const shared = await this.#shared.read(this.#abi);
		const {packages: own} = await this.#read();
		const byKey = new Map<string, Usable>();
		for (const each of [...shared, ...own].filter(isUsable)) {
			const key = `${each.id.name}==${each.id.version}\0${each.id.hash}`;
			if (!byKey.has(key)) byKey.set(key, each);
		}
		return [...byKey].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, each]) => each);
	}

	/** What the store itself has for this interpreter. */
	async #read(): Promise<StoreContent> {
		const content = await readStore(this.#layout);
		return {...content, packages: content.packages.filter(({id}) => id.abi === this.#abi)};
	}

	/** @throws {TypeError} for what is no folder of a set of this store */
	#placeOf(folder: string): {readonly layout: Layout; readonly id: PackageId} {
		for (const layout of [this.#layout, ...this.#shared.layouts]) {
			const [abi = '', version = '', hash = ''] = relative(layout.dir, dirname(folder)).split(sep);
			const id = readPackageId(abi, version, hash);
			if (id !== undefined && layout.files(id) === folder) return {layout, id};
		}
		throw new TypeError(`expected a folder of a package of this store, got ${folder}`);
	}
}

function releaseAll(holds: ReadonlyArray<() => void>): void {
	for (const release of holds) release();
}

function failed(message: string, cause?: unknown): ForktreeError {
	return new ForktreeError('InstallFailed', message, {cause});
}
