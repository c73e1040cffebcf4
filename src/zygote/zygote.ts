/** A zygote seen from the host: forks leaves and child zygotes, and can be let go without harm to them. */
import {ForktreeError} from '../errors.ts';
import {closeFd} from '../native.ts';
import {encodeZygoteRequest} from '../sandbox/launch-protocol.ts';
import {Launcher, type RootStart, type StartedLauncher} from '../sandbox/launcher.ts';
import type {LockedFolder} from '../sandbox/mounts.ts';
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

	/** Starts a fresh interpreter in a root of its own. */
	static async spawnRoot(spec: ZygoteSpec, root: Omit<RootStart, 'streams'>): Promise<Zygote> {
		return Launcher.spawn({...root, streams: true}, Zygote.#make(spec));
	}

	/** Forks a child zygote, which then imports its own modules. @param count ids that it and all below it get */
	async forkZygote(spec: ZygoteSpec, packages: LockedFolder | undefined, count: number): Promise<Zygote> {
		const {slice, release} = this.takeIds(count);
		let mount: number | undefined;
		try {
			mount = await packages?.take();
			const mounts = mount === undefined ? [] : [mount];
			const hostIds = {start: this.firstHostId + slice.start, count};
			const made = await Launcher.start(hostIds, true, Zygote.#make(spec), async (control) => {
				this.link.send(encodeZygoteRequest(slice, mounts.length > 0, spec), [control, ...mounts]);
				return undefined;
			});
			void made.drained.then(release);
			return made;
		} catch (error) {
			release();
			throw error;
		} finally {
			if (mount !== undefined) closeFd(mount);
		}
	}
}
