/** How long does a start take, against what the kernel and a plain interpreter take for the same? */
import {once} from 'node:events';
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import {createRuntime, type Runtime} from 'forktree';
import {importMs, openForkFloor, openSocketFloor} from './floors.ts';
import {describeHost, type Mark, mark, percentile, type Summary, summarize} from './report.ts';

/** What every bench answers. */
export type BenchResult = {
	readonly bench: string;
	readonly host: Record<string, string | number>;
	readonly marks: readonly Mark[];
	readonly samples: Readonly<Record<string, Summary>>;
};

const weather = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'examples', 'weather');
const noop = 'def f(event):\n    return event\n';

const series = [
	{name: 'back-to-back', gapMs: 0},
	{name: 'gap-100ms', gapMs: 100},
] as const;

/** One forked start, ask to ready; waits until the sandbox is gone, so that its end does not slow what comes next. */
async function forkedStart(runtime: Runtime, name: string): Promise<number> {
	const destroyed = once(runtime, 'destroyed');
	const outcome = await runtime.invoke(name, {});
	if (!outcome.ok || outcome.start !== 'forked')
		throw new Error(`expected a forked start, got ${JSON.stringify(outcome)}`);
	await destroyed;
	return outcome.timings.startMs;
}

/** Ours and the floor in turn. */
async function alternate(
	n: number,
	gapMs: number,
	ours: () => Promise<number>,
	floor: () => Promise<number>,
): Promise<[number[], number[]]> {
	const [a, b]: [number[], number[]] = [[], []];
	for (let i = 0; i < n; i += 1) {
		if (gapMs > 0) await sleep(gapMs);
		a.push(await ours());
		if (gapMs > 0) await sleep(gapMs);
		b.push(await floor());
	}
	return [a, b];
}

/** @param stateDir keeps the packages between runs */
export async function benchStarts(stateDir: string, short: boolean): Promise<BenchResult> {
	const runtime = await createRuntime({stateDir});
	try {
		return await measure(runtime, path.join(stateDir, 'packages'), short);
	} finally {
		await runtime.close();
	}
}

async function measure(runtime: Runtime, packagesDir: string, short: boolean): Promise<BenchResult> {
	const n = short ? 20 : 200;
	await runtime.deploy('bare', {'f.py': noop}, {reuse: false});
	await runtime.deploy('warm', {'f.py': noop});
	await runtime.deploy('weather', weather);
	const requirements = (await readFile(path.join(weather, 'requirements.txt'), 'utf8')).split('\n');
	await runtime.deploy('pandas', {'f.py': `import pandas\n${noop}`}, {reuse: false, requirements});
	const where = await runtime.invoke('weather', {month: 1}, {timeoutMs: 120_000});
	if (!where.ok) throw new Error(where.error.message);
	const {python, isolation, zygotes} = await runtime.stats();
	const zygote = zygotes.find((each) => each.packages !== '');
	if (zygote === undefined) throw new Error('expected a zygote with packages');
	const siteDir = path.join(packagesDir, zygote.packages, 'site');
	const samples: Record<string, Summary> = {};
	const marks: Mark[] = [];
	const bareFloor = await openForkFloor({python: python.executable, siteDir: undefined, modules: []});
	const pandasFloor = await openForkFloor({python: python.executable, siteDir, modules: zygote.modules});
	const socketFloor = await openSocketFloor(python.executable);
	const message = Buffer.from('{"month":7}');
	try {
		for (const {name, gapMs} of series) {
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
			const warmCall = async () => {
				const started = performance.now();
				const outcome = await runtime.invoke('warm', {month: 7});
				if (!outcome.ok) throw new Error(outcome.error.message);
				return performance.now() - started;
			};
			const socket = () => socketFloor.roundTripMs(message);
			await alternate(100, 0, warmCall, socket);
			const [warm, round] = add(
				'warm call',
				await alternate(short ? 50 : gapMs > 0 ? n : 2000, gapMs, warmCall, socket),
			);
			marks.push(mark(`warm no-op call / socket round trip/${name}`, warm / round, '<=', 2, '×'));
			const imports: number[] = [];
			for (let i = 0; i < (short ? 3 : 15); i += 1) {
				if (gapMs > 0) await sleep(gapMs);
				imports.push(await importMs({python: python.executable, siteDir, modules: ['pandas']}));
			}
			samples[`fresh process, import pandas/${name}`] = summarize(imports);
			marks.push(
				mark(`fresh import of pandas / forked pandas start/${name}`, percentile(imports, 50) / pandas, '>=', 80, '×'),
			);
		}
	} finally {
		await Promise.all([bareFloor.close(), pandasFloor.close(), socketFloor.close()]);
	}
	return {bench: 'starts', host: describeHost(python.version, isolation.cgroup), marks, samples};
}
