/** A process in a root of its own that forks leaves: a zygote, or the launcher of programs. */
import {ForktreeError} from '../errors.ts';
import type {Cgroup} from '../kernel/cgroup.ts';
import {withDeadline} from '../kernel/deadline.ts';
import type {Process} from '../kernel/process.ts';
import {closeFd, pipe, socketPair} from '../native.ts';
import {Undo} from '../undo.ts';
import type {Keeper, RootPlan} from './keeper.ts';
import {
	decodeParked,
	encodeLeafRequest,
	encodeRefillRequest,
	encodeSpareRequest,
	spareFrame,
} from './launch-protocol.ts';
import {LauncherLink, type LeafKind} from './launcher-link.ts';
import {
	type ExpectedLeaf,
	encodeScratch,
	type LeafBirth,
	type LeafSpec,
	takeMounts,
	waitForBirth,
} from './leaf-birth.ts';
import {OutputPipe, OutputSink, openByName} from './output.ts';
import {Spare, type SpareSpec} from './spare.ts';
import {IdAllocator, type IdRange, type IdSource, oneId} from './uid-range.ts';

/** Inside, ids below this are the launcher's own and the system's, where there are enough; sandboxes get the ones from here on. */
const systemIds = 1000;
/** Up to where ids are made up for those that are alone in a user namespace. */
const maxOwnIds = 65_534;
/** How many places wait ready: one start takes one, and it is made again afterwards. */
const readyPlaces = 2;
const maxErrorBytes = 16 * 1024;
/** What a spare says before it is handed over is short. */
const maxSpareFrame = 64 * 1024;
const parkDeadlineMs = 30_000;

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

/** The first id of a leaf, of so many. */
export function firstLeafIdOf(count: number): number {
	return count > 2 * systemIds ? systemIds : 1;
}

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
	/** Its leaves get ids from this one on. */
	readonly firstLeafId: number;
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
	/** The keeper's id of its id 0. */
	protected readonly firstHostId: number;
	/** For leaves; where there is one id only, as they see themselves. */
	readonly #ids: IdAllocator;
	/** For child zygotes. */
	readonly #childIds: IdSource;
	/** Whether each leaf gets a user namespace of its own. */
	readonly #hasOneId: boolean;
	readonly #streams: boolean;
	readonly #places: Place[] = [];
	#descendants = 0;
	/** Those that are alive, and the places for the next ones. */
	#leaves = 0;
	#settleDrained!: () => void;

	constructor({link, ids, streams, firstLeafId}: StartedLauncher) {
		this.gone = link.gone;
		this.link = link;
		this.#hasOneId = ids.count === 1;
		const [first, end] = this.#hasOneId ? [systemIds, maxOwnIds] : [firstLeafId, ids.count];
		this.#ids = new IdAllocator({start: first, count: end - first});
		this.#childIds = this.#hasOneId ? oneId : this.#ids;
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
		{
			firstLeafId = firstLeafIdOf(ids.count),
			signal,
		}: {readonly firstLeafId?: number; readonly signal?: AbortSignal | undefined} = {},
	): Promise<T> {
		if (signal?.aborted === true) throw new ForktreeError('ZygoteFailed', 'it is not wanted any more');
		const [ours, theirs] = socketPair(true);
		const link = new LauncherLink(ours);
		const abort = () => link.kill();
		signal?.addEventListener('abort', abort, {once: true});
		try {
			try {
				const init = await begin(theirs);
				if (init !== undefined) link.own(init);
			} finally {
				closeFd(theirs);
			}
			await link.born();
			return make({link, words: await link.ready(), ids, streams, firstLeafId});
		} catch (error) {
			link.kill();
			throw error;
		} finally {
			signal?.removeEventListener('abort', abort);
		}
	}

	/** Takes ids, as it counts them, for a child zygote and all below it. */
	protected takeIds(count: number): {slice: IdRange; release: () => void} {
		return this.#takeFrom(this.#childIds, count);
	}

	#takeFrom(source: IdSource, count: number): {slice: IdRange; release: () => void} {
		const slice = source.take(count);
		this.#descendants += 1;
		const release = () => {
			source.release(slice);
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
		const mounts = await takeMounts(spec.mounts);
		try {
			const request = (id: number, uid: number, {left}: Cgroup) =>
				encodeLeafRequest({
					...spec,
					id,
					uid,
					left,
					ownUserNamespace: this.#hasOneId,
					scratch: encodeScratch(spec.scratchMb),
					network: spec.network?.setUp,
					targets: spec.mounts.map(({target}) => target),
					streams: this.#streams,
				});
			const {expected, askedMs} = await this.#ask(spec, 'leaf', request, mounts);
			expected.leaf.giveNetwork(spec.network);
			spec.greet(expected.leaf);
			return {leaf: expected.leaf, born: async () => waitForBirth(expected, startedMs, askedMs)};
		} finally {
			for (const fd of mounts) closeFd(fd);
		}
	}

	/**
	 * Makes a leaf ahead, which waits for what it is for. Until then it runs only the launcher's own code.
	 * @returns it, once it waits; what its starts and calls would set up first is done by then
	 * @throws {ForktreeError} `ZygoteFailed`; {SyscallError} when a step of its set-up failed
	 */
	async forkSpare(spec: SpareSpec): Promise<Spare> {
		const startedMs = performance.now();
		const own = {ownUserNamespace: this.#hasOneId, streams: this.#streams};
		const request = (id: number, uid: number) => encodeSpareRequest({...spec, ...own, id, uid});
		const {id, expected, askedMs} = await this.#ask({...spec, maxFrame: maxSpareFrame}, 'spare', request, []);
		const {leaf} = expected;
		const parked = leaf.answer(spareFrame.parked);
		try {
			const late = () =>
				new ForktreeError('ZygoteFailed', `a spare took longer than ${parkDeadlineMs} ms to get ready`);
			const rehearsal = decodeParked(String(await withDeadline(parked, parkDeadlineMs, late)));
			if (rehearsal === undefined) throw new ForktreeError('ZygoteFailed', 'a spare sent something that is no report');
			return new Spare(leaf, rehearsal, (maxFrame) => this.link.expectHandOver(id, maxFrame));
		} catch (error) {
			await waitForBirth(expected, startedMs, askedMs); // which tells better
			await leaf.destroy();
			throw error;
		}
	}

	/** Sends the request that is made for a place and a group. What the launcher does not get of it is given back. */
	async #ask(
		spec: Pick<LeafSpec, 'uid' | 'takeCgroup' | 'maxFrame'>,
		kind: LeafKind,
		request: (id: number, uid: number, cgroup: Cgroup) => Buffer,
		mounts: readonly number[],
	): Promise<{readonly id: number; readonly expected: ExpectedLeaf; readonly askedMs: number}> {
		const undo = new Undo();
		try {
			const {uid, release, channel, outputs, theirs} = this.#takePlace(spec.uid);
			undo.push(release, () => [channel, ...outputs, ...theirs].forEach(closeFd));
			const taken = spec.takeCgroup();
			const cgroup = taken instanceof Promise ? await taken : taken; // a turn costs more than all of this
			undo.push(() => cgroup.remove());
			lastLeaf += 1;
			const id = lastLeaf;
			const askedMs = performance.now();
			this.link.send(request(id, uid, cgroup), [...theirs, ...mounts, ...cgroup.joins]);
			// What the host needs besides is made while the launcher forks.
			undo.release();
			const [stdout, stderr] = outputs.map((output) => new OutputPipe(output));
			const streams = stdout === undefined || stderr === undefined ? undefined : {stdout, stderr};
			const parts = {id: String(id), cgroup, streams, releaseId: release};
			const expected = this.link.expectLeaf(id, parts, channel, spec.maxFrame, kind);
			cgroup.closeJoins();
			for (const fd of theirs) closeFd(fd);
			return {id, expected, askedMs};
		} catch (error) {
			await undo.run();
			throw error;
		}
	}

	/** Makes what the next leaves need. To be called when a start is over: it takes a core for half a millisecond. */
	refill(): void {
		try {
			this.link.send(encodeRefillRequest(), []);
			while (this.#places.length < readyPlaces && this.#ids.free > 0) this.#places.push(this.#makePlace());
		} catch (error) {
			if (!(error instanceof ForktreeError)) throw error; // it is gone: its end is told elsewhere
		}
	}

	#takePlace(uid: number | undefined): Place {
		return uid === undefined ? (this.#places.pop() ?? this.#makePlace()) : this.#makePlace(uid);
	}

	#makePlace(given?: number): Place {
		const {slice, release: releaseId} = this.#takeFrom(this.#ids, 1);
		const uid = given ?? slice.start;
		this.#leaves += 1;
		const release = () => {
			this.#leaves -= 1;
			releaseId();
		};
		try {
			return {uid, release, ...openChannels(this.#streams)};
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

	/** How many leaves it was asked for and has not forked yet. */
	get forking(): number {
		return this.link.forking;
	}

	/** Whether its ids are all in use, so that no leaf can be forked before one has ended. */
	get isFull(): boolean {
		return this.#places.length === 0 && this.#ids.free === 0;
	}

	/** Stops its process until it is asked for something, unless leaves of it are alive, whose ends it has to tell. */
	pauseIfIdle(): void {
		if (this.#leaves === this.#places.length) this.link.pause();
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

/** Pipes and sockets for a leaf. */
function openChannels(streams: boolean): Pick<Place, 'channel' | 'outputs' | 'theirs'> {
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
			openByName(writeEnd);
		}
		return {channel, outputs, theirs};
	} catch (error) {
		for (const fd of open) closeFd(fd);
		throw error;
	}
}
