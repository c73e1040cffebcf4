/** Resolves requirements to a lock, by uv or pip in a sandbox; no code of a package runs that has the network. */
import {createHash} from 'node:crypto';
import {closeSync, constants, openSync, readSync} from 'node:fs';
import {chmod, copyFile, link, mkdir, readdir, realpath, rename, rm, stat} from 'node:fs/promises';
import {delimiter, join} from 'node:path';
import process from 'node:process';
import {execa} from 'execa';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../errors.ts';
import {isExecutable} from '../native.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {Undo} from '../undo.ts';
import type {Fetcher} from './fetch.ts';
import {abiOf, createLock, type Lock, type LockedDistribution} from './lock.ts';
import {isAbandoned, ownerPrefix} from './owner.ts';
import type {Requirements} from './requirements.ts';
import {Resolution} from './resolution.ts';
import {pipTool, type ResolverTool, uvTool} from './resolver-tool.ts';
import type {StepOptions} from './steps.ts';
import type {ToolSandboxes} from './tool-sandboxes.ts';

export type ResolveOptions = StepOptions & {
	/** Use nothing but the archives in these folders: `<archives>/<sha256>/<file name>`; of one name the first. */
	readonly offline?: {readonly archives: readonly string[]} | undefined;
	/** Where the archives are that requirements name by paths. */
	readonly folder?: string | undefined;
	/** Makes a wheel in `folder`, without the network; answers its path. */
	readonly buildSdist: (
		distribution: LockedDistribution,
		sdist: string,
		folder: string,
		options: StepOptions,
	) => Promise<string>;
	/** How long the resolver may take, in milliseconds. */
	readonly timeoutMs?: number;
};

/** Something that resolves requirements for one interpreter. */
export type Resolver = {
	readonly name: 'uv' | 'pip';
	readonly version: string;
	/**
	 * Chooses a version and an archive of everything that is required. A source distribution is built, to learn what it
	 * requires, when there is no wheel that would do, or when none is wanted.
	 * @throws {ForktreeError} `ResolveFailed` when there is no solution, `NoMatchingDistribution` when something does not exist, `NotAuthorized`,
	 * `HashMismatch`, `Offline`, `InstallTimeout`, `Aborted`, what `buildSdist` throws, and else `InstallFailed`. Messages name
	 * what it was about and hold the resolver's own words.
	 */
	resolve(requirements: Requirements, options: ResolveOptions): Promise<Lock>;
};

/** What resolvers work with. */
export type ResolverOptions = {
	readonly interpreter: Interpreter;
	readonly tools: ToolSandboxes;
	readonly fetcher: Fetcher;
	/** Where resolvers keep what they have read of indexes; nobody but its owner may enter it. */
	readonly cacheDir: string;
};

/** A resolver of this machine. */
export type Located = {readonly name: 'uv' | 'pip'; readonly version: string; readonly file: string};

const PROBE_TIMEOUT_MS = 20_000;
/** The first with `--format pylock.toml`, and the first with `--report`. */
const MIN_VERSIONS = {uv: [0, 7], pip: [22, 2]} as const;
const FIND_UV = 'import uv; print(uv.find_uv_bin())';

/**
 * Finds what resolves: uv from `PATH`, else that of the `uv` module of `python3` from `PATH` or of the interpreter (the one on
 * `PATH` may be a shim), else the interpreter's pip.
 * @throws {ForktreeError} `InstallFailed` when there is none.
 */
export async function findResolver(options: ResolverOptions): Promise<Resolver> {
	const {interpreter, cacheDir} = options;
	const {name, version, file} = await locateResolver(interpreter);
	await mkdir(cacheDir, {recursive: true, mode: 0o700});
	await sweep(cacheDir);
	const tool =
		name === 'uv'
			? uvTool(version, await provide(file, cacheDir), interpreter.executable)
			: pipTool(version, interpreter.executable);
	return new SandboxedResolver(tool, options);
}

/**
 * Looks for what {@link findResolver} finds; `file` is the program.
 * @throws {ForktreeError} `InstallFailed` when there is none.
 */
export async function locateResolver(interpreter: Interpreter): Promise<Located> {
	const found = (await locateUv(interpreter)) ?? (await locatePip(interpreter));
	if (found === undefined) {
		throw new ForktreeError(
			'InstallFailed',
			`expected uv ${MIN_VERSIONS.uv.join('.')} or later, or pip ${MIN_VERSIONS.pip.join('.')} or later for ${interpreter.executable}, to resolve requirements with: install uv, or on Debian and Ubuntu apt-get install python3-pip`,
		);
	}
	return found;
}

class SandboxedResolver implements Resolver {
	readonly name: 'uv' | 'pip';
	readonly version: string;
	readonly #tool: ResolverTool;
	readonly #options: ResolverOptions;

	constructor(tool: ResolverTool, options: ResolverOptions) {
		this.name = tool.name;
		this.version = tool.version;
		this.#tool = tool;
		this.#options = options;
	}

	async resolve(requirements: Requirements, options: ResolveOptions): Promise<Lock> {
		const {interpreter, cacheDir} = this.#options;
		const abi = abiOf(interpreter);
		if (requirements.requirements.length === 0) return createLock(abi, []);
		const undo = new Undo();
		try {
			const {path: folder} = await temporaryDirectory({tmpdir: cacheDir, template: `${await ownerPrefix()}XXXXXX`});
			undo.push(() => rm(folder, {recursive: true, force: true, maxRetries: 3}));
			const cache = join(cacheDir, this.name);
			await mkdir(cache, {recursive: true});
			// Its sandboxes have users that differ; what is around it keeps everybody else out.
			await chmod(cache, 0o777);
			const context = {...this.#options, tool: this.#tool, cache, folder};
			return createLock(abi, await new Resolution(context, requirements, options).run());
		} finally {
			await undo.run();
		}
	}
}

async function sweep(cacheDir: string): Promise<void> {
	for (const name of await readdir(cacheDir)) {
		const path = join(cacheDir, name);
		if (await isAbandoned(path)) await rm(path, {recursive: true, force: true, maxRetries: 3}).catch(() => undefined);
	}
}

async function locateUv(interpreter: Interpreter): Promise<Located | undefined> {
	for (const find of [
		async () => uvOnPath(),
		...['python3', interpreter.executable].map((python) => async () => uvOf(python)),
	]) {
		const file = await find();
		if (file === undefined || !isBinary(file)) continue;
		const version = await versionOf('uv', file, []);
		if (version !== undefined) return {name: 'uv', version, file};
	}
	return undefined;
}

async function locatePip({executable: file}: Interpreter): Promise<Located | undefined> {
	const version = await versionOf('pip', file, ['-I', '-m', 'pip']);
	return version === undefined ? undefined : {name: 'pip', version, file};
}

function uvOnPath(): string | undefined {
	const candidates = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'uv'));
	return candidates.find((file) => isExecutable(file));
}

async function uvOf(python: string): Promise<string | undefined> {
	const {stdout} = await probe(python, ['-I', '-c', FIND_UV]);
	return stdout?.trim() || undefined;
}

async function versionOf(name: 'uv' | 'pip', file: string, args: readonly string[]): Promise<string | undefined> {
	const {stdout} = await probe(file, [...args, '--version']);
	const [, version = '', major, minor] = new RegExp(`^${name} ((\\d+)\\.(\\d+)\\S*)`).exec(stdout ?? '') ?? [];
	const [leastMajor, leastMinor] = MIN_VERSIONS[name];
	const isUsable = Number(major) > leastMajor || (Number(major) === leastMajor && Number(minor) >= leastMinor);
	return isUsable ? version : undefined;
}

async function probe(file: string, args: readonly string[]): Promise<{readonly stdout: string | undefined}> {
	const {failed, stdout} = await execa(file, args, {
		reject: false,
		timeout: PROBE_TIMEOUT_MS,
		stdin: 'ignore',
		stderr: 'ignore',
	});
	return {stdout: failed ? undefined : stdout};
}

/** Puts the program into a folder of its own, since folders are what a sandbox can be given. */
async function provide(file: string, cacheDir: string): Promise<string> {
	const source = await realpath(file);
	const {dev, ino, size, mtimeMs} = await stat(source);
	const identity = createHash('sha256').update([dev, ino, size, mtimeMs].join(' ')).digest('hex').slice(0, 16);
	const folder = join(cacheDir, `uv-${identity}`);
	if (isExecutable(join(folder, 'uv'))) return folder;
	const {path} = await temporaryDirectory({tmpdir: cacheDir, template: `${await ownerPrefix()}XXXXXX`});
	const copy = join(path, 'uv');
	// Everybody may run it as it is, or a copy gets the mode for that.
	const isPublic = ((await stat(source)).mode & 0o005) === 0o005;
	await (isPublic ? link(source, copy) : Promise.reject(new Error('not public'))).catch(async () => {
		await copyFile(source, copy, constants.COPYFILE_FICLONE);
		await chmod(copy, 0o755);
	});
	await chmod(path, 0o755);
	await rename(path, folder).catch(async () => rm(path, {recursive: true, force: true})); // somebody else was faster
	return folder;
}

/** Whether a file is a program itself, rather than a script that looks for one. */
function isBinary(file: string): boolean {
	const start = Buffer.alloc(4);
	const fd = openSync(file, 'r');
	try {
		readSync(fd, start, 0, start.length, 0);
	} finally {
		closeSync(fd);
	}
	return start.toString('latin1') === '\u007fELF';
}
