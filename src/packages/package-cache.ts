/** The install cache as a whole: requirements in, folders that sandboxes see out. */
import {createHash, randomBytes} from 'node:crypto';
import {EventEmitter} from 'node:events';
import {open, rename, rm} from 'node:fs/promises';
import {availableParallelism} from 'node:os';
import path from 'node:path';
import type {Readable, Writable} from 'node:stream';
import {ForktreeError} from '../errors.ts';
import {findInterpreter, type Interpreter} from '../sandbox/interpreter.ts';
import {Undo} from '../undo.ts';
import {createBuild} from './build.ts';
import {Credentials} from './credentials.ts';
import {checkApart} from './editable.ts';
import {Fetcher} from './fetch.ts';
import type {Workshop} from './guest-script.ts';
import {abiOf, createLock, type Lock, type LockedDistribution} from './lock.ts';
import {createMeasure} from './measure.ts';
import {
	type DamagedPackage,
	type ExportReport,
	type GarbageReport,
	type HeldSet,
	type ImportReport,
	type PackageDetails,
	type PackageInfo,
	type PackageSet,
	PackageStore,
	type VerifyReport,
} from './package-store.ts';
import {RecentLocks} from './recent-locks.ts';
import {type IndexOptions, normaliseName, parseRequirements, type Requirements} from './requirements.ts';
import {findResolver, type Resolver} from './resolver.ts';
import {Scope} from './scope.ts';
import {Slots} from './slots.ts';
import type {InstallSteps, StepOptions} from './steps.ts';
import {ToolSandboxes} from './tool-sandboxes.ts';
import {createUnpack} from './unpack.ts';

export type {DamagedPackage, ExportReport, GarbageReport, ImportReport, PackageDetails, PackageInfo, VerifyReport};

/** How many builds may wait for one another: what builds a package may have to be built itself. */
const maxBuilds = 8;
/** A build that the running code serves: of which packages, the outermost first, and what it holds until it ends. */
type Build = {readonly names: readonly string[]; readonly held: HeldSet[]};
/** Errors of system calls that a full, read-only or foreign disk causes. */
const diskFaults = new Set(['ENOSPC', 'EDQUOT', 'EROFS', 'EACCES', 'EPERM', 'EIO', 'ENOTDIR']);
/** How much of an archive is read at once, in bytes. */
const chunkBytes = 1024 * 1024;
const builds = new Scope<Build>();
/** Where the requirements say that packages are, which the running code serves: what a build requires is looked for there too. */
const indexes = new Scope<IndexOptions>();

/** Options of `openPackages()`. */
export type PackagesOptions = {
	/** The folder; made when missing. On one machine it may be shared by any number of processes. */
	readonly dir: string;
	/**
	 * Folders of stores whose packages are used rather than installed in `dir`; the first that has one counts. They are only read, and
	 * must not change meanwhile.
	 */
	readonly shared?: readonly string[];
	/** The interpreter: a path or a command name; CPython 3.9 or later. By default `python3` from `PATH`. */
	readonly python?: string;
	/** Whether nothing may be downloaded: what is not there already is `Offline`. */
	readonly offline?: boolean;
	/** Whether limits of the tools that make packages are no error where this machine can't hold them for us; by default false. */
	readonly bestEffort?: boolean;
};

/** What of a store may stay that nothing needs. */
export type GcOptions = {
	/** How large it may be, in GiB; 0 removes all that is not needed. */
	readonly packagesGb?: number | undefined;
	/** For how many milliseconds a package may not have been used; uses are noted to the minute. */
	readonly packagesIdleMs?: number | undefined;
};

/** What is being done for a package. */
export type PackagePhase = 'resolving' | 'downloading' | 'building' | 'compiling' | 'measuring';

/** Events of a package cache. */
export type PackageCacheEvents = {
	/** Something has begun; `name` is undefined while all are resolved together. */
	progress: [
		{
			readonly phase: PackagePhase;
			readonly name?: string;
			readonly version?: string;
			readonly detail?: string | undefined;
		},
	];
	/** A package was installed, rather than found. */
	installed: [{readonly name: string; readonly version: string}];
	/** What importing a package takes was measured. */
	measured: [{readonly name: string; readonly version: string}];
};

/** What became of requirements. */
export type PackagesReport = {
	/** All of them, as `name==version`, sorted. */
	readonly packages: readonly string[];
	/** Those of them that were not there before. */
	readonly installed: readonly string[];
	/** What resolved them; undefined when that was known already. */
	readonly resolver: 'uv' | 'pip' | undefined;
	readonly resolveMs: number;
	/** Downloading, building and compiling, if anything was missing. */
	readonly installMs: number;
};

/** Requirements that were met: the packages stay until they are let go. */
export type ProvidedPackages = HeldSet & {readonly lock: Lock; readonly report: PackagesReport};

type ProvideOptions = {
	readonly signal?: AbortSignal | undefined;
	readonly known?: Lock | undefined;
	/** Whether what they were resolved to within the last minute will do. */
	readonly mayBeRecent?: boolean;
	/** The function's folder, where the archives are that requirements name there. */
	readonly folder?: string;
};

type Parts = {
	readonly interpreter: Interpreter;
	readonly store: PackageStore;
	readonly steps: InstallSteps;
	readonly findResolver: () => Promise<Resolver>;
	readonly offline: boolean;
	readonly undo: Undo;
};

/** Made by {@link openPackages}, or a runtime's own. Every method after `close()` rejects with {@link ForktreeError} `RuntimeClosed`. */
export class PackageCache extends EventEmitter<PackageCacheEvents> implements AsyncDisposable {
	readonly #interpreter: Interpreter;
	readonly #store: PackageStore;
	readonly #steps: InstallSteps;
	readonly #findResolver: () => Promise<Resolver>;
	readonly #offline: boolean;
	readonly #undo: Undo;
	readonly #recent = new RecentLocks();
	readonly #closing = new AbortController();
	#resolver: Promise<Resolver> | undefined;
	/** Measurements, one after the other: they are not to disturb each other, nor much else. */
	#measuring: Promise<void> = Promise.resolve();
	/** What was asked for and has not ended. */
	readonly #running = new Set<Promise<unknown>>();
	#closed: Promise<void> | undefined;

	private constructor(parts: Parts) {
		super();
		this.#interpreter = parts.interpreter;
		this.#store = parts.store;
		this.#steps = parts.steps;
		this.#findResolver = parts.findResolver;
		this.#offline = parts.offline;
		this.#undo = parts.undo;
	}

	/** Used by {@link openPackages} and by runtimes. */
	static async open(
		{dir: given, shared = [], offline = false, bestEffort = false}: Omit<PackagesOptions, 'python'>,
		interpreter: Interpreter,
	): Promise<PackageCache> {
		const undo = new Undo();
		try {
			const dir = path.resolve(given);
			const tools = new ToolSandboxes(interpreter, bestEffort);
			undo.push(() => tools.close());
			const cacheDir = path.join(dir, 'cache');
			const fetcher = new Fetcher({
				tools,
				interpreter,
				folder: path.join(dir, 'scratch'),
				credentials: new Credentials(),
			});
			undo.push(() => fetcher.close());
			const workshop = {tools, interpreter};
			let cache: PackageCache | undefined;
			const build = createBuild(inSlots(workshop), {
				provide: async (lines, options) => (cache as PackageCache).#provideBuild(lines, options),
			});
			const steps: InstallSteps = {
				fetch: (archive, file, options) => fetcher.fetch(archive, file, options),
				build: (distribution, ...rest) => inTurnOf(distribution, () => build(distribution, ...rest)),
				unpack: createUnpack(workshop),
				measure: createMeasure(workshop),
			};
			const store = await PackageStore.open({dir, shared, interpreter, steps, offline});
			cache = new PackageCache({
				interpreter,
				store,
				steps,
				undo,
				findResolver: () => findResolver({interpreter, tools, fetcher, cacheDir}),
				offline,
			});
			return cache;
		} catch (error) {
			await undo.run();
			return throwWhereNotWritable(error);
		}
	}

	/**
	 * Makes requirements importable: resolves them and installs what is missing, and measures in the background what importing
	 * it takes.
	 * @param requirements lines of a requirements.txt
	 * @throws {ForktreeError} `InvalidRequirements`, `ResolveFailed`, `NoMatchingDistribution`, `NotAuthorized`, `HashMismatch`, `UnsafeArchive`,
	 * `BuildFailed`, `InstallTimeout`, `InstallFailed`, `Offline`, `Aborted`; the message names the package and what was being done
	 */
	async add(
		requirements: string | readonly string[],
		options: {readonly signal?: AbortSignal} = {},
	): Promise<PackagesReport> {
		return this.#run(async () => {
			if (typeof requirements !== 'string') checkTexts(requirements, 'requirements');
			const text = typeof requirements === 'string' ? requirements : requirements.join('\n');
			const {report, release} = await this.provide(parseRequirements(text), options);
			release();
			return report;
		});
	}

	/** What is installed for this interpreter, sorted by name. */
	async list(): Promise<PackageInfo[]> {
		return this.#run(() => this.#store.list());
	}

	/** All that is known of a package: its versions, or the one that is named. Empty when it is not installed. */
	async info(name: string, version?: string): Promise<PackageDetails[]> {
		return this.#run(() => {
			checkText(name, 'name');
			if (version !== undefined) checkText(version, 'version');
			return this.#store.info(normaliseName(name), version);
		});
	}

	/**
	 * Hashes every file again. What is damaged is put aside and installed anew.
	 * @param options.names which packages; by default all
	 */
	async verify(
		options: {
			readonly names?: readonly string[];
			readonly signal?: AbortSignal;
			readonly onProgress?: (progress: {readonly done: number; readonly total: number}) => void;
		} = {},
	): Promise<VerifyReport> {
		return this.#run(() => {
			const {names, signal, onProgress} = options;
			if (names !== undefined) checkTexts(names, 'names');
			return this.#store.verify({names: names?.map(normaliseName), signal: this.#orClosing(signal), onProgress});
		});
	}

	/**
	 * Removes what no deployed function and no live process needs: what was not used for too long, and then what was used longest
	 * ago, until the store is no larger than it may be. One of both has to be said.
	 */
	async gc(options: GcOptions): Promise<GarbageReport> {
		return this.#run(() => {
			const {packagesGb, packagesIdleMs} = checkGcOptions(options);
			if (packagesGb === undefined && packagesIdleMs === undefined) {
				throw new TypeError('gc: expected packagesGb or packagesIdleMs, got neither');
			}
			return this.#store.gc({
				...(packagesGb === undefined ? {} : {maxBytes: Math.floor(packagesGb * 1024 ** 3)}),
				...(packagesIdleMs === undefined ? {} : {maxIdleMs: packagesIdleMs}),
			});
		});
	}

	/**
	 * Writes all packages for this interpreter, with what is known of them and what they were made from, to an archive: a tar file
	 * that another machine can {@link import}. It has no credentials.
	 * @param target a path, where the archive appears when it is complete; or a stream, which is ended
	 * @throws {ForktreeError} `PackageDamaged` for one that is not as it was installed; `TransferFailed`, `Aborted`
	 */
	async export(target: string | Writable, options: {readonly signal?: AbortSignal} = {}): Promise<ExportReport> {
		return this.#run(async () => {
			const signal = this.#orClosing(options.signal);
			if (typeof target !== 'string') return this.#store.export(target, signal);
			const part = `${target}.${randomBytes(8).toString('hex')}`;
			try {
				const file = await open(part, 'wx');
				const report = await this.#store.export(file.createWriteStream({flush: true}), signal);
				await rename(part, target);
				return report;
			} catch (error) {
				await rm(part, {force: true});
				throw notTransferred('export', error);
			}
		});
	}

	/**
	 * Takes over the packages of an archive that {@link export} wrote, of any store for the same kind of interpreter; what is there
	 * already is passed over. Everything is checked before any of it is used, but whoever made the archive is trusted to have packed
	 * what he says.
	 * @param source a path, or a stream, which is read to its end
	 * @throws {ForktreeError} `InvalidStore` for one of another interpreter or format; `UnsafeArchive`, `HashMismatch`,
	 * `TransferFailed`, `InstallTimeout`, `Aborted`
	 */
	async import(source: string | Readable, options: {readonly signal?: AbortSignal} = {}): Promise<ImportReport> {
		return this.#run(async () => {
			const signal = this.#orClosing(options.signal);
			if (typeof source !== 'string') return this.#store.import(source, signal);
			const file = await open(source).catch((error: unknown) => {
				throw notTransferred('import', error);
			});
			return this.#store.import(file.createReadStream({highWaterMark: chunkBytes}), signal);
		});
	}

	/** Used by runtimes: as {@link add}, and holds the packages. `known` is what such requirements were resolved to before. */
	async provide(requirements: Requirements, options: ProvideOptions = {}): Promise<ProvidedPackages> {
		return this.#run(() => indexes.run(requirements.index, () => this.#provide(requirements, options)));
	}

	async #provide(
		requirements: Requirements,
		{signal, known, mayBeRecent, folder}: ProvideOptions,
	): Promise<ProvidedPackages> {
		const step = {signal: this.#orClosing(signal)};
		const began = performance.now();
		const found = known ?? this.#knownLock(requirements) ?? (mayBeRecent ? this.#recent.find(requirements) : undefined);
		const lock = found ?? (await this.#resolve(requirements, step, folder));
		if (found === undefined) this.#recent.note(requirements, lock);
		const resolved = performance.now();
		const held = await this.#hold(lock, step);
		const report = {
			packages: lock.distributions.map(nameAndVersion),
			installed: held.installed,
			resolver: found === undefined ? (await this.#resolver)?.name : undefined,
			resolveMs: resolved - began,
			installMs: performance.now() - resolved,
		};
		if (known === undefined) this.#measureLater(lock, held.set);
		return {...held, lock, report};
	}

	/**
	 * Used by runtimes: installs what is missing of a lock, and holds its packages. What was never measured, or with another build of
	 * the interpreter, is measured in the background.
	 */
	async hold(
		lock: Lock,
		options: {readonly signal?: AbortSignal | undefined} = {},
	): Promise<HeldSet & {readonly installed: readonly string[]}> {
		return this.#run(async () => {
			const held = await this.#hold(lock, options);
			this.#measureLater(lock, held.set);
			return held;
		});
	}

	async #hold(
		lock: Lock,
		{signal}: {readonly signal?: AbortSignal | undefined},
	): Promise<HeldSet & {readonly installed: readonly string[]}> {
		const installed = new Set<string>();
		const held = await this.#store.acquire(lock, {
			signal: this.#orClosing(signal),
			onProgress: (progress) => {
				installed.add(nameAndVersion(progress));
				this.emit('progress', progress);
			},
		});
		const mine = lock.distributions.filter((each) => installed.has(nameAndVersion(each)));
		for (const {name, version} of mine) this.emit('installed', {name, version});
		return {...held, installed: mine.map(nameAndVersion)};
	}

	/** Used by runtimes: a deployed function needs that set for as long as its manifest is there. */
	async setUser(manifest: string, set: PackageSet): Promise<void> {
		await this.#run(() => this.#store.setUser(userOf(manifest), manifest, set));
	}

	/** Used by runtimes. */
	async removeUser(manifest: string): Promise<void> {
		await this.#run(() => this.#store.removeUser(userOf(manifest)));
	}

	/** Used by runtimes: what is known of a folder of a set; undefined when it is there no more. */
	describe(folder: string): Pick<PackageInfo, 'requires' | 'cost'> | undefined {
		return this.#store.describe(folder);
	}

	/** Waits until everything that was installed has been measured. */
	async measured(): Promise<void> {
		this.#checkOpen();
		await this.#measuring;
	}

	/** Ends what is under way, which leaves nothing behind. */
	async close(): Promise<void> {
		this.#closing.abort();
		this.#closed ??= this.#close();
		return this.#closed;
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.close();
	}

	async #close(): Promise<void> {
		await Promise.allSettled([...this.#running, this.#measuring]);
		await this.#undo.run();
	}

	/** What {@link close} waits for. */
	async #run<T>(work: () => Promise<T>): Promise<T> {
		this.#checkOpen();
		const running = (async () => work())().catch(throwWhereNotWritable);
		this.#running.add(running);
		try {
			return await running;
		} finally {
			this.#running.delete(running);
		}
	}

	#checkOpen(): void {
		if (this.#closed !== undefined) throw new ForktreeError('RuntimeClosed', 'the package store was closed');
	}

	#orClosing(signal: AbortSignal | undefined): AbortSignal {
		return signal === undefined ? this.#closing.signal : AbortSignal.any([this.#closing.signal, signal]);
	}

	async #resolve(requirements: Requirements, step: StepOptions, folder?: string): Promise<Lock> {
		this.#resolver ??= this.#findResolver().catch((error: unknown) => {
			this.#resolver = undefined;
			throw error;
		});
		this.emit('progress', {phase: 'resolving'});
		const resolver = await this.#resolver;
		const offline = this.#offline ? {archives: this.#store.archives} : undefined;
		const options = {...step, folder, offline, buildSdist: this.#steps.build};
		const lock = await resolver.resolve(requirements, options);
		checkApart(requirements.editables, lock);
		return lock;
	}

	/** The folders of what a build needs, for as long as it takes. */
	async #provideBuild(lines: readonly string[], step: StepOptions): Promise<readonly string[]> {
		const option = lines.find((line) => /^\s*-/.test(line));
		if (option !== undefined) {
			throw new ForktreeError(
				'BuildFailed',
				`building ${builds.value?.names.at(-1)}: expected names of packages as what it requires, got ${JSON.stringify(option)}`,
			);
		}
		const requirements = parseRequirements(lines.join('\n'));
		const lock = await this.#resolve({...requirements, index: indexes.value ?? requirements.index}, step);
		const held = await this.#hold(lock, step);
		builds.value?.held.push(held);
		return held.set.folders;
	}

	/**
	 * A list of exact versions with hashes is a lock already, if everything is there and it is complete: no resolver has to be
	 * asked. Without hashes it is not, since indexes may have different files for one version.
	 */
	#knownLock(wanted: Requirements): Lock | undefined {
		const {requirements, constraints, noBinary, onlyBinary, isComplete} = wanted;
		if (requirements.length === 0) return createLock(abiOf(this.#interpreter), []);
		const isPinned = requirements.every(({specifier, marker, extras, hashes}) => {
			return /^==[^,*=]+$/.test(specifier) && marker === undefined && extras.length === 0 && hashes.length > 0;
		});
		const names = new Set(requirements.map(({name}) => name));
		const isPlain = constraints.length === 0 && noBinary.length === 0 && onlyBinary.length === 0;
		if (!isPinned || !isPlain || names.size < requirements.length) return undefined;
		const distributions: LockedDistribution[] = [];
		for (const {name, specifier, hashes} of requirements) {
			const version = specifier.slice('=='.length);
			const found = hashes
				.map((hash) => this.#store.find(name, version, hash.slice('sha256:'.length)))
				.find((each) => each !== undefined);
			if (found === undefined) return undefined;
			if (!isComplete && !found.requires.every((required) => names.has(required))) return undefined;
			distributions.push({name, version: found.version, archive: found.archive});
		}
		return createLock(abiOf(this.#interpreter), distributions);
	}

	/** In the background, a package at a time, unless it was measured before with this build of the interpreter. */
	#measureLater(lock: Lock, set: PackageSet): void {
		const {signal} = this.#closing;
		// A package may be removed meanwhile, or this be closed: nobody waits for the figures.
		this.#measuring = this.#measuring.then(async () => this.#measureAll(lock, set, {signal})).catch(() => undefined);
	}

	async #measureAll(lock: Lock, set: PackageSet, step: StepOptions): Promise<void> {
		for (const [index, distribution] of lock.distributions.entries()) {
			if (step.signal.aborted) return;
			const {name, version, archive} = distribution;
			const found = this.#store.find(name, version, archive.sha256);
			const isMeasured = found?.cost?.interpreter === this.#interpreter.build;
			if (found === undefined || isMeasured || found.modules.length === 0) continue;
			this.emit('progress', {phase: 'measuring', name, version});
			const others = set.distributions.filter((each) => each.name !== name).map((each) => each.modules);
			const what = {modules: found.modules, others, folders: set.folders, ofIndex: index};
			const cost = await this.#steps.measure(what, step).catch(() => undefined); // the others can be measured all the same
			if (cost === undefined) continue;
			await this.#store.setCost(distribution, cost);
			this.emit('measured', {name, version});
		}
	}
}

/** What the disk refuses is not for whoever asked for a package to make sense of; what is refused to a sandbox says so by itself. */
function throwWhereNotWritable(error: unknown): never {
	const {code = '', syscall = ''} = error as NodeJS.ErrnoException;
	// So Node calls EROFS where several folders are to be made.
	const isUnmade = code === 'ENOENT' && syscall === 'mkdir';
	const isOfDisk = syscall !== '' && !syscall.startsWith('spawn') && diskFaults.has(code);
	if (!isUnmade && !isOfDisk) throw error;
	throw new ForktreeError(
		'StoreNotWritable',
		`expected a package store with room that we can write to: ${(error as Error).message}`,
		{cause: error},
	);
}

/** As many at once as there are processors. Who has a slot waits for nobody: a build has none while it waits for what it requires. */
function inSlots({tools, interpreter}: Workshop): Workshop {
	const slots = new Slots(availableParallelism());
	const never = new AbortController().signal;
	const run: Workshop['tools']['run'] = async (argv, options) => {
		const {signal = never} = options;
		return slots
			.run(signal, () => tools.run(argv, options))
			.catch((error: unknown) => {
				if (error instanceof ForktreeError || !signal.aborted) throw error;
				throw new ForktreeError('Aborted', 'the build was aborted', {cause: error});
			});
	};
	return {interpreter, tools: {run}};
}

/** Runs a build, unless it serves a build of the same package, which would never end. */
async function inTurnOf<T>({name}: LockedDistribution, build: () => Promise<T>): Promise<T> {
	const names = [...(builds.value?.names ?? []), name];
	if (names.indexOf(name) < names.length - 1 || names.length > maxBuilds) {
		throw new ForktreeError('BuildFailed', `building ${names[0]}: it needs ${names.slice(1).join(', which needs ')}`);
	}
	const held: HeldSet[] = [];
	try {
		return await builds.run({names, held}, build);
	} finally {
		for (const each of held) each.release();
	}
}

function nameAndVersion({name, version}: {readonly name: string; readonly version: string}): string {
	return `${name}==${version}`;
}

function notTransferred(what: 'export' | 'import', error: unknown): ForktreeError {
	if (error instanceof ForktreeError) return error;
	return new ForktreeError('TransferFailed', `could not ${what}: ${(error as Error).message}`, {cause: error});
}

/** The name of a deployed function among all those that use a store: its manifest's path, as a hash. */
function userOf(manifest: string): string {
	return createHash('sha256').update(manifest).digest('hex').slice(0, 32);
}

function checkText(value: unknown, label: string): void {
	if (typeof value !== 'string') throw new TypeError(`${label}: expected text, got ${typeof value}`);
}

function checkTexts(value: unknown, label: string): void {
	if (!Array.isArray(value) || !value.every((each) => typeof each === 'string')) {
		throw new TypeError(`${label}: expected a list of texts`);
	}
}

/** @throws {TypeError} naming the option */
export function checkFolders(value: unknown, label: string): readonly string[] {
	if (value === undefined) return [];
	if (Array.isArray(value) && value.every((each) => typeof each === 'string' && each !== '')) return value;
	throw new TypeError(`${label}: expected a list of folders`);
}

/** @throws {TypeError} or {RangeError} naming the option */
export function checkGcOptions({packagesGb, packagesIdleMs}: GcOptions): GcOptions {
	for (const [name, value, unit] of [
		['packagesGb', packagesGb, 'GiB'],
		['packagesIdleMs', packagesIdleMs, 'milliseconds'],
	] as const) {
		if (value === undefined) continue;
		if (typeof value !== 'number') throw new TypeError(`${name}: expected a number, got ${typeof value}`);
		if (!(value >= 0)) throw new RangeError(`${name}: expected a number of ${unit} from 0, got ${value}`);
	}
	return {packagesGb, packagesIdleMs};
}

function checkOptions(options: PackagesOptions): PackagesOptions {
	const known = ['dir', 'shared', 'python', 'offline', 'bestEffort'];
	if (typeof options !== 'object' || options === null) throw new TypeError('openPackages options: expected an object');
	for (const key of Object.keys(options)) {
		if (!known.includes(key)) {
			throw new TypeError(`openPackages options: expected ${known.join(', ')}, got ${JSON.stringify(key)}`);
		}
	}
	const {dir, shared, python, offline, bestEffort} = options;
	if (typeof dir !== 'string' || dir === '') throw new TypeError('dir: expected a non-empty string');
	if (python !== undefined && (typeof python !== 'string' || python === '')) {
		throw new TypeError('python: expected a non-empty string');
	}
	checkFolders(shared, 'shared');
	for (const [name, flag] of Object.entries({offline, bestEffort})) {
		if (flag !== undefined && typeof flag !== 'boolean') throw new TypeError(`${name}: expected true or false`);
	}
	return options;
}

/**
 * Opens an install cache by itself. What is to be installed is made in sandboxes, for which docs/levels.md says what they need.
 * @throws {TypeError} for a wrong option; {ForktreeError} `PythonNotFound`, `InvalidStore` or `InstallFailed`
 * @example
 * const packages = await openPackages({dir: '/var/lib/forktree/packages'});
 * const {installed} = await packages.add(['pandas>=2', 'pyarrow']);
 * await packages.close();
 */
export async function openPackages(options: PackagesOptions): Promise<PackageCache> {
	const {python, ...own} = checkOptions(options);
	return PackageCache.open(own, await findInterpreter(python));
}
