/** One resolution: asks the resolver, builds what has no wheel, asks again, and chooses an archive of each distribution. */
import {chmod, copyFile, mkdir, readdir, symlink} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {ForktreeError} from '../errors.ts';
import {baseEnvironment} from '../sandbox/rootfs.ts';
import type {ExecResult} from '../sandbox/run.ts';
import type {SandboxMount} from '../sandbox/sandbox-options.ts';
import {networkProgram} from './fetch.ts';
import {type InstallerSettings, readInstallerSettings} from './installer-settings.ts';
import {type Archive, abiOf, createLock, isSameVersion, type LockedDistribution, readArchiveName} from './lock.ts';
import type {Requirements} from './requirements.ts';
import type {ResolveOptions, ResolverOptions} from './resolver.ts';
import {type Found, type FoundFile, fileOf} from './resolver-output.ts';
import {constraintsFile, inSandbox, type Refusal, type ResolverTool} from './resolver-tool.ts';
import {preferredWheel} from './wheel-tags.ts';

/** What a resolution works with. */
export type ResolutionContext = ResolverOptions & {
	readonly tool: ResolverTool;
	/** The resolver's own, for all resolutions. */
	readonly cache: string;
	/** An empty folder for this one, in one that nobody else may enter. */
	readonly folder: string;
};

/** A source distribution that an index has. */
type Source = {
	readonly file: string;
	readonly url: string;
	readonly sha256: string | undefined;
	readonly sizeBytes: number | undefined;
};

const DEFAULT_TIMEOUT_MS = 10 * 60_000;
const MEMORY_MB = 1024;
const SCRATCH_MB = 64;
const MAX_ROUNDS = 30;
const MAX_WORDS_BYTES = 4 * 1024;
const MAX_SOURCES = 20_000;
const HASH = / \\\n +--hash=\S+/g;
const WHEEL = /\.whl$/;

export class Resolution {
	readonly #context: ResolutionContext;
	readonly #requirements: Requirements;
	readonly #options: ResolveOptions;
	readonly #abi: string;
	readonly #timeoutMs: number;
	/** Projects whose source distributions were looked for. */
	readonly #sources = new Map<string, readonly Source[]>();
	/** What stands for a wheel that was built, by the wheel's name. */
	readonly #built = new Map<string, LockedDistribution>();
	/** Wheels of the function's folder, by name. */
	readonly #local = new Map<string, LockedDistribution>();
	/** Where the resolver finds those that are required themselves, by the names of their packages. */
	readonly #paths = new Map<string, string>();
	/** Archives of stores that are used offline, by name. */
	readonly #archives = new Map<string, Archive>();

	constructor(context: ResolutionContext, requirements: Requirements, options: ResolveOptions) {
		this.#context = context;
		this.#requirements = requirements;
		this.#options = options;
		this.#abi = abiOf(context.interpreter);
		this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
	}

	/** @throws {ForktreeError} see `Resolver.resolve()` */
	async run(): Promise<LockedDistribution[]> {
		const settings = await this.#settings();
		for (const [index, folder] of this.#archiveFolders.entries()) await this.#linkArchives(folder, archivesAt(index));
		await this.#addLocal();
		const found = await this.#resolve(settings);
		const distributions: LockedDistribution[] = [];
		for (const each of found) distributions.push(await this.#choose(each, settings));
		return distributions;
	}

	/** Shows wheels of the function's folder to the resolver, and builds its source distributions that are required. */
	async #addLocal(): Promise<void> {
		for (const {name, version, kind, path, sha256, isRequired} of this.#requirements.local) {
			const source = join(this.#options.folder ?? '', path);
			const archive = {kind, file: basename(path), url: pathToFileURL(source).href, sha256, sizeBytes: undefined};
			if (kind === 'sdist') {
				const built = await this.#build(archive, {name, version});
				const wheel = [...this.#built].find(([, each]) => each === built)?.[0];
				this.#paths.set(name, `file://${inSandbox.built}/${wheel}`);
				continue;
			}
			if (isRequired) this.#paths.set(name, `file://${inSandbox.local}/${archive.file}`);
			this.#local.set(archive.file, this.#check({name, version, archive}));
			const target = join(this.#context.folder, 'local', archive.file);
			await this.#context.fetcher.fetch(archive, target, this.#options);
			await chmod(target, 0o644);
		}
	}

	async #settings(): Promise<InstallerSettings> {
		const {tool, folder, fetcher} = this.#context;
		const {indexUrl, extraIndexUrls, findLinks} = this.#requirements.index;
		for (const name of ['config', 'work', 'built', 'stubs', 'local']) await mkdir(join(folder, name), {mode: 0o755});
		// Sandboxes have users that differ.
		for (const name of ['work', 'stubs']) await chmod(join(folder, name), 0o777);
		const locations = [...(indexUrl === undefined ? [] : [indexUrl]), ...extraIndexUrls, ...findLinks];
		for (const location of locations) fetcher.credentials.learn(location);
		const {offline, signal} = this.#options;
		const asking = offline === undefined ? signal : undefined;
		return readInstallerSettings(tool.name, join(folder, 'config'), locations, fetcher.credentials, asking);
	}

	/** Asks until what is found needs no more building. */
	async #resolve(settings: InstallerSettings): Promise<readonly Found[]> {
		for (let round = 1; round <= MAX_ROUNDS; round += 1) {
			const result = await this.#ask(settings);
			if (result.exitCode !== 0 || result.error !== undefined) {
				if (await this.#findWheelless(result, settings)) continue;
				throw this.#explain(result);
			}
			const found = this.#read(result.stdout);
			const unbuilt = found.filter(({files}) => files.every(({url}) => isIn(url, inSandbox.stubs)));
			if (unbuilt.length === 0) return found;
			for (const each of unbuilt) await this.#build(await this.#sourceOf(each, settings), each);
		}
		throw this.#failed('ResolveFailed', `no solution in ${MAX_ROUNDS} rounds of building source distributions`);
	}

	async #ask(settings: InstallerSettings): Promise<ExecResult> {
		const {tool} = this.#context;
		const {prereleases, isComplete, constraintsText} = this.#requirements;
		const isConstrained = constraintsText !== '';
		const offline = this.#options.offline !== undefined;
		const argv = tool.argv({isConstrained, prereleases, isComplete, offline});
		const text = `${this.#optionLines(settings)}${this.#withPaths(this.#withHashes(this.#requirements.text))}`;
		if (!isConstrained) return this.#run(argv, text, settings);
		const constraints = this.#withHashes(constraintsText);
		const split = `head -c "$1" >${constraintsFile}; shift; exec "$@"`;
		const size = `${Buffer.byteLength(constraints)}`;
		return this.#run(['sh', '-c', split, 'sh', size, ...argv], `${constraints}${text}`, settings);
	}

	async #run(argv: readonly string[], stdin: string, settings: InstallerSettings): Promise<ExecResult> {
		const {tool, tools, cache, folder} = this.#context;
		const mounts: SandboxMount[] = [
			...tool.mounts,
			...settings.mounts,
			{source: cache, target: inSandbox.cache, readonly: false},
			...(tool.name === 'pip' ? [{source: join(folder, 'work'), target: inSandbox.work, readonly: false}] : []),
			...(this.#hasBuilt ? [{source: join(folder, 'built'), target: inSandbox.built}] : []),
			...(this.#sources.size > 0 ? [{source: join(folder, 'stubs'), target: inSandbox.stubs}] : []),
			...(this.#local.size > 0 ? [{source: join(folder, 'local'), target: inSandbox.local}] : []),
			...this.#archiveFolders.map((source, index) => ({source, target: archivesAt(index)})),
		];
		const {signal} = this.#options;
		return tools.run(argv, {
			network: this.#options.offline === undefined ? 'host' : 'none',
			mounts,
			env: {...baseEnvironment, HOME: '/tmp', ...settings.env, ...tool.env},
			stdin,
			timeoutMs: this.#timeoutMs,
			memoryMb: MEMORY_MB,
			scratchMb: SCRATCH_MB,
			cpuPercent: 400,
			signal,
		});
	}

	/** Those that a store is used by without a network. */
	get #archiveFolders(): readonly string[] {
		return this.#options.offline?.archives ?? [];
	}

	get #hasBuilt(): boolean {
		return this.#sources.size > 0 || this.#built.size > 0 || this.#options.offline !== undefined;
	}

	/** Where to look, as lines of a file of requirements: on a command line everybody on the host could read passwords. */
	#optionLines(settings: InstallerSettings): string {
		const {indexUrl, extraIndexUrls, findLinks, noIndex} = this.#requirements.index;
		const ours = [
			...(this.#local.size > 0 ? [inSandbox.local] : []),
			...(this.#hasBuilt ? [inSandbox.built] : []),
			...(this.#sources.size > 0 ? [inSandbox.stubs] : []),
		];
		const lines = [
			...(noIndex ? ['--no-index'] : []),
			...(indexUrl === undefined ? [] : [`--index-url ${settings.toSandbox(indexUrl)}`]),
			...extraIndexUrls.map((url) => `--extra-index-url ${settings.toSandbox(url)}`),
			...findLinks.map((url) => `--find-links ${settings.toSandbox(url)}`),
		];
		const offline = this.#options.offline !== undefined;
		return [...(offline ? [] : lines), ...ours.map((folder) => `--find-links file://${folder}`), ''].join('\n');
	}

	#withHashes(text: string): string {
		const isChecked = this.#context.tool.checksHashes && !this.#hasBuilt && this.#requirements.local.length === 0;
		return isChecked ? text : text.replaceAll(HASH, '');
	}

	/** For a resolver that would take the same version from an index. Another would answer addresses in place of wheels. */
	#withPaths(text: string): string {
		if (this.#context.tool.prefersLinks) return text;
		return [...this.#paths].reduce((lines, [name, url]) => {
			return lines.replaceAll(new RegExp(`^${name}(\\[[^\\]]*\\])?==[^ \\n]+`, 'gm'), `${name}$1 @ ${url}`);
		}, text);
	}

	#read(stdout: string): Found[] {
		try {
			return this.#context.tool.read(stdout);
		} catch (error) {
			throw this.#failed('ResolveFailed', this.#mask(wordsOf(error)), error);
		}
	}

	/** What is taken of a distribution. */
	async #choose({name, version, files}: Found, settings: InstallerSettings): Promise<LockedDistribution> {
		const allowed = this.#allowedHashes(name);
		if (this.#requirements.requireHashes && allowed.length === 0) {
			throw this.#failed('HashMismatch', `${name}==${version} is required, and has no hash in the requirements`);
		}
		const isWanted = this.#formatOf(name) !== 'sdist';
		// By the wheel's name, also of what was built: that says what it is good for.
		const wheels = new Map<string, LockedDistribution>();
		for (const found of files.filter(({url}) => !isIn(url, inSandbox.stubs))) {
			const distribution = this.#distributionOf(name, version, found, settings);
			const {kind, sha256} = distribution.archive;
			if (isAllowed(sha256, allowed) && (isWanted || kind === 'sdist')) wheels.set(found.file, distribution);
		}
		const minor = Number(this.#context.interpreter.version.split('.')[1]);
		const chosen = wheels.get(preferredWheel([...wheels.keys()], minor) ?? '');
		return chosen ?? this.#chooseSource({name, version, files}, allowed, settings);
	}

	/** No wheel will do: one is built, which shows that it can be. */
	async #chooseSource(
		found: Found,
		allowed: readonly string[],
		settings: InstallerSettings,
	): Promise<LockedDistribution> {
		const {name, version, files} = found;
		if (this.#options.offline === undefined && this.#formatOf(name) !== 'wheel') {
			if (!this.#sources.has(name)) await this.#findSources(name, settings);
			const source = this.#sources.get(name)?.find((each) => isOf(each, found) && isAllowed(each.sha256, allowed));
			if (source !== undefined) return this.#build(source, found);
		}
		const code = allowed.length > 0 ? 'HashMismatch' : 'NoMatchingDistribution';
		const hashes = files.map(({file, sha256}) => `\n${file} sha256:${sha256}`).join('');
		const words =
			allowed.length > 0
				? `no archive of ${name}==${version} has a hash that the requirements name; there are:${hashes}`
				: `${name}==${version} has no source distribution`;
		throw this.#failed(code, this.#mask(words));
	}

	#distributionOf(name: string, version: string, found: FoundFile, settings: InstallerSettings): LockedDistribution {
		const built = this.#built.get(found.file);
		if (built !== undefined && isIn(found.url, inSandbox.built)) return built;
		const local = this.#local.get(found.file);
		if (local !== undefined && isIn(found.url, inSandbox.local)) return local;
		const archive = this.#archives.get(found.file);
		if (archive !== undefined && isIn(found.url, inSandbox.built)) return this.#check({name, version, archive});
		const url = found.url.startsWith('file:')
			? settings.toHost(found.url)
			: this.#context.fetcher.credentials.learn(found.url);
		if (url === undefined) throw this.#failed('ResolveFailed', `${name}: a file of a folder that is not looked in`);
		return this.#check({name, version, archive: {...found, kind: 'wheel', url}});
	}

	/** Of what it was told by a sandbox only what is valid goes on. */
	#check(distribution: LockedDistribution): LockedDistribution {
		try {
			return createLock(this.#abi, [distribution]).distributions[0] as LockedDistribution;
		} catch (error) {
			throw this.#failed('ResolveFailed', wordsOf(error), error);
		}
	}

	#allowedHashes(name: string): string[] {
		const {requirements, constraints, local} = this.#requirements;
		const required = local.filter((each) => each.isRequired && each.name === name);
		if (required.length > 0) return required.map(({sha256}) => sha256);
		return [...requirements, ...constraints]
			.filter((each) => each.name === name)
			.flatMap(({hashes}) => hashes.map((hash) => hash.replace(/^sha256:/, '').toLowerCase()));
	}

	#formatOf(name: string): 'any' | 'wheel' | 'sdist' {
		const {noBinary, onlyBinary} = this.#requirements;
		if (noBinary.includes(name)) return 'sdist';
		if (onlyBinary.includes(name)) return 'wheel';
		return noBinary.includes(':all:') ? 'sdist' : onlyBinary.includes(':all:') ? 'wheel' : 'any';
	}

	/** Looks for source distributions of what its words name. @returns whether there is something that was not there before */
	async #findWheelless({stderr, error}: ExecResult, settings: InstallerSettings): Promise<boolean> {
		if (error !== undefined || this.#options.offline !== undefined) return false;
		const names = this.#context.tool
			.wheelless(stderr)
			.filter((name) => !this.#sources.has(name) && this.#formatOf(name) !== 'wheel');
		let isNew = false;
		for (const name of names) isNew = (await this.#findSources(name, settings)) || isNew;
		return isNew;
	}

	async #findSources(name: string, settings: InstallerSettings): Promise<boolean> {
		const {tool, tools, interpreter, fetcher, folder} = this.#context;
		const {indexUrls, pages} = await this.#places(settings);
		const {credentials} = fetcher;
		const places = [...indexUrls, ...pages].map((url) => credentials.learn(url)).filter((url) => /^https?:/.test(url));
		const request = {
			name,
			indexUrls: indexUrls.map((url) => credentials.learn(url)),
			pages: pages.map((url) => credentials.learn(url)),
			firstOnly: tool.firstIndexOnly && !this.#requirements.isComplete,
			authorizations: Object.fromEntries(places.map((url) => [url, credentials.for(url)])),
		};
		const program = await networkProgram('find_sdists.py');
		const {signal} = this.#options;
		const result = await tools.run([interpreter.executable, '-I', '-S', '-c', program], {
			network: 'host',
			mounts: [...settings.mounts, {source: join(folder, 'stubs'), target: inSandbox.stubs, readonly: false}],
			env: {...baseEnvironment, ...settings.env},
			stdin: JSON.stringify(request),
			timeoutMs: this.#timeoutMs,
			memoryMb: MEMORY_MB,
			scratchMb: SCRATCH_MB,
			signal,
		});
		if (result.exitCode !== 0 || result.error !== undefined) throw this.#explain(result, `looking for ${name}`);
		const sources = readSources(result.stdout);
		if (sources === undefined) throw this.#failed('ResolveFailed', `looking for ${name}: expected a list of files`);
		this.#sources.set(name, sources);
		return sources.length > 0;
	}

	/** Where the resolver looks, as far as it says so. */
	async #places(settings: InstallerSettings): Promise<{readonly indexUrls: string[]; readonly pages: string[]}> {
		const {tool} = this.#context;
		const {index} = this.#requirements;
		const isKnown = tool.name === 'pip' && (index.noIndex || (index.indexUrl ?? settings.indexUrl) !== undefined);
		const result = isKnown ? undefined : await this.#run(tool.indexesArgv, this.#optionLines(settings), settings);
		const lines = `${result?.stdout ?? ''}\n${tool.name === 'pip' ? this.#pipLines(settings) : ''}`.split('\n');
		const valuesOf = (option: string) =>
			lines.filter((line) => line.startsWith(`${option} `)).map((line) => line.slice(option.length + 1).trim());
		const extra = valuesOf('--extra-index-url');
		// The last word is that of the requirements.
		const main = valuesOf('--index-url').slice(-1);
		return {
			indexUrls: index.noIndex ? [] : tool.firstIndexOnly ? [...extra, ...main] : [...main, ...extra],
			pages: valuesOf('--find-links').filter((page) => !/\/(?:built|stubs|local)\/?$/.test(page)),
		};
	}

	#pipLines(settings: InstallerSettings): string {
		const {index} = this.#requirements;
		const main = index.indexUrl ?? settings.indexUrl;
		return [
			...(main === undefined ? [] : [`--index-url ${settings.toSandbox(main)}`]),
			...[...settings.extraIndexUrls, ...index.extraIndexUrls].map(
				(url) => `--extra-index-url ${settings.toSandbox(url)}`,
			),
			...(settings.env.PIP_FIND_LINKS?.split(' ') ?? []).map((page) => `--find-links ${page}`),
			...index.findLinks.map((page) => `--find-links ${settings.toSandbox(page)}`),
		].join('\n');
	}

	async #sourceOf(found: Found, settings: InstallerSettings): Promise<Source> {
		const allowed = this.#allowedHashes(found.name);
		const sources = this.#sources.get(found.name) ?? [];
		const source = sources.find((each) => isOf(each, found) && isAllowed(each.sha256, allowed));
		if (source !== undefined) return source;
		await this.#chooseSource(found, allowed, settings); // which says why not
		throw this.#failed('NoMatchingDistribution', `${found.name}==${found.version} has no source distribution`);
	}

	/** Downloads a source distribution and makes a wheel of it, which the resolver sees from then on. */
	async #build(source: Source, {name, version}: Pick<Found, 'name' | 'version'>): Promise<LockedDistribution> {
		const {fetcher, folder} = this.#context;
		const {signal, onProgress} = this.#options;
		const work = join(folder, `sdist-${name}-${version}`);
		await mkdir(work);
		const url = fetcher.credentials.learn(source.url);
		// Before it is there its hash may not be known, but everything else is checked.
		const unhashed = {
			name,
			version,
			archive: {...source, url, kind: 'sdist' as const, sha256: source.sha256 ?? '0'.repeat(64)},
		};
		const {archive} = this.#check(unhashed);
		const file = join(work, archive.file);
		const sha256 = await fetcher.download({...archive, sha256: source.sha256}, file, {signal, onProgress});
		const distribution = this.#check({name, version, archive: {...archive, sha256}});
		if (!isAllowed(sha256, this.#allowedHashes(name))) {
			throw this.#failed('HashMismatch', `${archive.file} has sha256:${sha256}, which the requirements do not name`);
		}
		const wheel = await this.#options.buildSdist(distribution, file, work, {signal, onProgress});
		const target = join(folder, 'built', basename(wheel));
		await copyFile(wheel, target);
		await chmod(target, 0o644);
		this.#built.set(basename(wheel), distribution);
		return distribution;
	}

	/**
	 * Puts the wheels of a store into the folder that resolvers look into.
	 * @param seenAt where they see the store's archives
	 */
	async #linkArchives(folder: string, seenAt: string): Promise<void> {
		for (const sha256 of (await readdir(folder)).sort()) {
			const files = await readdir(join(folder, sha256)).catch(() => []);
			const sdist = files.find((file) => !WHEEL.test(file));
			for (const wheel of files.filter((file) => WHEEL.test(file) && !this.#archives.has(file))) {
				// A wheel beside a source distribution was built from it.
				const file = sdist ?? wheel;
				const url = new URL(`file://${join(folder, sha256, file)}`).href;
				this.#archives.set(wheel, {
					kind: sdist === undefined ? 'wheel' : 'sdist',
					file,
					url,
					sha256,
					sizeBytes: undefined,
				});
				await symlink(join(seenAt, sha256, wheel), join(this.#context.folder, 'built', wheel));
			}
		}
	}

	#explain(result: ExecResult, doing?: string): ForktreeError {
		const words = [
			...(doing === undefined ? [] : [doing]),
			result.error?.message ?? '',
			lastWords(this.#mask(result.stderr)),
		];
		const text = words.filter((each) => each !== '').join('\n');
		if (result.error?.code === 'Timeout') {
			return this.#failed('InstallTimeout', `took more than ${this.#timeoutMs / 1000} seconds\n${text}`);
		}
		if (result.error !== undefined) return this.#failed('InstallFailed', text);
		if (this.#options.offline !== undefined) {
			return this.#failed('Offline', `what is in the store does not do, and the network must not be used\n${text}`);
		}
		if (doing !== undefined) return this.#failed('InstallFailed', text);
		const codes: Readonly<Record<Refusal, ForktreeError['code']>> = {
			noMatch: 'NoMatchingDistribution',
			noSolution: 'ResolveFailed',
			hashes: 'HashMismatch',
			unauthorized: 'NotAuthorized',
			other: 'InstallFailed',
		};
		const refusal = this.#context.tool.refusal(result.stderr);
		// Of an index that wants a password pip says that there is nothing.
		const isClosed = refusal === 'unauthorized' || (refusal === 'noMatch' && this.#context.tool.name === 'pip');
		const problems = isClosed ? this.#context.fetcher.credentials.problems() : [];
		return this.#failed(codes[refusal], [text, ...problems].join('\n'));
	}

	#failed(code: ForktreeError['code'], words: string, cause?: unknown): ForktreeError {
		const names = [...new Set(this.#requirements.requirements.map(({name}) => name))];
		const named = names.filter((name) => isNamedIn(name, words)).slice(0, 10);
		const subject = named.length > 0 ? named.join(', ') : names.length === 1 ? `${names[0]}` : 'the requirements';
		return new ForktreeError(code, `resolving ${subject}: ${words}`, {cause});
	}

	#mask(text: string): string {
		return this.#context.fetcher.credentials.mask(text);
	}
}

function archivesAt(index: number): string {
	return `${inSandbox.archives}/${index}`;
}

function readSources(stdout: string): Source[] | undefined {
	try {
		const {files} = JSON.parse(stdout) as {files: Array<Record<string, unknown>>};
		return files.slice(0, MAX_SOURCES).map(({url, sha256, sizeBytes}) => ({
			file: fileOf(`${url}`),
			url: `${url}`,
			sha256: typeof sha256 === 'string' ? sha256 : undefined,
			sizeBytes: typeof sizeBytes === 'number' ? sizeBytes : undefined,
		}));
	} catch {
		return undefined;
	}
}

function isOf({file}: Source, {name, version}: Found): boolean {
	const archive = readArchiveName(file, name);
	return archive?.kind === 'sdist' && isSameVersion(archive.version, version);
}

/** What is not known yet may be. */
function isAllowed(sha256: string | undefined, allowed: readonly string[]): boolean {
	return allowed.length === 0 || sha256 === undefined || allowed.includes(sha256);
}

function isIn(url: string, folder: string): boolean {
	return url.startsWith(`file://${folder}/`);
}

function isNamedIn(name: string, words: string): boolean {
	return new RegExp(`(?<![\\w.-])${name.replaceAll('-', '[-_.]')}(?![\\w-])`, 'i').test(words);
}

function lastWords(words: string): string {
	const bytes = Buffer.from(words.trim());
	return bytes
		.subarray(-MAX_WORDS_BYTES)
		.toString('utf8')
		.replace(/^\uFFFD+/, '');
}

function wordsOf(error: unknown): string {
	return error instanceof Error ? error.message : `${error}`;
}
