/** The install cache: one folder per set of requirements, shared by every process of the machine that uses it. */
import {createHash} from 'node:crypto';
import {chmod, lstat, mkdir, open, readdir, rename, rm, writeFile} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {Undo} from '../undo.ts';
import {listDistributions} from './distributions.ts';
import {findInstaller, type Installer} from './installer.ts';
import {type PackageSet, readSet, SITE, writeManifest} from './manifest.ts';
import {isAbandoned, ownerPrefix} from './owner.ts';
import type {Requirements} from './requirements.ts';
import {SharedJobs} from './shared-jobs.ts';

export type {Distribution} from './distributions.ts';
export type {PackageSet} from './manifest.ts';

export type PackageStoreOptions = {
	/** The store's folder; made when missing. It must be of one machine: liveness of owners is judged by pid. */
	readonly dir: string;
	readonly interpreter: Interpreter;
	/** What to install with; by default found when first needed. */
	readonly installer?: Installer | undefined;
	/** Told of each set that was installed, rather than found. */
	readonly onInstalled?: ((set: PackageSet, durationMs: number) => void) | undefined;
};

const KEY = /^[0-9a-f]{32}$/;
const NO_PACKAGES: PackageSet = {key: 'none', folders: [], distributions: []};

/**
 * Installs sets of requirements, each once. A set's key holds what was asked for, not what was resolved: versions that
 * are not pinned stay those of the first installation.
 */
export class PackageStore {
	readonly #dir: string;
	readonly #interpreter: Interpreter;
	readonly #jobs = new SharedJobs<PackageSet>();
	readonly #onInstalled: PackageStoreOptions['onInstalled'];
	#installer: Promise<Installer> | undefined;

	constructor({dir, interpreter, installer, onInstalled}: PackageStoreOptions) {
		this.#onInstalled = onInstalled;
		this.#dir = resolve(dir);
		this.#interpreter = interpreter;
		this.#installer = installer === undefined ? undefined : Promise.resolve(installer);
	}

	/** Makes the store's folder and removes what installations of dead processes left in it. */
	static async open(options: PackageStoreOptions): Promise<PackageStore> {
		const store = new PackageStore(options);
		await mkdir(store.#dir, {recursive: true});
		await store.#sweep();
		return store;
	}

	/**
	 * Installs a set, or finds it installed. Concurrent calls for one set share one installation, which is aborted when
	 * the signals of all of them have fired. A failure is not remembered and leaves no folder behind.
	 * @throws {ForktreeError} `InstallFailed` with the installer's last words, or `Aborted`.
	 */
	async install(
		requirements: Requirements,
		options: {readonly signal?: AbortSignal | undefined} = {},
	): Promise<PackageSet> {
		if (requirements.requirements.length === 0) return NO_PACKAGES;
		refuseOthers(requirements);
		const key = this.#keyOf(requirements);
		return this.#jobs.run(key, (signal) => this.#find(key, requirements, signal), options.signal);
	}

	/** Lists the installed sets, sorted by key. Folders without a valid manifest are left out. */
	async list(): Promise<PackageSet[]> {
		const names = (await namesIn(this.#dir)).filter((name) => KEY.test(name)).sort();
		const sets = await Promise.all(names.map((name) => readSet(join(this.#dir, name))));
		return sets.filter((set) => set !== undefined);
	}

	#keyOf(requirements: Requirements): string {
		const {cacheTag, version} = this.#interpreter;
		const minor = version.split('.').slice(0, 2).join('.');
		const identity = [requirements.digest, cacheTag, minor, process.arch].join('\0');
		return createHash('sha256').update(identity).digest('hex').slice(0, 32);
	}

	async #find(key: string, requirements: Requirements, signal: AbortSignal): Promise<PackageSet> {
		return (await readSet(join(this.#dir, key))) ?? this.#build(key, requirements, signal);
	}

	async #build(key: string, requirements: Requirements, signal: AbortSignal): Promise<PackageSet> {
		await mkdir(this.#dir, {recursive: true});
		const undo = new Undo();
		const started = performance.now();
		try {
			const template = `${await ownerPrefix()}XXXXXX`;
			const {path} = await temporaryDirectory({tmpdir: this.#dir, template});
			undo.push(() => removeTree(path));
			await this.#fill(path, key, requirements, signal);
			const published = await this.#publish(path, key);
			if (published) undo.release();
			const set = await this.#published(key);
			this.#onInstalled?.(set, performance.now() - started);
			return set;
		} finally {
			await undo.run();
		}
	}

	async #fill(path: string, key: string, requirements: Requirements, signal: AbortSignal): Promise<void> {
		const siteDir = join(path, SITE);
		const requirementsFile = join(path, 'requirements.txt');
		await mkdir(siteDir);
		await writeFile(requirementsFile, requirements.text);
		const installer = await this.#findInstaller();
		signal.throwIfAborted();
		const {requireHashes} = requirements;
		await installer.install({requirementsFile, requireHashes, targetDir: siteDir, signal});
		await writeManifest(path, key, await listDistributions(siteDir));
		await makeReadable(path);
		await syncDirectory(path);
	}

	/** Answers whether the folder is now the set's; it is not when another process was first. */
	async #publish(path: string, key: string): Promise<boolean> {
		try {
			await rename(path, join(this.#dir, key));
		} catch (error) {
			if (isCode(error, 'ENOTEMPTY') || isCode(error, 'EEXIST')) return false;
			throw error;
		}
		await syncDirectory(this.#dir);
		return true;
	}

	async #published(key: string): Promise<PackageSet> {
		const set = await readSet(join(this.#dir, key));
		// Not repaired here: a sandbox of another process may have the folder mounted.
		if (set === undefined) {
			throw new ForktreeError(
				'InstallFailed',
				`expected a valid forktree.json in ${join(this.#dir, key)}; remove that folder`,
			);
		}
		return set;
	}

	#findInstaller(): Promise<Installer> {
		this.#installer ??= findInstaller(this.#interpreter).catch((error: unknown) => {
			this.#installer = undefined;
			throw error;
		});
		return this.#installer;
	}

	async #sweep(): Promise<void> {
		for (const name of await namesIn(this.#dir)) {
			const path = join(this.#dir, name);
			// Two processes may sweep at once; what is left over is the next one's.
			if (await isAbandoned(path)) await removeTree(path).catch(() => undefined);
		}
	}
}

/** What this store does not pass on must not get lost; it has wheels only, so what prefers or asks for them says nothing new. */
function refuseOthers({constraints, index, prereleases, noBinary}: Requirements): void {
	const {indexUrl, extraIndexUrls, findLinks, noIndex} = index;
	const others = [...constraints, ...extraIndexUrls, ...findLinks, ...noBinary].length > 0;
	if (!others && indexUrl === undefined && !noIndex && !prereleases) return;
	throw new ForktreeError('InstallFailed', 'expected no constraints, index options, --pre or --no-binary');
}

async function namesIn(dir: string): Promise<string[]> {
	try {
		return await readdir(dir);
	} catch (error) {
		if (isCode(error, 'ENOENT')) return [];
		throw error;
	}
}

async function removeTree(path: string): Promise<void> {
	await rm(path, {recursive: true, force: true, maxRetries: 5, retryDelay: 50});
}

/** Lets every user read a tree: sandboxes run as another one, and the umask may have been strict. */
async function makeReadable(path: string): Promise<void> {
	const stats = await lstat(path);
	if (stats.isDirectory()) {
		for (const name of await readdir(path)) await makeReadable(join(path, name));
		await chmod(path, 0o755);
	} else if (stats.isFile()) {
		await chmod(path, (stats.mode & 0o755) | 0o444);
	}
}

async function syncDirectory(path: string): Promise<void> {
	const directory = await open(path, 'r');
	try {
		await directory.sync();
	} finally {
		await directory.close();
	}
}

function isCode(error: unknown, code: string): boolean {
	return error instanceof Error && 'code' in error && error.code === code;
}
