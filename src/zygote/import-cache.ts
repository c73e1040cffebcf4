/**
 * The import cache: a root zygote, and below it one node a package set, made on first use.
 * A function is only ever forked from a zygote whose packages are its own set or none (the subset rule).
 */

import {withDeadline} from '../kernel/deadline.ts';
import {readMemory} from '../kernel/memory.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {Keeper} from '../sandbox/keeper.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import {LockedFolder} from '../sandbox/mounts.ts';
import {planRoot} from '../sandbox/rootfs.ts';
import {IdAllocator, type IdRange} from '../sandbox/uid-range.ts';
import type {ZygoteSpec} from './protocol.ts';
import {Zygote} from './zygote.ts';

/**
 * Ids for the root zygote and all below; a node's; a cold start's. A root that died keeps its ids for as long as anything
 * forked from it lives, so there is room for a few roots.
 */
const rootIds = 2 ** 19;
const nodeIds = 2 ** 13;
const coldIds = 2048;
const endDeadlineMs = 5000;

/** What the cache tells about. */
export type ImportCacheEvents = {
	zygoteCreated(zygote: {
		readonly packages: string;
		readonly modules: readonly string[];
		readonly importMs: number;
	}): void;
	zygoteDestroyed(zygote: {readonly packages: string; readonly reason: string}): void;
	importFailed(failure: {readonly packages: string; readonly module: string; readonly traceback: string}): void;
};

export type ImportCacheOptions = {
	readonly keeper: Keeper;
	readonly interpreter: Interpreter;
	/** Host ids to hand out. */
	readonly ids: IdRange;
	/** Read end of the pipe whose end of file ends every guest. */
	readonly liveness: number;
	readonly events: ImportCacheEvents;
	/** Charged for what zygotes use. */
	readonly budget: MemoryBudget;
};

/** A place to fork from, and whether the packages have still to be attached in the leaf. */
export type ForkPlace = {readonly zygote: Zygote; readonly packages: LockedFolder | undefined};

type Node = {
	zygote: Promise<Zygote> | undefined;
	/** The one that `zygote` became; word of another's end is no word of this one's. */
	live: Zygote | undefined;
	/** Modules that are left to the handler: their import failed here, or left a thread behind. */
	readonly excluded: Map<string, 'failed' | 'threaded'>;
	lastUse: number;
	megabytes: number;
};

/** Thrown inside when a node can't be made as it was asked. */
class ImportTrouble extends Error {}

/** Owns the zygotes and the package folders they see. */
export class ImportCache {
	readonly #options: ImportCacheOptions;
	readonly #ids: IdAllocator;
	readonly #nodes = new Map<string, Node>();
	readonly #folders = new Map<string, Promise<LockedFolder>>();
	/** All whose processes may be alive. */
	readonly #zygotes = new Set<Zygote>();
	#root: Promise<Zygote> | undefined;
	#useCount = 0;
	#closed = false;

	constructor(options: ImportCacheOptions) {
		this.#options = options;
		this.#ids = new IdAllocator(options.ids);
	}

	/** The best place to fork a function with these packages from; makes it if need be. */
	async find(set: PackageSet): Promise<ForkPlace> {
		const packages = await this.#folder(set);
		const node = this.#node(set);
		node.lastUse = ++this.#useCount;
		if (node.excluded.size < modulesOf(set).length) {
			node.zygote ??= this.#makeNode(set, node, packages);
			const made = node.zygote;
			try {
				return {zygote: await made, packages: undefined};
			} catch (error) {
				if (node.zygote === made) node.zygote = undefined;
				if (!(error instanceof ImportTrouble)) throw error;
			}
		}
		return {zygote: await this.root(), packages};
	}

	/** A fresh interpreter for one start; its owner lets it go. */
	async cold(set: PackageSet): Promise<Zygote> {
		const ids = this.#ids.take(coldIds);
		try {
			const packages = await this.#folder(set);
			const zygote = this.#track(await this.#spawn({modules: []}, packages, ids));
			void zygote.drained.then(() => this.#ids.release(ids));
			return zygote;
		} catch (error) {
			this.#ids.release(ids);
			throw error;
		}
	}

	/** The root zygote: an interpreter with what the guest runtime needs. */
	async root(): Promise<Zygote> {
		this.#root ??= this.#makeRoot();
		try {
			return await this.#root;
		} catch (error) {
			this.#root = undefined;
			throw error;
		}
	}

	/** Modules of this set that are imported in the sandbox instead of a zygote, and why. */
	importedInSandbox(set: PackageSet): ReadonlyMap<string, 'failed' | 'threaded'> {
		return this.#nodes.get(set.key)?.excluded ?? new Map();
	}

	/**
	 * Lets the least recently used node go; sandboxes forked from it live on.
	 * @returns the MiB that it had of its own; undefined when there is no node
	 */
	async evictOne(): Promise<number | undefined> {
		const live = [...this.#nodes.values()].filter((node) => node.zygote !== undefined);
		const victim = live.sort((a, b) => a.lastUse - b.lastUse)[0];
		const zygote = await victim?.zygote?.catch(() => undefined);
		if (victim === undefined || zygote === undefined) return undefined;
		victim.zygote = undefined;
		victim.live = undefined;
		zygote.release();
		return victim.megabytes;
	}

	/** Zygotes that are alive now. */
	async list(): Promise<Array<{packages: string; modules: readonly string[]; pid: number | undefined}>> {
		const made = [['', this.#root] as const, ...[...this.#nodes].map(([key, node]) => [key, node.zygote] as const)];
		const zygotes = await Promise.all(
			made.map(async ([packages, zygote]) => ({packages, zygote: await zygote?.catch(() => undefined)})),
		);
		return zygotes.flatMap(({packages, zygote}) =>
			zygote === undefined ? [] : [{packages, modules: zygote.spec.modules, pid: zygote.pid()}],
		);
	}

	/** Gives up what it has for packages that no function uses any more. */
	async forget({key}: PackageSet): Promise<void> {
		const [made, locked] = [this.#nodes.get(key)?.zygote, this.#folders.get(key)];
		this.#nodes.delete(key);
		this.#folders.delete(key);
		const zygote = await made?.catch(() => undefined);
		const folder = await locked?.catch(() => undefined);
		zygote?.release();
		await folder?.close();
	}

	/** Kills every zygote. */
	async close(): Promise<void> {
		this.#closed = true;
		const zygotes = [this.#root, ...[...this.#nodes.values()].map((node) => node.zygote)];
		await Promise.all(zygotes.map(async (zygote) => (await zygote?.catch(() => undefined))?.kill()));
		// What is still alive then ends with the liveness pipe.
		const ended = Promise.all([...this.#zygotes].map((zygote) => zygote.ended()));
		await withDeadline(ended, endDeadlineMs, () => new Error('zygotes are still alive')).catch(() => undefined);
		const folders = await Promise.allSettled(this.#folders.values());
		await Promise.all(folders.map((folder) => (folder.status === 'fulfilled' ? folder.value.close() : undefined)));
	}

	#node(set: PackageSet): Node {
		let node = this.#nodes.get(set.key);
		if (node === undefined) {
			node = {zygote: undefined, live: undefined, excluded: new Map(), lastUse: 0, megabytes: 0};
			this.#nodes.set(set.key, node);
		}
		return node;
	}

	async #folder(set: PackageSet): Promise<LockedFolder | undefined> {
		const {folders, key} = set;
		if (folders.length === 0) return undefined;
		let folder = this.#folders.get(key);
		if (folder === undefined) {
			folder = LockedFolder.createLayers(this.#options.keeper, `packages-${key}`, folders);
			this.#folders.set(key, folder);
			folder.catch(() => this.#folders.delete(key));
		}
		return folder;
	}

	/** Remembers it until it is gone, so that {@link close} can wait for its end. */
	#track(zygote: Zygote): Zygote {
		this.#zygotes.add(zygote);
		void zygote.gone.then(() => zygote.ended()).then(() => this.#zygotes.delete(zygote));
		return zygote;
	}

	async #spawn(spec: ZygoteSpec, packages: LockedFolder | undefined, ids: IdRange): Promise<Zygote> {
		const {keeper, interpreter, liveness} = this.#options;
		return Zygote.spawnRoot(spec, {keeper, plan: planRoot(interpreter, spec, packages?.place), ids, liveness});
	}

	async #makeRoot(): Promise<Zygote> {
		const ids = this.#ids.take(rootIds);
		const made = await this.#spawn({modules: []}, undefined, ids).catch((error) => {
			this.#ids.release(ids);
			throw error;
		});
		const zygote = this.#track(made);
		this.#watch(zygote, '', () => {
			this.#root = undefined;
		});
		void zygote.drained.then(() => this.#ids.release(ids));
		return zygote;
	}

	/** A module that leaves a thread behind is left out and the node made again; one that raises fails the making. */
	async #makeNode(set: PackageSet, node: Node, packages: LockedFolder | undefined): Promise<Zygote> {
		for (;;) {
			const modules = modulesOf(set).filter((module) => !node.excluded.has(module));
			if (modules.length === 0) throw new ImportTrouble();
			const root = await this.root();
			const zygote = this.#track(await root.forkZygote({modules}, packages, nodeIds));
			const {failed, threaded, importMs} = zygote.report;
			for (const {module, traceback} of failed) {
				node.excluded.set(module, 'failed');
				this.#options.events.importFailed({packages: set.key, module, traceback});
			}
			for (const module of threaded) node.excluded.set(module, 'threaded');
			if (failed.length === 0 && threaded.length === 0) {
				const release = this.#charge(zygote, node);
				node.live = zygote;
				this.#watch(zygote, set.key, () => {
					if (node.live === zygote) node.zygote = undefined;
					release();
				});
				this.#options.events.zygoteCreated({packages: set.key, modules, importMs});
				return zygote;
			}
			zygote.release();
			if (failed.length > 0) throw new ImportTrouble();
		}
	}

	#charge(zygote: Zygote, node: Node): () => void {
		const pid = zygote.pid();
		node.megabytes = pid === undefined ? 0 : Math.ceil(readMemory(pid)?.privateMiB ?? 0);
		return this.#options.budget.charge(node.megabytes);
	}

	#watch(zygote: Zygote, packages: string, forget: () => void): void {
		void zygote.gone.then((reason) => {
			forget();
			if (!this.#closed) this.#options.events.zygoteDestroyed({packages, reason: reason.message});
		});
	}
}

function modulesOf(set: PackageSet): string[] {
	return set.distributions.flatMap((distribution) => distribution.modules);
}
