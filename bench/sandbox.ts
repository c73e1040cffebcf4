/** What do sandboxes for programs take, against the least that the kernel takes for the same, and against others' sandboxes? */

import {once} from 'node:events';
import {existsSync, readFileSync} from 'node:fs';
import {loadavg} from 'node:os';
import path from 'node:path';
import {monitorEventLoopDelay} from 'node:perf_hooks';
import process from 'node:process';
import {setTimeout as sleep} from 'node:timers/promises';
import {createSandboxPool, type ExecResult, type SandboxOptions, type SandboxPool} from 'forktree';
import {alternate, paces} from './alternate.ts';
import {watchLeftovers} from './leftovers.ts';
import {benchProgram} from './programs.ts';
import {type BenchResult, describeHost, mark, percentile, Results} from './report.ts';
import {openRivals, type Rivals} from './rivals.ts';
import {type FloorNetwork, openSandboxFloor, type SandboxFloor} from './sandbox-floor.ts';
import {measureClose, measureMemory, measureScale} from './sandbox-many.ts';
import {measureNetwork} from './sandbox-network.ts';
import {measureUser} from './sandbox-user.ts';
import {measureWalls} from './sandbox-walls.ts';

const program = '/bench/program';
const programEnd = 42;
/** Left after each run of ours: what the pool makes ahead meanwhile shall not be in the next contestant's time. */
const settleMs = 3;
/** What the monitor adds to each delay: it measures the whole time between two ticks. */
const tickMs = 1;

const networks = [
	{words: 'shared network', ours: 'host', floor: 'shared'},
	{words: 'own network', ours: 'none', floor: 'own'},
] as const;

/** How much is measured. */
type Sizes = {
	readonly runs: number;
	/** Before each series: Node compiles what it has run often enough. */
	readonly warmUps: number;
	readonly gapRuns: number;
	readonly rivalRuns: number;
	readonly churn: number;
	readonly churnRounds: number;
	readonly pauses: number;
	readonly connections: number;
	readonly idle: number;
	readonly scaleRuns: number;
	readonly close: number;
};

const long: Sizes = {
	runs: 300,
	warmUps: 100,
	gapRuns: 150,
	rivalRuns: 50,
	churn: 100,
	churnRounds: 5,
	pauses: 500,
	connections: 1000,
	idle: 1000,
	scaleRuns: 200,
	close: 600,
};
const short: Sizes = {
	runs: 20,
	warmUps: 10,
	gapRuns: 10,
	rivalRuns: 5,
	churn: 20,
	churnRounds: 2,
	pauses: 50,
	connections: 100,
	idle: 100,
	scaleRuns: 20,
	close: 60,
};

/** Ours, the floor and the others, all of them ready. */
type Field = {
	readonly pool: SandboxPool;
	/** One that makes every sandbox when it is asked for. */
	readonly withoutSpares: SandboxPool;
	readonly floor: SandboxFloor;
	readonly rivals: Rivals;
	/** What every sandbox of ours is made with. */
	readonly options: SandboxOptions;
	readonly sizes: Sizes;
};

function checkEnd({exitCode, error}: ExecResult): void {
	if (exitCode !== programEnd) throw new Error(`the program ended with ${exitCode}: ${error?.message}`);
}

/** Has a sandbox made for the program and run it there; that it is destroyed is not timed, and waited for. */
async function runMs(pool: SandboxPool, {options}: Field, network: 'none' | 'host'): Promise<number> {
	const destroyed = once(pool, 'destroyed');
	const started = performance.now();
	const result = await pool.run([program], {sandbox: {...options, network}});
	const ms = performance.now() - started;
	checkEnd(result);
	await destroyed;
	await sleep(settleMs);
	return ms;
}

/** Likewise in two steps, as for a sandbox that is kept. */
async function createAndExecMs({pool, options}: Field, network: 'none' | 'host'): Promise<number> {
	const started = performance.now();
	const sandbox = await pool.create({...options, network});
	const result = await sandbox.exec([program]);
	const ms = performance.now() - started;
	checkEnd(result);
	await sandbox.destroy();
	await sleep(settleMs);
	return ms;
}

async function measureRuns(field: Field, results: Results): Promise<void> {
	const {floor, sizes} = field;
	for (const {name, gapMs} of paces) {
		for (const {words, ours, floor: network} of networks) {
			const told: number[] = [];
			const floorMs = async () => {
				const run = await floor.run(network);
				told.push(run.toldMs);
				return run.ms;
			};
			const contestants = [
				async () => runMs(field.pool, field, ours),
				floorMs,
				async () => createAndExecMs(field, ours),
				async () => runMs(field.withoutSpares, field, ours),
			] as const;
			await alternate(sizes.warmUps, 0, ...contestants);
			told.length = 0;
			const n = gapMs > 0 ? sizes.gapRuns : sizes.runs;
			const [mine, theirs, twoSteps, unspared] = await alternate(n, gapMs, ...contestants);
			const a = results.series(`create and run, ${words}/${name}`, mine);
			const b = results.series(`create and run, ${words} floor/${name}`, theirs);
			results.series(`create and run, ${words} floor, namespaces still there/${name}`, told);
			results.series(`create, then exec, ${words}/${name}`, twoSteps);
			const c = results.series(`create and run, ${words}, no spare/${name}`, unspared);
			results.notes.push(`create and run / floor, ${words}, no spare/${name}: ${(c / b).toFixed(2)} ×`);
			results.marks.push(mark(`create and run / floor, ${words}/${name}`, a / b, '<=', 1.5, '×'));
		}
	}
}

/** Programs one after the other, with nothing between them: what is made ahead has to be made in that time as well. */
async function measureRate(field: Field, results: Results): Promise<void> {
	const {floor, sizes, options} = field;
	for (const {words, ours, floor: network} of networks) {
		let [mineMs, theirsMs] = [0, 0];
		for (let round = 0; round < sizes.churnRounds; round += 1) {
			const started = performance.now();
			for (let i = 0; i < sizes.churn; i += 1) {
				checkEnd(await field.pool.run([program], {sandbox: {...options, network: ours}}));
			}
			mineMs += performance.now() - started;
			for (let i = 0; i < sizes.churn; i += 1) theirsMs += (await floor.run(network)).ms;
		}
		const rates = [mineMs, theirsMs].map((ms) => ((sizes.churn * sizes.churnRounds * 1000) / ms).toFixed(0));
		results.notes.push(`programs one after the other, ${words}: ${rates[0]} a second, floor ${rates[1]}`);
	}
}

async function measureRivals(field: Field, results: Results): Promise<void> {
	const {rivals, sizes} = field;
	const wanted = {bwrap: 5, runc: 15};
	for (const {name, gapMs} of paces) {
		const contestants = [async () => runMs(field.pool, field, 'none'), ...rivals.installed.map((rival) => rival.runMs)];
		await alternate(2, 0, ...contestants);
		const [mine = [], ...theirs] = await alternate(sizes.rivalRuns, gapMs, ...contestants);
		const a = results.series(`create and run, own network, beside others/${name}`, mine);
		for (const [index, rival] of rivals.installed.entries()) {
			const b = results.series(`${rival.name} run/${name}`, theirs[index] ?? []);
			results.marks.push(mark(`${rival.name} / create and run/${name}`, b / a, '>=', wanted[rival.name], '×'));
		}
	}
	results.notes.push(...rivals.notInstalled);
}

/** Creates and destroys `count` sandboxes, `atOnce` at a time; answers how many a second. */
async function churn({pool, options}: Field, network: 'none' | 'host', atOnce: number, count: number): Promise<number> {
	let left = count;
	const work = async () => {
		while (left > 0) {
			left -= 1;
			const sandbox = await pool.create({...options, network});
			await sandbox.destroy();
		}
	};
	const started = performance.now();
	await Promise.all(Array.from({length: atOnce}, work));
	return count / ((performance.now() - started) / 1000);
}

async function measureChurn(field: Field, results: Results): Promise<void> {
	const {floor, sizes} = field;
	for (const {words, ours, floor: network} of networks) {
		for (const atOnce of [1, 8]) {
			let [mine, theirs] = [0, 0];
			for (let round = 0; round < sizes.churnRounds; round += 1) {
				mine += await churn(field, ours, atOnce, sizes.churn);
				theirs += await floor.churn(network as FloorNetwork, atOnce, sizes.churn);
			}
			results.marks.push(mark(`churn / floor, ${atOnce} at once, ${words}`, mine / theirs, '>=', 0.7, '×'));
			const rates = [mine, theirs].map((sum) => (sum / sizes.churnRounds).toFixed(0));
			results.notes.push(`churn, ${atOnce} at once, ${words}: ${rates[0]} a second, floor ${rates[1]}`);
		}
	}
}

/** How late this process's other timers are meanwhile: what else a server does waits as long. */
async function measureDelay(field: Field, results: Results): Promise<void> {
	const count = field.sizes.churn * field.sizes.churnRounds;
	const ours = await delayDuring(() => churn(field, 'none', 8, count));
	// What the machine adds: this process then does nothing.
	const floor = await delayDuring(() => field.floor.churn('own', 8, count));
	results.marks.push(mark('event loop delay at 8 at once, own network, p99', ours, '<=', 5, 'ms'));
	results.notes.push(`event loop delay while the floor churns 8 at once, own network, p99: ${floor.toFixed(2)} ms`);
}

async function delayDuring(work: () => Promise<unknown>): Promise<number> {
	const delay = monitorEventLoopDelay({resolution: tickMs});
	delay.enable();
	await work();
	delay.disable();
	return delay.percentile(99) / 1e6 - tickMs;
}

/** Of one in which a program waits. */
async function measurePauses({pool, options, sizes}: Field, results: Results): Promise<void> {
	const sandbox = await pool.create(options);
	const started = new Promise((resolve) => sandbox.once('forked', resolve));
	const run = sandbox.exec([program, 'wait']);
	await started;
	const [pauses, resumes]: [number[], number[]] = [[], []];
	for (let i = 0; i < sizes.pauses; i += 1) {
		const beganMs = performance.now();
		await sandbox.pause();
		const pausedMs = performance.now();
		await sandbox.resume();
		resumes.push(performance.now() - pausedMs);
		pauses.push(pausedMs - beganMs);
	}
	await sandbox.destroy();
	await run;
	for (const [name, series] of [
		['pause', pauses],
		['resume', resumes],
	] as const) {
		results.series(name, series);
		results.marks.push(mark(`${name}, p50`, percentile(series, 50), '<=', 0.15, 'ms'));
		results.marks.push(mark(`${name}, p99`, percentile(series, 99), '<=', 1, 'ms'));
	}
}

/** What the kernel counted for the launchers' group, where the counter is a file by itself (v1); in milliseconds. */
function openLauncherCpu(stateDir: string): (() => number) | undefined {
	const groups = JSON.parse(readFileSync(path.join(stateDir, 'cgroups.json'), 'utf8')) as string[];
	const file = groups.map((group) => path.join(group, 'zygotes', 'cpuacct.usage')).find((each) => existsSync(each));
	return file === undefined ? undefined : () => Number(readFileSync(file, 'latin1')) / 1e6;
}

/** CPU time by who spends it, of a sandbox from create() until it is destroyed, no program run. */
async function measureCpu({pool, options, sizes}: Field, stateDir: string, results: Results): Promise<void> {
	const launcherMs = openLauncherCpu(stateDir);
	const [create, whole, launcher]: [number[], number[], number[]] = [[], [], []];
	const spentMs = (since: NodeJS.CpuUsage) => {
		const {user, system} = process.cpuUsage(since);
		return (user + system) / 1000;
	};
	for (let i = 0; i < sizes.scaleRuns; i += 1) {
		const [began, launcherBegan] = [process.cpuUsage(), launcherMs?.() ?? 0];
		const sandbox = await pool.create(options);
		create.push(spentMs(began));
		await sandbox.destroy();
		whole.push(spentMs(began));
		if (launcherMs !== undefined) launcher.push(launcherMs() - launcherBegan);
	}
	results.series('CPU time of Node, create', create);
	results.series('CPU time of Node, create and destroy', whole);
	if (launcherMs === undefined) results.notes.push('CPU time of the launcher: not counted by this kind of cgroup');
	else results.series('CPU time of keeper and launcher, create and destroy', launcher);
}

async function withPool<T>(stateDir: string, work: (pool: SandboxPool) => Promise<T>): Promise<T> {
	const pool = await createSandboxPool({stateDir});
	const leftovers = watchLeftovers(stateDir);
	let result: T;
	try {
		result = await work(pool);
	} finally {
		await pool.close();
	}
	const left = leftovers();
	if (Object.values(left).some((count) => count > 0)) throw new Error(`the pool left ${JSON.stringify(left)}`);
	return result;
}

/** @param benchDir for what benches keep */
export async function benchSandbox(benchDir: string, isShort: boolean): Promise<BenchResult> {
	// What other benches keep would count as left behind.
	const stateDir = path.join(benchDir, 'sandbox');
	const sizes = isShort ? short : long;
	const results = new Results();
	// Others' work is in every figure, and not evenly: ours takes more processes, each of which waits its turn.
	results.notes.push(`load of the machine beforehand: ${loadavg()[0]?.toFixed(2)}`);
	const folder = path.dirname(await benchProgram('program'));
	const rivals = await openRivals(folder);
	const floor = await openSandboxFloor(folder);
	const options: SandboxOptions = {mounts: [{source: folder, target: '/bench'}]};
	let host: Record<string, string | number>;
	try {
		// First: the kernel frees what many sandboxes had long after their end, and so would seem to give memory for later ones.
		results.add(await measureMemory(stateDir, floor, sizes.idle));
		results.add(await measureClose(stateDir, sizes.close));
		host = await withPool(stateDir, async (pool) => {
			const withoutSpares = await createSandboxPool({spares: 0});
			const field = {pool, withoutSpares, floor, rivals, options, sizes};
			// Others first: it matters least for them if the kernel is still busy with the many.
			await measureRivals(field, results);
			await measureRuns(field, results);
			await withoutSpares.close();
			await measureRate(field, results);
			await measureChurn(field, results);
			await measureDelay(field, results);
			await measurePauses(field, results);
			await measureCpu(field, stateDir, results);
			results.add(await measureNetwork(pool, sizes.connections));
			results.add(await measureUser(program, options, sizes));
			results.add(await measureWalls(sizes.pauses));
			const versions = rivals.installed.map(({name, version}) => [name, version.replace(/^.* /, '')] as const);
			return describeHost(pool.stats().isolation.cgroup, Object.fromEntries(versions));
		});
		results.add(await measureScale(stateDir, floor, sizes.idle, sizes.scaleRuns));
	} finally {
		await Promise.all([floor.close(), rivals.close()]);
	}
	if (floor.groups.some((group) => existsSync(group))) throw new Error('the floor left cgroups');
	const {marks, samples, notes} = results;
	return {bench: 'sandbox', host, marks, samples, notes};
}
