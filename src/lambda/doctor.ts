/** Finds out what of this machine forktree can work with, by trying it, and says how to mend what it can't. */
import {randomBytes} from 'node:crypto';
import {closeSync, openSync, readFileSync} from 'node:fs';
import {release, userInfo} from 'node:os';
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
import {findIdentity, isInContainer} from '../sandbox/identity.ts';
import {findInterpreter} from '../sandbox/interpreter.ts';
import {heldBy, type Isolation, type IsolationLevel, type UnenforcedLimit} from '../sandbox/isolation.ts';
import {Keeper} from '../sandbox/keeper.ts';
import {neededPaths} from '../sandbox/rootfs.ts';
import {StateDir} from '../sandbox/state-dir.ts';
import {type IdRange, oneId, takeRange} from '../sandbox/uid-range.ts';
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
	/** The strongest isolation available, in which a function was deployed and called; `none`: that failed. */
	readonly level: IsolationLevel | 'none';
	/** Limits that nothing holds here for a sandbox as a whole: asking for them takes `bestEffort`. */
	readonly notEnforced: readonly UnenforcedLimit[];
	readonly checks: readonly DoctorCheck[];
};

/** Options of {@link doctor}. */
export type DoctorOptions = {
	/** The interpreter to look for, as in `createRuntime`. */
	readonly python?: string;
};

type Finding =
	| {readonly problem: false; readonly detail: string; readonly isolation?: Isolation}
	| {readonly problem: true; readonly detail: string; readonly fix?: string};
type Check = {
	/** How to mend it, unless what was found knows better. */
	readonly fix: string | (() => string);
	/** What follows from its lack, in an optional one. */
	readonly without?: string;
	/** What follows for who is not root, to whom it is optional. */
	readonly withoutRoot?: string;
	/** A failure says what is missing. */
	readonly run: (options: DoctorOptions) => Promise<Finding> | Finding;
};

/** How many user namespaces there may be; the kernel says ENOSPC when there are more. */
const userNamespaceLimit = {
	name: 'user.max_user_namespaces',
	fix: () => 'sysctl -w user.max_user_namespaces=10000',
} as const;

/** Settings that keep user namespaces from whoever is not the host's root; zygotes are not. Debian's, Ubuntu's. */
const userNamespaceSwitches = [
	{name: 'kernel.unprivileged_userns_clone', against: '0', fix: () => 'sysctl -w kernel.unprivileged_userns_clone=1'},
	{name: 'kernel.apparmor_restrict_unprivileged_userns', against: '1', fix: profileFix},
] as const;

const minimumKernel = [5, 15] as const;
const endDeadlineMs = 5000;
const scopeFix = 'run it in a group of your own: systemd-run --user --scope -p Delegate=yes COMMAND';
/** Whether sandboxes are made in a user namespace of ours, since we are not root or lack its capabilities. */
const isOrdinary = () => findIdentity().kind !== 'root';
const keeperFix = () =>
	isOrdinary()
		? 'run it with sudo, or allow user namespaces to ordinary users'
		: 'run it as root with CAP_SYS_ADMIN, where mount and unshare are not filtered by a container’s seccomp profile';
const cgroupFix = () =>
	isOrdinary()
		? scopeFix
		: 'run it as root, in a container with a writable cgroup tree (--privileged, or --cgroupns=private with cgroup2 mounted read-write)';
/** What a container has to allow, by the step that failed; Docker's words and Kubernetes' own. */
const containerFixes: ReadonlyArray<readonly [RegExp, string]> = [
	[
		/^unshare user namespace\b/,
		'start the container with --security-opt seccomp=unconfined, or seccompProfile: {type: Unconfined}',
	],
	[
		/^(?:unshare mount namespace|make mounts private|mount tmpfs|attach)\b/,
		'start the container with --security-opt apparmor=unconfined, or appArmorProfile: {type: Unconfined}',
	],
	[/^mount proc\b/, 'start the container with --security-opt systempaths=unconfined, or procMount: Unmasked'],
];

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
		withoutRoot: 'sandboxes are made in a user namespace of yours, and none can have a writable root',
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
				return missing(`${messageOf(error)}; ${setting.name} is ${readSetting(setting.name)}`, setting.fix());
			}
		},
	},
	ids: {
		fix: () => (isOrdinary() ? idsFix() : 'start the container with --userns=host'),
		withoutRoot: 'sandboxes have your own id, each alone in a user namespace',
		run: () => {
			const {kind} = findIdentity();
			if (kind === 'own') return missing(`no ids are given to uid ${process.geteuid?.()}, or newuidmap is not there`);
			return withTools(async ({keeper, takeIds}) => {
				const {start, count} = takeIds();
				await keeper.probe('ids', start, count);
				return ok(
					`uids and gids ${start} to ${start + count - 1}${kind === 'root' ? '' : ' of those given to us'} can be mapped`,
				);
			});
		},
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
		withoutRoot: 'nothing holds memory and CPU time of a sandbox as a whole, and idle instances are not paused',
		run: () =>
			inStateDir(async (state) => {
				const host = findHostCgroups();
				if (host.missing.length > 0)
					return missing(`the controllers ${host.missing.join(', ')} are not there, or not ours`);
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
			await using runtime = await createRuntime({bestEffort: true, ...(python === undefined ? {} : {python})});
			await runtime.deploy('doctor', {'f.py': 'def f(event):\n\treturn event + 1\n'});
			const outcome = await runtime.invoke('doctor', 41);
			if (!outcome.ok) throw new Error(`${outcome.error.code}: ${outcome.error.message}`);
			if (outcome.value !== 42) throw new Error(`expected 42, got ${JSON.stringify(outcome.value)}`);
			const {isolation} = await runtime.stats();
			const detail = `a function answered from a ${outcome.start} sandbox after ${outcome.timings.totalMs.toFixed(0)} ms`;
			return {...ok(detail), isolation};
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
		fix: () =>
			isOrdinary() ? 'run it with sudo' : 'upgrade to Linux 6.3 or later, or name a folder on ext4 or xfs in TMPDIR',
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
		without: 'there is no second wall under the rules of mounts',
		run: () =>
			withTools(async ({keeper}) => {
				const [version] = await keeper.probe('landlock');
				return Number(version) < 2
					? missing(`version ${version}, which forbids renames between folders`)
					: ok(`version ${version}`);
			}),
	},
	cgroupFreezer: {
		...controllerCheck('freezer'),
		without: 'sandboxes of pools can’t be paused, and idle instances are not',
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
	let isolation: Isolation | undefined;
	for (const name of doctorChecks) {
		const finding = await attempt(checks[name].run, options);
		found.push(describe(name, finding));
		if (!finding.problem) isolation ??= finding.isolation;
	}
	return {level: isolation?.level ?? 'none', notEnforced: isolation?.notEnforced ?? [], checks: found};
}

function describe(name: DoctorCheckName, found: Finding): DoctorCheck {
	const {fix, without: always, withoutRoot}: Check = checks[name];
	const without = isOrdinary() ? (always ?? withoutRoot) : always;
	const need = without === undefined ? 'required' : 'optional';
	if (!found.problem) return {name, need, status: 'ok', detail: found.detail};
	const status = need === 'required' ? 'missing' : 'degraded';
	const detail = without === undefined ? found.detail : `${found.detail}; without it ${without}`;
	return {name, need, status, detail, fix: found.fix ?? (typeof fix === 'string' ? fix : fix())};
}

async function attempt(look: Check['run'], options: DoctorOptions): Promise<Finding> {
	try {
		return await look(options);
	} catch (error) {
		return missing(messageOf(error), containerFix(messageOf(error)));
	}
}

function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

function ok(detail: string): Finding & {problem: false} {
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
			const identity = findIdentity();
			const keeper = await Keeper.start(state.path('mnt'), identity, []).catch(messageOf);
			if (typeof keeper === 'string') return missing(keeper, fixOf(keeper));
			undo.push(() => keeper.close());
			const takeIds = () => {
				if (identity.kind === 'own') return oneId.take(1);
				const ids = takeRange(identity);
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

/** For whoever mends it: a command. */
function idsFix(): string {
	const {username} = userInfo();
	return `apt-get install uidmap, and usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${username}`;
}

/** What a container has to allow for what failed so; undefined outside of one. */
function containerFix(words: string): string | undefined {
	return isInContainer() ? containerFixes.find(([step]) => step.test(words))?.[1] : undefined;
}

/** How the keeper can be started, by what its start failed with. */
function fixOf(words: string): string {
	const setting = userNamespaceSwitches.find(({name, against}) => readSetting(name) === against);
	return containerFix(words) ?? setting?.fix() ?? 'run it as root with CAP_SYS_ADMIN';
}

/** Ubuntu's way of allowing them to one program: a profile that allows it nothing else. */
function profileFix(): string {
	const profile = `profile forktree ${path.join(nativeDirectory(), 'keeper')} flags=(unconfined) { userns, }`;
	return `echo '${profile}' | sudo tee /etc/apparmor.d/forktree && sudo apparmor_parser -r /etc/apparmor.d/forktree`;
}

function withoutController(controller: TriedController): string {
	const limits = heldBy[controller].join(' and ');
	return limits === '' ? 'the kernel’s limits of a user hold it' : `nothing holds ${limits} of a sandbox as a whole`;
}

function controllerCheck(controller: TriedController) {
	return {
		fix: cgroupFix,
		withoutRoot: withoutController(controller),
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
