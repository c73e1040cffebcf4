/** Sandboxes for the tools that resolve, download, build and measure packages: none of that runs as the host's user. */
import {ForktreeError} from '../errors.ts';
import {findIdentity} from '../sandbox/identity.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {interpreterFolders} from '../sandbox/rootfs.ts';
import type {ExecInput, ExecResult} from '../sandbox/run.ts';
import {resolvePoolOptions, type SandboxMount} from '../sandbox/sandbox-options.ts';
import {SandboxPool} from '../sandbox/sandbox-pool.ts';

const defaultProcesses = 64;
const defaultOutputMb = 16;

/** How a tool is run. */
export type ToolOptions = {
	/** `host` for what downloads and runs no code of a package, `none` for everything else. */
	readonly network: 'none' | 'host';
	/** What it sees besides; to a writable folder it writes as its own user, which differs from run to run. */
	readonly mounts?: readonly SandboxMount[];
	readonly env?: Readonly<Record<string, string>>;
	readonly cwd?: string;
	readonly stdin?: ExecInput;
	readonly timeoutMs: number;
	/** Its scratch folder, /tmp, included. */
	readonly memoryMb: number;
	readonly scratchMb: number;
	readonly processes?: number;
	/** What it may print on each stream. */
	readonly outputMb?: number;
	/** Share of one core, in percent; by default all of one. */
	readonly cpuPercent?: number;
	readonly signal?: AbortSignal | undefined;
	readonly onStderr?: (text: string) => void;
};

/** Owns a pool of sandboxes, which is there from the first run on. */
export class ToolSandboxes {
	readonly #mounts: readonly SandboxMount[];
	/** How many runs see a folder. Each is forgotten after the last: it may be removed then, and another made in its place. */
	readonly #uses = new Map<string, number>();
	readonly #bestEffort: boolean;
	#pool: Promise<SandboxPool> | undefined;
	#closed = false;

	/**
	 * @param interpreter is seen in all of them, where it is on the host
	 * @param bestEffort whether limits that can't be held are no error
	 */
	constructor(interpreter: Interpreter, bestEffort = false) {
		this.#bestEffort = bestEffort;
		this.#mounts = interpreterFolders(interpreter).map((folder) => ({source: folder, target: folder}));
	}

	/**
	 * Runs a tool in a sandbox of its own.
	 * @returns how it ended, also when a limit ended it
	 * @throws {ForktreeError} `Aborted`, `RuntimeClosed`, or what `pool.run()` throws
	 */
	async run(argv: readonly string[], options: ToolOptions): Promise<ExecResult> {
		const pool = await this.#open();
		const sources = (options.mounts ?? []).map(({source}) => source);
		for (const source of sources) this.#use(source);
		try {
			return await this.#run(pool, argv, options);
		} finally {
			await Promise.all(sources.map(async (source) => this.#letGo(pool, source)));
		}
	}

	#use(source: SandboxMount['source']): void {
		const key = JSON.stringify(source);
		this.#uses.set(key, (this.#uses.get(key) ?? 0) + 1);
	}

	async #letGo(pool: SandboxPool, source: SandboxMount['source']): Promise<void> {
		const key = JSON.stringify(source);
		const left = (this.#uses.get(key) ?? 0) - 1;
		if (left > 0) {
			this.#uses.set(key, left);
			return;
		}
		this.#uses.delete(key);
		if (!this.#closed) await pool.forgetMount(source);
	}

	async #run(pool: SandboxPool, argv: readonly string[], options: ToolOptions): Promise<ExecResult> {
		const {network, mounts = [], env = {}, cwd, stdin, timeoutMs, memoryMb, scratchMb, signal, onStderr} = options;
		const {processes = defaultProcesses, outputMb = defaultOutputMb, cpuPercent = 100} = options;
		return pool.run(argv, {
			env,
			...(cwd === undefined ? {} : {cwd}),
			...(stdin === undefined ? {} : {stdin}),
			...(signal === undefined ? {} : {signal}),
			...(onStderr === undefined ? {} : {onStderr}),
			sandbox: {
				network,
				mounts: [...this.#mounts, ...mounts],
				limits: {timeoutMs, memoryMb, scratchMb, processes, outputMb, cpuPercent},
			},
		});
	}

	/** Lets running tools finish for ten seconds, then ends them. */
	async close(): Promise<void> {
		this.#closed = true;
		await (await this.#pool?.catch(() => undefined))?.close();
	}

	async #open(): Promise<SandboxPool> {
		if (this.#closed) throw new ForktreeError('RuntimeClosed', 'the package store was closed');
		this.#pool ??= this.#openPool().catch((error: unknown) => {
			this.#pool = undefined;
			throw error;
		});
		return this.#pool;
	}

	async #openPool(): Promise<SandboxPool> {
		// What tools write has to be ours afterwards, to whom nobody but root can give files of other ids.
		const identity = findIdentity();
		const writer = identity.kind === 'root' ? identity : ({kind: 'own'} as const);
		return SandboxPool.open(resolvePoolOptions({spares: 0, bestEffort: this.#bestEffort}), writer);
	}
}
