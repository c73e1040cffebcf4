/** The import cache: a root zygote, and below it the nodes of the plan, each made when it is first needed. */

import {ForktreeError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {readMemory} from '../kernel/memory.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {Keeper} from '../sandbox/keeper.ts';
import {defaultLimits} from '../sandbox/limits.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import {LockedFolder} from '../sandbox/mounts.ts';
import {planRoot} from '../sandbox/rootfs.ts';
import type {Spare} from '../sandbox/spare.ts';
import {Spares} from '../sandbox/spares.ts';
import {IdAllocator, type IdRange} from '../sandbox/uid-range.ts';
import {SharedWorkingSet} from '../sandbox/working-set.ts';
import {type CostOf, type PlanNode, ZygotePlan} from './plan.ts';
import type {ZygoteSpec} from './protocol.ts';
import {pythonSpare} from './python-leaf.ts';
import type {TreeNode} from './tree.ts';
import {Zygote} from './zygote.ts';

/**
 * Ids for the root zygote and all below; for each node by itself, at most and at least; for a cold start. A root that died keeps its
 * ids for as long as anything forked from it lives, so there is room for two.
 */
const rootIds = 3 * 2 ** 19;
const nodeIds = {most: 2 ** 13, least: 2048};
const coldIds = 2048;
const endDeadlineMs = 5000;
/**
 * A set gets a node of its own when its starts have imported so much that a zygote could have had, and twice what its making
 * takes: a set that is never asked for again costs no more than it did (as in the ski-rental problem).
 */
const promotionMs = 100;
/** How often the process of a node of the tree may die while it is made, before its parent has to do for all. */
const maxDeaths = 2;
/** MiB that a child that was forked ahead counts with until it is handed over. */
const spareMb = 2;
/** Until a spare is handed over; then it gets those of its function. */
const spareLimits = {...defaultLimits, swapMb: 0};

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
	readonly ageing: Ageing;
	readonly cgroups: CgroupPool;
	/** Children that each zygote forks ahead, at the most. */
	readonly spares: number;
	/** The plan; without one, each function's set is a node. */
	readonly tree: TreeNode | undefined;
	/** Whether sets that the tree leaves much to import of get nodes of their own, in the background. */
	readonly promote: boolean;
	readonly costOf: CostOf;
};

/** A place to fork from, and the packages if they have still to be attached in the leaf. */
export type ForkPlace = {
	readonly zygote: Zygote;
	readonly packages: LockedFolder | undefined;
	/** What is imported already, as `name==version`. */
	readonly preloaded: readonly string[];
	/** A child of it that was forked ahead, if there is one; whoever takes it hands it over, at once. */
	readonly takeSpare: () => Spare | undefined;
	/** Makes what the next starts need. To be called when a start is over. */
	readonly refill: () => void;
};

/** Children of a zygote that were forked ahead, with what gives the memory for one back. */
type NodeSpares = Spares<{readonly spare: Spare; readonly release: () => void}>;

/** What is alive of a node of the plan. */
type Node = {
	readonly plan: PlanNode;
	readonly preloaded: readonly string[];
	zygote: Promise<Zygote> | undefined;
	/** The one that `zygote` became; word of another's end is no word of this one's. */
	live: Zygote | undefined;
	/** Of `live`. */
	spares: NodeSpares | undefined;
	/** Modules that are left to the handler: their import failed here, or left a thread behind. */
	readonly excluded: Map<string, 'failed' | 'threaded'>;
	/** See {@link Ageing}. */
	priority: number;
	uses: number;
	/** When it was used last, as `performance.now()` counts. */
	usedMs: number;
	/** Deaths while it was made, one after the other. */
	deaths: number;
	importMs: number;
	megabytes: number;
};

/** Thrown inside when a node can't be made as it was asked. */
class ImportTrouble extends Error {}

/** Owns the zygotes and the package folders they see. */
export class ImportCache {
	readonly #options: ImportCacheOptions;
	readonly #plan: ZygotePlan;
	readonly #ids: IdAllocator;
	readonly #nodes = new Map<PlanNode, Node>();
	readonly #folders = new Map<string, Promise<LockedFolder>>();
	/** All whose processes may be alive. */
	readonly #zygotes = new Set<Zygote>();
	/** Milliseconds that starts spent on imports, by the set's key; infinite: it was promoted, or that failed. */
	readonly #missedMs = new Map<string, number>();
	#promoting: Promise<void> = Promise.resolve();
	#root: Promise<Zygote> | undefined;
	#rootSpares: NodeSpares | undefined;
	#closed = false;

	constructor(options: ImportCacheOptions) {
		this.#options = options;
		this.#plan = new ZygotePlan(options.tree, options.costOf);
		this.#ids = new IdAllocator(options.ids);
	}

	/** A function with these packages can be asked for; {@link forget} says when it can't any more. */
	use(set: PackageSet): void {
		this.#plan.use(set);
	}

	/** Costs of packages have changed. */
	reweigh(): void {
		this.#plan.reweigh();
	}

	/** The best place to fork a function with these packages from; makes it if need be. */
	async find(set: PackageSet): Promise<ForkPlace> {
		if (this.#options.promote) this.#notePromotion(set);
		for (let plan = this.#plan.find(set); plan !== undefined; plan = plan.parent) {
			const node = this.#node(plan);
			const zygote = await this.#live(node);
			if (zygote === undefined) continue;
			node.uses += 1;
			node.usedMs = performance.now();
			node.priority = this.#options.ageing.priority(node.uses, node.importMs, node.megabytes);
			const {spares} = node; // of this zygote: while the packages are waited for, another one may take its place
			const isWhole = plan.set.folders.length === set.folders.length;
			return this.#place(zygote, spares, isWhole ? undefined : await this.#folder(set), node.preloaded);
		}
		const zygote = await this.root();
		const spares = this.#rootSpares;
		return this.#place(zygote, spares, await this.#folder(set), []);
	}

	#place(
		zygote: Zygote,
		spares: NodeSpares | undefined,
		packages: LockedFolder | undefined,
		preloaded: readonly string[],
	): ForkPlace {
		return {
			zygote,
			packages,
			preloaded,
			takeSpare: () => {
				spares?.note();
				// One in the making is no help: it rehearses, which takes longer than a fork.
				const taken = spares?.takeReady();
				taken?.release();
				return taken?.spare;
			},
			refill: () => {
				zygote.refill();
				spares?.refill();
			},
		};
	}

	/** The first one rehearses; the others have the pages that this wrote to, which takes half as long and comes to the same. */
	#sparesOf(zygote: Zygote): NodeSpares {
		const {budget, cgroups} = this.#options;
		const rehearsed = new SharedWorkingSet();
		const make = async () => {
			const takeCgroup = () => cgroups.take(spareLimits);
			const spare = await zygote.forkSpare({...pythonSpare, warmUps: !rehearsed.isKnown, takeCgroup});
			cgroups.refill(spareLimits);
			try {
				await (rehearsed.isKnown ? rehearsed.populate(spare.leaf) : rehearsed.look(spare.leaf));
				return spare;
			} catch (error) {
				await spare.leaf.destroy();
				throw error;
			}
		};
		return new Spares({
			most: this.#options.spares,
			reserve: () => (budget.hasRoom(spareMb) ? budget.charge(spareMb) : undefined),
			make: async (release) => {
				const spare = await make().catch(() => undefined);
				if (spare !== undefined) return {spare, release};
				release();
				return undefined;
			},
			isUsable: ({spare}) => spare.isUsable,
			dispose: async ({spare, release}) => {
				await spare.leaf.destroy();
				release();
			},
		});
	}

	/** Ends one child that was forked ahead; answers the MiB that it was counted with, 0 when there is none. */
	evictSpare(): number {
		return this.#allSpares().some((spares) => spares.evict()) ? spareMb : 0;
	}

	#allSpares(): NodeSpares[] {
		const all = [this.#rootSpares, ...[...this.#nodes.values()].map(({spares}) => spares)];
		return all.filter((spares) => spares !== undefined);
	}

	/** Makes every node of the plan, one after the other. */
	async prewarm(): Promise<void> {
		for (const plan of this.#plan.nodes()) if (!this.#closed) await this.#live(this.#node(plan));
	}

	/** A fresh interpreter for one start; its owner lets it go. */
	async cold(set: PackageSet): Promise<Zygote> {
		const ids = this.#ids.take(coldIds);
		try {
			const packages = await this.#folder(set);
			const zygote = this.#track(await this.#spawn({modules: [], warmUps: false}, packages, ids));
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

	/** Modules of this set that are imported in the sandbox although a zygote was to have them, and why. */
	importedInSandbox(set: PackageSet): ReadonlyMap<string, 'failed' | 'threaded'> {
		const excluded = new Map<string, 'failed' | 'threaded'>();
		for (let plan = this.#plan.find(set); plan !== undefined; plan = plan.parent) {
			for (const [module, reason] of this.#nodes.get(plan)?.excluded ?? []) excluded.set(module, reason);
		}
		return excluded;
	}

	/** The priority of the node that would go first; none goes before those below it. Undefined when there is none. */
	get evictable(): number | undefined {
		return this.#victim()?.priority;
	}

	/**
	 * Lets that node go; sandboxes forked from it live on.
	 * @returns the MiB that it had of its own; undefined when there is no node
	 */
	evictOne(): number | undefined {
		const victim = this.#victim();
		if (victim === undefined) return undefined;
		this.#options.ageing.noteEvicted(victim.priority);
		this.#letGo(victim);
		return victim.megabytes;
	}

	/** Lets nodes go that were not used since then, and have none below them. */
	evictIdle(sinceMs: number): void {
		for (const node of this.#leaves()) if (node.usedMs < sinceMs) this.#letGo(node);
	}

	#victim(): Node | undefined {
		return this.#leaves().sort((a, b) => a.priority - b.priority)[0];
	}

	/** Nodes that are alive and have no live ones below them. */
	#leaves(): Node[] {
		const live = [...this.#nodes.values()].filter((node) => node.live !== undefined);
		const parents = new Set<PlanNode | undefined>();
		for (const {plan} of live)
			for (let above = plan.parent; above !== undefined; above = above.parent) parents.add(above);
		return live.filter(({plan}) => !parents.has(plan));
	}

	/** Zygotes that are alive now. */
	async list(): Promise<Array<{packages: string; modules: readonly string[]; pid: number | undefined}>> {
		const made = [
			['', this.#root] as const,
			...[...this.#nodes.values()].map(({plan, zygote}) => [plan.set.key, zygote] as const),
		];
		const zygotes = await Promise.all(
			made.map(async ([packages, zygote]) => ({packages, zygote: await zygote?.catch(() => undefined)})),
		);
		return zygotes.flatMap(({packages, zygote}) =>
			zygote === undefined ? [] : [{packages, modules: zygote.spec.modules, pid: zygote.pid()}],
		);
	}

	/** Gives up what it has for packages that no function uses any more. */
	async forget(set: PackageSet): Promise<void> {
		this.#missedMs.delete(set.key);
		const useless = this.#plan.forget(set);
		const keys = [set.key];
		for (const plan of useless) {
			const node = this.#nodes.get(plan);
			this.#nodes.delete(plan);
			await node?.zygote?.catch(() => undefined);
			if (node !== undefined) this.#letGo(node);
			keys.push(plan.set.key);
		}
		for (const key of new Set(keys)) {
			const locked = this.#folders.get(key);
			this.#folders.delete(key);
			const folder = await locked?.catch(() => undefined);
			await folder?.close();
		}
	}

	#notePromotion(set: PackageSet): void {
		const missing = this.#plan.missingMs(set);
		const missed = (this.#missedMs.get(set.key) ?? 0) + missing;
		const isDue = missed >= Math.max(promotionMs, 2 * missing) && missed < Number.POSITIVE_INFINITY;
		this.#missedMs.set(set.key, isDue ? Number.POSITIVE_INFINITY : missed);
		if (isDue) this.#promoting = this.#promoting.then(() => this.#promote(set)).catch(() => undefined);
	}

	/** Nobody is sent to the new node before it is there. */
	async #promote(set: PackageSet): Promise<void> {
		if (this.#closed || this.#options.budget.isShort) return;
		const node = this.#node(this.#plan.propose(set));
		const zygote = await this.#live(node);
		if (zygote !== undefined && this.#plan.adopt(node.plan)) return;
		this.#letGo(node);
		this.#nodes.delete(node.plan);
	}

	#letGo(node: Node): void {
		node.live?.release();
		void node.spares?.close();
		node.zygote = undefined;
		node.live = undefined;
		node.spares = undefined;
	}

	/** Kills every zygote. */
	async close(): Promise<void> {
		this.#closed = true;
		await Promise.all(this.#allSpares().map((spares) => spares.close()));
		const zygotes = [this.#root, ...[...this.#nodes.values()].map(({zygote}) => zygote)];
		await Promise.all(zygotes.map(async (zygote) => (await zygote?.catch(() => undefined))?.kill()));
		// What is still alive then ends with the liveness pipe.
		const ended = Promise.all([...this.#zygotes].map((zygote) => zygote.ended()));
		await withDeadline(ended, endDeadlineMs, () => new Error('zygotes are still alive')).catch(() => undefined);
		const folders = await Promise.allSettled(this.#folders.values());
		await Promise.all(folders.map((folder) => (folder.status === 'fulfilled' ? folder.value.close() : undefined)));
	}

	#node(plan: PlanNode): Node {
		let node = this.#nodes.get(plan);
		if (node === undefined) {
			const preloaded = plan.set.distributions.map(({name, version}) => `${name}==${version}`);
			const excluded = new Map();
			const counts = {priority: 0, uses: 0, usedMs: performance.now(), deaths: 0, importMs: 0, megabytes: 0};
			node = {plan, preloaded, zygote: undefined, live: undefined, spares: undefined, excluded, ...counts};
			this.#nodes.set(plan, node);
		}
		return node;
	}

	/** Its zygote, made if need be; undefined when it can't be one, so that its parent has to do. */
	async #live(node: Node): Promise<Zygote | undefined> {
		if (modulesOf(node).length === 0 || (node.deaths >= maxDeaths && !node.plan.isOwn)) return undefined;
		node.zygote ??= this.#make(node);
		const made = node.zygote;
		try {
			return await made;
		} catch (error) {
			if (node.zygote === made) node.zygote = undefined;
			if (error instanceof ImportTrouble) return undefined;
			node.deaths += 1;
			throw error;
		}
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
			void this.#rootSpares?.close();
			this.#rootSpares = undefined;
		});
		this.#rootSpares = this.#sparesOf(zygote);
		void zygote.drained.then(() => this.#ids.release(ids));
		return zygote;
	}

	/** A module that leaves a thread behind is left out and the node made again; one that raises fails the making. */
	async #make(node: Node): Promise<Zygote> {
		const {plan} = node;
		const packages = await this.#folder(plan.set);
		for (;;) {
			if (modulesOf(node).length === 0) throw new ImportTrouble();
			const {zygote, modules} = await this.#fork(node, packages);
			const {failed, threaded, importMs} = zygote.report;
			for (const {module, traceback} of failed) {
				this.#exclude(plan, module, 'failed');
				this.#options.events.importFailed({packages: plan.set.key, module, traceback});
			}
			for (const module of threaded) this.#exclude(plan, module, 'threaded');
			if (failed.length === 0 && threaded.length === 0) {
				const release = this.#charge(zygote, node);
				node.live = zygote;
				node.spares = this.#sparesOf(zygote);
				node.deaths = 0;
				node.importMs = importMs;
				this.#watch(zygote, plan.set.key, () => {
					if (node.live === zygote) this.#letGo(node);
					release();
				});
				this.#options.events.zygoteCreated({packages: plan.set.key, modules, importMs});
				return zygote;
			}
			zygote.release();
			if (failed.length > 0) throw new ImportTrouble();
		}
	}

	/** Leaves a module to the handlers, in the node of the path that was to import it; all of a node when it is none of theirs. */
	#exclude(last: PlanNode, module: string, reason: 'failed' | 'threaded'): void {
		let isTheirs = false;
		for (let plan: PlanNode | undefined = last; plan !== undefined; plan = plan.parent) {
			if (!plan.added.some(({modules}) => modules.includes(module))) continue;
			this.#node(plan).excluded.set(module, reason);
			isTheirs = true;
		}
		if (!isTheirs) for (const each of modulesOf(this.#node(last))) this.#node(last).excluded.set(each, reason);
	}

	/** From the nearest ancestor that is alive and has ids left; what that lacks of the path is imported. */
	async #fork(node: Node, packages: LockedFolder | undefined): Promise<{zygote: Zygote; modules: string[]}> {
		const modules = modulesOf(node);
		const ids = this.#idsOf(node.plan);
		for (let plan = node.plan.parent; plan !== undefined; plan = plan.parent) {
			const ancestor = this.#node(plan);
			if (ancestor.live !== undefined) {
				try {
					return {zygote: this.#track(await ancestor.live.forkZygote({modules}, packages, ids)), modules};
				} catch (error) {
					if (!isAncestorTrouble(error)) throw error;
				}
			}
			modules.unshift(...modulesOf(ancestor));
		}
		const root = await this.root();
		try {
			return {zygote: this.#track(await root.forkZygote({modules}, packages, ids)), modules};
		} catch (error) {
			if (error instanceof RangeError) throw new ImportTrouble(); // its parent has to do until others have ended
			throw error;
		}
	}

	/** For itself and all that the tree has below it: id maps are written once. */
	#idsOf(plan: PlanNode): number {
		const each = Math.floor(rootIds / 2 / (this.#plan.treeSize + 1));
		return Math.max(nodeIds.least, Math.min(nodeIds.most, each)) * (this.#plan.countBelow(plan) + 1);
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

/** What it imports beyond its parent. */
function modulesOf({plan, excluded}: Node): string[] {
	return plan.added.flatMap(({modules}) => modules).filter((module) => !excluded.has(module));
}

/** It died meanwhile, or has no ids left for such a node: another one can be forked from. */
function isAncestorTrouble(error: unknown): boolean {
	return error instanceof RangeError || (error instanceof ForktreeError && error.code === 'ZygoteFailed');
}
