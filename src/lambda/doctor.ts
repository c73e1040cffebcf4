/** Finds out what of this machine forktree can work with, by trying it, and says how to mend what it can't. */
import {randomBytes} from 'node:crypto';
import {existsSync, readFileSync} from 'node:fs';
import {mkdtemp, rm} from 'node:fs/promises';
import {release, tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {CgroupTree, findHostCgroups} from '../kernel/cgroup.ts';
import {nativeDirectory} from '../native.ts';
import {findInstaller} from '../packages/installer.ts';
import {findInterpreter} from '../sandbox/interpreter.ts';
import {Keeper} from '../sandbox/keeper.ts';
import {createRuntime} from './runtime.ts';

/** `degraded`: sandboxes are full all the same, but something beside them is slower, vaguer or not there. */
export type DoctorStatus = 'ok' | 'missing' | 'degraded';

/** One thing that was looked at. */
export type DoctorCheck = {
	/** Stable; see {@link doctorChecks}. */
	readonly name: DoctorCheckName;
	readonly status: DoctorStatus;
	/** What was found. */
	readonly detail: string;
	/** A command or one sentence; with whatever is not `ok`. */
	readonly fix?: string;
};

/** What {@link doctor} found. */
export type DoctorReport = {
	/** `full`: a function was deployed and called in a sandbox with every layer of isolation. There is nothing between. */
	readonly level: 'full' | 'none';
	readonly checks: readonly DoctorCheck[];
};

/** Options of {@link doctor}. */
export type DoctorOptions = {
	/** The interpreter to look for, as in `createRuntime`. */
	readonly python?: string;
};

type Finding = Omit<DoctorCheck, 'name'>;
type Check = {
	/** How to mend it, unless what was found knows better. */
	readonly fix: string;
	/** What a failure of it means; `missing` unless sandboxes work without. */
	readonly otherwise?: DoctorStatus;
	readonly run: (options: DoctorOptions) => Promise<Finding> | Finding;
};

const unprivileged = '/proc/sys/kernel/unprivileged_userns_clone';

const minimumKernel = [5, 15] as const;

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
		fix: 'sysctl -w user.max_user_namespaces=10000',
		run: () => {
			const maximum = Number(readFileSync('/proc/sys/user/max_user_namespaces', 'latin1'));
			if (!(maximum > 0)) return missing('user.max_user_namespaces is 0');
			// Debian's own: then only the host's root may make them, but zygotes of packages are made by zygotes.
			const restricted = existsSync(unprivileged) && readFileSync(unprivileged, 'latin1').trim() === '0';
			if (restricted)
				return missing('kernel.unprivileged_userns_clone is 0', 'sysctl -w kernel.unprivileged_userns_clone=1');
			return ok(`at most ${maximum} of each user`);
		},
	},
	cgroups: {
		fix: 'run it as root, in a container with a writable cgroup tree (--privileged, or --cgroupns=private with cgroup2 mounted read-write)',
		run: async () => {
			const host = findHostCgroups();
			const tree = new CgroupTree(host, `forktree-doctor-${randomBytes(6).toString('hex')}`);
			try {
				await tree.create({memoryMb: 16, swapMb: 0, cpuPercent: 100, processes: 4}).remove();
			} finally {
				await tree.close();
			}
			const where = host.hierarchies.map((each) => `${each.controllers.join('+')} at ${each.directory}`);
			return ok(`${host.mode}: ${where.join(', ')}`);
		},
	},
	python: {
		fix: 'apt-get install python3',
		run: async ({python}) => {
			const {version, executable} = await findInterpreter(python);
			return ok(`CPython ${version} at ${executable}`);
		},
	},
	installer: {
		fix: 'install uv, or: apt-get install python3-pip',
		otherwise: 'degraded',
		run: async ({python}) => ok((await findInstaller(await findInterpreter(python))).name),
	},
	keeper: {
		fix: 'run it as root with CAP_SYS_ADMIN, where mount and unshare are not filtered by a container’s seccomp profile',
		run: async () => {
			const mountPoint = await mkdtemp(path.join(tmpdir(), 'forktree-doctor-'));
			try {
				const keeper = await Keeper.start(mountPoint, []);
				try {
					await keeper.lock('tried', nativeDirectory());
					await keeper.unlock('tried');
				} finally {
					await keeper.close();
				}
			} finally {
				await rm(mountPoint, {recursive: true, force: true});
			}
			return ok('mount and user namespaces, private and locked mounts');
		},
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
	hugePages: since([6, 1], 'MADV_COLLAPSE', 'zygotes can’t gather their memory in huge pages'),
	exitStatus: since([6, 15], 'PIDFD_GET_INFO', 'how a sandbox ended is asked of its zygote alone'),
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
	for (const name of doctorChecks) found.push({name, ...(await run(checks[name], options))});
	const whole = found.find(({name}) => name === 'sandbox');
	return {level: whole?.status === 'ok' ? 'full' : 'none', checks: found};
}

async function run({fix, otherwise, run: look}: Check, options: DoctorOptions): Promise<Finding> {
	try {
		const finding = await look(options);
		return finding.status === 'ok' ? finding : {...finding, fix: finding.fix ?? fix};
	} catch (error) {
		return {status: otherwise ?? 'missing', detail: error instanceof Error ? error.message : String(error), fix};
	}
}

function ok(detail: string): Finding {
	return {status: 'ok', detail};
}

function missing(detail: string, fix?: string): Finding {
	return {status: 'missing', detail, ...(fix === undefined ? {} : {fix})};
}

/** A check for what is only asked of the kernel's version. */
function since(version: readonly [number, number], what: string, without: string): Check {
	return {
		fix: `upgrade to Linux ${version.join('.')} or later`,
		otherwise: 'degraded',
		run: () => {
			const found = kernelVersion();
			if (found !== undefined && isAtLeast(found, version)) return ok(`${what}, judged by the kernel’s version`);
			return {status: 'degraded', detail: `no ${what}, judged by the kernel’s version: ${without}`};
		},
	};
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
