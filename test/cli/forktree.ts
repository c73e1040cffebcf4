/** Runs the command line as it was built: from source each run would take twice as long. */
import {type ChildProcess, spawn} from 'node:child_process';
import {existsSync, readdirSync, statSync} from 'node:fs';
import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import type {Readable} from 'node:stream';

const root = path.join(import.meta.dirname, '..', '..');
export const main = path.join(root, 'dist', 'cli', 'main.js');

/** Written by each build. */
const built = path.join(root, 'dist', '.tsbuildinfo');
const sources = path.join(root, 'src');
const newest = Math.max(
	...readdirSync(sources, {recursive: true, encoding: 'utf8'})
		.filter((name) => name.endsWith('.ts'))
		.map((name) => statSync(path.join(sources, name)).mtimeMs),
);
if (!existsSync(built) || statSync(built).mtimeMs < newest) {
	throw new Error('expected a build that is newer than every source: npm run build makes one');
}

type StartOptions = {
	readonly env?: Readonly<Record<string, string>>;
	/** What it finds on stdin; by default nothing. */
	readonly input?: string | Uint8Array;
	readonly cwd?: string;
	/** An fd that its stdout goes to, in place of what the end tells. */
	readonly stdout?: number;
};

export type CommandEnd = {
	readonly exitCode: number | null;
	readonly signal: string | null;
	/** Each byte is a character. */
	readonly bytes: string;
	readonly stdout: string;
	readonly stderr: string;
};

/** A command that runs. */
export class Command {
	readonly child: ChildProcess;
	readonly ended: Promise<CommandEnd>;
	readonly #stdout: Buffer[] = [];
	readonly #stderr: Buffer[] = [];
	readonly #waiters = new Set<() => void>();

	constructor(args: readonly string[], {env = {}, input, cwd, stdout}: StartOptions = {}) {
		const stdio = [input === undefined ? 'ignore' : 'pipe', stdout ?? 'pipe', 'pipe'] as const;
		this.child = spawn(process.execPath, [main, ...args], {
			...(cwd === undefined ? {} : {cwd}),
			env: {...process.env, ...env},
			stdio: [...stdio],
		});
		this.child.stdin?.end(input);
		this.#collect(this.child.stdout, this.#stdout);
		this.#collect(this.child.stderr, this.#stderr);
		this.ended = new Promise((resolve, reject) => {
			this.child.once('error', reject);
			this.child.once('close', (exitCode, signal) => {
				const bytes = Buffer.concat(this.#stdout).toString('latin1');
				const [out, err] = [this.#stdout, this.#stderr].map((chunks) => Buffer.concat(chunks).toString());
				resolve({exitCode, signal, bytes, stdout: out ?? '', stderr: err ?? ''});
			});
		});
	}

	#collect(stream: Readable | null, chunks: Buffer[]): void {
		stream?.on('data', (chunk: Buffer) => {
			chunks.push(chunk);
			for (const waiter of this.#waiters) waiter();
		});
	}

	/** Waits until stdout or stderr holds this; answers what it matched. */
	async says(words: RegExp): Promise<RegExpExecArray> {
		const found = new Promise<RegExpExecArray>((resolve) => {
			const look = () => {
				for (const chunks of [this.#stdout, this.#stderr]) {
					const match = words.exec(Buffer.concat(chunks).toString());
					if (match !== null) resolve(match);
				}
			};
			this.#waiters.add(look);
			look();
		});
		const early = this.ended.then((end) => {
			throw new Error(`expected ${words} before the end, got ${JSON.stringify(end)}`);
		});
		return Promise.race([found, early]);
	}
}

/** Runs `forktree` with these arguments to its end; a failing one does not reject. */
export async function forktree(args: readonly string[], options?: StartOptions): Promise<CommandEnd> {
	return new Command(args, options).ended;
}

/** Writes files, and the folders above them. */
export async function writeFiles(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
	for (const [name, content] of Object.entries(files)) {
		const file = path.join(folder, name);
		await mkdir(path.dirname(file), {recursive: true});
		await writeFile(file, content);
	}
}
