/**
 * What does the first real call in a fresh sandbox take, by what was done ahead?
 *
 *     node --import=tsx bench/first-call.ts SITE-PACKAGES [ROUNDS] [GAP-MS] [ROWS]
 *
 * Builds a DataFrame of so many rows (100; 0: does nothing) and correlates two of its columns, in a sandbox of a pandas zygote. Prints medians in microseconds:
 * from asking for the sandbox to the answer, the CPU time of the handler, page faults in it, and how long it took to make it ahead.
 */
import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {setTimeout as sleep} from 'node:timers/promises';
import {dir as temporaryDirectory} from 'tmp-promise';
import {compileCode} from '../src/lambda/compile.ts';
import type {WorkingSet} from '../src/native.ts';
import {Ageing} from '../src/sandbox/ageing.ts';
import {openSandboxHost} from '../src/sandbox/host.ts';
import {findInterpreter} from '../src/sandbox/interpreter.ts';
import type {Leaf} from '../src/sandbox/leaf.ts';
import type {LeafBirth} from '../src/sandbox/leaf-birth.ts';
import {defaultLimits} from '../src/sandbox/limits.ts';
import {LockedFolder} from '../src/sandbox/mounts.ts';
import {inside} from '../src/sandbox/rootfs.ts';
import {Undo} from '../src/undo.ts';
import {ImportCache} from '../src/zygote/import-cache.ts';
import {encodeLoad, frameType} from '../src/zygote/protocol.ts';
import {pythonLeaf, pythonSpare} from '../src/zygote/python-leaf.ts';
import {percentile} from './report.ts';

const code = `
import resource, time, pandas
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def f(event):
    if event == 0:
        return [0, 0]
    began, before = time.process_time(), faults()
    frame = pandas.DataFrame({'a': list(range(event)), 'b': [i * 0.5 for i in range(event)]})
    correlation = frame['a'].corr(frame['b'])
    return [(time.process_time() - began) * 1e6, faults() - before]
`;

type Answer = readonly [micros: number, faults: number];

/** Hears its answers. */
function listen(leaf: Leaf): () => Promise<Answer> {
	const waiting: Array<{resolve(answer: Answer): void; reject(error: Error): void}> = [];
	leaf.listen({
		frame(type, payload) {
			if (type === frameType.loaded) return;
			const wanted = waiting.shift();
			if (type === frameType.resultJson) wanted?.resolve(JSON.parse(String(payload)) as Answer);
			else wanted?.reject(new Error(`expected a result, got ${type}: ${String(payload)}`));
		},
		broken: () => waiting.shift()?.reject(new Error('the sandbox ended')),
	});
	return () => new Promise((resolve, reject) => waiting.push({resolve, reject}));
}

const [site, rounds = '40', gapMs = '0', rows = '100'] = process.argv.slice(2);
if (site === undefined) throw new Error('usage: first-call.ts SITE-PACKAGES [ROUNDS] [GAP-MS] [ROWS]');
const undo = new Undo();
const {path: stateDir} = await temporaryDirectory({unsafeCleanup: true});
const interpreter = await findInterpreter('/usr/bin/python3');
const host = await openSandboxHost(
	{stateDir, memoryBudgetMb: 4096, groups: 'pausable', countsLaunchers: true, bestEffort: false},
	undo,
);
const events = {zygoteCreated: () => {}, zygoteDestroyed: () => {}, importFailed: () => {}, treeChanged: () => {}};
const plan = {tree: undefined, promote: false, costOf: () => undefined, ageing: new Ageing(), spares: 0};
const takeRecent = () => ({calls: [], costs: new Map(), closures: new Map()});
const imports = new ImportCache({...host, ...plan, interpreter, events, takeRecent});
undo.push(() => imports.close());
const root = await imports.root();
const folder = path.join(stateDir, 'code');
await mkdir(folder);
await writeFile(path.join(folder, 'f.py'), code);
const locked = await LockedFolder.create(host.keeper, 'code', folder);
await compileCode(folder, ['f.py'], interpreter.cacheTag, root, locked, host.cgroups);
const packages = await LockedFolder.create(host.keeper, 'site', path.resolve(site));
const zygote = await root.forkZygote(
	{modules: ['resource', 'numpy', 'pandas']},
	[{folder: packages, target: inside.packages}],
	8192,
);
const limits = {...defaultLimits, swapMb: 0};
const takeCgroup = () => host.cgroups.take(limits);
const greet = (leaf: Leaf) => leaf.send(frameType.load, encodeLoad('f.py', {}));
const spec = {
	...pythonLeaf(locked, undefined),
	...limits,
	noNewExecutables: false,
	takeCgroup,
	limits,
	maxFrame: 1 << 20,
	greet,
};
let used: WorkingSet = {written: [], read: []};
const found = new Map<string, {total: number[]; call: number[]; faults: number[]; ahead: number[]}>();

function note(name: string, total: number, [call, faults]: Answer, ahead: number): void {
	const all = found.get(name) ?? {total: [], call: [], faults: [], ahead: []};
	found.set(name, all);
	all.total.push(total * 1000);
	all.call.push(call);
	all.faults.push(faults);
	all.ahead.push(ahead * 1000);
}

/** Ends it, and has what the next start takes made. */
async function end(leaf: Leaf): Promise<void> {
	await leaf.destroy();
	zygote.refill();
	locked.refill();
	host.cgroups.refill(limits);
	await sleep(5);
}

/** Calls what is made by `make`, whose event is sent with what loads the handler. */
async function callFresh(
	name: string,
	ahead: number,
	make: (event: (leaf: Leaf) => void) => Promise<LeafBirth>,
): Promise<Leaf> {
	await sleep(Number(gapMs));
	let answer: Promise<Answer> | undefined;
	const began = performance.now();
	const {leaf} = await make((made) => {
		answer = listen(made)();
		greet(made);
		made.send(frameType.eventJson, rows);
	});
	const value = await (answer as Promise<Answer>);
	note(name, performance.now() - began, value, ahead);
	return leaf;
}

async function spareOf(warmUps: boolean, populate: boolean) {
	const began = performance.now();
	const spare = await zygote.forkSpare({...pythonSpare, warmUps, takeCgroup});
	if (populate) await spare.leaf.populate(used);
	return {spare, ahead: performance.now() - began};
}

async function round(): Promise<void> {
	const plain = await callFresh('forked, nothing ahead', 0, async (event) => zygote.forkLeaf({...spec, greet: event}));
	used = (await plain.workingSet()) ?? used;
	const again = listen(plain);
	for (const name of ['the same sandbox again', 'used, after 4 ms idle'] as const) {
		for (let i = 0; i < (name === 'used, after 4 ms idle' ? 3 : 1); i += 1) {
			await sleep(4);
			const answer = again();
			const began = performance.now();
			plain.send(frameType.eventJson, rows);
			const value = await answer;
			if (i === 2 || name !== 'used, after 4 ms idle') note(name, performance.now() - began, value, 0);
		}
	}
	await end(plain);
	for (const [name, warmUps, populate] of [
		['spare, only a dry call', false, false],
		['spare, warm-ups', true, false],
		['spare, populated', false, true],
		['spare, warm-ups and populated', true, true],
	] as const) {
		const {spare, ahead} = await spareOf(warmUps, populate);
		const leaf = await callFresh(name, ahead, async (event) => spare.handOver({...spec, greet: event}));
		await end(leaf);
	}
	for (const [name, warmUps, populate] of [
		['function’s spare', true, false],
		['function’s spare, populated', false, true],
	] as const) {
		const {spare, ahead} = await spareOf(warmUps, false);
		const {leaf, born} = await spare.handOver(spec);
		await born();
		const talk = listen(leaf);
		const loaded = talk();
		leaf.send(frameType.eventJson, '0');
		await loaded;
		if (populate) await leaf.populate(used);
		await sleep(Number(gapMs));
		const answer = talk();
		const began = performance.now();
		leaf.send(frameType.eventJson, rows);
		const value = await answer;
		note(name, performance.now() - began, value, ahead);
		await end(leaf);
	}
}

try {
	for (let i = 0; i < Number(rounds); i += 1) await round();
	console.log(
		`${''.padEnd(34)}${['total µs', 'handler µs', 'faults', 'ahead µs'].map((each) => each.padStart(12)).join('')}`,
	);
	for (const [name, {total, call, faults, ahead}] of found) {
		const values = [total, call, faults, ahead].map((each) => percentile(each, 50).toFixed(0).padStart(12));
		console.log(`${name.padEnd(34)}${values.join('')}`);
	}
	for (const [kind, ranges] of Object.entries(used)) {
		const pages = ranges.reduce((sum, [, size]) => sum + size, 0) / 4096;
		console.log(`${kind}: ${pages} pages in ${ranges.length} ranges`);
	}
} finally {
	zygote.kill();
	await packages.close();
	await locked.close();
	await undo.run();
	await rm(stateDir, {recursive: true, force: true});
}
