/** Drives native/bench/floor.cc: what a sandbox takes in the least C. What it times and what not: floor_sandbox.cc. */
import {randomBytes} from 'node:crypto';
import {mkdir} from 'node:fs/promises';
import path from 'node:path';
import {dir as temporaryDirectory} from 'tmp-promise';
import {findHostCgroups} from '../src/kernel/cgroup-host.ts';
import {planLauncher} from '../src/sandbox/base.ts';
import {defaultDevices} from '../src/sandbox/keeper.ts';
import {defaultSandboxLimits} from '../src/sandbox/sandbox-options.ts';
import {HostIdRange} from '../src/sandbox/uid-range.ts';
import {serveLines} from './lines.ts';
import {benchProgram} from './programs.ts';

const inside = '/forktree/native/floor';
const ids = 2 ** 16;
const programEnd = 42;

/** A sandbox's network namespace: its own, or that of whoever forks it. */
export type FloorNetwork = 'own' | 'shared';

/** One run, in milliseconds. */
export type FloorRun = {
	/** Until the program's end was collected, its namespaces with it. */
	readonly ms: number;
	/** Until it had ended. */
	readonly toldMs: number;
};

/** A live floor. */
export type SandboxFloor = {
	/** Its cgroups' parents: there are none after {@link close}. */
	readonly groups: readonly string[];
	run(network: FloorNetwork): Promise<FloorRun>;
	/** Makes and ends that many; answers how many a second. */
	churn(network: FloorNetwork, atOnce: number, count: number): Promise<number>;
	/** Makes that many that stay idle, besides those that there are. */
	hold(network: FloorNetwork, count: number): Promise<void>;
	/** Ends those that stay. */
	release(): Promise<void>;
	close(): Promise<void>;
};

/** The limits of a sandbox, as src/kernel/cgroup.ts writes them: what to join, and what to write. */
function settings(version: 1 | 2, controllers: readonly string[]): string {
	const {memoryMb, cpuPercent, processes} = defaultSandboxLimits;
	const bytes = memoryMb * 1024 * 1024;
	const all: Record<string, readonly string[]> =
		version === 1
			? {
					memory: [`memory.limit_in_bytes=${bytes}`, `memory.memsw.limit_in_bytes=${bytes}`],
					pids: [`pids.max=${processes}`],
					cpu: [`cpu.cfs_quota_us=${cpuPercent * 1000}`],
				}
			: {
					memory: [`memory.max=${bytes}`, 'memory.swap.max=0'],
					pids: [`pids.max=${processes}`],
					// Words are separated by spaces; a tab does as well for the kernel.
					cpu: [`cpu.max=${cpuPercent * 1000}\t100000`],
				};
	return [version === 1 ? 'tasks' : 'cgroup.procs', ...controllers.flatMap((each) => all[each] ?? [])].join(' ');
}

/** @param folder holds the program; sandboxes see it as /bench */
export async function openSandboxFloor(folder: string): Promise<SandboxFloor> {
	const [floor, server] = await Promise.all([benchProgram('floor'), benchProgram('floor_sandbox')]);
	const {hierarchies} = findHostCgroups('managed');
	const name = `forktree-floor-${randomBytes(6).toString('hex')}`;
	const range = HostIdRange.take();
	const scratch = await temporaryDirectory({unsafeCleanup: true});
	const mountPoint = path.join(scratch.path, 'root');
	await mkdir(mountPoint);
	const {operations} = planLauncher({
		base: 'host',
		layers: [],
		targets: ['/bench'],
		network: 'none',
		devices: defaultDevices,
		writable: undefined,
	});
	const plan = [...operations, ['program', server, inside], ['bind', folder, '/forktree/bench']].flat();
	const limits = hierarchies.map(({version, controllers}) => settings(version, controllers));
	const words = ['spawn', String(range.range.start), String(ids), ...plan, 'exec', String(1 + limits.length), inside];
	const places = hierarchies.map(({version, directory, controllers}) => {
		const listed = controllers.filter((each) => each !== 'freezer' && each !== 'cpuacct');
		return `${version}:${directory}:${listed.map((each) => `+${each}`).join(' ')}`;
	});
	const lines = serveLines(floor, [mountPoint, name, ...places, '--', ...words, ...limits]);
	const release = async () => {
		range.release();
		await scratch.cleanup();
	};
	try {
		await lines.greeting();
	} catch (error) {
		await release();
		throw error;
	}
	return {
		groups: hierarchies.map(({directory}) => path.join(directory, name)),
		async run(network) {
			const {ns, toldNs, code} = (await lines.ask(`run ${network}`)) as {ns: number; toldNs: number; code: number};
			if (code !== programEnd) throw new Error(`the floor's program ended with ${code}`);
			return {ms: ns / 1e6, toldMs: toldNs / 1e6};
		},
		async churn(network, atOnce, count) {
			const {ns} = (await lines.ask(`churn ${network} ${atOnce} ${count}`, 120_000)) as {ns: number};
			return count / (ns / 1e9);
		},
		async hold(network, count) {
			await lines.ask(`hold ${network} ${count}`, 120_000);
		},
		async release() {
			await lines.ask('release', 120_000);
		},
		async close() {
			try {
				await lines.close();
			} finally {
				await release();
			}
		},
	};
}
