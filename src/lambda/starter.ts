/** Starts instances of one function: forked from a zygote, or cold. */
import {performance} from 'node:perf_hooks';
import {ForktreeError, SyscallError} from '../errors.ts';
import type {PackageSet} from '../packages/package-store.ts';
import type {Ageing} from '../sandbox/ageing.ts';
import type {CgroupPool} from '../sandbox/cgroup-pool.ts';
import type {Leaf} from '../sandbox/leaf.ts';
import type {Limits} from '../sandbox/limits.ts';
import type {MemoryBudget} from '../sandbox/memory-budget.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
import type {NetworkEvents, TellNetwork} from '../sandbox/network/gateway.ts';
import {proxyVariables} from '../sandbox/network/layout.ts';
import type {SandboxNetwork} from '../sandbox/network/sandbox-network.ts';
import type {ResolvedNetwork} from '../sandbox/network/settings.ts';
import {inside} from '../sandbox/rootfs.ts';
import type {ForkPlace} from '../zygote/fork-point.ts';
import type {ImportCache} from '../zygote/import-cache.ts';
import type {NodeSpare} from '../zygote/node-spares.ts';
import type {OwnModule} from '../zygote/own-zygotes.ts';
import {encodeLoad, frameType} from '../zygote/protocol.ts';
import {pythonLeaf} from '../zygote/python-leaf.ts';
import {type CallResult, plainError} from './answer.ts';
import {CallEnded, type CallLimit} from './call-limit.ts';
import {type EncodedEvent, sendEvent} from './event.ts';
import {type Call, Instance, isLive, type Loading} from './instance.ts';
import type {SpareKind, StartKind, Timings} from './outcome.ts';
import type {Triggers} from './triggers.ts';

/** Room for a frame beyond its payload's limit: error reports, births. */
const frameSlack = 512 * 1024;

/** How often a start is tried while zygotes die under it. */
const maxForks = 3;

/** What a function is, resolved: no optional fields. */
export type FunctionSettings = {
	readonly name: string;
	readonly version: string;
	readonly entryFile: string;
	readonly environment: Readonly<Record<string, string>>;
	/** Folders of its code, relative to it, that imports look in after the code's own; in that order. */
	readonly path: readonly string[];
	readonly limits: Limits;
	/** Whether an instance serves more than one call. */
	readonly reuse: boolean;
	/** Calls that run at once; more wait. */
	readonly concurrency: number;
	/** So many; one more is refused. */
	readonly maxQueue: number;
	/** False: each start is a fresh interpreter, which shares nothing with siblings. */
	readonly zygote: boolean;
	readonly packages: PackageSet;
	/** The most instances that are started ahead. */
	readonly spares: number;
	/** Whether its module may be loaded in a zygote of its own. */
	readonly ownZygote: boolean;
	/** What its own zygote does ahead, as `module:function`. */
	readonly warmup: string | undefined;
	readonly network: 'none' | ResolvedNetwork;
	readonly triggers: Triggers;
	/** Whether nothing that it writes can be executed. */
	readonly noNewExecutables: boolean;
};

/** What functions are made of and share. */
export type FunctionHost = {
	readonly budget: MemoryBudget;
	readonly ageing: Ageing;
	readonly cgroups: CgroupPool;
	readonly imports: ImportCache;
	/** After which idle instances are paused; infinite: never. */
	readonly instancePauseMs: number;
	/** Frees what is idle of anyone, as much as all that wait for memory lack. */
	makeRoom(): void;
	/** A call needs a fresh sandbox with these packages. */
	readonly onStart: (packages: PackageSet) => void;
	readonly onCreated: (event: {function: string; sandbox: string; start: StartKind}) => void;
	readonly onDestroyed: (event: {function: string; sandbox: string}) => void;
	readonly onNetwork: (name: keyof NetworkEvents, event: {function: string; sandbox: string}) => void;
};

/** Milliseconds of a start. */
export type Phases = Pick<Timings, 'zygoteMs' | 'prepareMs' | 'forkMs' | 'isolateMs' | 'loadMs'>;

/** A new instance, and how loading its handler went. */
export type Started = {
	readonly instance: Instance;
	readonly start: StartKind;
	/** Undefined when it was started ahead. */
	readonly phases: Phases | undefined;
	readonly loading: Loading;
	/** What becomes of the event that it was started with. */
	readonly answer: Promise<CallResult>;
	readonly spare: SpareKind | undefined;
	/** To be told what the first call took, in milliseconds. */
	readonly noteFirstCall: (durationMs: number) => void;
};

/** What an instance is started for. */
type Start = {
	readonly call: Call;
	readonly limit: CallLimit;
	/** Handed over with what loads the handler, so that no message goes back and forth between the two. */
	readonly event: EncodedEvent | undefined;
	/** Gives back the memory that was reserved for it: when it has ended, or could not be started. */
	readonly release: () => void;
	/** Whether a child of the zygote may be used that was forked ahead. */
	readonly takesSpare: boolean;
};

/** Knows all instances that it started and that have not ended. */
export class Starter {
	readonly instances = new Set<Instance>();
	readonly #settings: FunctionSettings;
	readonly #code: LockedFolder;
	readonly #network: SandboxNetwork | undefined;
	readonly #environment: Readonly<Record<string, string>>;
	readonly #host: FunctionHost;
	/** Undefined: it is loaded in each sandbox. */
	readonly #module: OwnModule | undefined;

	constructor(settings: FunctionSettings, code: LockedFolder, network: SandboxNetwork | undefined, host: FunctionHost) {
		this.#settings = settings;
		this.#code = code;
		this.#network = network;
		this.#host = host;
		const {entryFile, path, limits, packages, spares, warmup, noNewExecutables} = settings;
		const environment = {
			...(network === undefined ? {} : proxyVariables),
			...pathVariables(path),
			...settings.environment,
		};
		this.#environment = environment;
		const {timeoutMs} = limits;
		const own = {entryFile, environment, path, code, packages, warmup, noNewExecutables, timeoutMs};
		this.#module = settings.ownZygote ? {...own, hasSpares: spares > 0, limits: {...limits, swapMb: 0}} : undefined;
	}

	/** Gives up what there is besides instances. To be called when these have ended. */
	async close(): Promise<void> {
		if (this.#module !== undefined) await this.#host.imports.forgetModule(this.#module);
	}

	/**
	 * A new instance, its module loaded or not. A zygote that dies meanwhile is made again. The event is not handled twice by that: a
	 * birth is told before any of the function's code runs, and what was not born is killed with its group before another one is
	 * tried. Where there are no groups, a fork that is late beyond its deadline and comes after all is not found, and handles it as well.
	 * @throws {ForktreeError} what forktree itself failed at; {CallEnded} when the limit ended it
	 */
	async start(start: Start): Promise<Started> {
		try {
			if (!this.#settings.zygote) return await this.#startCold(start);
			for (let attempt = 1; ; attempt += 1) {
				try {
					// What its own zygote can't fork its node can.
					const module = attempt === 1 ? this.#module : undefined;
					return await this.#startForked(module, start);
				} catch (error) {
					if (!(error instanceof ForktreeError) || error.code !== 'ZygoteFailed' || attempt === maxForks) throw error;
				}
			}
		} catch (error) {
			start.release();
			if (error instanceof SyscallError) throw new CallEnded(plainError('StartFailed', error.message));
			throw error;
		}
	}

	async #startForked(module: OwnModule | undefined, start: Start): Promise<Started> {
		const {limit, takesSpare} = start;
		const asked = performance.now();
		const finding = this.#host.imports.find(this.#settings.packages, module);
		const place = await limit.race(finding).catch((error: unknown) => {
			void finding.then((late) => late.leave()).catch(() => undefined);
			throw error;
		});
		try {
			const taken = takesSpare ? place.takeSpare() : undefined;
			return await this.#fork(place, taken, 'forked', performance.now() - asked, start);
		} finally {
			place.leave();
		}
	}

	async #startCold(start: Start): Promise<Started> {
		const {limit} = start;
		const asked = performance.now();
		const making = this.#host.imports.cold(this.#settings.packages);
		const zygote = await limit.race(making).catch((error: unknown) => {
			void making.then((late) => late.release()).catch(() => undefined);
			throw error;
		});
		// Kept until its only leaf has ended: before Linux 6.15 nobody else knows how that ended.
		const release = () => {
			zygote.release();
			start.release();
		};
		try {
			const origin = {preloaded: [], isLoaded: false};
			const place = {zygote, packages: undefined, origin, refill: () => undefined};
			return await this.#fork(place, undefined, 'cold', performance.now() - asked, {...start, release});
		} catch (error) {
			zygote.release();
			throw error;
		}
	}

	async #fork(
		{zygote, packages, origin, refill}: Omit<ForkPlace, 'takeSpare' | 'leave'>,
		taken: NodeSpare | undefined,
		kind: StartKind,
		zygoteMs: number,
		{call, limit, event, release}: Start,
	): Promise<Started> {
		const {name, limits, entryFile, path, noNewExecutables} = this.#settings;
		const load = encodeLoad(entryFile, this.#environment, path);
		const groupLimits = {...limits, swapMb: 0};
		const spec = {
			...pythonLeaf(origin.isLoaded ? undefined : this.#code, packages, this.#network),
			scratchMb: limits.scratchMb,
			openFiles: limits.openFiles,
			noNewExecutables,
			maxFrame: limits.resultMb * 1024 * 1024 + frameSlack,
			greet: (made: Leaf) => {
				made.send(frameType.load, load);
				if (event !== undefined) sendEvent(made, event, isLive(call.listener));
			},
		};
		const takeCgroup = () => this.#host.cgroups.take(groupLimits);
		const asking = taken?.spare.handOver({...spec, limits: groupLimits}) ?? zygote.forkLeaf({...spec, takeCgroup});
		const {leaf, born} = await asking;
		// All that the start needs is made while the zygote forks: then nothing is left to do but to wait.
		let isBorn = false;
		const tell: TellNetwork = (event, ...[details]) => {
			this.#host.onNetwork(event, {function: name, sandbox: leaf.id, ...details});
		};
		const instance = new Instance(leaf, limits, origin, tell, () => {
			this.instances.delete(instance);
			if (!isBorn) return; // whoever started it is told, and gives back what was reserved
			release();
			this.#host.onDestroyed({function: name, sandbox: leaf.id});
		});
		this.instances.add(instance);
		const birth = born().then((timings) => {
			isBorn = true;
			this.#host.onCreated({function: name, sandbox: leaf.id, start: kind});
			return timings;
		});
		const {loading: toLoad, answer} = instance.load(call, event !== undefined);
		limit.guard(instance);
		const [{prepareMs, forkMs, isolateMs, bornAtMs}, loading] = await Promise.all([birth, toLoad]);
		setImmediate(() => {
			refill();
			if (taken === undefined) this.#host.cgroups.refill(groupLimits);
			this.#code.refill();
			packages?.refill();
			this.#network?.hosts.refill();
		});
		const loadMs = loading.atMs - bornAtMs;
		if (kind === 'forked' && !origin.isLoaded && loading.result.ok && this.#module !== undefined) {
			this.#host.imports.noteLoad(this.#module, loadMs);
		}
		const phases = {zygoteMs, prepareMs, forkMs, isolateMs, loadMs};
		const spare = taken === undefined ? undefined : 'node';
		const noteFirstCall = (durationMs: number) => taken?.noteFirstCall(isolateMs + loadMs + durationMs);
		return {instance, start: kind, phases, loading, answer, spare, noteFirstCall};
	}
}

/** Interpreters that a handler starts look in the same folders. */
function pathVariables(path: readonly string[]): Readonly<Record<string, string>> {
	return path.length === 0 ? {} : {PYTHONPATH: path.map((folder) => `${inside.handler}/${folder}`).join(':')};
}
