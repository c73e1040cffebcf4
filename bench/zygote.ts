/** What does a fresh, isolated sandbox with pandas take, against the least that the kernel and a plain interpreter take? */
import {EventEmitter, once} from 'node:events';
import {readFile} from 'node:fs/promises';
import {availableParallelism} from 'node:os';
import path from 'node:path';
import {createRuntime, type JsonValue, type Outcome, type Runtime} from 'forktree';
import {findInterpreter} from '../src/sandbox/interpreter.ts';
import {alternate, paces} from './alternate.ts';
import {openBwrapPython} from './bwrap-python.ts';
import {type FloorOptions, openProcessFloor, openSocketFloor} from './floors.ts';
import {type BenchResult, describeHost, mark, percentile, Results} from './report.ts';
import {measureIdle} from './zygote-idle.ts';

const weather = path.join(import.meta.dirname, '..', 'examples', 'weather', 'requirements.txt');
const firstCall = path.join(import.meta.dirname, 'first_call.py');
const event = {month: 7};
/** More calls at once than cores: while one's sandbox ends, another's starts. */
const callsPerCore = 2;

type Sizes = {
	/** Starts in each series. */
	readonly starts: number;
	readonly churn: number;
	readonly churnRounds: number;
	readonly bwrapRuns: number;
	readonly siblings: number;
	/** Idle instances, and starts beside them. */
	readonly idle: number;
	readonly besideRuns: number;
	/** What is imported besides pandas, in a second series of starts. */
	readonly more: readonly string[];
};
const long: Sizes = {
	starts: 200,
	churn: 200,
	churnRounds: 5,
	bwrapRuns: 15,
	siblings: 50,
	idle: 1000,
	besideRuns: 200,
	more: ['scipy'],
};
const short: Sizes = {
	starts: 20,
	churn: 20,
	churnRounds: 2,
	bwrapRuns: 3,
	siblings: 10,
	idle: 50,
	besideRuns: 20,
	more: [],
};

/** A live runtime with what is called in it, and what the same takes without it. */
type Field = {
	readonly runtime: Runtime;
	/** Forks when it is asked to, and nothing ahead. */
	readonly plain: Runtime;
	readonly sizes: Sizes;
	readonly requirements: readonly string[];
	readonly python: string;
	readonly results: Results;
};

/** One call of a function that keeps no instance. */
type Answer = {
	/** From the call to its outcome. */
	readonly wholeMs: number;
	/** Until the handler could take the event. */
	readonly startMs: number;
	/** Which kind of spare it was handed to, if any. */
	readonly spare: 'function' | 'node' | 'none';
	readonly value: JsonValue | Uint8Array | ReadonlyArray<JsonValue | Uint8Array>;
};

/** Also waits until the sandbox is gone, so that its end does not slow what comes next. */
async function answer(runtime: Runtime, name: string): Promise<Answer> {
	const gone = new EventEmitter();
	const ended = new Set<string>();
	const onDestroyed = ({sandbox}: {readonly sandbox: string}) => {
		ended.add(sandbox);
		gone.emit(sandbox);
	};
	runtime.on('destroyed', onDestroyed);
	try {
		const asked = performance.now();
		const outcome = await runtime.invoke(name, event);
		const wholeMs = performance.now() - asked;
		const {value, sandbox, timings, spare = 'none'} = checkForked(outcome);
		if (!ended.has(sandbox)) await once(gone, sandbox);
		return {wholeMs, startMs: timings.startMs, spare, value};
	} finally {
		runtime.off('destroyed', onDestroyed);
	}
}

function checkForked(outcome: Outcome): Outcome & {readonly ok: true} {
	if (!outcome.ok || outcome.start !== 'forked')
		throw new Error(`expected a forked start, got ${JSON.stringify(outcome)}`);
	return outcome;
}

function sourceOf(modules: readonly string[]): Record<string, string> {
	return {'f.py': [...modules.map((module) => `import ${module}`), 'def f(event):', '    return event', ''].join('\n')};
}

/** A plain interpreter with the same packages as a function. */
async function floorOf({runtime, python}: Field, name: string): Promise<FloorOptions> {
	const own = new Set(runtime.list().find((each) => each.name === name)?.packages);
	const installed = (await runtime.packages.list()).filter((each) => own.has(`${each.name}==${each.version}`));
	return {python, folders: installed.map(({folder}) => folder), modules: installed.flatMap(({modules}) => modules)};
}

/**
 * Starts by what they came from: of a function that may have spares, of one in a runtime without any, and of functions that were never
 * called before, which can have at most a spare of their node.
 */
async function measureAnswers(field: Field, modules: readonly string[]): Promise<void> {
	const {runtime, plain, sizes, results, python} = field;
	const requirements = [...field.requirements, ...modules.filter((each) => each !== 'pandas')];
	const title = modules.join(' and ');
	const name = modules.join('-');
	await runtime.deploy(name, sourceOf(modules), {reuse: false, requirements});
	await plain.deploy(name, sourceOf(modules), {reuse: false, requirements, spares: 0});
	const floor = await openProcessFloor(await floorOf(field, name));
	const socket = await openSocketFloor(python);
	const message = Buffer.from(JSON.stringify(event));
	try {
		await answer(runtime, name);
		for (const {name: pace, gapMs} of paces) {
			const fresh = await deployFresh(field, modules, requirements);
			const answers: Answer[] = [];
			const measure = async (which: string, where = runtime) => {
				const each = await answer(where, which);
				answers.push(each);
				return each.wholeMs;
			};
			const again = async () => measure(name);
			const alone = async () => measure(name, plain);
			const first = async () => measure(fresh.shift() ?? name);
			await alternate(5, 0, again, alone, floor.forkMs, () => socket.roundTripMs(message));
			answers.length = 0;
			const [, , , forks, roundTrips] = await alternate(sizes.starts, gapMs, again, alone, first, floor.forkMs, () =>
				socket.roundTripMs(message),
			);
			const forkMs = results.series(`os.fork(), ${title}/${pace}`, forks);
			const roundTripMs = results.series(`socket round trip/${pace}`, roundTrips);
			const series = (spare: Answer['spare'], pick: (each: Answer) => number) =>
				answers.filter((each) => each.spare === spare).map(pick);
			addStarts(results, `${title}/${pace}`, {
				none: series('none', ({startMs}) => startMs),
				node: series('node', ({wholeMs}) => wholeMs),
				function: series('function', ({wholeMs}) => wholeMs),
				forkMs,
				roundTripMs,
			});
		}
	} finally {
		await Promise.all([floor.close(), socket.close()]);
	}
}

async function deployFresh(
	{runtime, sizes}: Field,
	modules: readonly string[],
	requirements: readonly string[],
): Promise<string[]> {
	const names = Array.from({length: sizes.starts}, (_each, index) => `fresh-${index}`);
	for (const [index, name] of names.entries()) {
		// Code that was never there before: else it would be the function that was called in the series before.
		const source = {'f.py': `${sourceOf(modules)['f.py']}# ${index} of ${Date.now()}\n`};
		await runtime.deploy(name, source, {reuse: false, requirements});
	}
	return names;
}

type Starts = Readonly<Record<Answer['spare'], readonly number[]>> & {
	readonly forkMs: number;
	readonly roundTripMs: number;
};

function addStarts(results: Results, what: string, starts: Starts): void {
	const kinds = [
		['none', 'start without a spare', 'os.fork()', starts.forkMs, 1.2],
		['node', 'answer from a node’s spare', 'os.fork()', starts.forkMs, 0.5],
		['function', 'answer from a function’s spare', 'socket round trip', starts.roundTripMs, 3],
	] as const;
	for (const [kind, title, floor, floorMs, limit] of kinds) {
		const own = starts[kind];
		if (own.length === 0) results.notes.push(`no ${title}, ${what}`);
		else
			results.marks.push(
				mark(`${title} / ${floor}, ${what}`, results.series(`${title}, ${what}`, own) / floorMs, '<=', limit, '×'),
			);
	}
}

/** Fresh sandboxes a second, until each is gone, against forks of as many plain processes as there are cores. */
async function measureRate(field: Field): Promise<void> {
	const {runtime, sizes, results} = field;
	const cores = availableParallelism();
	const options = await floorOf(field, 'pandas');
	const floors = await Promise.all(Array.from({length: cores}, async () => openProcessFloor(options)));
	const [ours, theirs]: [number[], number[]] = [[], []];
	try {
		for (let turn = 0; turn <= sizes.churnRounds; turn += 1) {
			const rate = await sandboxesPerSecond(runtime, sizes.churn * cores, callsPerCore * cores);
			const began = performance.now();
			await Promise.all(floors.map(async (floor) => floor.churnMs(sizes.churn)));
			const floorRate = (sizes.churn * cores) / ((performance.now() - began) / 1000);
			if (turn === 0) continue; // everything is compiled and in memory after it
			ours.push(rate);
			theirs.push(floorRate);
		}
	} finally {
		await Promise.all(floors.map(async (floor) => floor.close()));
	}
	const [rate, floorRate] = [percentile(ours, 50), percentile(theirs, 50)];
	results.marks.push(
		mark('sustained fresh pandas sandboxes / os.fork() and exit, all cores', rate / floorRate, '>=', 0.7, '×'),
	);
	results.notes.push(
		`a second, all cores: ${rate.toFixed(0)} fresh pandas sandboxes, ${floorRate.toFixed(0)} bare forks`,
	);
}

async function sandboxesPerSecond(runtime: Runtime, count: number, atOnce: number): Promise<number> {
	let [left, gone] = [count, 0];
	const allGone = new Promise<void>((resolve) => {
		const onDestroyed = () => {
			gone += 1;
			if (gone < count) return;
			runtime.off('destroyed', onDestroyed);
			resolve();
		};
		runtime.on('destroyed', onDestroyed);
	});
	const work = async () => {
		while (left > 0) {
			left -= 1;
			checkForked(await runtime.invoke('pandas', event));
		}
	};
	const began = performance.now();
	await Promise.all(Array.from({length: atOnce}, work));
	await allGone;
	return count / ((performance.now() - began) / 1000);
}

/** The first real call of a sandbox, by itself and as a whole, against a used process and against a process of bubblewrap's. */
async function measureFirstCalls(field: Field): Promise<void> {
	const {runtime, sizes, requirements, results} = field;
	await runtime.deploy('call', {'f.py': await readFile(firstCall, 'utf8')}, {reuse: false, requirements});
	const options = await floorOf(field, 'call');
	const floor = await openProcessFloor(options);
	const bwrap = await openBwrapPython({...options, interpreter: await findInterpreter(), script: firstCall});
	try {
		for (const {name: pace, gapMs} of paces) {
			const answers: Answer[] = [];
			const ours = async () => {
				const each = await answer(runtime, 'call');
				answers.push(each);
				return (each.value as {readonly ms: number}).ms;
			};
			await alternate(5, 0, ours, floor.callMs);
			answers.length = 0;
			const [inSandbox, inProcess] = await alternate(sizes.starts, gapMs, ours, floor.callMs);
			const kinds = [...new Set(answers.map(({spare}) => spare))].join(', ');
			const first = results.series(`first call in a fresh sandbox (spare: ${kinds})/${pace}`, inSandbox);
			const used = results.series(`the same in a used process/${pace}`, inProcess);
			results.marks.push(
				mark(`first real call in a fresh sandbox / in a used process/${pace}`, first / used, '<=', 1.5, '×'),
			);
			const whole = results.series(
				`whole answer of a first real call/${pace}`,
				answers.map(({wholeMs}) => wholeMs),
			);
			if (bwrap === undefined) continue;
			const [theirs] = await alternate(sizes.bwrapRuns, gapMs, bwrap.runMs);
			const bwrapMs = results.series(`bwrap, python, import and call/${pace}`, theirs);
			results.marks.push(
				mark(`bwrap, python, import and call / whole answer/${pace}`, bwrapMs / whole, '>=', 100, '×'),
			);
		}
	} finally {
		await floor.close();
	}
	if (bwrap === undefined) results.notes.push('NotInstalled: bwrap; on Debian and Ubuntu: apt-get install bubblewrap');
}

const draws = {
	random: 'random.random()',
	numpy: 'numpy.random.random()',
	uuid: 'str(uuid.uuid4())',
	secrets: 'secrets.token_hex()',
	ssl: 'ssl.RAND_bytes(16).hex()',
};

/** A function that draws random numbers, and first does something for them to be `more` than nothing. */
function drawing(more: string): Record<string, string> {
	const answers = Object.entries(draws).map(([name, draw]) => `'${name}': ${draw}`);
	const imports = 'import numpy, pandas, random, re, secrets, ssl, uuid';
	return {'f.py': [imports, more, 'def f(event):', `    return {${answers.join(', ')}}`, ''].join('\n')};
}

/** Children of one zygote must not draw the same numbers. */
async function measureSiblings({runtime, sizes, requirements, results}: Field): Promise<void> {
	await runtime.deploy('draw', drawing(''), {reuse: false, requirements, ownZygote: false});
	const answers: Answer[] = [];
	for (let i = 0; i < sizes.siblings; i += 1) answers.push(await answer(runtime, 'draw'));
	addDrawn(results, 'of one zygote', answers);
}

function addDrawn({marks}: Results, what: string, answers: readonly Answer[]): void {
	const drawn = answers.map(({value}) => value as Record<string, unknown>);
	const same = Object.keys(draws).map((name) => drawn.length - new Set(drawn.map((each) => each[name])).size);
	const count = same.reduce((sum, each) => sum + each, 0);
	marks.push(mark(`equal random numbers of ${drawn.length} children ${what}`, count, '<=', 0, ''));
}

/** A module that takes long to load: in each sandbox, and in a zygote of the function's own. */
async function measureOwn({runtime, sizes, requirements, results}: Field): Promise<void> {
	const source = drawing("PATTERNS = [re.compile(f'{each}[a-z]+') for each in range(100)]");
	const options = {reuse: false, spares: 0, requirements};
	await runtime.deploy('loads', source, {...options, ownZygote: false});
	await runtime.deploy('loaded', source, options);
	for (let calls = 0; !(await runtime.invoke('loaded', event)).ownZygote; calls += 1) {
		if (calls > 500) throw new Error('expected a zygote of its own');
	}
	const answers: Answer[] = [];
	const [each, own] = await alternate(
		sizes.siblings,
		0,
		async () => (await answer(runtime, 'loads')).startMs,
		async () => {
			const last = await answer(runtime, 'loaded');
			answers.push(last);
			return last.startMs;
		},
	);
	results.series('start, module loaded in each sandbox', each);
	results.series('start, module loaded in a zygote of the function’s own', own);
	addDrawn(results, 'of a function’s own zygote', answers);
}

/** @param stateDir keeps the packages between runs */
export async function benchZygote(stateDir: string, isShort: boolean): Promise<BenchResult> {
	const sizes = isShort ? short : long;
	const dirs = {stateDir: path.join(stateDir, 'zygote'), packagesDir: path.join(stateDir, 'packages')};
	const requirements = (await readFile(weather, 'utf8')).split('\n');
	const results = new Results();
	// First: the kernel frees what many sandboxes had long after their end, and so would seem to give memory for later ones.
	results.add(await measureIdle(dirs, requirements, sizes.idle, sizes.besideRuns));
	const runtime = await createRuntime(dirs);
	const plain = await createRuntime({...dirs, stateDir: path.join(stateDir, 'zygote-plain'), spares: 0});
	try {
		const {python, isolation} = await runtime.stats();
		const field = {runtime, plain, sizes, requirements, python: python.executable, results};
		await measureAnswers(field, ['pandas']);
		for (const module of sizes.more) await measureAnswers(field, ['pandas', module]);
		await measureRate(field);
		await measureFirstCalls(field);
		await measureSiblings(field);
		await measureOwn(field);
		const {marks, samples, notes} = results;
		return {bench: 'zygote', host: describeHost(isolation.cgroup, {python: python.version}), marks, samples, notes};
	} finally {
		for (const each of [runtime, plain]) {
			for (const {name} of each.list()) await each.remove(name);
			await each.close();
		}
	}
}
