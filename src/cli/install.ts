/** `forktree admin install`: packs a function and gives it to a worker. */
import {existsSync} from 'node:fs';
import {copyFile, cp, mkdir, readdir, readFile, rm, stat} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {execa} from 'execa';
import {create, extract} from 'tar';
import {withDir} from 'tmp-promise';
import {parse} from 'yaml';
import {ForktreeError} from '../index.ts';
import {Interrupts, note, oneLine, print} from './terminal.ts';
import {ask, checkReady, findWorker, refused} from './worker-client.ts';

export type InstallFlags = {
	/** A file in place of the function's `ol.yaml`. */
	readonly config?: string;
	/** A file in place of the function's `requirements.txt`. */
	readonly requirements?: string;
	readonly name?: string;
	readonly path?: string;
	readonly json?: boolean;
};

const configName = 'ol.yaml';
const requirementsName = 'requirements.txt';
/** Neither of them can begin with a dash, which git would take for an option, nor name another transport. */
const gitUrl = /^(?:https:\/\/[A-Za-z0-9[][^\s\\]*|git@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s\\]+)\.git$/;
const archive = /\.tar\.gz$/;
const functionName = /^[A-Za-z0-9._-]+$/;
const cloneDeadlineMs = 5 * 60_000;
/** Checking and unpacking takes the worker a while; what a function requires is installed later. */
const uploadDeadlineMs = 10 * 60_000;

/** Answers the exit code. @throws what is wrong with the source, or that there is no worker */
export async function install(source: string, flags: InstallFlags): Promise<number> {
	const name = checkName(flags.name ?? nameOf(source));
	const interrupts = new Interrupts();
	const {signal} = interrupts;
	try {
		const worker = await findWorker(flags.path);
		await checkReady(worker);
		const body = await pack(source, flags, signal);
		const answer = await ask(worker, `/registry/${name}`, {
			method: 'POST',
			type: 'application/gzip',
			body,
			signal: AbortSignal.any([signal, AbortSignal.timeout(uploadDeadlineMs)]),
		});
		if (answer.status !== 201) return await refused(answer);
		answer.body.destroy();
		const url = `${worker.url}/run/${name}`;
		await print(process.stdout, flags.json === true ? `${JSON.stringify({name, url})}\n` : `${url}\n`);
		return 0;
	} catch (error) {
		if (interrupts.code === undefined) throw error;
		return interrupts.code;
	} finally {
		interrupts.close();
	}
}

/** The last part of a path or address, without what says its kind. */
function nameOf(source: string): string {
	if (gitUrl.test(source)) return /([^/:]+)\.git$/.exec(source)?.[1] ?? '';
	return path.basename(path.resolve(source)).replace(archive, '');
}

function checkName(name: string): string {
	if (functionName.test(name) && !/^\.+$/.test(name)) return name;
	throw new TypeError(
		`expected a name of letters, digits, '.', '_' and '-', got ${JSON.stringify(name)}; --name gives another`,
	);
}

/** The function as a gzipped tar file of regular files alone. */
async function pack(source: string, flags: InstallFlags, signal: AbortSignal): Promise<Uint8Array> {
	return withDir(
		async ({path: directory}) => {
			const code = path.join(directory, 'code');
			await mkdir(code);
			await stage(source, code, signal);
			await replace(code, configName, flags.config);
			await replace(code, requirementsName, flags.requirements);
			await checkEntry(code);
			const file = path.join(directory, 'code.tar.gz');
			const names = await listFiles(code);
			// A name that begins with @ would stand for an archive.
			await create(
				{file, cwd: code, gzip: true, portable: true},
				names.map((each) => `./${each}`),
			);
			return readFile(file);
		},
		{unsafeCleanup: true, prefix: 'forktree-install'},
	);
}

/** Copies the function into a folder that is there. */
async function stage(source: string, code: string, signal: AbortSignal): Promise<void> {
	if (gitUrl.test(source)) return clone(source, code, signal);
	const kind = await stat(source).catch((cause: unknown) => {
		throw new ForktreeError('InvalidSource', `cannot read ${JSON.stringify(source)}: ${(cause as Error).message}`, {
			cause,
		});
	});
	if (kind.isDirectory()) {
		const history = path.join(path.resolve(source), '.git');
		return cp(path.resolve(source), code, {
			recursive: true,
			verbatimSymlinks: true,
			filter: (each) => each !== history,
		});
	}
	if (kind.isFile() && archive.test(source)) return unpack(source, code);
	throw new ForktreeError(
		'InvalidSource',
		`expected a folder, a .tar.gz file, or the URL of a git repository (https://….git or git@….git), got ${JSON.stringify(source)}`,
	);
}

async function unpack(file: string, code: string): Promise<void> {
	let fault: string | undefined;
	await extract({
		file,
		cwd: code,
		strict: true,
		filter: (name, entry) => {
			const isPlain =
				'type' in entry && ['File', 'OldFile', 'ContiguousFile', 'Directory', 'GNUDumpDir'].includes(entry.type);
			if (!isPlain) fault ??= name;
			return isPlain;
		},
	});
	if (fault !== undefined) throw notPlain(fault);
}

async function clone(url: string, code: string, signal: AbortSignal): Promise<void> {
	const {failed, shortMessage, stderr} = await execa('git', ['clone', '--quiet', '--depth', '1', '--', url, code], {
		env: {GIT_TERMINAL_PROMPT: '0'},
		stdin: 'ignore',
		cancelSignal: signal,
		timeout: cloneDeadlineMs,
		reject: false,
	});
	signal.throwIfAborted();
	if (failed)
		throw new ForktreeError('InvalidSource', `cannot clone ${url}: ${oneLine(stderr || String(shortMessage))}`);
	await rm(path.join(code, '.git'), {recursive: true});
}

/** Puts a file in the place of one that the function may have. */
async function replace(code: string, name: string, file: string | undefined): Promise<void> {
	if (file === undefined) return;
	const target = path.join(code, name);
	if (existsSync(target)) note(`${file} takes the place of the function’s ${name}`);
	await rm(target, {force: true}); // a link is not followed
	await copyFile(file, target);
}

/** @throws {ForktreeError} `EntryFileMissing`, or `InvalidConfig` when `ol.yaml` can't say which it is */
async function checkEntry(code: string): Promise<void> {
	const entry = await entryFile(path.join(code, configName));
	if (existsSync(path.join(code, entry)) || existsSync(path.join(code, 'f.bin'))) return;
	throw new ForktreeError('EntryFileMissing', `expected the function to have ${entry}, or f.bin`);
}

async function entryFile(configFile: string): Promise<string> {
	if (!existsSync(configFile)) return 'f.py';
	try {
		const config = parse(await readFile(configFile, 'utf8')) as {environment?: {OL_ENTRY_FILE?: unknown} | null} | null;
		return String(config?.environment?.OL_ENTRY_FILE ?? 'f.py');
	} catch (cause) {
		throw new ForktreeError('InvalidConfig', `${configName}: ${cause instanceof Error ? cause.message : cause}`, {
			cause,
		});
	}
}

/** Paths of all files, relative. @throws {ForktreeError} `InvalidSource` at the first that is neither a file nor a folder */
async function listFiles(code: string): Promise<string[]> {
	const entries = await readdir(code, {recursive: true, withFileTypes: true});
	return entries.flatMap((entry) => {
		const name = path.relative(code, path.join(entry.parentPath, entry.name));
		if (entry.isDirectory()) return [];
		if (entry.isFile()) return [name];
		throw notPlain(name);
	});
}

function notPlain(name: string): ForktreeError {
	return new ForktreeError(
		'InvalidSource',
		`expected files and folders alone, got a link or device: ${JSON.stringify(name)}`,
	);
}
