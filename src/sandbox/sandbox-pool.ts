/** Sandboxes for programs, as many as the memory budget allows, on one set of launchers. */
import {EventEmitter} from 'node:events';
import {closeSync, openSync} from 'node:fs';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {Undo} from '../undo.ts';
import {hasHostsFile, planLauncher, type RootShape, resolveShape} from './base.ts';
import {openSandboxHost, type SandboxHost} from './host.ts';
import type {Identity} from './identity.ts';
import type {Isolation} from './isolation.ts';
import {type FolderAccess, folderAccesses} from './keeper.ts';
import {Launcher} from './launcher.ts';
import type {LeafBirth, LeafMount} from './leaf-birth.ts';
import {LockedFolder} from './mounts.ts';
import {hostsFile, SandboxNetwork} from './network/sandbox-network.ts';
import type {ResolvedNetwork} from './network/settings.ts';
import {checkOverlays, explainOverlay, lockOverlay} from './overlay.ts';
import {Reserved} from './reserved.ts';
import type {ExecOptions, ExecResult} from './run.ts';
import {checkExec, type Owned, Sandbox, type SandboxEvents} from './sandbox.ts';
import type {SandboxMount, SandboxOptions, SandboxPoolOptions} from './sandbox-options.ts';
import {
	isOverlay,
	type ResolvedPoolOptions,
	type ResolvedSandboxOptions,
	resolvePoolOptions,
	resolveSandboxOptions,
} from './sandbox-options.ts';
import {basesName} from './state-dir.ts';
import {Stock} from './stock.ts';
import type {IdSource} from './uid-range.ts';

/** How many launchers may have ids at a time, for the sandboxes that they fork. */
const maxLaunchers = 64;
const maxFrame = 4096;
/** How often a start is tried while launchers die under it. */
const maxForks = 3;
const refillDelayMs = 20;
/** For how many sets of options spares wait. */
const spareKinds = 4;
/** How many different allow-lists are kept. */
const maxNetworks = 64;
const drainDeadlineMs = 10_000;
const endDeadlineMs = 5000;

/** The events of its sandboxes, each with the id of the one that it is about; `created` comes first. */
export type SandboxPoolEvents = {created: [sandbox: string]} & {
	[Name in keyof SandboxEvents]: [sandbox: string, ...SandboxEvents[Name]];
};

/** What is done with a sandbox before it is there. */
type First = (sandbox: Sandbox) => void;

/** Options of `pool.run()`: those of its one program, and those of its sandbox. */
export type RunOptions = ExecOptions & {readonly sandbox?: SandboxOptions};

const networkEvents = ['connected', 'disconnected', 'connectionRefused'] as const;
const eventNames = [
	'destroyed',
	'paused',
	'resumed',
	'forked',
	'childExited',
	'oom',
	'limit',
	...networkEvents,
] as const;

/** What a pool is doing. */
export type SandboxPoolStats = {
	readonly sandboxes: number;
	readonly paused: number;
	/** How many wait ready for the next ones. */
	readonly spares: number;
	readonly memory: {readonly budgetMb: number; readonly reservedMb: number; readonly waiting: number};
	readonly isolation: Isolation;
};

/** Made by {@link createSandboxPool}. Every method after `close()` rejects with {@link ForktreeError} `RuntimeClosed`. */
export class SandboxPool extends EventEmitter<SandboxPoolEvents> implements AsyncDisposable {
	readonly #host: SandboxHost;
	readonly #undo: Undo;
	readonly #options: ResolvedPoolOptions;
	readonly #ids: IdSource;
	/** An fd to read nothing from. */
	readonly #nothing: number;
	readonly #launchers = new Map<string, Promise<Launcher>>();
	/** All whose processes may be alive. */
	readonly #alive = new Set<Launcher>();
	readonly #folders = new Map<string, Promise<LockedFolder>>();
	/** Those used last, by what they allow; the oldest first. */
	readonly #networks = new Map<string, Promise<SandboxNetwork>>();
	readonly #sandboxes = new Map<string, Sandbox>();
	readonly #spares: Stock<LeafBirth>;
	/** Those that are being made. */
	readonly #creating = new Set<Promise<Sandbox>>();
	/** Ends every wait for memory. */
	readonly #closing = new AbortController();
	#lastFolder = 0;
	#lastNetwork = 0;
	#isEvicting = false;
	#closed: Promise<void> | undefined;

	private constructor(host: SandboxHost, undo: Undo, options: ResolvedPoolOptions) {
		super();
		this.#host = host;
		this.#undo = undo;
		this.#options = options;
		this.#ids = host.ids;
		this.#nothing = openSync('/dev/null', 'r');
		undo.push(() => closeSync(this.#nothing));
		this.#spares = new Stock({each: options.spares, kinds: spareKinds, dispose: ({leaf}) => leaf.destroy()});
		undo.push(async () => this.#endLaunchers());
		undo.push(async () => this.#spares.close());
		undo.push(async () => this.#destroyAll());
	}

	/**
	 * Used by {@link createSandboxPool}.
	 * @param identity as whom its sandboxes are made; by default as we can
	 */
	static async open(options: ResolvedPoolOptions, identity?: Identity): Promise<SandboxPool> {
		const undo = new Undo();
		try {
			const {stateDir, memoryBudgetMb, bestEffort} = options;
			const host = await openSandboxHost(
				{stateDir, memoryBudgetMb, bestEffort, groups: 'managed', countsLaunchers: false, identity},
				undo,
			);
			return new SandboxPool(host, undo, options);
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	/**
	 * Makes a sandbox.
	 * @throws {TypeError} or {RangeError} for a wrong option; {ForktreeError} `InvalidSource` for a base, layer or mount that is
	 * not usable, `BudgetExceeded` or `Capacity` when there is no memory left in the budget; {SyscallError} what the kernel refused
	 */
	async create(options: SandboxOptions = {}): Promise<Sandbox> {
		this.#checkOpen();
		const resolved = resolveSandboxOptions(options, this.#options.defaults);
		return this.#create(resolved);
	}

	/**
	 * Makes a sandbox for one program, runs it, and destroys the sandbox. Faster than `create()` and `exec()`: the program is
	 * asked for before its sandbox is there.
	 * @returns how it ended, when it has; the sandbox goes meanwhile, or, when what it writes is kept in a folder, before
	 * @throws what {@link create} and {@link Sandbox.exec} throw
	 * @example
	 * const {stdout} = await pool.run(['sh', '-c', 'echo $((6 * 7))'], {sandbox: {limits: {memoryMb: 64}}});
	 */
	async run(argv: readonly string[], options: RunOptions = {}): Promise<ExecResult> {
		this.#checkOpen();
		const {sandbox: own = {}, ...exec} = options;
		checkExec(argv, exec);
		const resolved = resolveSandboxOptions(own, this.#options.defaults);
		let result: Promise<ExecResult> | undefined;
		const sandbox = await this.#create(resolved, (made) => {
			result = made.exec(argv, exec);
			result.catch(() => undefined); // when the sandbox could not be made, that is told
		});
		try {
			return await (result as Promise<ExecResult>);
		} finally {
			const reason = 'its program has ended';
			// Whatever is left of it may still write; and the next program may be for the same overlay, which one sandbox has at a time.
			const isKept = typeof resolved.writable === 'object' || resolved.mounts.some(({readonly}) => !readonly);
			if (isKept) await sandbox.destroy(reason);
			// The caller goes on first. One that does not end keeps its place: close() tells.
			else process.nextTick(() => sandbox.destroy(reason).catch(() => undefined));
		}
	}

	async #create(options: ResolvedSandboxOptions, first?: First): Promise<Sandbox> {
		const created = this.#createNow(options, first);
		this.#creating.add(created);
		return created.finally(() => this.#creating.delete(created));
	}

	async #createNow(options: ResolvedSandboxOptions, first: First | undefined): Promise<Sandbox> {
		const reserved = await this.#reserve(options);
		try {
			return await this.#start(options, reserved, first);
		} catch (error) {
			reserved.release();
			throw error;
		}
	}

	async #reserve({limits, waitMs}: ResolvedSandboxOptions): Promise<Reserved> {
		const {budget} = this.#host;
		if (this.#options.whenFull === 'reject' && !budget.hasRoom(limits.memoryMb)) {
			const {totalMb, reservedMb} = budget;
			throw new ForktreeError(
				'Capacity',
				`${limits.memoryMb} MiB do not fit: ${reservedMb} of ${totalMb} MiB are taken`,
			);
		}
		try {
			return await Reserved.take(budget, limits.memoryMb, waitMs, () => void this.#makeRoom(), this.#closing.signal);
		} catch (error) {
			this.#checkOpen();
			throw error;
		}
	}

	/** Takes sandboxes away, one after the other, as long as somebody waits. */
	async #makeRoom(): Promise<void> {
		if (this.#isEvicting || this.#options.whenFull !== 'evict') return;
		this.#isEvicting = true;
		try {
			for (let victim = this.#victim(); victim !== undefined; victim = this.#victim()) await victim.evict();
		} catch {
			// One that does not end keeps its memory: whoever waits hears of that.
		} finally {
			this.#isEvicting = false;
		}
	}

	#victim(): Sandbox | undefined {
		if (this.#host.budget.waiting === 0) return undefined;
		const candidates = [...this.#sandboxes.values()].map(({id, isIdle, isPaused, lastUsedMs, reservedMb}) => ({
			id,
			isIdle,
			isPaused,
			lastUsedMs,
			reservedMb,
		}));
		return this.#sandboxes.get(this.#options.evictionPolicy(candidates) ?? '');
	}

	async #start(options: ResolvedSandboxOptions, reserved: Reserved, first: First | undefined): Promise<Sandbox> {
		const shape = await resolveShape(options, this.#host.state.path(basesName));
		const mounts = await Promise.all(
			options.mounts.map(async (mount) => ({
				folder: await this.#folder(mount.source, accessOf(mount, options)),
				target: mount.target,
			})),
		);
		const network = typeof options.network === 'object' ? await this.#network(options.network) : undefined;
		if (network !== undefined && hasHostsFile(shape)) mounts.push({folder: network.hosts, target: hostsFile});
		if (options.uid !== undefined) return this.#startAlone(shape, options, mounts, network, reserved, first);
		const key = JSON.stringify(shape);
		const kind = spareKind(key, options, mounts);
		const fork = async () => this.#fork(await this.#launcher(key, shape), options, mounts, network);
		const refill = once(() => this.#refill(key, kind, fork, options, mounts));
		let isAsked = false; // then its input may be gone
		const ask =
			first &&
			((sandbox: Sandbox) => {
				isAsked = true;
				first(sandbox);
			});
		for (let attempt = 1; ; attempt += 1) {
			this.#checkOpen();
			try {
				const birth = this.#takeSpare(kind) ?? (await fork());
				return await this.#begin(
					birth,
					options,
					{isolation: this.#host.isolation, reserved, undo: new Undo()},
					ask,
					refill,
				);
			} catch (error) {
				const isLost = error instanceof ForktreeError && error.code === 'ZygoteFailed';
				if (!isLost || isAsked || attempt === maxForks) throw error;
			}
		}
	}

	/** With a launcher of its own, whose ids are all for it. */
	async #startAlone(
		shape: RootShape,
		options: ResolvedSandboxOptions,
		mounts: readonly LeafMount[],
		network: SandboxNetwork | undefined,
		reserved: Reserved,
		first: First | undefined,
	): Promise<Sandbox> {
		const undo = new Undo();
		try {
			if (shape.writable !== undefined) checkOverlays(this.#host.identity);
			if (shape.writable?.kind === 'folder') undo.push(lockOverlay(shape.writable.where));
			const launcher = await this.#spawn(shape, this.#idsFor(options.uid)).catch(explainOverlay);
			undo.push(async () => {
				launcher.kill();
				await launcher.ended();
			});
			this.#checkOpen();
			const birth = await this.#fork(launcher, options, mounts, network);
			const refill = once(() => this.#refillParts(options, mounts));
			return await this.#begin(birth, options, {isolation: this.#host.isolation, reserved, undo}, first, refill);
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	async #fork(
		launcher: Launcher,
		options: ResolvedSandboxOptions,
		mounts: readonly LeafMount[],
		network: SandboxNetwork | undefined,
	): Promise<LeafBirth> {
		const {limits, writable, hostname, uid, defaultFilter} = options;
		const scratch = writable !== 'none' && limits.scratchMb > 0;
		return launcher.forkLeaf({
			mounts,
			takeCgroup: () => this.#host.cgroups.take(limits),
			scratchMb: scratch ? limits.scratchMb : undefined,
			workFolder: scratch,
			writable: writablePart(options),
			noNewExecutables: options.noNewExecutables,
			hostname,
			uid,
			folder: '/',
			openFiles: limits.openFiles,
			ownNetwork: options.network !== 'host',
			network,
			filter: defaultFilter,
			maxFrame,
			greet: () => undefined,
		});
	}

	/** One that waits ready, if any; one that has ended meanwhile is given back. */
	#takeSpare(kind: string): LeafBirth | undefined {
		for (;;) {
			const spare = this.#spares.take(kind);
			if (spare === undefined || !spare.leaf.isBroken) return spare;
			void spare.leaf.destroy().catch(() => undefined); // what does not end is swept by the next start
		}
	}

	/** Makes what the next start takes: a spare first, of what waits ready, then that anew. */
	#refill(
		key: string,
		kind: string,
		fork: () => Promise<LeafBirth>,
		options: ResolvedSandboxOptions,
		mounts: readonly LeafMount[],
	): void {
		if (this.#closed !== undefined) return;
		this.#spares.refill(kind, fork);
		setImmediate(() => {
			void this.#launchers.get(key)?.then(
				(launcher) => launcher.refill(),
				() => undefined,
			);
			this.#refillParts(options, mounts);
		});
	}

	#refillParts({limits}: ResolvedSandboxOptions, mounts: readonly LeafMount[]): void {
		this.#host.cgroups.refill(limits);
		for (const {folder} of mounts) folder.refill();
	}

	/** Makes a sandbox of what was forked. */
	async #begin(
		{leaf, born}: LeafBirth,
		options: ResolvedSandboxOptions,
		owned: Owned,
		first: First | undefined,
		refill: () => void,
	): Promise<Sandbox> {
		// What is not born gives nothing back of what is reserved: it may be tried again.
		if (first === undefined) {
			const birth = born();
			leaf.awaitBirth();
			await birth;
		}
		let late: NodeJS.Timeout | undefined;
		const sandbox = new Sandbox(leaf, options, owned, this.#nothing, () => {
			clearTimeout(late);
			setImmediate(refill);
			this.#noteIdle();
		});
		try {
			this.#checkOpen();
			this.#add(sandbox);
			if (first !== undefined) {
				first(sandbox);
				await born(); // which is looked at when the program speaks or ends
			}
		} catch (error) {
			await sandbox.destroy('it could not be made');
			throw error;
		}
		this.#noteIdle();
		// What the next start takes is made when nobody waits for this one: when a program has ended, or none has come.
		late = setTimeout(refill, refillDelayMs);
		return sandbox;
	}

	/** It exists, and its events are ours. */
	#add(sandbox: Sandbox): void {
		this.#sandboxes.set(sandbox.id, sandbox);
		this.emit('created', sandbox.id);
		for (const name of eventNames) {
			sandbox.on(name, (...details: unknown[]) => this.emit(name, ...([sandbox.id, ...details] as never)));
		}
		sandbox.once('destroyed', () => this.#sandboxes.delete(sandbox.id));
	}

	/** One may go, if somebody waits; by then whoever waited for the end of a program can have asked for the next. */
	#noteIdle(): void {
		if (this.#host.budget.isShort) setImmediate(() => void this.#makeRoom());
	}

	/** The launcher for such roots; made on first use, and again when it has died. */
	async #launcher(key: string, shape: RootShape): Promise<Launcher> {
		let launcher = this.#launchers.get(key);
		if (launcher === undefined) {
			launcher = this.#spawn(shape, this.#idsFor(undefined));
			this.#launchers.set(key, launcher);
			const forget = () => {
				if (this.#launchers.get(key) === launcher) this.#launchers.delete(key);
			};
			launcher.then(
				(made) => void made.gone.then(forget),
				() => forget(),
			);
		}
		return launcher;
	}

	/** Those of a launcher: with one id only, its sandboxes are in user namespaces in which they can have any. */
	#idsFor(uid: number | undefined): number {
		const usual = Math.floor(this.#ids.size / maxLaunchers);
		return (uid ?? 0) < usual ? usual : 1;
	}

	async #spawn(shape: RootShape, count: number): Promise<Launcher> {
		const ids = this.#ids.take(count);
		const {keeper, liveness} = this.#host;
		const root = {keeper, plan: planLauncher(shape), ids, liveness, streams: false};
		const launcher = await Launcher.spawn(root, (started) => new Launcher(started)).catch((error: unknown) => {
			this.#ids.release(ids);
			throw error;
		});
		this.#alive.add(launcher);
		void launcher.gone.then(async () => launcher.ended()).then(() => this.#alive.delete(launcher));
		void launcher.drained.then(() => this.#ids.release(ids));
		return launcher;
	}

	/** What such sandboxes get; only the last few are kept for the next ones. */
	async #network(settings: ResolvedNetwork): Promise<SandboxNetwork> {
		const key = JSON.stringify(settings);
		let network = this.#networks.get(key);
		if (network === undefined) {
			this.#lastNetwork += 1;
			const id = `hosts-${this.#lastNetwork}`;
			const {keeper, state} = this.#host;
			network = SandboxNetwork.open(keeper, state.path('staging', id), settings, this.#options.lookup);
			network.catch(() => this.#networks.delete(key));
		}
		this.#networks.delete(key);
		this.#networks.set(key, network);
		const [oldest] = this.#networks;
		if (this.#networks.size > maxNetworks && oldest !== undefined) {
			this.#networks.delete(oldest[0]);
			await (await oldest[1]).close();
		}
		return network;
	}

	async #folder(source: SandboxMount['source'], access: FolderAccess): Promise<LockedFolder> {
		const key = mountKey(source, access);
		let folder = this.#folders.get(key);
		if (folder === undefined) {
			this.#lastFolder += 1;
			const id = `mount-${this.#lastFolder}`;
			const {keeper} = this.#host;
			const locked =
				typeof source === 'string'
					? LockedFolder.create(keeper, id, source, access)
					: LockedFolder.createLayers(keeper, id, source);
			folder = locked.catch((error: unknown) => {
				this.#folders.delete(key);
				if (!(error instanceof SyscallError) || !['ENOENT', 'ENOTDIR', 'EACCES'].includes(error.errnoName)) throw error;
				throw new ForktreeError('InvalidSource', `mounts: expected a folder, got ${source}: ${error.errnoName}`, {
					cause: error,
				});
			});
			this.#folders.set(key, folder);
		}
		return folder;
	}

	/**
	 * Lets go of the folder that a mount's source led to: the next sandbox with that source gets what is there then. Sandboxes
	 * that have it keep it. Not to be called while one with it is being made.
	 */
	async forgetMount(source: SandboxMount['source']): Promise<void> {
		this.#checkOpen();
		const forgotten = folderAccesses.map((access) => mountKey(source, access));
		await Promise.all(
			forgotten.map(async (key) => {
				const held = this.#folders.get(key);
				this.#folders.delete(key);
				const folder = await held?.catch(() => undefined);
				if (folder === undefined) return;
				this.#spares.drop((kind) => kind.includes(`"${folder.id}"`));
				await folder.close();
			}),
		);
	}

	/** Those that exist, by id. */
	list(): ReadonlyMap<string, Sandbox> {
		this.#checkOpen();
		return new Map(this.#sandboxes);
	}

	stats(): SandboxPoolStats {
		this.#checkOpen();
		const {budget, isolation} = this.#host;
		const paused = [...this.#sandboxes.values()].filter((each) => each.isPaused).length;
		return {
			sandboxes: this.#sandboxes.size,
			paused,
			spares: this.#spares.size,
			memory: {budgetMb: budget.totalMb, reservedMb: budget.reservedMb, waiting: budget.waiting},
			isolation,
		};
	}

	/**
	 * Lets running programs finish, then destroys every sandbox and removes what the pool made on the host.
	 * @param deadlineMs how long they may take
	 */
	async close(deadlineMs = drainDeadlineMs): Promise<void> {
		this.#closed ??= this.#close(deadlineMs);
		return this.#closed;
	}

	async #close(deadlineMs: number): Promise<void> {
		const busy = [...this.#sandboxes.values()].filter((each) => !each.isIdle);
		this.#closing.abort();
		const drained = Promise.allSettled([...busy.map(async (each) => each.whenIdle()), ...this.#creating]);
		await withDeadline(drained, deadlineMs, () => new Error('still running')).catch(() => undefined);
		await this.#undo.run();
	}

	async #destroyAll(): Promise<void> {
		await Promise.all([...this.#sandboxes.values()].map(async (each) => each.destroy('the pool was closed')));
	}

	async #endLaunchers(): Promise<void> {
		await Promise.allSettled(this.#launchers.values());
		for (const launcher of this.#alive) launcher.kill();
		const ended = Promise.all([...this.#alive].map(async (launcher) => launcher.ended()));
		await withDeadline(ended, endDeadlineMs, () => new Error('launchers are still alive')).catch(() => undefined);
		const folders = await Promise.allSettled([...this.#folders.values(), ...this.#networks.values()]);
		await Promise.all(
			folders.map(async (folder) => (folder.status === 'fulfilled' ? folder.value.close() : undefined)),
		);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.close();
	}

	#checkOpen(): void {
		if (this.#closed !== undefined) throw new ForktreeError('RuntimeClosed', 'the pool was closed');
	}
}

function mountKey(source: SandboxMount['source'], access: FolderAccess): string {
	return `${access} ${JSON.stringify(source)}`;
}

function accessOf({readonly}: Required<SandboxMount>, {noNewExecutables}: ResolvedSandboxOptions): FolderAccess {
	if (readonly) return 'readonly';
	return noNewExecutables ? 'data' : 'writable';
}

/** What of a sandbox can be written besides its /tmp. */
function writablePart({writable, mounts}: ResolvedSandboxOptions): 'none' | 'mounts' | 'root' {
	if (isOverlay(writable)) return 'root';
	return mounts.some(({readonly}) => !readonly) ? 'mounts' : 'none';
}

/** What a spare is made with; what else there is of options matters when a program runs. */
function spareKind(key: string, options: ResolvedSandboxOptions, mounts: readonly LeafMount[]): string {
	const {limits, writable, noNewExecutables, hostname, network, defaultFilter} = options;
	const {memoryMb, swapMb, cpuPercent, processes, openFiles, scratchMb} = limits;
	const numbers = [memoryMb, swapMb, cpuPercent, processes, openFiles, scratchMb];
	const folders = mounts.map(({folder}) => folder.id);
	return `${key}${JSON.stringify([numbers, writable, noNewExecutables, hostname, network, defaultFilter, folders])}`;
}

/** Does something the first time that it is called. */
function once(action: () => void): () => void {
	let isDone = false;
	return () => {
		if (!isDone) action();
		isDone = true;
	};
}

/**
 * Creates a pool of sandboxes for programs. Needs Linux 5.15 or later; what besides root's rights or an ordinary user's, docs/levels.md says.
 * @throws {TypeError} or {RangeError} for a wrong option; {ForktreeError} when the machine lacks what is needed
 * @example
 * const pool = await createSandboxPool();
 * try {
 * 	const sandbox = await pool.create({limits: {memoryMb: 64}});
 * 	const {stdout} = await sandbox.exec(['uname', '-n']);
 * } finally {
 * 	await pool.close();
 * }
 */
export async function createSandboxPool(options: SandboxPoolOptions = {}): Promise<SandboxPool> {
	const resolved = resolvePoolOptions(options);
	return SandboxPool.open(resolved);
}
