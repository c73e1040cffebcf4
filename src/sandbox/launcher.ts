/** A process in a root of its own that forks leaves: a zygote, or the launcher of programs. */
import {fchownSync} from 'node:fs';
import {constants} from 'node:os';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import type {Cgroup} from '../kernel/cgroup.ts';
import type {Process} from '../kernel/process.ts';
import {closeFd, pipe, socketPair} from '../native.ts';
import {Undo} from '../undo.ts';
import type {Keeper, RootPlan} from './keeper.ts';
import {encodeLeafRequest, encodeRefillRequest} from './launch-protocol.ts';
import {LauncherLink} from './launcher-link.ts';
import type {Leaf} from './leaf.ts';
import type {LockedFolder} from './mounts.ts';
import {OutputPipe, OutputSink} from './output.ts';
import {scratchOptions} from './scratch.ts';
import {IdAllocator, type IdRange} from './uid-range.ts';

/** Inside, ids below this are the launcher's own and the system's; sandboxes get the ones from here on. */
const firstLeafId = 1000;
/** How many places wait ready: one start takes one, and it is made again afterwards. */
const readyPlaces = 2;
const maxErrorBytes = 16 * 1024;

/** A folder and where a leaf sees it; of what is not there no mount is made. */
export type LeafMount = {readonly folder: LockedFolder; readonly target: string};

/** What a leaf gets. */
export type LeafSpec = {
	readonly mounts: readonly LeafMount[];
	readonly takeCgroup: () => Cgroup | Promise<Cgroup>;
	/** Its uid and gid, as the launcher counts; undefined: one of its own. */
	readonly uid: number | undefined;
	/** Size of its /tmp, in MiB; undefined: it has none that is writable. */
	readonly scratchMb: number | undefined;
	readonly hostname: string;
	/** Working folder. */
	readonly folder: string;
	readonly openFiles: number;
	/** Whether it gets a network namespace of its own, with loopback; else it has its launcher's. */
	readonly ownNetwork: boolean;
	/** Whether the strict seccomp filter is installed. */
	readonly filter: boolean;
	/** Whether it gets the folder /tmp/work; needs a /tmp. */
	readonly workFolder: boolean;
	/** The largest frame accepted from it, in bytes. */
	readonly maxFrame: number;
	/** Called with the leaf before it is forked: what it is sent now, it finds when it looks. */
	readonly greet: (leaf: Leaf) => void;
};

/** Milliseconds of a leaf's start. */
export type ForkTimings = {
	/** Cgroup, sockets and mounts on the host. */
	readonly prepareMs: number;
	/** From asking the launcher to the child's first moment. */
	readonly forkMs: number;
	/** Its set-up, until the filter is installed. */
	readonly isolateMs: number;
	/** When it was set up, as `performance.now()` counts. */
	readonly bornAtMs: number;
};

/** A leaf that was asked for. */
export type LeafBirth = {
	/** From now on its owner destroys it. */
	readonly leaf: Leaf;
	/**
	 * Waits for its birth; of a leaf that was not born everything is given back.
	 * @throws {ForktreeError} `ZygoteFailed`; {SyscallError} when a step of its set-up failed
	 */
	born(): Promise<ForkTimings>;
};

/** What a leaf needs whatever it runs: an id, and both ends of its channel, and of stdout and stderr if it has those. */
type Place = {
	readonly uid: number;
	/** Gives the id back. */
	readonly release: () => void;
	readonly channel: number;
	readonly outputs: readonly number[];
	/** Its ends, in the order of the request. */
	readonly theirs: readonly number[];
};

/** What to add to `performance.now()` for CLOCK_MONOTONIC, in milliseconds. */
const monotonicOffsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

let lastLeaf = 0;

/** A launcher that has said that it is ready. */
export type StartedLauncher = {
	readonly link: LauncherLink;
	/** What it said. */
	readonly words: string;
	/** The host's ids for it and all below. */
	readonly ids: IdRange;
	/** Whether its leaves have stdout and stderr from the start. */
	readonly streams: boolean;
};

/** How a launcher is started in a root of its own. */
export type RootStart = {
	readonly keeper: Keeper;
	readonly plan: RootPlan;
	readonly ids: IdRange;
	/** Read end of the pipe whose end of file ends every guest. */
	readonly liveness: number;
	readonly streams: boolean;
};

/** Owns a launcher's process and control socket. */
export class Launcher {
	/** Settles when it can fork no more, with the reason. */
	readonly gone: Promise<Error>;
	/** Settles when, besides, nothing forked from it is left: its ids can be used again. */
	readonly drained: Promise<void>;
	protected readonly link: LauncherLink;
	/** The host's id of its id 0. */
	protected readonly firstHostId: number;
	readonly #ids: IdAllocator;
	readonly #streams: boolean;
	readonly #places: Place[] = [];
	#descendants = 0;
	#settleDrained!: () => void;

	constructor({link, ids, streams}: StartedLauncher) {
		this.gone = link.gone;
		this.link = link;
		this.#ids = new IdAllocator({start: firstLeafId, count: ids.count - firstLeafId});
		this.#streams = streams;
		this.firstHostId = ids.start;
		this.drained = new Promise((resolve) => {
			this.#settleDrained = resolve;
		});
		void this.gone.then(() => {
			this.#closePlaces();
			this.#checkDrained();
		});
		this.refill();
	}

	/**
	 * Starts the plan's program in a root of its own.
	 * @param make turns what was started into a launcher
	 */
	static async spawn<T extends Launcher>(root: RootStart, make: (started: StartedLauncher) => T): Promise<T> {
		const {keeper, plan, ids, liveness, streams} = root;
		const [errors, errorsEnd] = pipe();
		const stderr = new OutputPipe(errors);
		const sink = new OutputSink(maxErrorBytes);
		stderr.direct(sink);
		try {
			const launcher = await Launcher.start(ids, streams, make, async (control) => {
				const {init} = await keeper.spawnRoot(plan, ids, {control, liveness, errors: errorsEnd});
				return init;
			});
			// Its descendants write there as well.
			void launcher.drained.then(() => stderr.close());
			return launcher;
		} catch (error) {
			stderr.drain();
			const words = sink.text.trim();
			stderr.close();
			if (!(error instanceof ForktreeError) || error.code !== 'ZygoteFailed' || words === '') throw error;
			throw new ForktreeError('ZygoteFailed', `${error.message}; its last words: ${words}`, {cause: error});
		} finally {
			closeFd(errorsEnd);
		}
	}

	/** @param begin hands the control socket over to whoever makes the process; answers its init, if it is ours to collect */
	protected static async start<T extends Launcher>(
		ids: IdRange,
		streams: boolean,
		make: (started: StartedLauncher) => T,
		begin: (control: number) => Promise<Process | undefined>,
	): Promise<T> {
		const [ours, theirs] = socketPair(true);
		const link = new LauncherLink(ours);
		try {
			try {
				const init = await begin(theirs);
				if (init !== undefined) link.own(init);
			} finally {
				closeFd(theirs);
			}
			await link.born();
			return make({link, words: await link.ready(), ids, streams});
		} catch (error) {
			link.kill();
			throw error;
		}
	}

	/** Takes ids, as it counts them, for something forked from it. */
	protected takeIds(count: number): {slice: IdRange; release: () => void} {
		const slice = this.#ids.take(count);
		this.#descendants += 1;
		const release = () => {
			this.#ids.release(slice);
			this.#descendants -= 1;
			this.#checkDrained();
		};
		return {slice, release};
	}

	#checkDrained(): void {
		if (this.link.isGone && this.#descendants === 0) this.#settleDrained();
	}

	/**
	 * Asks for a leaf, which can be greeted at once and is there once it is born.
	 * @throws {ForktreeError} `ZygoteFailed` when it can't be asked for
	 */
	async forkLeaf(spec: LeafSpec): Promise<LeafBirth> {
		const startedMs = performance.now();
		const undo = new Undo();
		try {
			const {uid, release, channel, outputs, theirs} = this.#takePlace(spec.uid);
			undo.push(release, () => [channel, ...outputs, ...theirs].forEach(closeFd));
			const mounts = await takeMounts(spec, undo);
			const taken = spec.takeCgroup();
			const cgroup = taken instanceof Promise ? await taken : taken; // a turn costs more than all of this
			undo.push(() => cgroup.remove());
			lastLeaf += 1;
			const id = lastLeaf;
			const {openFiles, hostname, folder, ownNetwork, filter, workFolder, scratchMb} = spec;
			const request = encodeLeafRequest({
				id,
				uid,
				openFiles,
				hostname,
				folder,
				ownNetwork,
				filter,
				workFolder,
				scratch: scratchMb === undefined ? undefined : scratchOptions(scratchMb, '1777'),
				targets: spec.mounts.map(({target}) => target),
				streams: this.#streams,
			});
			const askedMs = performance.now();
			this.link.send(request, [...theirs, ...mounts, ...cgroup.joins]);
			// What the host needs besides is made while the launcher forks.
			undo.release();
			const [stdout, stderr] = outputs.map((output) => new OutputPipe(output));
			const streams = stdout === undefined || stderr === undefined ? undefined : {stdout, stderr};
			const parts = {id: String(id), cgroup, streams, owner: this.firstHostId + uid, releaseId: release};
			const expected = this.link.expectLeaf(id, parts, channel, spec.maxFrame);
			spec.greet(expected.leaf);
			cgroup.closeJoins();
			for (const fd of [...theirs, ...mounts]) closeFd(fd);
			return {
				leaf: expected.leaf,
				born: async () => {
					await waitForBirth(expected.leaf);
					const firstMs = (expected.birth?.beganMs ?? 0) - monotonicOffsetMs;
					const bornAtMs = (expected.birth?.endedMs ?? 0) - monotonicOffsetMs;
					return {
						prepareMs: askedMs - startedMs,
						forkMs: firstMs - askedMs,
						isolateMs: bornAtMs - firstMs,
						bornAtMs,
					};
				},
			};
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	/** Makes what the next leaves need. To be called when a start is over: it takes a core for half a millisecond. */
	refill(): void {
		try {
			this.link.send(encodeRefillRequest(), []);
			while (this.#places.length < readyPlaces) this.#places.push(this.#makePlace());
		} catch (error) {
			if (!(error instanceof ForktreeError)) throw error; // it is gone: its end is told elsewhere
		}
	}

	#takePlace(uid: number | undefined): Place {
		return uid === undefined ? (this.#places.pop() ?? this.#makePlace()) : this.#makePlace(uid);
	}

	#makePlace(given?: number): Place {
		const {slice, release} = this.takeIds(1);
		const uid = given ?? slice.start;
		try {
			return {uid, release, ...openChannels(this.firstHostId + uid, this.#streams)};
		} catch (error) {
			release();
			throw error;
		}
	}

	#closePlaces(): void {
		for (const {release, channel, outputs, theirs} of this.#places.splice(0)) {
			for (const fd of [channel, ...outputs, ...theirs]) closeFd(fd);
			release();
		}
	}

	/** Its own process's pid on the host; undefined once it has ended. */
	pid(): number | undefined {
		return this.link.pid();
	}

	/** Settles when its processes have ended and nothing of them is held; first it must be let go or killed. */
	async ended(): Promise<void> {
		return this.link.ended();
	}

	/** Lets it end. The sandboxes forked from it live on. */
	release(): void {
		this.link.release();
	}

	/** Kills its process at once. The sandboxes forked from it live on. */
	kill(): void {
		this.link.kill();
	}
}

async function waitForBirth(leaf: Leaf): Promise<void> {
	try {
		await leaf.birth;
	} catch (error) {
		const {oomKills} = await leaf.destroy();
		if (oomKills === 0) throw error;
		const hint = 'its memory limit is too small (limits.memoryMb)';
		throw new SyscallError('set up the sandbox', -constants.errno.ENOMEM, 'ENOMEM', undefined, hint);
	}
}

/** Clones of the folders that the leaf attaches, in order. */
async function takeMounts(spec: LeafSpec, undo: Undo): Promise<number[]> {
	const mounts: number[] = [];
	undo.push(() => mounts.forEach(closeFd));
	for (const {folder} of spec.mounts) mounts.push(await folder.take());
	return mounts;
}

/** Pipes and sockets for a leaf whose id on the host is `owner`. */
function openChannels(owner: number, streams: boolean): Pick<Place, 'channel' | 'outputs' | 'theirs'> {
	const open: number[] = [];
	try {
		const [channel, channelEnd] = socketPair(false);
		open.push(channel, channelEnd);
		const [outputs, theirs]: [number[], number[]] = [[], [channelEnd]];
		for (let i = 0; streams && i < 2; i += 1) {
			const [readEnd, writeEnd] = pipe();
			open.push(readEnd, writeEnd);
			outputs.push(readEnd);
			theirs.push(writeEnd);
			fchownSync(writeEnd, owner, owner); // so that /dev/stdout and /dev/stderr can be opened by name
		}
		return {channel, outputs, theirs};
	} catch (error) {
		for (const fd of open) closeFd(fd);
		throw error;
	}
}
