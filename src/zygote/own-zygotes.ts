/** Zygotes of single functions: besides packages, each has run its function's module, so that sandboxes begin where that ended. */
import type {Cgroup, CgroupLimits} from '../kernel/cgroup.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import {inside} from '../sandbox/rootfs.ts';
import {type ForkPlace, ForkPoint} from './fork-point.ts';
import type {PlanNode} from './plan.ts';
import {encodePreparation} from './protocol.ts';
import type {Zygote} from './zygote.ts';

/** What loading a module may take without being worth a zygote. */
const trivialMs = 1;
/** A module gets a zygote when its sandboxes have spent so much on loading it, for each MiB that the zygote takes. */
const spentMsPerMib = 50;
/** What such a zygote is expected to take, until one was measured; in MiB. */
const expectedMib = 3;
/** Then it is not made again. */
const maxDeaths = 2;
/** The most sandboxes that come from it at once, those that are ending included; when there are more, its parent forks them. */
const maxSandboxes = 128;
/** What the kernel charges to whoever forks one: page tables, mappings, stacks; 0.7 was measured with pandas. */
const mibPerSandbox = 2;

/** A function's module. */
export type OwnModule = {
	readonly entryFile: string;
	readonly environment: Readonly<Record<string, string>>;
	/** Folders of the code that imports look in as well, relative to it. */
	readonly path: readonly string[];
	readonly code: LockedFolder;
	readonly limits: CgroupLimits;
	/** What is done ahead when it is loaded, as `module:function`. With such a thing it gets a zygote as soon as it was called. */
	readonly warmup: string | undefined;
	/** Whether it executes nothing that it writes, there as in its sandboxes. */
	readonly noNewExecutables: boolean;
	/** How long it may take to load. */
	readonly timeoutMs: number;
	readonly packages: PackageSet;
	/** Whether the function has spares: they have all that its zygote's would have. */
	readonly hasSpares: boolean;
};

/** Something alive that can be let go. */
export type Evictable = {
	/** The nodes that are not to go before it. */
	readonly above: PlanNode | undefined;
	/** Whether a start is to fork from it: then it is not to go. */
	readonly isNeeded: boolean;
	readonly priority: number;
	/** When it was used last, as `performance.now()` counts. */
	readonly usedMs: number;
	readonly megabytes: number;
	readonly letGo: () => void;
};

/** Where a function is forked from while its module has no zygote. */
export type Parent = {
	/** Undefined: the root. */
	readonly plan: PlanNode | undefined;
	readonly zygote: Zygote;
	readonly preloaded: readonly string[];
	/** What has still to be attached. */
	readonly packages: LockedFolder | undefined;
	/** Until this is called it is not let go. */
	readonly leave: () => void;
};

export type OwnZygotesOptions = {
	/** Charged for what they take: their groups are not among those that it counts by itself. */
	readonly budget: MemoryBudget;
	readonly ageing: Ageing;
	readonly cgroups: CgroupPool;
	/** Children that each zygote forks ahead, at the most. */
	readonly spares: number;
	readonly findParent: (set: PackageSet) => Promise<Parent>;
	/** Has it waited for when everything ends. */
	readonly track: (zygote: Zygote) => Zygote;
	readonly makeSecond: (zygote: Zygote, ids: number) => Promise<Zygote | undefined>;
	readonly onMade: (zygote: {
		readonly packages: string;
		readonly modules: readonly string[];
		readonly importMs: number;
	}) => void;
	readonly onGone: (zygote: {readonly packages: string; readonly reason: string}) => void;
	readonly onFailed: (failure: {
		readonly packages: string;
		readonly module: string;
		readonly traceback: string;
	}) => void;
};

type Own = {
	/** Milliseconds that its sandboxes spent on loading it, beyond what is trivial. */
	spentMs: number;
	/** How often they did. */
	loads: number;
	/** Of that one load takes so long, as far as it was measured without what else the machine did meanwhile. */
	eachMs: number | undefined;
	/** What its zygote takes, or would. Infinite: it can't have one. */
	mib: number;
	making: Promise<void> | undefined;
	live:
		| (Pick<Parent, 'plan'> & {
				readonly point: ForkPoint;
				readonly importMs: number;
				readonly mib: number;
		  })
		| undefined;
	/** Ends the making, and what it has come to. */
	readonly gone: AbortController;
	/** How often its zygote has died, or could not be made. */
	deaths: number;
	/** When everything that it had has ended. */
	ended: Promise<void>;
	/** How many starts are to fork from its zygote: while there are any it is not evicted. */
	starts: number;
	priority: number;
	uses: number;
	usedMs: number;
};

/** Owns them. */
export class OwnZygotes {
	readonly #options: OwnZygotesOptions;
	readonly #owns = new Map<OwnModule, Own>();
	#closed = false;

	constructor(options: OwnZygotesOptions) {
		this.#options = options;
	}

	/** For one start of that function; undefined while it has no zygote. */
	place(module: OwnModule): ForkPlace | undefined {
		const own = this.#owns.get(module);
		if (own?.live === undefined || own.live.point.isFull) return undefined;
		const {point, importMs, mib} = own.live;
		own.uses += 1;
		own.usedMs = performance.now();
		own.priority = this.#options.ageing.priority(own.uses, importMs, mib);
		own.starts += 1;
		const leave = () => {
			own.starts -= 1;
		};
		return {...point.place(undefined), leave};
	}

	/** A sandbox has loaded it in so long; when that adds up, it gets a zygote in the background. */
	noteLoad(module: OwnModule, loadMs: number): void {
		if (this.#closed) return;
		const own = this.#own(module);
		own.loads += 1;
		own.spentMs += own.eachMs ?? beyondTrivial(loadMs);
		if (!isWorth(module, own) || own.live !== undefined || own.making !== undefined || this.#options.budget.isShort)
			return;
		own.making = this.#make(module, own)
			.catch(() => {
				own.deaths += 1;
				own.spentMs = 0;
				own.loads = 0;
			})
			.finally(() => {
				own.making = undefined;
			});
	}

	#own(module: OwnModule): Own {
		let own = this.#owns.get(module);
		if (own === undefined) {
			const spent = {spentMs: 0, loads: 0, eachMs: undefined, mib: expectedMib};
			const counts = {deaths: 0, starts: 0, priority: 0, uses: 0, usedMs: 0};
			const gone = new AbortController();
			own = {...spent, ...counts, gone, making: undefined, live: undefined, ended: Promise.resolve()};
			this.#owns.set(module, own);
		}
		return own;
	}

	/** Ends one child that was forked ahead; false when there is none. */
	evictSpare(): boolean {
		return [...this.#owns.values()].some(({live}) => live?.point.evictSpare() === true);
	}

	/** What could be let go. */
	evictables(): Evictable[] {
		return [...this.#owns.values()].flatMap((own) => {
			const {live, starts, priority, usedMs} = own;
			if (live === undefined) return [];
			const isNeeded = starts > 0;
			return [{above: live.plan, isNeeded, priority, usedMs, megabytes: live.mib, letGo: () => this.#letGo(own)}];
		});
	}

	/** See {@link ForkPoint.calmDown}. */
	calmDown(nowMs: number, pauseAfterMs: number): void {
		for (const {live} of this.#owns.values()) live?.point.calmDown(nowMs, pauseAfterMs);
	}

	list(): Array<{packages: string; modules: readonly string[]; pid: number | undefined}> {
		return [...this.#owns].flatMap(([{packages, entryFile}, {live}]) => {
			const zygotes = live?.point.zygotes ?? [];
			return zygotes.map((each) => ({packages: packages.key, modules: [entryFile], pid: each.pid()}));
		});
	}

	/** The function is gone, with all its sandboxes. */
	async forget(module: OwnModule): Promise<void> {
		const own = this.#owns.get(module);
		if (own === undefined) return;
		this.#owns.delete(module);
		own.gone.abort();
		await own.making;
		this.#letGo(own);
		await own.ended;
	}

	async close(): Promise<void> {
		this.#closed = true;
		await Promise.all([...this.#owns.keys()].map((module) => this.forget(module)));
	}

	/** Later it can be worth another one. */
	#letGo(own: Own): void {
		const {live} = own;
		own.live = undefined;
		own.spentMs = 0;
		own.loads = 0;
		void live?.point.kill();
	}

	async #make(module: OwnModule, own: Own): Promise<void> {
		await own.ended;
		const parent = await this.#options.findParent(module.packages);
		try {
			const zygote = await this.#fork(module, own, parent);
			this.#judge(module, own, zygote);
			if (isWorth(module, own) && !own.gone.signal.aborted) this.#keep(module, own, parent, zygote);
			else zygote.kill();
		} finally {
			parent.leave();
		}
	}

	#keep(module: OwnModule, own: Own, {plan, preloaded}: Parent, zygote: Zygote): void {
		const {makeSecond, ageing, budget, cgroups, spares, onMade, onGone} = this.#options;
		const charge = (charged: Zygote) => {
			const release = budget.charge(charged.ownMib());
			void charged.gone.then(release);
		};
		const point = new ForkPoint(zygote, {
			most: module.hasSpares ? 0 : spares,
			budget,
			cgroups,
			origin: {preloaded, isLoaded: true},
			makeSecond: async (first) => {
				const second = await makeSecond(first, maxSandboxes);
				if (second !== undefined) charge(second);
				return second;
			},
		});
		charge(zygote);
		const {importMs} = zygote.report;
		own.live = {plan, point, importMs, mib: own.mib};
		own.uses = 0;
		own.priority = ageing.priority(1, importMs, own.mib); // else it would be the first to go
		own.usedMs = performance.now();
		const packages = module.packages.key;
		void zygote.gone.then((reason) => {
			if (own.live?.point === point) {
				own.deaths += 1;
				this.#letGo(own);
			}
			onGone({packages, reason: reason.message});
		});
		onMade({packages, modules: [module.entryFile], importMs});
	}

	/** What the function may not do in a sandbox it may not do here: hence a group of its own. */
	async #fork(module: OwnModule, own: Own, parent: Parent): Promise<Zygote> {
		const {limits, code, entryFile, environment, path, warmup, noNewExecutables, timeoutMs} = module;
		const group = await this.#options.cgroups.take(limits);
		try {
			const attached = parent.packages === undefined ? [] : [{folder: parent.packages, target: inside.packages}];
			const mounts = [{folder: code, target: inside.handler}, ...attached];
			const signal = AbortSignal.any([own.gone.signal, AbortSignal.timeout(timeoutMs)]);
			const stated = warmup === undefined ? {} : {warmup};
			const preparation = encodePreparation(environment, path);
			const spec = {modules: [], own: {entry: entryFile, preparation, noNewExecutables, ...stated}};
			const zygote = this.#options.track(
				await parent.zygote.forkZygote(spec, mounts, 2 * maxSandboxes + 1, {group, signal}),
			);
			// It has loaded within them; what its sandboxes are charged to it comes on top.
			group.setLimits({...limits, memoryMb: limits.memoryMb + mibPerSandbox * maxSandboxes});
			// What could not be removed is told when the groups' parent is to be.
			own.ended = zygote.drained.then(() => endGroup(group)).catch(() => undefined);
			return zygote;
		} catch (error) {
			await endGroup(group);
			throw error;
		} finally {
			group.closeJoins();
		}
	}

	/** Counts anew with what was measured now. */
	#judge({packages, entryFile}: OwnModule, own: Own, zygote: Zygote): void {
		const {failed, warmUpsFailed, threaded, refused, loadMs} = zygote.report;
		const reasons = [
			...failed.map(({traceback}) => traceback),
			...threaded.map(() => 'it leaves a thread behind'),
			...(refused === null ? [] : [refused]),
		];
		for (const traceback of reasons) {
			this.#options.onFailed({packages: packages.key, module: entryFile, traceback});
		}
		for (const each of warmUpsFailed) this.#options.onFailed({packages: packages.key, ...each});
		own.mib = reasons.length > 0 ? Number.POSITIVE_INFINITY : zygote.ownMib();
		own.eachMs = beyondTrivial(loadMs);
		own.spentMs = own.loads * own.eachMs;
	}
}

function beyondTrivial(loadMs: number): number {
	return Math.max(0, loadMs - trivialMs);
}

function isWorth({warmup}: OwnModule, {spentMs, mib, deaths}: Own): boolean {
	if (deaths >= maxDeaths || mib === Number.POSITIVE_INFINITY) return false;
	return warmup !== undefined || spentMs > spentMsPerMib * mib;
}

/** Whatever its module may have left running ends with it. */
async function endGroup(group: Cgroup): Promise<void> {
	group.killAll();
	await group.remove();
}
