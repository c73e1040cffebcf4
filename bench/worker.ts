/** What does the worker add to a call, against a bare HTTP server that forwards to an idle Python? */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import {createRuntime} from 'forktree';
import {dir as temporaryDirectory} from 'tmp-promise';
import {alternate, paces} from './alternate.ts';
import {openProcessFloor, type ProcessFloor} from './floors.ts';
import {HttpClient} from './http-client.ts';
import {type BenchResult, describeHost, mark, percentile, Results} from './report.ts';

const here = path.dirname(fileURLToPath(import.meta.url));
const echo = 'def f(event):\n    return event\n';
const pandas = 'import pandas\n\ndef f(event):\n    return event\n';
const streaming = 'def f(event):\n    for _ in range(event):\n        yield bytes(1 << 20)\n';
const event = '{"month":7}';
const requirements = ['pandas'];
const outstanding = 32;

type Server = {readonly url: string; readonly pid: number; close(): Promise<void>};

async function startServer(file: string, ...args: readonly string[]): Promise<Server> {
	const child = spawn(process.execPath, ['--import=tsx', path.join(here, file), ...args], {
		stdio: ['ignore', 'pipe', 'ignore'],
	});
	const lines = createInterface({input: child.stdout as NodeJS.ReadableStream});
	const [url] = (await once(lines, 'line', {signal: AbortSignal.timeout(60_000)})) as [string];
	return {url, pid: child.pid ?? 0, close: async () => stop(child)};
}

async function stop(child: ChildProcess): Promise<void> {
	const ended = once(child, 'exit');
	child.kill('SIGTERM');
	await ended;
}

async function writeFunction(registry: string, name: string, files: Readonly<Record<string, string>>): Promise<void> {
	await mkdir(path.join(registry, name), {recursive: true});
	for (const [file, text] of Object.entries(files)) await writeFile(path.join(registry, name, file), text);
}

async function writeFunctions(registry: string, count: number): Promise<void> {
	const pinned = {'requirements.txt': `${requirements.join('\n')}\n`};
	for (let i = 0; i < 64; i += 1) await writeFunction(registry, `echo-${i}`, {'f.py': echo});
	await writeFunction(registry, 'warm-pandas', {'f.py': pandas, ...pinned});
	await writeFunction(registry, 'fresh-pandas', {'f.py': pandas, ...pinned, 'ol.yaml': 'reuse-sandbox: false\n'});
	await writeFunction(registry, 'stream', {'f.py': streaming});
	for (let i = 0; i < count; i += 1) {
		await writeFunction(registry, `new-echo-${i}`, {'f.py': `${echo}# ${i}\n`});
		await writeFunction(registry, `new-pandas-${i}`, {'f.py': `${pandas}# ${i}\n`, ...pinned});
	}
}

function poster(client: HttpClient, route: string, body = event): () => Promise<number> {
	return async () => {
		const started = performance.now();
		const status = await client.post(route, body);
		if (status !== 200) throw new Error(`${route} was answered with ${status}`);
		return performance.now() - started;
	};
}

/** Calls a second, with so many clients that each call as soon as they are answered. */
async function throughput(url: string, routes: readonly string[], clients: number, ms: number): Promise<number> {
	const connections = await Promise.all(Array.from({length: clients}, async () => HttpClient.connect(url)));
	const until = performance.now() + ms;
	let calls = 0;
	const work = async (client: HttpClient) => {
		while (performance.now() < until) {
			await poster(client, routes[calls % routes.length] ?? '')();
			calls += 1;
		}
	};
	await Promise.all(connections.map(work));
	for (const client of connections) client.close();
	return (calls * 1000) / ms;
}

/** Milliseconds of calls that arrive at random, so many a second, and wait for none before them. */
async function openLoop(url: string, route: string, perSecond: number, ms: number): Promise<number[]> {
	const idle: HttpClient[] = [];
	const calls: Array<Promise<number>> = [];
	const arrive = async (dueMs: number) => {
		const client = idle.pop() ?? (await HttpClient.connect(url));
		await poster(client, route)();
		idle.push(client);
		return performance.now() - dueMs;
	};
	const began = performance.now();
	for (let dueMs = began; dueMs < began + ms; dueMs += (-Math.log(1 - Math.random()) * 1000) / perSecond) {
		const waitMs = dueMs - performance.now();
		if (waitMs > 0) await sleep(waitMs);
		calls.push(arrive(dueMs));
	}
	const series = await Promise.all(calls);
	for (const client of idle) client.close();
	return series;
}

type Bench = {
	readonly ours: Server;
	readonly floor: Server;
	readonly forks: ProcessFloor;
	readonly results: Results;
	readonly isShort: boolean;
};

async function measureWarm({ours, floor, results, isShort}: Bench): Promise<void> {
	const [a, b] = await Promise.all([HttpClient.connect(ours.url), HttpClient.connect(floor.url)]);
	const [call, forward] = [poster(a, '/run/echo-0'), poster(b, '/')];
	await alternate(isShort ? 20 : 300, 0, call, forward);
	for (const {name, gapMs} of paces) {
		const calls = isShort ? 20 : gapMs > 0 ? 200 : 3000;
		const [oursMs, floorMs] = await alternate(calls, gapMs, call, forward);
		const ratio = results.series(`warm call, ${name}`, oursMs) / results.series(`floor, ${name}`, floorMs);
		results.marks.push(mark(`warm call / floor, ${name}`, ratio, '<=', 1.6, '×'));
	}
	await sleep(1500); // an instance that nobody called for a second is paused
	const [oursMs, floorMs] = await alternate(isShort ? 1 : 8, 1300, call, forward);
	const ratio = results.series('warm call, gap-1300ms', oursMs) / results.series('floor, gap-1300ms', floorMs);
	results.notes.push(`Calls of an instance that is paused between them: ${ratio.toFixed(2)} × the floor at p50.`);
	a.close();
	b.close();
}

async function measureThroughput({ours, floor, results, isShort}: Bench): Promise<void> {
	const rounds = isShort ? 1 : 5;
	const ms = isShort ? 500 : 2000;
	const many = Array.from({length: 64}, (_, index) => `/run/echo-${index}`);
	await throughput(ours.url, many, outstanding, isShort ? 3000 : 5000);
	for (const [name, routes] of [
		['one function', ['/run/echo-0']],
		['64 functions', many],
	] as const) {
		const [oursPerSecond, floorPerSecond] = await alternate(
			rounds,
			0,
			async () => throughput(ours.url, routes, outstanding, ms),
			async () => throughput(floor.url, ['/'], outstanding, ms),
		);
		const [a, b] = [percentile(oursPerSecond, 50), percentile(floorPerSecond, 50)];
		results.marks.push(mark(`throughput / floor, ${outstanding} outstanding, ${name}`, a / b, '>=', 0.7, '×'));
		results.notes.push(
			`${name}, ${outstanding} outstanding: ${a.toFixed(0)} calls a second, the floor ${b.toFixed(0)}.`,
		);
	}
	const open = await openLoop(ours.url, '/run/echo-0', 500, ms);
	const openFloor = await openLoop(floor.url, '/', 500, ms);
	results.series('open loop, 500 a second', open);
	results.series('floor, open loop, 500 a second', openFloor);
}

async function measureFresh({ours, forks, results, isShort}: Bench): Promise<void> {
	const client = await HttpClient.connect(ours.url);
	const [fresh, warm] = [poster(client, '/run/fresh-pandas'), poster(client, '/run/warm-pandas')];
	await alternate(isShort ? 5 : 20, 100, fresh, warm);
	const [freshMs, warmMs] = await alternate(isShort ? 5 : 200, 100, fresh, warm);
	const more = results.series('fresh sandbox, pandas', freshMs) - results.series('warm, pandas', warmMs);
	results.marks.push(mark('fresh sandbox - warm, pandas, gap-100ms', more, '<=', 1, 'ms'));
	client.close();
	const [perSecond, forkMs] = await alternate(
		isShort ? 1 : 5,
		0,
		async () => throughput(ours.url, ['/run/fresh-pandas'], 8, isShort ? 1000 : 3000),
		async () => (await forks.churnMs(isShort ? 20 : 200)) / (isShort ? 20 : 200),
	);
	const [a, b] = [percentile(perSecond, 50), 1000 / percentile(forkMs, 50)];
	results.marks.push(mark('throughput of fresh sandboxes / os.fork, pandas', a / b, '>=', 0.6, '×'));
	results.notes.push(
		`Fresh sandboxes with pandas, 8 outstanding: ${a.toFixed(0)} calls a second; os.fork() and its end: ${b.toFixed(0)}.`,
	);
}

async function measureFirst({ours, forks, results}: Bench, count: number): Promise<void> {
	const client = await HttpClient.connect(ours.url);
	for (const [kind, limit] of [
		['echo', 3],
		['pandas', 5],
	] as const) {
		let next = 0;
		const first = async () => poster(client, `/run/new-${kind}-${next++}`)();
		const [firstMs, forkMs] = await alternate(count, 20, first, () => forks.forkMs());
		const a = results.series(`first call of a new function, ${kind}`, firstMs);
		const b = results.series(`os.fork() of pandas, beside ${kind}`, forkMs);
		results.marks.push(mark(`first call of a new function, ${kind}`, a, '<=', limit, 'ms'));
		results.notes.push(
			`First call of a new function, ${kind}: ${(a / b).toFixed(1)} × os.fork() of an interpreter with pandas.`,
		);
	}
	client.close();
}

/** The most memory that a process has had, in MiB. */
function peakMiB(pid: number): number {
	const status = readFileSync(`/proc/${pid}/status`, 'latin1');
	return Number(/^VmHWM:\s*(\d+)/m.exec(status)?.[1]) / 1024;
}

/** Milliseconds until a Python has written so many MiB to a pipe, and all of it is read. */
async function pipeMs(python: string, mib: number): Promise<number> {
	const program = `import os, sys\nsys.stdin.readline()\nfor _ in range(${mib}):\n    data = memoryview(bytes(1 << 20))\n    while data:\n        data = data[os.write(1, data):]\n`;
	const child = spawn(python, ['-I', '-S', '-c', program], {stdio: ['pipe', 'pipe', 'inherit']});
	await once(child, 'spawn');
	await sleep(100);
	const started = performance.now();
	child.stdin?.write('go\n');
	let bytes = 0;
	child.stdout?.on('data', (data: Buffer) => {
		bytes += data.length;
	});
	await once(child.stdout as NodeJS.ReadableStream, 'end');
	const ms = performance.now() - started;
	if (bytes !== mib << 20) throw new Error(`expected ${mib} MiB, got ${bytes} bytes`);
	return ms;
}

async function measureStream({ours, results, isShort}: Bench, python: string): Promise<void> {
	const client = await HttpClient.connect(ours.url);
	const mib = isShort ? 4 : 100;
	const stream = async () => {
		let bytes = 0;
		const started = performance.now();
		const status = await client.post('/run/stream', String(mib), (more) => {
			bytes += more;
		});
		if (status !== 200 || bytes !== mib << 20) throw new Error(`expected ${mib} MiB, got ${bytes} bytes and ${status}`);
		return performance.now() - started;
	};
	await stream();
	const before = peakMiB(ours.pid);
	const [oursMs, plainMs] = await alternate(isShort ? 2 : 10, 0, stream, () => pipeMs(python, mib));
	const ratio = results.series(`pipe, ${mib} MiB`, plainMs) / results.series(`streamed answer, ${mib} MiB`, oursMs);
	results.marks.push(mark(`throughput of a streamed answer / pipe, ${mib} MiB`, ratio, '>=', 0.6, '×'));
	results.notes.push(
		`The worker's memory rose by ${(peakMiB(ours.pid) - before).toFixed(0)} MiB while ${mib} MiB were streamed again and again.`,
	);
	client.close();
}

/** @param stateDir keeps the packages between runs */
export async function benchWorker(stateDir: string, isShort: boolean): Promise<BenchResult> {
	const {path: folder} = await temporaryDirectory({unsafeCleanup: true});
	const registry = path.join(folder, 'registry');
	const count = isShort ? 3 : 100;
	const runtime = await createRuntime({stateDir});
	const undo: Array<() => Promise<unknown>> = [];
	try {
		await writeFunctions(registry, count);
		await runtime.deploy('packages', {'f.py': pandas}, {requirements});
		const {isolation, python} = await runtime.stats();
		const own = new Set(runtime.describe('packages').packages);
		const installed = (await runtime.packages.list()).filter((each) => own.has(`${each.name}==${each.version}`));
		const folders = installed.map(({folder}) => folder);
		await runtime.remove('packages');
		await runtime.close();
		const forks = await openProcessFloor({python: python.executable, folders, modules: ['pandas']});
		undo.push(() => forks.close());
		const floor = await startServer('worker-floor.ts', python.executable);
		undo.push(() => floor.close());
		const ours = await startServer('worker-process.ts', registry, stateDir);
		undo.push(() => ours.close());
		const results = new Results();
		const bench = {ours, floor, forks, results, isShort};
		await measureFirst(bench, count);
		await measureWarm(bench);
		await measureFresh(bench);
		await measureStream(bench, python.executable);
		await measureThroughput(bench);
		const {marks, samples, notes} = results;
		return {bench: 'worker', host: describeHost(isolation.cgroup, {python: python.version}), marks, samples, notes};
	} finally {
		await runtime.close();
		for (const step of undo.reverse()) await step().catch(() => undefined);
		await rm(folder, {recursive: true, force: true});
	}
}
