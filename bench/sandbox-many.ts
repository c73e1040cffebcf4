/** What a thousand sandboxes take: of memory, of the next one's start, and of a pool's end. */

import {readFileSync, writeFileSync} from 'node:fs';
import process from 'node:process';
import {setFlagsFromString} from 'node:v8';
import {runInNewContext} from 'node:vm';
import {createSandboxPool, type Sandbox, type SandboxPool} from 'forktree';
import {alternate} from './alternate.ts';
import {processesOf} from './leftovers.ts';
import {type Mark, mark, type Part, percentile, summarize} from './report.ts';
import type {SandboxFloor} from './sandbox-floor.ts';

const atOnce = 8;
/** Idle ones fit into it; their limits together go beyond any machine's memory. */
const small = {limits: {memoryMb: 16}} as const;
const endlessMb = 2 ** 24;
/** On x64. */
const pageKiB = 4;

/** A pool for more sandboxes than a machine should have. */
export async function openLargePool(stateDir: string): Promise<SandboxPool> {
	return createSandboxPool({stateDir, memoryBudgetMb: endlessMb, defaults: small});
}

/** Makes sandboxes, some at once. */
async function createMany(pool: SandboxPool, count: number, network: 'none' | 'host'): Promise<Sandbox[]> {
	const made: Sandbox[] = [];
	let left = count;
	const work = async () => {
		while (left > 0) {
			left -= 1;
			made.push(await pool.create({network}));
		}
	};
	await Promise.all(Array.from({length: atOnce}, work));
	return made;
}

function collectGarbage(): void {
	setFlagsFromString('--expose-gc');
	const collect = runInNewContext('gc') as () => void;
	collect();
	collect();
}

/** Kinds of memory that are named by the kernel, in KiB; those that it does not name are in `total` alone. */
export type Memory = Readonly<Record<'total' | 'node' | 'pages' | 'slabs' | 'stacks' | 'tables' | 'perCpu', number>>;

function fields(file: string): (name: string) => number {
	const text = readFileSync(file, 'latin1');
	return (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0);
}

/** Some hundred MiB after a thousand sandboxes have ended. */
function freeByCpuKiB(): number {
	const pages = [...readFileSync('/proc/zoneinfo', 'latin1').matchAll(/^\s+count:\s+(\d+)$/gm)];
	return pages.reduce((sum, [, count]) => sum + Number(count) * pageKiB, 0);
}

/**
 * What this process, its keeper, launchers and sandboxes take, of the kernel's memory as well.
 *
 * `total` is all memory of the machine that is neither free nor page cache of files, with the private pages of other people's
 * processes taken out: all private pages but those of ours. The kernel is first asked to give back what it caches of names and
 * inodes, so that what is left of its slabs is in use; tmpfs pages, which are counted with the page cache, are in use as well.
 * Free pages that each CPU keeps at hand, which the kernel does not call free, are.
 * So this sees what cgroups, namespaces, mounts, sockets, page tables, stacks and per-CPU data take, whoever is charged for
 * them and whether or not the kernel has a name for it. MemAvailable would not do: it counts half of the slabs as free,
 * however many can be given back, and moves with everything that starts or ends on the machine.
 *
 * Each group with a memory limit has a kilobyte for every 64 shrinkers of the kernel, which are one or two for each mounted file
 * system and are counted at their most since the machine was started: so a sandbox takes more the more there are or were.
 */
export function readMemory(stateDir: string): Memory {
	collectGarbage();
	writeFileSync('/proc/sys/vm/drop_caches', '2');
	const read = fields('/proc/meminfo');
	const pages = [process.pid, ...processesOf(stateDir)].reduce(
		(sum, pid) => sum + fields(`/proc/${pid}/smaps_rollup`)('Pss_Anon'),
		0,
	);
	const all = read('MemTotal') - read('MemFree') - read('Buffers') - (read('Cached') - read('Shmem'));
	return {
		total: all - freeByCpuKiB() - read('AnonPages') + pages,
		node: process.memoryUsage.rss() / 1024,
		pages,
		slabs: read('Slab'),
		stacks: read('KernelStack'),
		tables: read('PageTables'),
		perCpu: read('Percpu'),
	};
}

/** Memory of idle sandboxes, in which no program runs. Nothing is destroyed between two readings: the kernel frees late. */
export async function measureMemory(stateDir: string, floor: SandboxFloor, count: number): Promise<Part> {
	const pool = await openLargePool(stateDir);
	const marks: Mark[] = [];
	const notes: string[] = [];
	try {
		for (const [network, floorNetwork, words, limit] of [
			['host', 'shared', 'without a network namespace', 150],
			['none', 'own', 'with a network namespace', 350],
		] as const) {
			// Launchers, compiled code and what is made ahead are not of a sandbox.
			await createMany(pool, 20, network);
			const before = readMemory(stateDir);
			await createMany(pool, count, network);
			const after = readMemory(stateDir);
			await floor.hold(floorNetwork, count);
			const withFloor = readMemory(stateDir);
			const each = (name: keyof Memory) => (after[name] - before[name]) / count;
			marks.push(mark(`memory of an idle sandbox ${words}, ${count} of them`, each('total'), '<=', limit, 'KiB'));
			const parts = (['pages', 'slabs', 'stacks', 'tables', 'perCpu'] as const).map(
				(name) => `${name} ${each(name).toFixed(1)}`,
			);
			notes.push(
				`KiB of an idle sandbox ${words}: ${parts.join(', ')}; growth of Node's resident memory ${each('node').toFixed(1)}`,
			);
			// Its own pages are not known here, nor is what the kernel does not name.
			const floorParts = (['slabs', 'stacks', 'tables', 'perCpu'] as const).map(
				(name) => `${name} ${((withFloor[name] - after[name]) / count).toFixed(1)}`,
			);
			notes.push(`KiB of the floor's, ${words}: ${floorParts.join(', ')}`);
		}
	} finally {
		await pool.close();
		await floor.release();
	}
	return {marks, samples: {}, notes};
}

async function createMs(pool: SandboxPool): Promise<number> {
	const started = performance.now();
	const sandbox = await pool.create();
	const ms = performance.now() - started;
	await sandbox.destroy();
	return ms;
}

/** The next start beside few and beside many paused sandboxes: few, many, and few again, lest the machine's mood decides. */
export async function measureScale(stateDir: string, floor: SandboxFloor, many: number, n: number): Promise<Part> {
	const few = 10;
	const pool = await openLargePool(stateDir);
	const series = {few: [] as number[], many: [] as number[]};
	const floors = {few: [] as number[], many: [] as number[]};
	const floorMs = async () => (await floor.run('own')).ms;
	const measure = async (beside: 'few' | 'many', count: number) => {
		await alternate(10, 0, () => createMs(pool), floorMs);
		const [ours, theirs] = await alternate(count, 0, () => createMs(pool), floorMs);
		series[beside].push(...ours);
		floors[beside].push(...theirs);
	};
	const pauseMany = async (count: number) => {
		const made = await createMany(pool, count, 'none');
		for (const sandbox of made) await sandbox.pause();
		return made;
	};
	try {
		await pauseMany(few);
		await measure('few', n / 2);
		const others = await pauseMany(many - few);
		await measure('many', n);
		await Promise.all(others.map(async (sandbox) => sandbox.destroy()));
		await measure('few', n / 2);
	} finally {
		await pool.close();
	}
	const ratioOf = (each: typeof series) => percentile(each.many, 50) / percentile(each.few, 50);
	return {
		marks: [mark(`create beside ${many} paused sandboxes / beside ${few}`, ratioOf(series), '<=', 1.2, '×')],
		samples: {
			[`create, beside ${few} paused`]: summarize(series.few),
			[`create, beside ${many} paused`]: summarize(series.many),
			[`floor, beside ${few} paused`]: summarize(floors.few),
			[`floor, beside ${many} paused`]: summarize(floors.many),
		},
		notes: [`the floor beside ${many} paused sandboxes / beside ${few}: ${ratioOf(floors).toFixed(3)} ×`],
	};
}

/** How long a pool with idle sandboxes takes to close. */
export async function measureClose(stateDir: string, count: number): Promise<Part> {
	const pool = await openLargePool(stateDir);
	let started: number;
	try {
		await createMany(pool, count, 'none');
	} finally {
		started = performance.now();
		await pool.close();
	}
	const ms = performance.now() - started;
	return {marks: [mark(`close a pool with ${count} idle sandboxes`, ms / 1000, '<=', 2, 's')], samples: {}, notes: []};
}
