/** Downloads archives: by a program in a sandbox that has the network; what it brings is checked here. */
import {createHash} from 'node:crypto';
import {constants, createWriteStream} from 'node:fs';
import {chmod, mkdir, open, readFile, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {PassThrough} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import {fileURLToPath} from 'node:url';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../errors.ts';
import {guestDirectory} from '../native.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {ExecResult} from '../sandbox/run.ts';
import {Undo} from '../undo.ts';
import type {Credentials} from './credentials.ts';
import {type InstallerSettings, readNetworkSettings} from './installer-settings.ts';
import type {Archive} from './lock.ts';
import {ownerPrefix} from './owner.ts';
import type {StepOptions} from './steps.ts';
import type {ToolSandboxes} from './tool-sandboxes.ts';

/** What a fetcher works with. */
export type FetcherOptions = {
	readonly tools: ToolSandboxes;
	readonly interpreter: Interpreter;
	/** Nobody but its owner may enter it. What is on its way is kept there. */
	readonly folder: string;
	/** Those that resolvers learn. */
	readonly credentials: Credentials;
	/** How long one archive may take, in milliseconds. */
	readonly timeoutMs?: number;
	/** How long a server may say nothing, in milliseconds. */
	readonly stallMs?: number;
};

/** An archive that is wanted; its hash can be unknown. */
export type Wanted = Pick<Archive, 'file' | 'url' | 'sizeBytes'> & {readonly sha256: string | undefined};

const DEFAULT_TIMEOUT_MS = 15 * 60_000;
const DEFAULT_STALL_MS = 30_000;
/** A program that downloads takes further archives for so long. */
const OPEN_MS = 60_000;
const ATTEMPTS = 3;
const MAX_BYTES = 4 * 1024 ** 3;
const MAX_LINE = 64 * 1024;
const MAX_WORDS = 500;
const MEMORY_MB = 512;
const SCRATCH_MB = 16;
const MEBIBYTE = 1024 ** 2;
const {O_RDONLY, O_NOFOLLOW, O_NONBLOCK} = constants;

/** Downloads archives. Those that are wanted at one time share a sandbox. */
export class Fetcher {
	/** Those that it uses: a resolver adds to them. */
	readonly credentials: Credentials;
	readonly #options: FetcherOptions;
	readonly #sessions = new Set<Session>();
	#session: Session | undefined;

	constructor(options: FetcherOptions) {
		this.credentials = options.credentials;
		this.#options = options;
	}

	/**
	 * Downloads an archive; one of a folder of this machine is copied.
	 * @param file is made, in a folder that exists; not there when this fails
	 * @throws {ForktreeError} `HashMismatch`, `NotAuthorized`, `InstallTimeout`, `Aborted`, or `InstallFailed`; the message names the file
	 */
	async fetch(archive: Archive, file: string, options: StepOptions): Promise<void> {
		await this.download(archive, file, options);
	}

	/** Like {@link fetch}, also when the hash is not known before. @returns the hash */
	async download(wanted: Wanted, file: string, {signal, onProgress}: StepOptions): Promise<string> {
		if (signal.aborted) throw aborted(wanted, signal);
		if (wanted.url.startsWith('file:')) return copyChecked(fileURLToPath(wanted.url), file, wanted);
		for (;;) {
			this.#session ??= this.#open();
			const session = this.#session;
			if (session.isOpen) {
				onProgress?.('downloading', wanted.file);
				return session.download(wanted, file, {signal, onProgress});
			}
			this.#session = undefined;
		}
	}

	/** Ends what is under way, and waits until nothing of it is left. */
	async close(): Promise<void> {
		await Promise.all([...this.#sessions].map(async (session) => session.close()));
	}

	#open(): Session {
		const session = new Session(this.#options);
		this.#sessions.add(session);
		void session.ended.then(() => this.#sessions.delete(session));
		return session;
	}
}

type Job = {
	readonly wanted: Wanted;
	readonly onProgress: StepOptions['onProgress'];
	readonly settle: (error?: ForktreeError) => void;
};

/** Where it works, and how it gets there. */
type Prepared = {readonly folder: string; readonly settings: InstallerSettings};

/** One run of the program, and the archives that it is asked for. */
class Session {
	readonly #options: FetcherOptions;
	readonly #requests = new PassThrough();
	readonly #ending = new AbortController();
	readonly #jobs = new Map<number, Job>();
	readonly #timeoutMs: number;
	readonly #openUntilMs = performance.now() + OPEN_MS;
	/** When nothing of it is left. */
	readonly ended: Promise<void>;
	readonly #prepared: Promise<Prepared>;
	readonly #undo = new Undo();
	#lastId = 0;
	/** The beginning of a line. */
	#rest = '';
	/** What it said last that is no news, such as a traceback. */
	#words = '';
	#isEnded = false;

	constructor(options: FetcherOptions) {
		this.#options = options;
		this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
		this.#prepared = this.#prepare();
		this.ended = this.#run();
	}

	/** Whether it takes further archives. */
	get isOpen(): boolean {
		return !this.#isEnded && performance.now() < this.#openUntilMs;
	}

	async download(wanted: Wanted, file: string, {signal, onProgress}: StepOptions): Promise<string> {
		this.#lastId += 1;
		const id = this.#lastId;
		const undo = new Undo();
		try {
			await new Promise<void>((resolve, reject) => {
				const settle: Job['settle'] = (error) => (error === undefined ? resolve() : reject(error));
				this.#jobs.set(id, {wanted, onProgress, settle});
				const onAbort = () => settle(aborted(wanted, signal));
				signal.addEventListener('abort', onAbort, {once: true});
				const timer = setTimeout(() => settle(timedOut(wanted, this.#timeoutMs)), this.#timeoutMs);
				undo.push(
					() => clearTimeout(timer),
					() => signal.removeEventListener('abort', onAbort),
				);
				void this.#ask(id, wanted);
			});
			const source = join((await this.#prepared).folder, 'downloads', `${id}`);
			undo.push(() => rm(source, {force: true}));
			return await copyChecked(source, file, wanted);
		} finally {
			await undo.run();
			this.#jobs.delete(id);
			if (this.#jobs.size === 0) this.#end();
		}
	}

	/** What there is to know of credentials is known when it is prepared. */
	async #ask(id: number, {url, sizeBytes}: Wanted): Promise<void> {
		const isPrepared = await this.#prepared.then(
			() => true,
			() => false, // run() tells
		);
		if (!isPrepared || this.#isEnded) return;
		const authorization = this.#options.credentials.for(url);
		this.#requests.write(`${JSON.stringify({id, url, sizeBytes, limitBytes: limitOf(sizeBytes), authorization})}\n`);
	}

	async close(): Promise<void> {
		this.#end();
		await this.ended;
	}

	/** Nobody waits for anything any more. */
	#end(): void {
		if (this.#isEnded) return;
		this.#isEnded = true;
		this.#requests.end();
		this.#ending.abort();
	}

	async #prepare(): Promise<Prepared> {
		const {folder, credentials} = this.#options;
		await mkdir(folder, {recursive: true, mode: 0o700});
		const {path} = await temporaryDirectory({tmpdir: folder, template: `${await ownerPrefix()}XXXXXX`});
		this.#undo.push(() => rm(path, {recursive: true, force: true, maxRetries: 3}));
		await mkdir(join(path, 'downloads'));
		await chmod(join(path, 'downloads'), 0o777);
		await mkdir(join(path, 'config'), {mode: 0o755});
		return {folder: path, settings: await readNetworkSettings(join(path, 'config'), credentials, this.#ending.signal)};
	}

	async #run(): Promise<void> {
		let error: unknown;
		try {
			const result = await this.#start(await this.#prepared);
			const why = result.error?.message ?? `it ended with ${result.signal ?? `exit code ${result.exitCode}`}`;
			error = new ForktreeError('InstallFailed', this.#options.credentials.mask(`${why} ${this.#words}`.trim()));
		} catch (caught) {
			error = caught;
		}
		this.#isEnded = true;
		for (const {wanted, settle} of this.#jobs.values()) settle(failed(wanted, wordsOf(error), error));
		await this.#undo.run().catch(() => undefined); // the next who opens the store removes it
	}

	async #start({folder, settings}: Prepared): Promise<ExecResult> {
		const {tools, interpreter, stallMs = DEFAULT_STALL_MS} = this.#options;
		const program = await networkProgram('fetch.py');
		const argv = [interpreter.executable, '-I', '-S', '-c', program, `${ATTEMPTS}`, `${stallMs / 1000}`];
		return tools.run(argv, {
			network: 'host',
			mounts: [...settings.mounts, {source: join(folder, 'downloads'), target: '/downloads', readonly: false}],
			env: settings.env,
			stdin: this.#requests,
			timeoutMs: OPEN_MS + this.#timeoutMs,
			memoryMb: MEMORY_MB,
			scratchMb: SCRATCH_MB,
			signal: this.#ending.signal,
			onStderr: (text) => this.#read(text),
		});
	}

	#read(text: string): void {
		const lines = `${this.#rest}${text}`.split('\n');
		this.#rest = (lines.pop() ?? '').slice(-MAX_LINE);
		for (const line of lines) {
			const news = readNews(line);
			if (news === undefined) this.#words = `${this.#words} ${line}`.slice(-MAX_WORDS);
			else this.#take(news);
		}
	}

	#take({id, bytes, done, failure}: News): void {
		const job = this.#jobs.get(id);
		if (job === undefined) return;
		const {file, sizeBytes} = job.wanted;
		if (done) job.settle();
		else if (failure !== undefined) {
			const {credentials} = this.#options;
			const words = [failure, ...credentials.problems(job.wanted.url)].join('; ');
			job.settle(refused(job.wanted, words) ?? failed(job.wanted, credentials.mask(failure)));
		} else
			job.onProgress?.(
				'downloading',
				`${file}: ${toMiB(bytes)}${sizeBytes === undefined ? '' : ` of ${toMiB(sizeBytes)}`} MiB`,
			);
	}
}

/** The text of a guest's program that uses the network. */
export async function networkProgram(name: 'fetch.py' | 'find_sdists.py'): Promise<string> {
	const texts = ['network.py', name].map(async (file) => readFile(join(guestDirectory, 'packages', file), 'utf8'));
	return (await Promise.all(texts)).join('\n');
}

type News = {readonly id: number; readonly bytes: number; readonly done: boolean; readonly failure: string | undefined};

/** What a line says; undefined when it is none of ours. */
export function readNews(line: string): News | undefined {
	let value: unknown;
	try {
		value = JSON.parse(line);
	} catch {
		return undefined;
	}
	if (typeof value !== 'object' || value === null) return undefined;
	const {id, bytes = 0, done = false, failed: failure} = value as {readonly [key: string]: unknown};
	if (!Number.isSafeInteger(id) || !Number.isSafeInteger(bytes) || (bytes as number) < 0) return undefined;
	if (typeof done !== 'boolean' || (failure !== undefined && typeof failure !== 'string')) return undefined;
	return {id: id as number, bytes: bytes as number, done, failure: failure?.slice(0, MAX_WORDS)};
}

/**
 * Copies a file that somebody else wrote, and may go on writing to, checking what is copied.
 * @returns its hash
 * @throws {ForktreeError} `HashMismatch`, or `InstallFailed` for what is no file or too large
 */
async function copyChecked(source: string, target: string, wanted: Wanted): Promise<string> {
	// Never through a link, nor waiting for the other end of a pipe.
	const handle = await open(source, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error: unknown) => {
		throw failed(wanted, wordsOf(error), error);
	});
	const hash = createHash('sha256');
	let sizeBytes = 0;
	try {
		if (!(await handle.stat()).isFile()) throw failed(wanted, 'it is no file');
		const reader = handle.createReadStream({autoClose: false, highWaterMark: MEBIBYTE});
		const counted = async function* (chunks: AsyncIterable<Buffer>) {
			for await (const chunk of chunks) {
				sizeBytes += chunk.length;
				if (sizeBytes > limitOf(wanted.sizeBytes))
					throw failed(wanted, `it is larger than ${limitOf(wanted.sizeBytes)} bytes`);
				hash.update(chunk);
				yield chunk;
			}
		};
		await pipeline(reader, counted, createWriteStream(target, {flags: 'wx', mode: 0o644}));
		const sha256 = hash.digest('hex');
		if (wanted.sha256 !== undefined && sha256 !== wanted.sha256) throw mismatch(wanted, sha256);
		return sha256;
	} catch (error) {
		if (!isCode(error, 'EEXIST')) await rm(target, {force: true});
		throw error;
	} finally {
		await handle.close();
	}
}

function limitOf(sizeBytes: number | undefined): number {
	return sizeBytes ?? MAX_BYTES;
}

function toMiB(bytes: number): string {
	return (bytes / MEBIBYTE).toFixed(1);
}

function failed({file}: Wanted, why: string, cause?: unknown): ForktreeError {
	return new ForktreeError('InstallFailed', `${file}: downloading failed: ${why}`, {cause});
}

function refused({file, url}: Wanted, failure: string): ForktreeError | undefined {
	if (!/^the server answered 40[13]\b/.test(failure)) return undefined;
	return new ForktreeError(
		'NotAuthorized',
		`${file}: ${new URL(url).host} does not let us download it: ${failure.slice(0, MAX_WORDS)}`,
	);
}

function timedOut({file}: Wanted, timeoutMs: number): ForktreeError {
	return new ForktreeError('InstallTimeout', `${file}: downloading took more than ${timeoutMs / 1000} seconds`);
}

function aborted({file}: Wanted, signal: AbortSignal): ForktreeError {
	return new ForktreeError('Aborted', `${file}: downloading was aborted`, {cause: signal.reason});
}

function mismatch({file, sha256}: Wanted, found: string): ForktreeError {
	return new ForktreeError('HashMismatch', `${file}: downloading: expected sha256 ${sha256}, got ${found}`);
}

function wordsOf(error: unknown): string {
	return error instanceof Error ? error.message : `${error}`;
}

function isCode(error: unknown, code: string): boolean {
	return error instanceof Error && 'code' in error && error.code === code;
}
