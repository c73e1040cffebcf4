/** How long does a start take, against what the kernel and a plain interpreter take for the same? */
import {once} from 'node:events';
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import {createRuntime, type Runtime} from 'forktree';
import {alternate, paces} from './alternate.ts';
import {importMs, openProcessFloor, openSocketFloor} from './floors.ts';
import {processesOf} from './leftovers.ts';
import {onOneCore} from './one-core.ts';
import {type BenchResult, describeHost, type Mark, mark, percentile, type Summary, summarize} from './report.ts';

const weather = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'examples', 'weather');
const noop = 'def f(event):\n    return event\n';

/** One forked start, ask to ready; waits until the sandbox is gone, so that its end does not slow what comes next. */
async function forkedStart(runtime: Runtime, name: string): Promise<number> {
	const destroyed = once(runtime, 'destroyed');
	const outcome = await runtime.invoke(name, {});
	if (!outcome.ok || outcome.start !== 'forked')
		throw new Error(`expected a forked start, got ${JSON.stringify(outcome)}`);
	await destroyed;
	return outcome.timings.startMs;
}

/** Warm calls and round trips in turn, in rounds with a new instance and a new floor each. */
async function warmCalls(
	runtime: Runtime,
	python: string,
	gapMs: number,
	short: boolean,
): Promise<[number[], number[]]> {
	const all: [number[], number[]] = [[], []];
	const [rounds, calls] = short ? [2, 25] : gapMs > 0 ? [10, 20] : [20, 200];
	const message = Buffer.from('{"month":7}');
	for (let i = 0; i < rounds; i += 1) {
		await runtime.deploy('warm', {'f.py': noop});
		const call = async () => {
			const started = performance.now();
			const outcome = await runtime.invoke('warm', {month: 7});
			if (!outcome.ok) throw new Error(outcome.error.message);
			return performance.now() - started;
		};
		await call();
		const floor = await openSocketFloor(python);
		const roundTrip = () => floor.roundTripMs(message);
		await alternate(50, 0, call, roundTrip);
		const [ours, floors] = await alternate(calls, gapMs, call, roundTrip);
		all[0].push(...ours);
		all[1].push(...floors);
		await floor.close();
		await runtime.remove('warm');
	}
	return all;
}

/** @param stateDir keeps the packages between runs */
export async function benchStarts(stateDir: string, short: boolean): Promise<BenchResult> {
	// Forks are measured here, not what was forked ahead.
	const runtime = await createRuntime({stateDir, spares: 0});
	try {
		return await measure(runtime, stateDir, short);
	} finally {
		await runtime.close();
	}
}

async function measure(runtime: Runtime, stateDir: string, short: boolean): Promise<BenchResult> {
	const n = short ? 20 : 200;
	await runtime.deploy('bare', {'f.py': noop}, {reuse: false, spares: 0});
	await runtime.deploy('weather', weather);
	const requirements = (await readFile(path.join(weather, 'requirements.txt'), 'utf8')).split('\n');
	await runtime.deploy('pandas', {'f.py': `import pandas\n${noop}`}, {reuse: false, spares: 0, requirements});
	const where = await runtime.invoke('weather', {month: 1}, {timeoutMs: 120_000});
	if (!where.ok) throw new Error(where.error.message);
	const {python, isolation, zygotes} = await runtime.stats();
	const zygote = zygotes.find((each) => each.packages !== '');
	if (zygote === undefined) throw new Error('expected a zygote with packages');
	const own = new Set(runtime.list().find(({name}) => name === 'pandas')?.packages);
	const installed = (await runtime.packages.list()).filter(({name, version}) => own.has(`${name}==${version}`));
	const folders = installed.map(({folder}) => folder);
	const samples: Record<string, Summary> = {};
	const marks: Mark[] = [];
	const bareFloor = await openProcessFloor({python: python.executable, folders: [], modules: []});
	const pandasFloor = await openProcessFloor({python: python.executable, folders, modules: zygote.modules});
	try {
		for (const {name, gapMs} of paces) {
			const add = (what: string, [ours, floor]: readonly [number[], number[]]) => {
				samples[`${what}/${name}`] = summarize(ours);
				samples[`${what} floor/${name}`] = summarize(floor);
				return [percentile(ours, 50), percentile(floor, 50)] as const;
			};
			await alternate(5, 0, () => forkedStart(runtime, 'pandas'), pandasFloor.forkMs);
			const [pandas, pandasFork] = add(
				'pandas start',
				await alternate(n, gapMs, () => forkedStart(runtime, 'pandas'), pandasFloor.forkMs),
			);
			marks.push(mark(`forked pandas start / os.fork()/${name}`, pandas / pandasFork, '<=', 1.7, '×'));
			await alternate(5, 0, () => forkedStart(runtime, 'bare'), bareFloor.forkMs);
			const [bare, bareFork] = add(
				'bare start',
				await alternate(n, gapMs, () => forkedStart(runtime, 'bare'), bareFloor.forkMs),
			);
			marks.push(mark(`forked bare start − os.fork()/${name}`, bare - bareFork, '<=', 1.5, 'ms'));
			// Where the scheduler puts the two processes, beside us or on a core that must be woken, makes a factor of two for
			// either, by chance: so the mark is of both on one core.
			add('warm call, any core', await warmCalls(runtime, python.executable, gapMs, short));
			const [warm, round] = add(
				'warm call, one core',
				await onOneCore(processesOf(stateDir), async () => warmCalls(runtime, python.executable, gapMs, short)),
			);
			marks.push(mark(`warm no-op call / socket round trip/${name}`, warm / round, '<=', 2, '×'));
			const imports: number[] = [];
			for (let i = 0; i < (short ? 3 : 15); i += 1) {
				if (gapMs > 0) await sleep(gapMs);
				imports.push(await importMs({python: python.executable, folders, modules: ['pandas']}));
			}
			samples[`fresh process, import pandas/${name}`] = summarize(imports);
			marks.push(
				mark(`fresh import of pandas / forked pandas start/${name}`, percentile(imports, 50) / pandas, '>=', 80, '×'),
			);
		}
	} finally {
		await Promise.all([bareFloor.close(), pandasFloor.close()]);
	}
	return {bench: 'starts', host: describeHost(isolation.cgroup, {python: python.version}), marks, samples};
}
