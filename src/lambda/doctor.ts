/** Finds out what of this machine forktree can work with, by trying it, and says how to mend what it can't. */
import {randomBytes} from 'node:crypto';
import {closeSync, openSync, readFileSync} from 'node:fs';
import {release} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../errors.ts';
import {findHostCgroups} from '../kernel/cgroup-host.ts';
import {CgroupTree} from '../kernel/cgroup-tree.ts';
import {type TriedController, tryController} from '../kernel/cgroup-trial.ts';
import {withDeadline} from '../kernel/deadline.ts';
import {Process} from '../kernel/process.ts';
import {nativeDirectory, spawnProgram} from '../native.ts';
import {locateResolver} from '../packages/resolver.ts';
import {findInterpreter} from '../sandbox/interpreter.ts';
import {Keeper} from '../sandbox/keeper.ts';
import {neededPaths} from '../sandbox/rootfs.ts';
import {StateDir} from '../sandbox/state-dir.ts';
import {HostIdRange, type IdRange} from '../sandbox/uid-range.ts';
import {Undo} from '../undo.ts';
import {createRuntime} from './runtime.ts';

/** `missing`: required and not there. `degraded`: optional and not there, sandboxes are full all the same. */
export type DoctorStatus = 'ok' | 'missing' | 'degraded';

/** One thing that was looked at. */
export type DoctorCheck = {
	/** Stable; see {@link doctorChecks}. */
	readonly name: DoctorCheckName;
	/** Whether sandboxes need it. */
	readonly need: 'required' | 'optional';
	readonly status: DoctorStatus;
	/** What was found. */
	readonly detail: string;
	/** A command or one sentence; with whatever is not `ok`. */
	readonly fix?: string;
};

/** What {@link doctor} found. */
export type DoctorReport = {
	/**
	 * The strongest isolation available. `full`: a function was deployed and called in a sandbox with every layer of
	 * isolation. There is nothing between that and `none`.
	 */
	readonly level: 'full' | 'none';
	readonly checks: readonly DoctorCheck[];
};

/** Options of {@link doctor}. */
export type DoctorOptions = {
	/** The interpreter to look for, as in `createRuntime`. */
	readonly python?: string;
};

type Finding =
	| {readonly problem: false; readonly detail: string}
	| {readonly problem: true; readonly detail: string; readonly fix?: string};
type Check = {
	/** How to mend it, unless what was found knows better. */
	readonly fix: string;
	/** What follows from its lack, in an optional one. */
	readonly without?: string;
	/** A failure says what is missing. */
	readonly run: (options: DoctorOptions) => Promise<Finding> | Finding;
};

/** How many user namespaces there may be; the kernel says ENOSPC when there are more. */
const userNamespaceLimit = {name: 'user.max_user_namespaces', instead: '10000'} as const;

/** Settings that keep user namespaces from whoever is not the host's root; zygotes are not. Debian's, Ubuntu's. */
const userNamespaceSwitches = [
	{name: 'kernel.unprivileged_userns_clone', against: '0', instead: '1'},
	{name: 'kernel.apparmor_restrict_unprivileged_userns', against: '1', instead: '0'},
] as const;

const minimumKernel = [5, 15] as const;
const endDeadlineMs = 5000;
const unused = 'nothing changes: forktree does not use it';
const keeperFix =
	'run it as root with CAP_SYS_ADMIN, where mount and unshare are not filtered by a container’s seccomp profile';
const cgroupFix =
	'run it as root, in a container with a writable cgroup tree (--privileged, or --cgroupns=private with cgroup2 mounted read-write)';

/** By their bits, see capability.h: what the keeper, the zygotes and the cgroups take. */
const capabilities: Readonly<Record<string, number>> = {
	CAP_CHOWN: 0,
	CAP_DAC_OVERRIDE: 1,
	CAP_KILL: 5,
	CAP_SETGID: 6,
	CAP_SETUID: 7,
	CAP_SYS_ADMIN: 21,
};

const checks = {
	kernel: {
		fix: 'upgrade to Linux 5.15 or later',
		run: () => {
			const found = kernelVersion();
			return found !== undefined && isAtLeast(found, minimumKernel)
				? ok(`Linux ${release()}`)
				: missing(`${process.platform} ${release()}, expected Linux 5.15 or later`);
		},
	},
	privileges: {
		fix: 'run it with sudo, or in a container started with --privileged',
		run: () => {
			const effective = BigInt(
				`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'}`,
			);
			const lacking = Object.entries(capabilities).flatMap(([name, bit]) =>
				(effective >> BigInt(bit)) & 1n ? [] : [name],
			);
			const uid = process.geteuid?.();
			if (uid !== 0) return missing(`runs as uid ${uid}, expected root`, 'run it with sudo');
			if (lacking.length === 0) return ok('root with the capabilities that sandboxes take');
			const flags = lacking.map((name) => `--cap-add=${name.slice('CAP_'.length)}`);
			return missing(`root without ${lacking.join(', ')}`, `start the container with ${flags.join(' ')}`);
		},
	},
	addon: {
		fix: 'build it in a clone of forktree with: npm ci && npm run build',
		run: () => ok(nativeDirectory()),
	},
	userNamespaces: {
		fix: keeperFix,
		run: async () => {
			try {
				return await withTools(async ({keeper}) => {
					await keeper.probe('user-namespaces');
					return ok('one in another, with mounts of its own');
				});
			} catch (error) {
				const isFull = error instanceof SyscallError && error.errnoName === 'ENOSPC';
				const setting = isFull
					? userNamespaceLimit
					: userNamespaceSwitches.find(({name, against}) => readSetting(name) === against);
				if (setting === undefined) throw error;
				const {name, instead} = setting;
				return missing(`${messageOf(error)}; ${name} is ${readSetting(name)}`, `sysctl -w ${name}=${instead}`);
			}
		},
	},
	ids: {
		fix: 'start the container with --userns=host',
		run: () =>
			withTools(async ({keeper, takeIds}) => {
				const {start, count} = takeIds();
				await keeper.probe('ids', start, count);
				return ok(`uids and gids ${start} to ${start + count - 1} can be mapped`);
			}),
	},
	seccomp: {
		fix: 'run a kernel that is built with CONFIG_SECCOMP_FILTER',
		run: () =>
			withTools(async ({keeper}) => {
				await keeper.probe('seccomp');
				return ok('a filter holds, and every action that ours take is known');
			}),
	},
	cgroupMemory: controllerCheck('memory'),
	cgroupPids: controllerCheck('pids'),
	cgroupCpu: controllerCheck('cpu'),
	cgroups: {
		fix: cgroupFix,
		run: () =>
			inStateDir(async (state) => {
				const host = findHostCgroups();
				const name = groupName();
				state.noteGroups(host.hierarchies.map((each) => path.join(each.directory, name)));
				const tree = new CgroupTree(host, name);
				try {
					const group = await tree.create({memoryMb: 16, swapMb: 0, cpuPercent: 100, processes: 4});
					await group.remove();
				} finally {
					await tree.close();
				}
				const where = host.hierarchies.map((each) => `${each.controllers.join('+')} at ${each.directory}`);
				return ok(`${host.mode}: ${where.join(', ')}`);
			}),
	},
	python: {
		fix: 'apt-get install python3',
		run: async ({python}) => {
			const {version, executable} = await findInterpreter(python);
			return ok(`CPython ${version} at ${executable}`);
		},
	},
	pythonReachable: {
		fix: 'give every user the right to read the interpreter’s folders, with: chmod -R o+rX FOLDER',
		run: async ({python}) => {
			const needed = neededPaths(await findInterpreter(python));
			return withTools(async ({keeper, takeIds}) => {
				const {start} = takeIds();
				for (const [folder, file] of needed) {
					try {
						await keeper.probe('reach', start, folder, file);
					} catch (error) {
						if (!(error instanceof SyscallError) || error.errnoName !== 'EACCES') throw error;
						return missing(`uid ${start}: ${error.message}`, `chmod -R o+rX ${folder}`);
					}
				}
				return ok(`uid ${start} can read and execute ${needed.map((each) => path.join(...each)).join(', ')}`);
			});
		},
	},
	installer: {
		fix: 'install uv, or: apt-get install python3-pip',
		without: 'functions can’t have requirements',
		run: async ({python}) => {
			const {name, version} = await locateResolver(await findInterpreter(python));
			return ok(`${name} ${version}`);
		},
	},
	keeper: {
		fix: keeperFix,
		run: () =>
			withTools(async ({keeper}) => {
				await keeper.lock('tried', nativeDirectory());
				await keeper.unlock('tried');
				return ok('mount and user namespaces, private and locked mounts');
			}),
	},
	sandbox: {
		fix: 'mend what is missing above; if nothing is, report this',
		run: async ({python}) => {
			await using runtime = await createRuntime(python === undefined ? {} : {python});
			await runtime.deploy('doctor', {'f.py': 'def f(event):\n\treturn event + 1\n'});
			const outcome = await runtime.invoke('doctor', 41);
			if (!outcome.ok) throw new Error(`${outcome.error.code}: ${outcome.error.message}`);
			if (outcome.value !== 42) throw new Error(`expected 42, got ${JSON.stringify(outcome.value)}`);
			return ok(`a function answered from a ${outcome.start} sandbox after ${outcome.timings.totalMs.toFixed(0)} ms`);
		},
	},
	hugePages: {
		fix: 'upgrade to Linux 6.1 or later, with transparent huge pages',
		without: 'zygotes can’t gather their memory in huge pages',
		run: () =>
			withTools(async ({keeper}) => {
				await keeper.probe('collapse');
				return ok('MADV_COLLAPSE made one');
			}),
	},
	exitStatus: {
		fix: 'upgrade to Linux 6.15 or later',
		without: 'how a sandbox ended is asked of its zygote alone',
		run: async () => {
			const found = await endOfMisusedKeeper();
			return found.type === 'exited' ? ok('PIDFD_GET_INFO tells it') : missing('PIDFD_GET_INFO does not tell it');
		},
	},
	overlay: {
		fix: 'modprobe overlay',
		without: 'no sandbox of a pool can have a writable root',
		run: () =>
			withTools(async ({keeper}) => {
				await keeper.probe('overlay');
				return ok('mounted on a tmpfs, and written to');
			}),
	},
	idmappedMounts: {
		fix: 'upgrade to Linux 6.3 or later, or name a folder on ext4 or xfs in TMPDIR',
		without: 'no sandbox of a pool can have a writable root over folders of such a file system',
		run: () =>
			withTools(async ({keeper, state, takeIds}) => {
				const folder = state.path('staging');
				await keeper.probe('idmapped-mount', folder, takeIds().start);
				return ok(`of a folder in ${path.dirname(state.directory)}`);
			}),
	},
	landlock: {
		fix: 'name landlock in lsm= on the command line of a kernel that is Linux 5.13 or later',
		without: unused,
		run: () =>
			withTools(async ({keeper}) => {
				const [version] = await keeper.probe('landlock');
				return ok(`version ${version}`);
			}),
	},
	cgroupFreezer: {
		...controllerCheck('freezer'),
		without: 'there are no pools of sandboxes for programs, and idle instances are not paused',
	},
} as const satisfies Readonly<Record<string, Check>>;

export type DoctorCheckName = keyof typeof checks;

/** Names of all checks, in the order in which they are done. */
export const doctorChecks = Object.keys(checks) as readonly DoctorCheckName[];

/**
 * Tries what sandboxes are made of, one after the other, and a whole one. What it makes it removes.
 * @returns a report; it never rejects for what the machine lacks
 */
export async function doctor(options: DoctorOptions = {}): Promise<DoctorReport> {
	const found: DoctorCheck[] = [];
	for (const name of doctorChecks) found.push(await run(name, options));
	const whole = found.find(({name}) => name === 'sandbox');
	return {level: whole?.status === 'ok' ? 'full' : 'none', checks: found};
}

async function run(name: DoctorCheckName, options: DoctorOptions): Promise<DoctorCheck> {
	const {fix, without, run: look}: Check = checks[name];
	const need = without === undefined ? 'required' : 'optional';
	const found = await attempt(look, options);
	if (!found.problem) return {name, need, status: 'ok', detail: found.detail};
	const status = need === 'required' ? 'missing' : 'degraded';
	const detail = without === undefined ? found.detail : `${found.detail}; without it ${without}`;
	return {name, need, status, detail, fix: found.fix ?? fix};
}

async function attempt(look: Check['run'], options: DoctorOptions): Promise<Finding> {
	try {
		return await look(options);
	} catch (error) {
		return missing(messageOf(error));
	}
}

function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

function ok(detail: string): Finding {
	return {problem: false, detail};
}

function missing(detail: string, fix?: string): Finding {
	return {problem: true, detail, ...(fix === undefined ? {} : {fix})};
}

/** A setting of sysctl(8); empty where the kernel has none of that name. */
function readSetting(name: string): string {
	try {
		return readFileSync(path.join('/proc/sys', ...name.split('.')), 'latin1').trim();
	} catch {
		return '';
	}
}

/** What checks try things with: if we are killed meanwhile, the next start removes what is left of it. */
async function inStateDir<T>(use: (state: StateDir) => Promise<T> | T): Promise<T> {
	const state = StateDir.open();
	try {
		return await use(state);
	} finally {
		state.close();
	}
}

type Tools = {readonly keeper: Keeper; readonly state: StateDir; readonly takeIds: () => IdRange};

/** Without a keeper nothing can be tried, and that is what is to be mended. */
async function withTools(use: (tools: Tools) => Promise<Finding>): Promise<Finding> {
	return inStateDir(async (state) => {
		const undo = new Undo();
		try {
			const keeper = await Keeper.start(state.path('mnt'), []).catch(messageOf);
			if (typeof keeper === 'string') return missing(keeper, keeperFix);
			undo.push(() => keeper.close());
			const takeIds = () => {
				const ids = HostIdRange.take();
				undo.push(() => ids.release());
				return ids.range;
			};
			return await use({keeper, state, takeIds});
		} finally {
			await undo.run();
		}
	});
}

function groupName(): string {
	return `forktree-doctor-${randomBytes(6).toString('hex')}`;
}

function controllerCheck(controller: TriedController): Check {
	return {
		fix: cgroupFix,
		run: () => inStateDir((state) => ok(tryController(controller, groupName(), (group) => state.noteGroups([group])))),
	};
}

/** How a program of ours ended that ends at once, since it was started in the wrong way. */
async function endOfMisusedKeeper(): Promise<ReturnType<Process['end']>> {
	const nothing = openSync('/dev/null', 'r+');
	try {
		const child = new Process(spawnProgram('keeper', ['keeper'], [nothing, nothing, nothing]).pidfd);
		try {
			await withDeadline(child.ended, endDeadlineMs, () => {
				child.signal('SIGKILL');
				return new ForktreeError('SandboxDead', `a program did not end within ${endDeadlineMs} ms and was killed`);
			});
			child.reap();
			return child.end();
		} finally {
			child.close();
		}
	} finally {
		closeSync(nothing);
	}
}

function kernelVersion(): readonly [number, number] | undefined {
	const match = /^(\d+)\.(\d+)/.exec(release());
	return process.platform === 'linux' && match !== null ? [Number(match[1]), Number(match[2])] : undefined;
}

function isAtLeast(
	[major, minor]: readonly [number, number],
	[wantedMajor, wantedMinor]: readonly [number, number],
): boolean {
	return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}
