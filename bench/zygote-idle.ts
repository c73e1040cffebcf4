/** What many idle instances of a function with pandas take: of memory, and of the next start. */
import {once} from 'node:events';
import {setTimeout as sleep} from 'node:timers/promises';
import {createRuntime, type Runtime, type RuntimeOptions} from 'forktree';
import {type Mark, mark, type Part, percentile, summarize} from './report.ts';
import {readMemory} from './sandbox-many.ts';

/**
 * Can be held in the middle of a call, so that any number of instances are at work at once: what comes after the first chunk is
 * not read before that is taken, unless it arrives together with it.
 */
const handler = 'import pandas, time\ndef f(event):\n    yield 1\n    time.sleep(0.2)\n    yield 2\n';
const attempts = 5;
const atOnce = 8;
/** Idle ones fit into it; their limits together go beyond any machine's memory. */
const endlessMb = 2 ** 24;
const few = 10;
const patienceMs = 30_000;

/** Afterwards there are that many idle instances, those that there were before included. */
async function makeIdle(runtime: Runtime, count: number): Promise<void> {
	for (let attempt = 0; attempt < attempts; attempt += 1) {
		await callAtOnce(runtime, count);
		const {functions} = await runtime.stats();
		if (functions.find(({name}) => name === 'idle')?.idle === count) return untilParked(runtime);
	}
	throw new Error(`expected ${count} idle instances`);
}

/** Nothing more becomes of them then, until they are called. */
async function untilParked(runtime: Runtime): Promise<void> {
	const deadline = performance.now() + patienceMs;
	for (;;) {
		const {functions} = await runtime.stats();
		if (functions.every(({idle, parked}) => idle === parked)) return;
		if (performance.now() > deadline) throw new Error(`expected parked instances within ${patienceMs} ms`);
		await sleep(100);
	}
}

async function callAtOnce(runtime: Runtime, count: number): Promise<void> {
	const calls: Array<() => Promise<void>> = [];
	let left = count;
	const work = async () => {
		while (left > 0) {
			left -= 1;
			const stream = runtime.stream('idle', null, {timeoutMs: 600_000});
			const chunks = stream[Symbol.asyncIterator]();
			await chunks.next();
			calls.push(async () => {
				while ((await chunks.next()).done !== true);
				const outcome = await stream.outcome;
				if (!outcome.ok) throw new Error(`idle: ${outcome.error.message}`);
			});
		}
	};
	await Promise.all(Array.from({length: atOnce}, work));
	await Promise.all(calls.map(async (finish) => finish()));
}

async function startMs(runtime: Runtime): Promise<number> {
	const destroyed = once(runtime, 'destroyed');
	const outcome = await runtime.invoke('fresh', null);
	if (!outcome.ok || outcome.start !== 'forked')
		throw new Error(`expected a forked start, got ${JSON.stringify(outcome)}`);
	await destroyed;
	return outcome.timings.startMs;
}

async function starts(runtime: Runtime, count: number): Promise<number[]> {
	const series: number[] = [];
	for (let i = 0; i < count + 10; i += 1) series.push(await startMs(runtime));
	return series.slice(10);
}

/** @param many how many instances, and `runs` how many starts beside them */
export async function measureIdle(
	dirs: RuntimeOptions & {readonly stateDir: string},
	requirements: readonly string[],
	many: number,
	runs: number,
): Promise<Part> {
	const runtime = await createRuntime({...dirs, memoryBudgetMb: endlessMb});
	const deployIdle = async () =>
		runtime.deploy('idle', {'f.py': handler}, {requirements, concurrency: many, limits: {memoryMb: 64}});
	try {
		await runtime.deploy(
			'fresh',
			{'f.py': 'import pandas\ndef f(event):\n    return event\n'},
			{requirements, reuse: false},
		);
		await deployIdle();
		await makeIdle(runtime, few);
		const besideFew = await starts(runtime, runs / 2);
		const before = readMemory(dirs.stateDir);
		await makeIdle(runtime, many);
		const after = readMemory(dirs.stateDir);
		const besideMany = await starts(runtime, runs);
		// Few again, lest the machine's mood decides.
		await runtime.remove('idle');
		await deployIdle();
		await makeIdle(runtime, few);
		besideFew.push(...(await starts(runtime, runs / 2)));
		const growth = (name: keyof typeof after) => (after[name] - before[name]) / (many - few) / 1024;
		const slower = percentile(besideMany, 50) / percentile(besideFew, 50);
		const gigabytes = (growth('total') * many * 2 ** 20) / 1e9;
		const marks: Mark[] = [
			mark(`memory of an idle pandas instance, ${many} of them`, growth('total'), '<=', 2, 'MiB'),
			mark(`memory of ${many} idle pandas instances`, gigabytes, '<=', (2.2 * many) / 1000, 'GB'),
			mark(`start beside ${many} idle instances / beside ${few}`, slower, '<=', 1.3, '×'),
		];
		const parts = (['pages', 'slabs', 'stacks', 'tables', 'perCpu', 'node'] as const).map(
			(name) => `${name} ${growth(name).toFixed(2)}`,
		);
		return {
			marks,
			samples: {
				[`start beside ${few} idle instances`]: summarize(besideFew),
				[`start beside ${many} idle instances`]: summarize(besideMany),
			},
			notes: [`MiB of an idle pandas instance: ${parts.join(', ')}`],
		};
	} finally {
		for (const {name} of runtime.list()) await runtime.remove(name);
		await runtime.close();
	}
}
