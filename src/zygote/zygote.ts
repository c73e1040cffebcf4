/** A zygote seen from the host: forks leaves and child zygotes, and can be let go without harm to them. */
import {ForktreeError} from '../errors.ts';
import type {Cgroup} from '../kernel/cgroup.ts';
import {readMemory} from '../kernel/memory.ts';
import {closeFd} from '../native.ts';
import {encodeZygoteRequest} from '../sandbox/launch-protocol.ts';
import {firstLeafIdOf, Launcher, type RootStart, type StartedLauncher} from '../sandbox/launcher.ts';
import {type LeafMount, takeMounts} from '../sandbox/leaf-birth.ts';
import {decodeReport, type ZygoteReport, type ZygoteSpec} from './protocol.ts';

/** A launcher that is an interpreter, with modules imported. */
export class Zygote extends Launcher {
	readonly spec: ZygoteSpec;
	/** How its imports went. */
	readonly report: ZygoteReport;

	private constructor(spec: ZygoteSpec, report: ZygoteReport, started: StartedLauncher) {
		super(started);
		this.spec = spec;
		this.report = report;
	}

	static #make(spec: ZygoteSpec): (started: StartedLauncher) => Zygote {
		return (started) => {
			const report = decodeReport(started.words);
			if (report === undefined) throw new ForktreeError('ZygoteFailed', 'it sent something that is no report');
			return new Zygote(spec, report, started);
		};
	}

	/** MiB that would be freed if it ended, while nothing that was forked from it has its pages. */
	ownMib(): number {
		const pid = this.pid();
		return pid === undefined ? 0 : Math.ceil(readMemory(pid)?.privateMiB ?? 0);
	}

	/** Starts a fresh interpreter in a root of its own. */
	static async spawnRoot(spec: ZygoteSpec, root: Omit<RootStart, 'streams'>): Promise<Zygote> {
		return Launcher.spawn({...root, streams: true}, Zygote.#make(spec));
	}

	/**
	 * Forks a child zygote, which then imports its own modules.
	 * @param count ids that it and all below it get
	 * @param group that it joins before it imports anything; it is the caller's
	 * @param signal kills it, until it is ready
	 * @throws {ForktreeError} `ZygoteFailed`; {RangeError} when there are not so many ids left
	 */
	async forkZygote(
		spec: ZygoteSpec,
		mounts: readonly LeafMount[],
		count: number,
		{group, signal}: {readonly group?: Cgroup; readonly signal?: AbortSignal} = {},
	): Promise<Zygote> {
		const {slice, release} = this.takeIds(count);
		let fds: number[] = [];
		try {
			fds = await takeMounts(mounts);
			const targets = mounts.map(({target}) => target);
			const hostIds = {start: this.firstHostId + slice.start, count: slice.count};
			const ask = async (control: number) => {
				this.link.send(encodeZygoteRequest(slice, targets, spec), [control, ...fds, ...(group?.joins ?? [])]);
				return undefined;
			};
			// One for a single function needs ids for no others, so a few do.
			const firstLeafId = spec.own === undefined ? firstLeafIdOf(slice.count) : 1;
			const made = await Launcher.start(hostIds, true, Zygote.#make(spec), ask, {firstLeafId, signal});
			void made.drained.then(release);
			return made;
		} catch (error) {
			release();
			throw error;
		} finally {
			for (const fd of fds) closeFd(fd);
		}
	}
}
