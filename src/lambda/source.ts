/** Turns what a user deploys (a folder, an archive, a file or an object of files) into a folder of code on disk. */
import {createHash} from 'node:crypto';
import {constants, createReadStream, type Stats} from 'node:fs';
import {
	chmod,
	type FileHandle,
	lstat,
	mkdir,
	open,
	readdir,
	readFile,
	readlink,
	realpath,
	rm,
	stat,
} from 'node:fs/promises';
import {basename, dirname, join, resolve} from 'node:path';
import {buffer} from 'node:stream/consumers';
import {createGunzip} from 'node:zlib';
import {Parser, type ReadEntry} from 'tar';
import {type ErrorCode, ForktreeError, SyscallError} from '../errors.ts';
import {type CodeFiles, readStated, type StatedFor, type StatedPackages} from '../packages/stated.ts';
import {Undo} from '../undo.ts';
import {optionError} from './check.ts';
import {
	checkEntryFile,
	configFile,
	defaultEntryFile,
	type FunctionConfig,
	maxConfigBytes,
	parseConfig,
	programFile,
} from './config.ts';
import {dotenvFile, readDotenv} from './dotenv.ts';
import {importPath} from './import-path.ts';
import {pathFault, quote} from './name.ts';

/**
 * What can be deployed: the path of a folder, of a `.tar.gz` or `.tgz` file or of a single `.py` file (which becomes
 * `f.py`), or an object of relative paths and contents.
 */
export type DeploySource = string | Readonly<Record<string, string | Uint8Array>>;

/** Code that lies ready in a folder of its own. */
export type StagedSource = {
	/** The folder's absolute path. */
	readonly dir: string;
	/** What its `ol.yaml` says, with the entry file that applies. */
	readonly config: FunctionConfig;
	/** What its files state, or the option. */
	readonly packages: StatedPackages;
	/** SHA-256 in hex of every file's path, executable bit and content; the same code has the same digest. */
	readonly digest: string;
	/** Relative paths of the `.py` files, sorted. */
	readonly pythonFiles: readonly string[];
	/** What {@link importPath} answers. */
	readonly path: readonly string[];
};

export type SourceLimits = {
	/** Files and folders together: each costs an inode and several system calls. */
	readonly files: number;
	/** Content of all files: what a machine copies within seconds, and far more than code needs. */
	readonly bytes: number;
};

export const sourceLimits: SourceLimits = {files: 20_000, bytes: 512 * 1024 * 1024};

export type StageOptions = {
	/** Takes the place of what `ol.yaml` says. */
	readonly entryFile?: string | undefined;
	/** Lines that take the place of what the files state. */
	readonly requirements?: readonly string[] | undefined;
	/** By default {@link sourceLimits}. */
	readonly limits?: Partial<SourceLimits> | undefined;
};

type Contents = ReadonlyArray<readonly [path: string, content: unknown]>;
type Source =
	| {readonly kind: 'folder' | 'archive' | 'script'; readonly path: string}
	| {readonly kind: 'object'; readonly contents: Contents};

// Written by tools, often huge, and never imported by the handler.
const SKIPPED_FOLDERS: ReadonlySet<string> = new Set(['.git', '__pycache__', 'node_modules', '.venv']);
// A header, padding and extended headers of usual length.
const ARCHIVE_BYTES_PER_FILE = 4096;
const COPY_BYTES = 128 * 1024;
const {O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY} = constants;

/**
 * Copies code into a new folder, which is removed again when anything fails. Folders get mode 0755 and files 0644, or
 * 0755 if their owner could execute them, whatever the umask.
 * @param targetDir must not exist; its parent must.
 * @param interpreter that the code is for
 * @throws {ForktreeError} `InvalidSource`, `UnsafeArchive`, `InvalidConfig`, `InvalidRequirements`, `InterpreterMismatch`,
 * `EntryFileMissing`, or `Syscall` when the folder cannot be written.
 */
export async function stageSource(
	source: DeploySource,
	targetDir: string,
	interpreter: StatedFor['interpreter'],
	options: StageOptions = {},
): Promise<StagedSource> {
	if (options.entryFile !== undefined) checkEntryFile(options.entryFile, 'entryFile', optionError);
	const identified = await identify(source);
	const dir = resolve(targetDir);
	await refuseNesting(identified, dir);
	const undo = new Undo();
	try {
		await writing('make the folder of the code', mkdir(dir));
		undo.push(() => rm(dir, {recursive: true, force: true}));
		await writing('set the mode of the folder of the code', chmod(dir, 0o755));
		const tree = new CodeTree(dir, identified.kind === 'archive' ? 'UnsafeArchive' : 'InvalidSource', {
			...sourceLimits,
			...options.limits,
		});
		await fill(tree, identified);
		const staged = await describe(tree, interpreter, options);
		undo.release();
		return staged;
	} catch (error) {
		await undo.run().catch((failure: unknown) => {
			throw new AggregateError([error, failure], `staging failed, and so did removing ${quote(dir)}`);
		});
		throw error;
	}
}

async function identify(source: DeploySource): Promise<Source> {
	if (typeof source === 'object' && source !== null && !Array.isArray(source)) {
		// Taken now, since the caller may change the object while files are written.
		return {kind: 'object', contents: Object.entries(source)};
	}
	if (typeof source !== 'string' || source === '') throw invalid(`cannot deploy ${quote(source)}: ${EXPECTED}`);
	const path = await reading(source, realpath(source));
	const stats = await reading(source, stat(path));
	if (stats.isDirectory()) return {kind: 'folder', path};
	if (stats.isFile() && /\.(tar\.gz|tgz)$/.test(source)) return {kind: 'archive', path};
	if (stats.isFile() && source.endsWith('.py')) return {kind: 'script', path};
	throw invalid(`cannot deploy ${quote(source)}: ${EXPECTED}`);
}

const EXPECTED = 'expected a folder, a .tar.gz, .tgz or .py file, or an object of paths and contents';

/** A folder that is copied into itself never ends, and undoing would remove the user’s own files. */
async function refuseNesting(source: Source, dir: string): Promise<void> {
	if (source.kind === 'object') return;
	const parent = await writing('find the folder above the code', realpath(dirname(dir)));
	const target = join(parent, basename(dir));
	if (isInside(target, source.path) || isInside(source.path, target)) {
		throw invalid(`${quote(source.path)} cannot be deployed to ${quote(target)}: one lies inside the other`);
	}
}

function fill(tree: CodeTree, source: Source): Promise<void> {
	switch (source.kind) {
		case 'folder':
			return copyFolder({tree, root: source.path}, source.path, '', []);
		case 'script':
			return copyFile({tree, root: source.path}, source.path, 'f.py');
		case 'archive':
			return unpack(tree, source.path);
		case 'object':
			return writeContents(tree, source.contents);
	}
}

/** Where there is no Python file, a program is the function. */
function findEntry(entry: string, paths: readonly string[]): string {
	return entry === defaultEntryFile && !paths.includes(entry) && paths.includes(programFile) ? programFile : entry;
}

async function describe(
	tree: CodeTree,
	interpreter: StatedFor['interpreter'],
	{entryFile, requirements: lines}: StageOptions,
): Promise<StagedSource> {
	const config = parseConfig(await tree.readText(configFile, maxConfigBytes, 'InvalidConfig'));
	const variables = readDotenv(await tree.readText(dotenvFile, maxConfigBytes, 'InvalidConfig'));
	const paths = tree.paths();
	const entry = findEntry(entryFile ?? config.entryFile, paths);
	if (!paths.includes(entry)) {
		throw new ForktreeError(
			'EntryFileMissing',
			`the code has no file ${quote(entry)}; expected it, a program ${programFile}, or another one named by OL_ENTRY_FILE in ol.yaml’s environment`,
		);
	}
	const packages = await readStated(filesOf(tree), {entryFile: entry, interpreter}, lines);
	return {
		dir: tree.dir,
		config: {...config, environment: {...variables, ...config.environment}, entryFile: entry},
		packages,
		digest: tree.digest(),
		pythonFiles: paths.filter((path) => path.endsWith('.py')),
		path: importPath(paths, packages.requirements.editables),
	};
}

/** From the tree, which holds no links, rather than from where it was copied. */
function filesOf(tree: CodeTree): CodeFiles {
	return {
		has: (path) => tree.has(path),
		readText: (path, maxBytes) => tree.readText(path, maxBytes, 'InvalidRequirements'),
		paths: () => tree.paths(),
		sha256Of: (path) => tree.sha256Of(path),
		readStart: (path, maxBytes) => tree.readStart(path, maxBytes),
	};
}

/** The folder that is being written: it alone decides which paths, and how much, may be written there. */
class CodeTree {
	readonly dir: string;
	readonly #code: ErrorCode;
	readonly #limits: SourceLimits;
	readonly #kinds = new Map<string, 'file' | 'folder'>();
	readonly #files = new Map<string, {readonly size: number; readonly executable: boolean; readonly hash: Buffer}>();
	#bytes = 0;

	/** @param code of the errors for what the source must not hold. */
	constructor(dir: string, code: ErrorCode, limits: SourceLimits) {
		this.dir = dir;
		this.#code = code;
		this.#limits = limits;
	}

	/** How much an archive may unpack to: the files, and the headers between them. */
	get maxArchiveBytes(): number {
		return this.#limits.bytes + this.#limits.files * ARCHIVE_BYTES_PER_FILE;
	}

	/** Makes a folder and those above it, unless they were made before. */
	async addFolder(path: string): Promise<void> {
		this.#checkPath(path);
		await this.#makeFolders(path.split('/'), path);
	}

	/**
	 * Starts a file that must be new.
	 * @param size what the source claims, so that too much is refused before the first byte is written.
	 */
	async addFile(path: string, isExecutable: boolean, size: number): Promise<FileWriter> {
		const executable = isExecutable || path === programFile;
		this.#checkPath(path);
		await this.#makeFolders(path.split('/').slice(0, -1), path);
		this.#register(path, 'file');
		this.#checkBytes(path, size);
		const file = join(this.dir, path);
		const handle = await writing('make a file', open(file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600));
		const hash = createHash('sha256');
		let written = 0;
		return {
			write: async (chunk) => {
				this.#checkBytes(path, chunk.length);
				this.#bytes += chunk.length;
				written += chunk.length;
				hash.update(chunk);
				await writing('write a file', handle.writeFile(chunk), file);
			},
			finish: async () => {
				await writing('set the mode of a file', handle.chmod(executable ? 0o755 : 0o644), file);
				this.#files.set(path, {size: written, executable, hash: hash.digest()});
			},
			close: () => writing('close a file', handle.close(), file),
		};
	}

	/** Every file's path, sorted. */
	paths(): string[] {
		return [...this.#files.keys()].sort();
	}

	sha256Of(path: string): string | undefined {
		return this.#files.get(path)?.hash.toString('hex');
	}

	digest(): string {
		const digest = createHash('sha256');
		for (const [path, {executable, hash}] of [...this.#files].sort(([a], [b]) => (a < b ? -1 : 1))) {
			// No path holds a NUL and every hash has one length, so different trees never give the same bytes.
			digest.update(`${path}\0${executable ? 'x' : '-'}`).update(hash);
		}
		return digest.digest('hex');
	}

	/** Whether there is a file or folder at a path. */
	has(path: string): boolean {
		return this.#kinds.has(path);
	}

	/** The first bytes of one of the files. */
	async readStart(path: string, maxBytes: number): Promise<Buffer> {
		return writing('read a file back', buffer(createReadStream(join(this.dir, path), {end: maxBytes - 1})));
	}

	/** The text of one of the files, or `undefined` if there is none. */
	async readText(path: string, maxBytes: number, code: ErrorCode): Promise<string | undefined> {
		if (this.#kinds.get(path) === 'folder') throw new ForktreeError(code, `${path}: is a folder, expected a file`);
		const size = this.#files.get(path)?.size;
		if (size === undefined) return undefined;
		if (size > maxBytes) throw new ForktreeError(code, `${path}: is larger than ${maxBytes} bytes`);
		const bytes = await writing('read a file back', readFile(join(this.dir, path)));
		try {
			return new TextDecoder('utf-8', {fatal: true}).decode(bytes);
		} catch (cause) {
			throw new ForktreeError(code, `${path}: is not UTF-8`, {cause});
		}
	}

	async #makeFolders(parts: readonly string[], below: string): Promise<void> {
		for (let count = 1; count <= parts.length; count++) {
			const path = parts.slice(0, count).join('/');
			const kind = this.#kinds.get(path);
			if (kind === 'folder') continue;
			if (kind === 'file') throw this.#refusal(below, `needs ${quote(path)} to be a folder, which is a file`);
			this.#register(path, 'folder');
			const folder = join(this.dir, path);
			await writing('make a folder', mkdir(folder));
			await writing('set the mode of a folder', chmod(folder, 0o755));
		}
	}

	#register(path: string, kind: 'file' | 'folder'): void {
		if (this.#kinds.has(path)) throw this.#refusal(path, `is there twice, before as a ${this.#kinds.get(path)}`);
		if (this.#kinds.size >= this.#limits.files) {
			throw this.#refusal(path, `is one too many: expected at most ${this.#limits.files} files and folders`);
		}
		this.#kinds.set(path, kind);
	}

	#checkPath(path: string): void {
		const fault = pathFault(path);
		if (fault !== undefined) throw this.#refusal(path, fault);
	}

	#checkBytes(path: string, more: number): void {
		// Also false for NaN and fractions, which a hostile archive can claim.
		if (Number.isSafeInteger(more) && this.#bytes + more <= this.#limits.bytes) return;
		throw this.#refusal(path, `is too large: expected at most ${this.#limits.bytes} bytes in all files together`);
	}

	#refusal(path: string, fault: string): ForktreeError {
		return new ForktreeError(this.#code, `the path ${quote(path)} ${fault}`);
	}
}

type FileWriter = {
	readonly write: (chunk: Uint8Array) => Promise<void>;
	readonly finish: () => Promise<void>;
	readonly close: () => Promise<void>;
};

async function writeContents(tree: CodeTree, contents: Contents): Promise<void> {
	for (const [path, content] of contents) {
		if (typeof content !== 'string' && !(content instanceof Uint8Array)) {
			throw invalid(`the content of ${quote(path)} is ${quote(content)}, expected a string or Uint8Array`);
		}
		// A copy, so that what is written is what was hashed.
		const bytes = typeof content === 'string' ? Buffer.from(content) : Buffer.from(content);
		const writer = await tree.addFile(path, false, bytes.length);
		try {
			await writer.write(bytes);
			await writer.finish();
		} finally {
			await writer.close();
		}
	}
}

type FolderCopy = {
	readonly tree: CodeTree;
	/** The real path that nothing may lead out of. */
	readonly root: string;
};

/** @param ancestors real paths of the folders above, in which a link would lead around in a circle. */
async function copyFolder(copy: FolderCopy, real: string, path: string, ancestors: readonly string[]): Promise<void> {
	if (path !== '') await copy.tree.addFolder(path);
	const handle = await openInside(copy.root, real, O_DIRECTORY);
	try {
		// Through the handle, so that the folder that was checked is the one that is read.
		const names = await reading(real, readdir(`/proc/self/fd/${handle.fd}`, {encoding: 'buffer'}));
		for (const name of names.map((bytes) => decodeName(bytes, real)).sort()) {
			await copyEntry(copy, join(real, name), path === '' ? name : `${path}/${name}`, [...ancestors, real]);
		}
	} finally {
		await handle.close();
	}
}

function decodeName(bytes: Buffer, folder: string): string {
	const name = bytes.toString();
	if (Buffer.from(name).equals(bytes)) return name;
	throw invalid(`the name ${quote(name)} in ${quote(folder)} is not UTF-8`);
}

async function copyEntry(copy: FolderCopy, entry: string, path: string, ancestors: readonly string[]): Promise<void> {
	let real = entry;
	let stats: Stats = await reading(path, lstat(entry));
	if (SKIPPED_FOLDERS.has(basename(path)) && !stats.isFile()) return;
	if (stats.isSymbolicLink()) {
		real = await reading(path, realpath(entry));
		if (!isInside(copy.root, real)) throw invalid(`the link ${quote(path)} leads outside, to ${quote(real)}`);
		if (ancestors.includes(real)) throw invalid(`the link ${quote(path)} leads to a folder that holds it`);
		stats = await reading(path, lstat(real));
	}
	if (stats.isDirectory()) return copyFolder(copy, real, path, ancestors);
	// Before it is opened, which has side effects on devices.
	if (!stats.isFile()) throw invalid(`${quote(path)} is neither a file nor a folder`);
	await copyFile(copy, real, path);
}

async function copyFile({tree, root}: FolderCopy, real: string, path: string): Promise<void> {
	const handle = await openInside(root, real, 0);
	try {
		const stats = await reading(path, handle.stat());
		if (!stats.isFile()) throw invalid(`${quote(path)} is not a regular file`);
		const writer = await tree.addFile(path, (stats.mode & 0o100) !== 0, stats.size);
		try {
			const buffer = Buffer.allocUnsafe(COPY_BYTES);
			for (;;) {
				const {bytesRead} = await reading(path, handle.read(buffer, 0, COPY_BYTES, null));
				if (bytesRead === 0) break;
				await writer.write(buffer.subarray(0, bytesRead));
			}
			await writer.finish();
		} finally {
			await writer.close();
		}
	} finally {
		await handle.close();
	}
}

/** Opens without following a last link or waiting for a pipe, and refuses what turns out to lie outside. */
async function openInside(root: string, path: string, flags: number): Promise<FileHandle> {
	const handle = await reading(path, open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | flags));
	try {
		// A folder above may have been swapped for a link since it was looked at; the kernel knows what was opened.
		const opened = await reading(path, readlink(`/proc/self/fd/${handle.fd}`));
		if (!isInside(root, opened)) throw invalid(`${quote(path)} leads outside, to ${quote(opened)}`);
		return handle;
	} catch (error) {
		await handle.close();
		throw error;
	}
}

async function unpack(tree: CodeTree, path: string): Promise<void> {
	const handle = await openInside(path, path, 0);
	const unpacking = new Unpacking(tree);
	const stream = handle.createReadStream();
	const gunzip = createGunzip();
	stream.once('error', (error) => gunzip.destroy(error));
	try {
		// Not with `pipeline`, which can put an AbortError in the place of what was thrown here.
		await unpacking.run(stream.pipe(gunzip));
	} catch (cause) {
		if (cause instanceof ForktreeError) throw cause;
		const reason = cause instanceof Error ? cause.message : String(cause);
		throw invalid(`${quote(path)} is not a sound .tar.gz file: ${reason}`, cause);
	} finally {
		stream.destroy();
		gunzip.destroy();
		await unpacking.close();
		await handle.close();
	}
}

/**
 * Writes the entries of a tar stream. The parser only takes the bytes apart: what it finds in one chunk is queued as
 * steps, which are done before it sees the next chunk, so a fast archive never runs ahead of a slow disk.
 */
class Unpacking {
	readonly #tree: CodeTree;
	readonly #parser = new Parser({strict: true, brotli: false, zstd: false});
	readonly #maxBytes: number;
	#steps: Array<() => Promise<void>> = [];
	#writer: FileWriter | undefined;
	#fault: unknown;
	#ended = false;
	#bytes = 0;

	constructor(tree: CodeTree) {
		this.#tree = tree;
		this.#maxBytes = tree.maxArchiveBytes;
		this.#parser.on('entry', (entry: ReadEntry) => this.#queue(entry));
		this.#parser.on('ignoredEntry', (entry: ReadEntry) => this.#steps.push(async () => refuseEntry(entry)));
		this.#parser.on('error', (error: unknown) => {
			this.#fault ??= error;
		});
		this.#parser.on('eof', () => {
			this.#ended = true;
		});
		// The parser unzips once more when a stream starts like a zipped one; an empty block first keeps it from looking.
		this.#parser.write(Buffer.alloc(512));
	}

	async run(chunks: AsyncIterable<Buffer>): Promise<void> {
		for await (const chunk of chunks) {
			this.#bytes += chunk.length;
			if (this.#bytes > this.#maxBytes) {
				throw new ForktreeError('UnsafeArchive', `the archive unpacks to more than ${this.#maxBytes} bytes`);
			}
			// What follows the end is padding; the parser would keep all of it in memory.
			if (!this.#ended) this.#parser.write(chunk);
			await this.#catchUp();
		}
		this.#parser.end();
		await this.#catchUp();
	}

	async close(): Promise<void> {
		await this.#writer?.close();
	}

	async #catchUp(): Promise<void> {
		const steps = this.#steps;
		this.#steps = [];
		for (const step of steps) await step();
		if (this.#fault !== undefined) throw this.#fault;
	}

	#queue(entry: ReadEntry): void {
		this.#steps.push(() => this.#begin(entry));
		entry.on('end', () => this.#steps.push(() => this.#end()));
		entry.on('data', (chunk) => this.#steps.push(async () => this.#writer?.write(chunk)));
	}

	async #begin(entry: ReadEntry): Promise<void> {
		const path = entryPath(entry);
		switch (entry.type) {
			case 'Directory':
				if (path !== '') await this.#tree.addFolder(path);
				return;
			case 'File':
			case 'OldFile':
			case 'ContiguousFile':
				this.#writer = await this.#tree.addFile(path, ((entry.mode ?? 0) & 0o100) !== 0, entry.header.size ?? 0);
				return;
			default:
				refuseEntry(entry);
		}
	}

	async #end(): Promise<void> {
		const writer = this.#writer;
		await writer?.finish();
		this.#writer = undefined;
		await writer?.close();
	}
}

/** The path without `./` and the slash that ends a folder's; everything else is left for the tree to judge. */
function entryPath({path}: ReadEntry): string {
	if (path.startsWith('/')) return path;
	return path
		.split('/')
		.filter((part) => part !== '' && part !== '.')
		.join('/');
}

function refuseEntry({path, type, linkpath}: ReadEntry): never {
	const target = linkpath === undefined ? '' : ` to ${quote(linkpath)}`;
	throw new ForktreeError(
		'UnsafeArchive',
		`the entry ${quote(path)} is a ${type}${target}; expected only files and folders`,
	);
}

function isInside(folder: string, path: string): boolean {
	return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

function invalid(message: string, cause?: unknown): ForktreeError {
	return new ForktreeError('InvalidSource', message, cause === undefined ? undefined : {cause});
}

/** A failure to read is the source's fault. */
async function reading<T>(path: string, result: Promise<T>): Promise<T> {
	try {
		return await result;
	} catch (cause) {
		throw invalid(`cannot read ${quote(path)}: ${cause instanceof Error ? cause.message : cause}`, cause);
	}
}

/** A failure to write is the machine's. */
async function writing<T>(step: string, result: Promise<T>, path?: string): Promise<T> {
	try {
		return await result;
	} catch (error) {
		const {errno, code, path: own} = error as NodeJS.ErrnoException;
		if (errno === undefined || code === undefined) throw error;
		throw new SyscallError(step, errno, code, path ?? own);
	}
}
