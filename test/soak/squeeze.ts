/** Calls several times as many functions as fit into a runtime's memory, and watches what the kernel says that it uses. */
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {setTimeout as delay} from 'node:timers/promises';
import {createRuntime, type Runtime} from '../../src/index.ts';
import {withDeadline} from '../../src/kernel/deadline.ts';
import {cgroupsOf, childrenOfOurs} from '../helpers/leak-check.ts';
import {python} from '../helpers/python.ts';
import {provideWheels} from '../helpers/wheels.ts';

const budgetMb = 640;
/** So many times the budget is what all functions together may use with one instance each. */
const excess = 4;
const limitsMb = [48, 64, 96];
const outstanding = 4;
/** How long the maker of a call waits before the next one, now and then. */
const restMs = 100;
const timeoutMs = 30_000;
const sampleMs = 5;
/** Of a package, when it is imported: it stays in the zygote. */
const packageMb = 1;
const packages = ['soak_a', 'soak_b', 'soak_c', 'soak_d', 'soak_e', 'soak_f'];

/** A function's kind, by its number. */
type Kind = {
	readonly name: string;
	readonly memoryMb: number;
	readonly requirements: readonly string[];
	readonly reuse: boolean;
	readonly keeps: boolean;
};

function kindOf(index: number): Kind {
	return {
		name: `f${index}`,
		memoryMb: limitsMb[index % limitsMb.length] as number,
		// Some have none, the others sets that overlap.
		requirements: packages.filter((_, bit) => ((index * 7) >> bit) % 2 === 1),
		reuse: index % 4 !== 0,
		keeps: index % 3 !== 0,
	};
}

/** As many as exceed the budget so many times. */
function makeKinds(): Kind[] {
	const kinds: Kind[] = [];
	for (let total = 0; total < excess * budgetMb; total += kinds.at(-1)?.memoryMb ?? 0) kinds.push(kindOf(kinds.length));
	return kinds;
}

/** Writes to so many MiB, which it keeps until the next call or gives back at once; some leave a thread spinning. */
function codeOf({requirements, keeps}: Kind): string {
	return `
import mmap, threading
${requirements.map((name) => `import ${name}\n`).join('')}
kept = None
def spin():
	while True: pass
def f(event):
	global kept
	if kept is not None: kept.close()
	kept = mmap.mmap(-1, event['mib'] << 20)
	size = len(kept)
	kept[::4096] = b'x' * (size // 4096)
	if event['spin']: threading.Thread(target=spin, daemon=True).start()
	if not ${keeps ? 'True' : 'False'}: kept.close(); kept = None
	return size
`;
}

function makePackages(): void {
	const text = `kept = bytearray(${packageMb} << 20)\nkept[::4096] = b'x' * (len(kept) // 4096)\n`;
	provideWheels(Object.fromEntries(packages.map((name) => [name, {[`${name}.py`]: text}])));
}

/** MiB that can't be had back without ending somebody. */
type Sample = {readonly anonymous: number; readonly shared: number};

/**
 * Reads a group's memory, with all below it. Pages of processes and of their /tmp count: nothing can take them away. Cached pages of
 * files do not: the kernel drops them when a limit is reached, and keeps them until then whether anybody needs them or not.
 */
function readSample(group: string): Sample {
	const text = readFileSync(path.join(group, 'memory.stat'), 'latin1');
	const mib = (...names: string[]) => {
		const line = names.map((name) => new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]).find(Boolean);
		return Number(line ?? Number.NaN) / 2 ** 20;
	};
	return {anonymous: mib('total_rss', 'anon'), shared: mib('total_shmem', 'shmem')};
}

/** Samples until it is stopped. */
class Sampler {
	readonly #group: string;
	readonly #timer: NodeJS.Timeout;
	peakMb = 0;
	sumMb = 0;
	count = 0;

	constructor(stateDir: string) {
		const group = cgroupsOf(stateDir).find((each) => existsSync(path.join(each, 'memory.stat')));
		if (group === undefined) throw new Error(`expected a group with a memory controller in ${stateDir}`);
		this.#group = group;
		this.#timer = setInterval(() => this.#sample(), sampleMs);
	}

	#sample(): void {
		const {anonymous, shared} = readSample(this.#group);
		const usedMb = anonymous + shared;
		this.peakMb = Math.max(this.peakMb, usedMb);
		this.sumMb += usedMb;
		this.count += 1;
	}

	stop(): void {
		clearInterval(this.#timer);
	}
}

/** Some functions are called often, most seldom. */
function pick<T>(all: readonly T[]): T {
	return all[Math.floor(all.length * Math.random() ** 2)] as T;
}

async function callOnce(runtime: Runtime, {name, memoryMb}: Kind): Promise<string> {
	// What the interpreter takes besides is some ten MiB.
	const mib = 20 + Math.floor(Math.random() * (memoryMb - 36));
	const call = runtime.invoke(name, {mib, spin: Math.random() < 0.05}, {timeoutMs});
	const outcome = await withDeadline(call, 2 * timeoutMs, () => new Error(`${name} was not answered`));
	if (!outcome.ok) throw new Error(`${name}: ${outcome.error.code}: ${outcome.error.message}`);
	if (outcome.value !== mib << 20) throw new Error(`${name}: expected ${mib << 20}, got ${outcome.value}`);
	return outcome.spare === undefined ? outcome.start : `${outcome.spare}’s spare`;
}

/** Calls until the time is over; answers how often calls were served by what. */
async function callAll(runtime: Runtime, kinds: readonly Kind[], seconds: number): Promise<Record<string, number>> {
	const ends = performance.now() + seconds * 1000;
	const served: Record<string, number> = {};
	const work = async () => {
		while (performance.now() < ends) {
			const kind = await callOnce(runtime, pick(kinds));
			served[kind] = (served[kind] ?? 0) + 1;
			if (Math.random() < 0.3) await delay(Math.random() * restMs);
		}
	};
	await Promise.all(Array.from({length: outstanding}, work));
	return served;
}

function ownThings(): Readonly<Record<string, number>> {
	return {
		mounts: readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length,
		children: childrenOfOurs().length,
		files: readdirSync('/proc/self/fd').length,
	};
}

/** @param seconds for which functions are called */
export async function squeeze(seconds: number): Promise<void> {
	makePackages();
	const before = JSON.stringify(ownThings());
	const stateDir = await mkdtemp(path.join(tmpdir(), 'forktree-test-soak-'));
	const idle = {instancePauseMs: 100, instanceIdleMs: 5000, zygoteIdleMs: 5000};
	const runtime = await createRuntime({stateDir, python, memoryBudgetMb: budgetMb, ...idle});
	const groups = cgroupsOf(stateDir);
	const sampler = new Sampler(stateDir);
	try {
		const kinds = makeKinds();
		for (const kind of kinds) {
			const {name, requirements, reuse, memoryMb} = kind;
			await runtime.deploy(name, {'f.py': codeOf(kind)}, {requirements, reuse, limits: {memoryMb, timeoutMs}});
		}
		const served = await callAll(runtime, kinds, seconds);
		process.stderr.write(
			`${kinds.length} functions, calls ${JSON.stringify(served)}, of ${budgetMb} MiB at most ` +
				`${sampler.peakMb.toFixed(0)} used, ${(sampler.sumMb / sampler.count).toFixed(0)} on average\n`,
		);
	} finally {
		sampler.stop();
		await runtime.close();
	}
	if (sampler.peakMb > budgetMb) throw new Error(`expected at most ${budgetMb} MiB, got ${sampler.peakMb.toFixed(0)}`);
	const after = JSON.stringify(ownThings());
	if (after !== before) throw new Error(`${before} became ${after}`);
	const left = groups.filter((group) => existsSync(group));
	if (left.length > 0) throw new Error(`cgroups are left: ${left.join(', ')}`);
	await rm(stateDir, {recursive: true});
}
