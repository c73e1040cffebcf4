/**
 * The main job on real data: a pandas function, started cold, forked and warm, beside the floors of this machine.
 *     npm run demo            a table
 *     npm run -s demo -- --json    one JSON document on stdout
 */
import {once} from 'node:events';
import {readlink} from 'node:fs/promises';
import {release} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath} from 'node:url';
import {createRuntime, type Outcome, type Runtime, type StartKind, type Success, type Timings} from 'forktree';
import {importMs, openProcessFloor, openSocketFloor} from '../bench/floors.ts';
import {watchLeftovers} from '../bench/leftovers.ts';
import {percentile, type Summary, summarize, table} from '../bench/report.ts';

const here = path.dirname(fileURLToPath(import.meta.url));
const weather = path.join(here, 'weather');
const stateDir = path.join(here, '..', '.state', 'demo');
const json = process.argv.includes('--json');
/** Whether it runs without the limits that this machine can't hold for whoever runs it; it says which. */
const bestEffort = process.argv.includes('--best-effort');

/** Reads from inside what the sandbox is made of. */
const inspect = `
import os

def f(event):
    with open('/proc/self/status') as status:
        fields = {name: value.strip() for name, _, value in (line.partition(':') for line in status)}
    return {
        'namespaces': {name: os.readlink(f'/proc/self/ns/{name}') for name in os.listdir('/proc/self/ns')},
        'seccomp': fields['Seccomp'], 'noNewPrivs': fields['NoNewPrivs'],
        'capabilities': [fields[name] for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')],
    }
`;

type Inside = {namespaces: Record<string, string>; seccomp: string; noNewPrivs: string; capabilities: string[]};

function say(text: string): void {
	(json ? process.stderr : process.stdout).write(`${text}\n`);
}

function expectOk(outcome: Outcome, start?: StartKind): Success {
	if (!outcome.ok) throw new Error(`${outcome.error.code}: ${outcome.error.message}\n${outcome.error.traceback}`);
	if (start !== undefined && outcome.start !== start)
		throw new Error(`expected a ${start} start, got a ${outcome.start} one`);
	return outcome;
}

/** Names of the capabilities in a set, as numbers of capability.h. */
function capabilitiesOf(sets: readonly string[]): number[] {
	const all = sets.reduce((union, set) => union | BigInt(`0x${set}`), 0n);
	return Array.from({length: 64}, (_each, bit) => bit).filter((bit) => (all >> BigInt(bit)) & 1n);
}

async function inspectIsolation(runtime: Runtime) {
	await runtime.deploy('inspect', {'f.py': inspect}, {reuse: false});
	const found = expectOk(await runtime.invoke('inspect', {})).value as unknown as Inside;
	const {isolation} = await runtime.stats();
	const namespaces: string[] = [];
	for (const [name, link] of Object.entries(found.namespaces)) {
		if (name.endsWith('_for_children') || name === 'time') continue;
		if (link !== (await readlink(`/proc/self/ns/${name}`))) namespaces.push(name);
	}
	await runtime.remove('inspect');
	return {
		level: isolation.level,
		namespaces: namespaces.sort(),
		seccomp: found.seccomp === '2',
		noNewPrivs: found.noNewPrivs === '1',
		capabilities: capabilitiesOf(found.capabilities),
		cgroup: isolation.cgroup,
		notEnforced: isolation.notEnforced,
	};
}

type Series = {readonly starts: number[]; readonly calls: number[]; readonly timings: Timings[]};

async function run(runtime: Runtime, name: string, start: StartKind, n: number): Promise<Series> {
	const series: Series = {starts: [], calls: [], timings: []};
	for (let i = 0; i < n; i += 1) {
		const destroyed = start === 'warm' ? undefined : once(runtime, 'destroyed');
		const {timings} = expectOk(await runtime.invoke(name, {month: 7}), start);
		await destroyed; // else the end of one would be measured as the start of the next
		series.starts.push(timings.startMs);
		series.calls.push(timings.totalMs);
		series.timings.push(timings);
	}
	return series;
}

async function measureFloors(runtime: Runtime, executable: string) {
	const {zygotes} = await runtime.stats();
	const zygote = zygotes.find((each) => each.packages !== '');
	if (zygote === undefined) throw new Error('expected a zygote with packages');
	const folders = (await runtime.packages.list()).map(({folder}) => folder);
	const fork = await openProcessFloor({python: executable, folders, modules: zygote.modules});
	const socket = await openSocketFloor(executable);
	const [forks, trips, imports]: [number[], number[], number[]] = [[], [], []];
	for (let i = 0; i < 50; i += 1) forks.push(await fork.forkMs());
	for (let i = 0; i < 500; i += 1) trips.push(await socket.roundTripMs(Buffer.from('{"month":7}')));
	for (let i = 0; i < 5; i += 1) imports.push(await importMs({python: executable, folders, modules: ['pandas']}));
	await Promise.all([fork.close(), socket.close()]);
	const p50 = (values: number[]) => Number(percentile(values, 50).toPrecision(4));
	return {importMs: p50(imports), forkP50Ms: p50(forks), socketP50Ms: p50(trips)};
}

function printTables(document: Awaited<ReturnType<typeof demo>>['document'], kinds: Record<StartKind, Series>): void {
	const {answer, starts, calls, floors, isolation} = document;
	say(`\nJuly in Seattle: ${JSON.stringify(answer)}`);
	say(`isolation: ${JSON.stringify(isolation)}\n`);
	const names = Object.keys(kinds) as StartKind[];
	const row = (label: string, summaries: Record<StartKind, Summary>, pick: (summary: Summary) => number) => [
		label,
		...names.map((name) => String(pick(summaries[name]))),
	];
	const phases = ['queueMs', 'zygoteMs', 'prepareMs', 'forkMs', 'isolateMs', 'loadMs', 'handlerMs'] as const;
	const rows = [
		row('start p50', starts, ({p50Ms}) => p50Ms),
		row('start p95', starts, ({p95Ms}) => p95Ms),
		row('whole call p50', calls, ({p50Ms}) => p50Ms),
		row('whole call p95', calls, ({p95Ms}) => p95Ms),
		...phases.map((phase) => [
			`  ${phase.slice(0, -2)} p50`,
			...names.map((name) =>
				percentile(
					kinds[name].timings.map((each) => each[phase]),
					50,
				).toFixed(3),
			),
		]),
	];
	say(table(['milliseconds', ...names], rows));
	say(
		`\nfloors on this machine: import of pandas in a fresh process ${floors.importMs} ms, os.fork() of a warmed interpreter`,
	);
	say(`${floors.forkP50Ms} ms, Node to Python and back over a socket ${floors.socketP50Ms} ms`);
	say(
		`private memory of the warm instance: ${document.ussMiB} MiB; left behind: ${JSON.stringify(document.leftovers)}`,
	);
}

function summaries(kinds: Record<StartKind, Series>, key: 'starts' | 'calls'): Record<StartKind, Summary> {
	return {cold: summarize(kinds.cold[key]), forked: summarize(kinds.forked[key]), warm: summarize(kinds.warm[key])};
}

/** Everything that can be told while the runtime is open. */
async function measure(runtime: Runtime) {
	runtime.on('installed', ({packages, durationMs}) =>
		say(`installed ${packages.join(', ')} in ${(durationMs / 1000).toFixed(1)} s`),
	);
	say('deploying examples/weather (the first time, this installs pandas) …');
	await runtime.deploy('weather', weather);
	await runtime.deploy('weather-forked', weather, {reuse: false});
	await runtime.deploy('weather-cold', weather, {reuse: false, zygote: false});
	const {python} = await runtime.stats();
	const isolation = await inspectIsolation(runtime);
	await runtime.prewarm('weather');
	say('measuring cold, forked and warm starts …');
	const {value: answer} = expectOk(await runtime.invoke('weather', {month: 7}));
	const kinds = {
		cold: await run(runtime, 'weather-cold', 'cold', 5),
		forked: await run(runtime, 'weather-forked', 'forked', 50),
		warm: await run(runtime, 'weather', 'warm', 50),
	};
	const {memory} = expectOk(await runtime.invoke('weather', {month: 7}, {memoryDetails: true}), 'warm');
	const floors = await measureFloors(runtime, python.executable);
	const found = {
		python: python.version,
		kernel: release(),
		isolation,
		answer,
		starts: summaries(kinds, 'starts'),
		calls: summaries(kinds, 'calls'),
		floors,
		ussMiB: Number(memory.privateMiB?.toFixed(2)),
	};
	return {found, kinds, countLeftovers: watchLeftovers(stateDir)};
}

async function demo() {
	const runtime = await createRuntime({stateDir, bestEffort});
	const {found, kinds, countLeftovers} = await measure(runtime).finally(() => runtime.close());
	return {document: {...found, leftovers: countLeftovers()}, kinds};
}

const {document, kinds} = await demo();
if (json) process.stdout.write(`${JSON.stringify(document)}\n`);
else printTables(document, kinds);
