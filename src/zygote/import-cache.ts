/** The import cache: a root zygote, and below it the nodes of the plan, each made when it is first needed. */

import {ForktreeError} from '../errors.ts';
import {withDeadline} from '../kernel/deadline.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import type {Keeper} from '../sandbox/keeper.ts';
import type {LeafMount} from '../sandbox/leaf-birth.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {inside, planRoot} from '../sandbox/rootfs.ts';
import type {IdRange, IdSource} from '../sandbox/uid-range.ts';
import type {FitInput} from './fit.ts';
import {type ForkPlace, ForkPoint} from './fork-point.ts';
import {spareMb} from './node-spares.ts';
import {type Evictable, type OwnModule, OwnZygotes, type Parent} from './own-zygotes.ts';
import {PackageFolders} from './package-folders.ts';
import {type CostOf, type PlanChange, type PlanNode, ZygotePlan} from './plan.ts';
import type {ZygoteSpec} from './protocol.ts';
import {RefitSchedule} from './refit-schedule.ts';
import {replan} from './replan.ts';
import type {TreeNode} from './tree.ts';
import {Zygote} from './zygote.ts';

const endDeadlineMs = 5000;
/**
 * A set gets a node of its own when its starts have imported so much that a zygote could have had, and twice what its making
 * takes: a set that is never asked for again costs no more than it did (as in the ski-rental problem).
 */
const promotionMs = 100;
/** How often the process of a node of the tree may die while it is made, before its parent has to do for all. */
const maxDeaths = 2;

/** What the cache tells about. */
export type ImportCacheEvents = {
	zygoteCreated(zygote: {
		readonly packages: string;
		readonly modules: readonly string[];
		readonly importMs: number;
	}): void;
	zygoteDestroyed(zygote: {readonly packages: string; readonly reason: string}): void;
	importFailed(failure: {readonly packages: string; readonly module: string; readonly traceback: string}): void;
	treeChanged(change: Omit<PlanChange, 'gone'>): void;
};

export type ImportCacheOptions = {
	readonly keeper: Keeper;
	readonly interpreter: Interpreter;
	/** Host ids to hand out. */
	readonly ids: IdSource;
	/** Read end of the pipe whose end of file ends every guest. */
	readonly liveness: number;
	readonly events: ImportCacheEvents;
	/** Charged for children that were forked ahead; it counts what zygotes use by itself. */
	readonly budget: MemoryBudget;
	readonly ageing: Ageing;
	readonly cgroups: CgroupPool;
	/** Children that each zygote forks ahead, at the most. */
	readonly spares: number;
	/** The plan; without one, each function's set is a node. */
	readonly tree: TreeNode | undefined;
	/** Whether the tree follows what is called, in the background: sets that it leaves much to import of get nodes, and it is fitted anew. */
	readonly promote: boolean;
	/** What was called lately of the sets that are meant, since this was asked last and, counted half, before. */
	readonly takeRecent: (isMeant: (set: PackageSet) => boolean) => FitInput;
	readonly costOf: CostOf;
};

/** What is alive of a node of the plan. */
type Node = {
	readonly plan: PlanNode;
	making: Promise<ForkPoint> | undefined;
	/** What that became; word of another's end is no word of this one's. */
	live: ForkPoint | undefined;
	/** Modules that are left to the handler: their import failed here, or left a thread behind. */
	readonly excluded: Map<string, 'failed' | 'threaded'>;
	/** How many starts are to fork from it: while there are any it is not evicted. */
	starts: number;
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

/** What a start, or a function's own zygote, is forked from. */
type FoundPoint = Pick<Parent, 'plan' | 'packages' | 'leave'> & {readonly point: ForkPoint};

/** Thrown inside when a node can't be made as it was asked. */
class ImportTrouble extends Error {}

/** How many ids each gets: the root zygote and all below; a node by itself, at least and at most; a cold start. */
type Shares = {readonly root: number; readonly leastNode: number; readonly mostNode: number; readonly cold: number};

/** A root that died keeps its ids for as long as anything forked from it lives, so there is room for two. */
function sharesOf(size: number): Shares {
	const least = Math.max(64, Math.floor(size / 2048));
	return {
		root: Math.floor((size * 3) / 8),
		leastNode: least,
		mostNode: Math.max(least, Math.floor(size / 512)),
		cold: least,
	};
}

/** Owns the zygotes and the package folders they see. */
export class ImportCache {
	readonly #options: ImportCacheOptions;
	readonly #plan: ZygotePlan;
	readonly #ids: IdSource;
	readonly #share: Shares;
	readonly #nodes = new Map<PlanNode, Node>();
	readonly #folders: PackageFolders;
	/** All whose processes may be alive. */
	readonly #zygotes = new Set<Zygote>();
	/** Milliseconds that starts spent on imports, by the set's key; infinite: it was promoted, or that failed. */
	readonly #missedMs = new Map<string, number>();
	/** Changes of the plan that nobody waits for, one after the other. */
	#changing: Promise<void> = Promise.resolve();
	readonly #refits = new RefitSchedule();
	readonly #ending = new AbortController();
	readonly #own: OwnZygotes;
	#root: Promise<ForkPoint> | undefined;
	/** What that became. */
	#rootLive: ForkPoint | undefined;
	#closed = false;

	constructor(options: ImportCacheOptions) {
		this.#options = options;
		this.#plan = new ZygotePlan(options.tree, options.costOf);
		this.#ids = options.ids;
		this.#share = sharesOf(options.ids.size);
		this.#folders = new PackageFolders(options.keeper);
		const {zygoteCreated, zygoteDestroyed, importFailed} = options.events;
		this.#own = new OwnZygotes({
			...options,
			findParent: (set) => this.#findParent(set),
			track: (zygote) => this.#track(zygote),
			makeSecond: (zygote, ids) => this.#makeSecond(zygote, ids),
			onMade: zygoteCreated,
			onGone: (gone) => this.#closed || zygoteDestroyed(gone),
			onFailed: importFailed,
		});
	}

	/** A function with these packages can be asked for; {@link forget} says when it can't any more. */
	use(set: PackageSet): void {
		this.#plan.use(set);
	}

	/** Costs of packages have changed. */
	reweigh(): void {
		this.#plan.reweigh();
	}

	/**
	 * The best place to fork a function with these packages from; makes it if need be.
	 * @param module the function's own, which may be loaded there; see {@link noteLoad}
	 */
	async find(set: PackageSet, module?: OwnModule): Promise<ForkPlace> {
		const own = module && this.#own.place(module);
		if (own !== undefined) return own;
		if (this.#options.promote) this.#notePromotion(set);
		const {point, packages, leave} = await this.#findPoint(set);
		return {...point.place(packages), leave};
	}

	async #findPoint(set: PackageSet): Promise<FoundPoint> {
		for (let plan = this.#plan.find(set); plan !== undefined; plan = plan.parent) {
			const node = this.#node(plan);
			node.starts += 1;
			const found = await this.#pointAt(node, set).catch((error: unknown) => {
				node.starts -= 1;
				throw error;
			});
			if (found !== undefined) return found;
			node.starts -= 1;
		}
		const leave = () => undefined;
		return {plan: undefined, point: await this.#rootPoint(), packages: await this.#folders.get(set), leave};
	}

	/** Undefined: it can't be one, so that its parent has to do. */
	async #pointAt(node: Node, set: PackageSet): Promise<FoundPoint | undefined> {
		const {plan} = node;
		const point = await this.#live(node);
		if (point === undefined) return undefined;
		node.uses += 1;
		node.usedMs = performance.now();
		node.priority = this.#options.ageing.priority(node.uses, node.importMs, node.megabytes);
		const isWhole = plan.set.folders.length === set.folders.length;
		const packages = isWhole ? undefined : await this.#folders.get(set);
		const leave = () => {
			node.starts -= 1;
		};
		return {plan, point, packages, leave};
	}

	async #findParent(set: PackageSet): Promise<Parent> {
		const {point, ...found} = await this.#findPoint(set);
		return {...found, zygote: point.zygote, preloaded: point.origin.preloaded};
	}

	/** A sandbox of a function has spent so long on loading its module. Sooner or later that gets a zygote, if that pays. */
	noteLoad(module: OwnModule, loadMs: number): void {
		this.#own.noteLoad(module, loadMs);
	}

	/** Gives up what it has for a function's module. To be called when its sandboxes have ended. */
	async forgetModule(module: OwnModule): Promise<void> {
		await this.#own.forget(module);
	}

	/** Ends one child that was forked ahead; answers the MiB that it was counted with, 0 when there is none. */
	evictSpare(): number {
		const isEnded = this.#points().some((point) => point.evictSpare()) || this.#own.evictSpare();
		return isEnded ? spareMb : 0;
	}

	#points(): ForkPoint[] {
		return [this.#rootLive, ...[...this.#nodes.values()].map(({live}) => live)].filter((point) => point !== undefined);
	}

	/** Lets second processes go that are not needed any more, and pauses zygotes that were not used for so long. */
	calmDown(nowMs: number, pauseAfterMs: number): void {
		for (const point of this.#points()) point.calmDown(nowMs, pauseAfterMs);
		this.#own.calmDown(nowMs, pauseAfterMs);
	}

	/** Makes every node of the plan, one after the other. */
	async prewarm(): Promise<void> {
		for (const plan of this.#plan.nodes()) if (!this.#closed) await this.#live(this.#node(plan));
	}

	/** A fresh interpreter for one start; its owner lets it go. */
	async cold(set: PackageSet): Promise<Zygote> {
		const ids = this.#ids.take(this.#share.cold);
		try {
			const packages = await this.#folders.get(set);
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
		return (await this.#rootPoint()).zygote;
	}

	async #rootPoint(): Promise<ForkPoint> {
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

	/** The priority of the zygote that would go first; none goes before those below it. Undefined when there is none. */
	get evictable(): number | undefined {
		return this.#victim()?.priority;
	}

	/**
	 * Lets that zygote go; sandboxes forked from it live on.
	 * @returns the MiB that it had of its own; undefined when there is none
	 */
	evictOne(): number | undefined {
		const victim = this.#victim();
		if (victim === undefined) return undefined;
		this.#options.ageing.noteEvicted(victim.priority);
		victim.letGo();
		return victim.megabytes;
	}

	/** Lets zygotes go that were not used since then, and have none below them. */
	evictIdle(sinceMs: number): void {
		for (const {usedMs, letGo} of this.#evictables()) if (usedMs < sinceMs) letGo();
	}

	#victim(): Evictable | undefined {
		return this.#evictables().sort((a, b) => a.priority - b.priority)[0];
	}

	/** What is alive, has nothing live below it, and no start that waits for it. */
	#evictables(): Evictable[] {
		const live = [...this.#nodes.values()].filter((node) => node.live !== undefined);
		const own = this.#own.evictables();
		const parents = new Set<PlanNode | undefined>();
		for (const first of [...live.map(({plan}) => plan.parent), ...own.map(({above}) => above)])
			for (let above = first; above !== undefined; above = above.parent) parents.add(above);
		const nodes = live.filter(({plan, starts}) => starts === 0 && !parents.has(plan));
		return [
			...own.filter(({isNeeded}) => !isNeeded),
			...nodes.map((node): Evictable => {
				const {plan, priority, usedMs, megabytes} = node;
				return {above: plan.parent, isNeeded: false, priority, usedMs, megabytes, letGo: () => this.#letGo(node)};
			}),
		];
	}

	/** Zygotes that are alive now. */
	async list(): Promise<Array<{packages: string; modules: readonly string[]; pid: number | undefined}>> {
		const made = [
			['', this.#root] as const,
			...[...this.#nodes.values()].map(({plan, making}) => [plan.set.key, making] as const),
		];
		const points = await Promise.all(
			made.map(async ([packages, making]) => ({packages, point: await making?.catch(() => undefined)})),
		);
		const shared = points.flatMap(({packages, point}) => {
			if (point === undefined) return [];
			const {modules} = point.zygote.spec;
			return point.zygotes.map((zygote) => ({packages, modules, pid: zygote.pid()}));
		});
		return [...shared, ...this.#own.list()];
	}

	/** Gives up what it has for packages that no function uses any more. */
	async forget(set: PackageSet): Promise<void> {
		this.#missedMs.delete(set.key);
		await this.#drop(this.#plan.forget(set), [set.key]);
	}

	/** Lets nodes go that are no part of the plan any more, with the folders of their sets and of others that nobody has now. */
	async #drop(useless: readonly PlanNode[], otherKeys: readonly string[] = []): Promise<void> {
		for (const plan of useless) {
			const node = this.#nodes.get(plan);
			this.#nodes.delete(plan);
			await node?.making?.catch(() => undefined);
			if (node !== undefined) this.#letGo(node);
		}
		for (const key of new Set([...useless.map((plan) => plan.set.key), ...otherKeys])) {
			if (!this.#plan.isNeeded(key)) await this.#folders.drop(key);
		}
	}

	#notePromotion(set: PackageSet): void {
		const missing = this.#plan.missingMs(set);
		if (this.#refits.noteStart(missing, performance.now())) this.#change(() => this.#replan());
		const missed = (this.#missedMs.get(set.key) ?? 0) + missing;
		const isDue = missed >= Math.max(promotionMs, 2 * missing) && missed < Number.POSITIVE_INFINITY;
		this.#missedMs.set(set.key, isDue ? Number.POSITIVE_INFINITY : missed);
		if (isDue) this.#change(() => this.#promote(set));
	}

	#change(change: () => Promise<void>): void {
		this.#changing = this.#changing.then(change).catch(() => undefined);
	}

	/** The new tree may take half of the memory that nobody has reserved: the rest is for sandboxes. */
	async #replan(): Promise<void> {
		const {budget, takeRecent, events} = this.#options;
		if (this.#closed || budget.isShort) return;
		const {gone, ...change} = await replan(this.#plan, {
			calls: takeRecent((set) => this.#plan.has(set)),
			roomMb: Math.max(0, budget.totalMb - budget.reservedMb) / 2,
			mayMake: () => !this.#closed && !budget.isShort,
			isAlive: (plan) => this.#nodes.get(plan)?.live !== undefined,
			make: (plan) => this.#live(this.#node(plan)),
			signal: this.#ending.signal,
		});
		await this.#drop(gone);
		if (change.added + change.removed === 0) return;
		this.#refits.noteChange();
		this.#missedMs.clear();
		events.treeChanged(change);
	}

	/** Nobody is sent to the new node before it is there. */
	async #promote(set: PackageSet): Promise<void> {
		if (this.#closed || this.#options.budget.isShort) return;
		const node = this.#node(this.#plan.propose(set));
		const point = await this.#live(node);
		if (point !== undefined && this.#plan.adopt(node.plan)) return;
		this.#letGo(node);
		this.#nodes.delete(node.plan);
	}

	#letGo(node: Node): void {
		node.live?.release();
		node.making = undefined;
		node.live = undefined;
	}

	/** Kills every zygote. */
	async close(): Promise<void> {
		this.#closed = true;
		this.#ending.abort();
		await this.#own.close();
		const points = [this.#root, ...[...this.#nodes.values()].map(({making}) => making)];
		await Promise.all(points.map(async (point) => (await point?.catch(() => undefined))?.kill()));
		// What is still alive then ends with the liveness pipe.
		const ended = Promise.all([...this.#zygotes].map((zygote) => zygote.ended()));
		await withDeadline(ended, endDeadlineMs, () => new Error('zygotes are still alive')).catch(() => undefined);
		await this.#folders.close();
	}

	#node(plan: PlanNode): Node {
		let node = this.#nodes.get(plan);
		if (node === undefined) {
			const excluded = new Map();
			const counts = {starts: 0, priority: 0, uses: 0, usedMs: performance.now(), deaths: 0, importMs: 0, megabytes: 0};
			node = {plan, making: undefined, live: undefined, excluded, ...counts};
			this.#nodes.set(plan, node);
		}
		return node;
	}

	/** Its zygote, made if need be; undefined when it can't be one, so that its parent has to do. */
	async #live(node: Node): Promise<ForkPoint | undefined> {
		if (modulesOf(node).length === 0 || (node.deaths >= maxDeaths && !node.plan.isOwn)) return undefined;
		node.making ??= this.#make(node);
		const made = node.making;
		try {
			return await made;
		} catch (error) {
			if (node.making === made) node.making = undefined;
			if (error instanceof ImportTrouble) return undefined;
			node.deaths += 1;
			throw error;
		}
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

	async #makeRoot(): Promise<ForkPoint> {
		const ids = this.#ids.take(this.#share.root);
		const made = await this.#spawn({modules: []}, undefined, ids).catch((error) => {
			this.#ids.release(ids);
			throw error;
		});
		const zygote = this.#track(made);
		const point = this.#pointOf(zygote, []);
		this.#rootLive = point;
		this.#watch(zygote, '', () => {
			this.#root = undefined;
			this.#rootLive = undefined;
			point.release();
		});
		void zygote.drained.then(() => this.#ids.release(ids));
		return point;
	}

	#pointOf(zygote: Zygote, preloaded: readonly string[]): ForkPoint {
		const {spares, budget, cgroups} = this.#options;
		const makeSecond = (first: Zygote) => this.#makeSecond(first, this.#share.leastNode);
		return new ForkPoint(zygote, {most: spares, budget, cgroups, origin: {preloaded, isLoaded: false}, makeSecond});
	}

	/** A child that has imported no more than itself. */
	async #makeSecond(first: Zygote, ids: number): Promise<Zygote | undefined> {
		if (this.#closed || this.#options.budget.isShort) return undefined;
		return this.#track(await first.forkZygote({modules: []}, [], ids));
	}

	/** A module that leaves a thread behind is left out and the node made again; one that raises fails the making. */
	async #make(node: Node): Promise<ForkPoint> {
		const {plan} = node;
		const packages = await this.#folders.get(plan.set);
		for (;;) {
			if (modulesOf(node).length === 0) throw new ImportTrouble();
			const {zygote, modules} = await this.#fork(node, packages);
			const {failed, warmUpsFailed, threaded, importMs} = zygote.report;
			for (const {module} of failed) this.#exclude(plan, module, 'failed');
			for (const each of [...failed, ...warmUpsFailed]) {
				this.#options.events.importFailed({packages: plan.set.key, ...each});
			}
			for (const module of threaded) this.#exclude(plan, module, 'threaded');
			if (failed.length === 0 && threaded.length === 0) {
				node.megabytes = zygote.ownMib();
				const point = this.#pointOf(zygote, plan.set.distributions.map(idOf));
				node.live = point;
				node.deaths = 0;
				node.importMs = importMs;
				this.#watch(zygote, plan.set.key, () => {
					if (node.live === point) this.#letGo(node);
				});
				this.#options.events.zygoteCreated({packages: plan.set.key, modules, importMs});
				return point;
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
		const attached = packages === undefined ? [] : [{folder: packages, target: inside.packages}];
		const ids = this.#idsOf(node.plan);
		for (let plan = node.plan.parent; plan !== undefined; plan = plan.parent) {
			const ancestor = this.#node(plan);
			if (ancestor.live !== undefined) {
				try {
					const {zygote} = ancestor.live;
					return {zygote: this.#track(await forkBelow(zygote, modules, attached, ids, this.#share.leastNode)), modules};
				} catch (error) {
					if (!isAncestorTrouble(error)) throw error;
				}
			}
			modules.unshift(...modulesOf(ancestor));
		}
		const root = await this.root();
		try {
			return {zygote: this.#track(await root.forkZygote({modules}, attached, ids)), modules};
		} catch (error) {
			if (error instanceof RangeError) throw new ImportTrouble(); // its parent has to do until others have ended
			throw error;
		}
	}

	/** For itself and all that the tree has below it: id maps are written once. */
	#idsOf(plan: PlanNode): number {
		const {root, leastNode, mostNode} = this.#share;
		const each = Math.floor(root / 2 / (this.#plan.treeSize + 1));
		return Math.max(leastNode, Math.min(mostNode, each)) * (this.#plan.countBelow(plan) + 1);
	}

	#watch(zygote: Zygote, packages: string, forget: () => void): void {
		void zygote.gone.then((reason) => {
			forget();
			if (!this.#closed) this.#options.events.zygoteDestroyed({packages, reason: reason.message});
		});
	}
}

function idOf({name, version}: {readonly name: string; readonly version: string}): string {
	return `${name}==${version}`;
}

/** What it imports beyond its parent. */
function modulesOf({plan, excluded}: Node): string[] {
	return plan.added.flatMap(({modules}) => modules).filter((module) => !excluded.has(module));
}

/** With the least of ids when it has no more left: one that is made elsewhere would have to import what it has. */
async function forkBelow(
	zygote: Zygote,
	modules: readonly string[],
	mounts: readonly LeafMount[],
	ids: number,
	least: number,
): Promise<Zygote> {
	try {
		return await zygote.forkZygote({modules}, mounts, ids);
	} catch (error) {
		if (!(error instanceof RangeError) || ids <= least) throw error;
		return zygote.forkZygote({modules}, mounts, least);
	}
}

/** It died meanwhile, or has no ids left for such a node: another one can be forked from. */
function isAncestorTrouble(error: unknown): boolean {
	return error instanceof RangeError || (error instanceof ForktreeError && error.code === 'ZygoteFailed');
}
