/** `forktree bench`: OpenLambda's benchmarks, against a worker that runs. */
import {existsSync, mkdirSync, writeFileSync} from 'node:fs';
import {readFile, writeFile} from 'node:fs/promises';
import {Agent, request} from 'node:http';
import path from 'node:path';
import process from 'node:process';
import {exitCodes, Interrupts, note, oneLine, print} from './terminal.ts';
import {type Address, authorization, checkReady, findWorker, type WorkerPlace} from './worker-client.ts';

/** No-op functions, or such as use pandas. */
type Kind = 'py' | 'pd';

export type BenchFlags = {
	readonly path?: string;
	readonly seconds: number;
	readonly tasks?: number;
	readonly warmup?: boolean;
	readonly output?: string;
};
export type PlayFlags = Omit<BenchFlags, 'warmup' | 'output'> & {readonly trace: string};

const sizes: Readonly<Record<string, number>> = {'64': 64, '1k': 1024, '64k': 64 * 1024};

/** Of each kind, what `init` writes: what all but the largest benchmarks take. */
const initial = 1024;
const callDeadlineMs = 120_000;
const maxAnswerShown = 500;
/** Errors that are printed. */
const maxPrinted = 10;
const correlation = `import numpy as np
import pandas as pd

df = None


def f(event):
    global df
    if df is None:
        df = pd.DataFrame(np.random.random((1000, 10)))
    col0 = np.random.randint(len(df.columns))
    col1 = np.random.randint(len(df.columns))
    return df[col0].corr(df[col1])
`;

/** `bench init`: writes functions into the registry. */
export async function initBench({path: directory}: {readonly path?: string}): Promise<number> {
	const {registry} = await findWorker(directory);
	for (const kind of ['py', 'pd'] as const) writeFunctions(registry, kind, initial);
	note(
		`${registry} has ${initial} functions bench-py-N and as many bench-pd-N; larger benchmarks write the others that they call`,
	);
	return exitCodes.ok;
}

/** A benchmark by its name, such as `py64-seq`. Prints the result as a line of JSON. */
export async function bench(name: string, flags: BenchFlags): Promise<number> {
	const {kind, functions, tasks} = readName(name);
	const worker = await findWorker(flags.path);
	await checkReady(worker);
	writeFunctions(worker.registry, kind, functions);
	return withLoad(worker, async (load) => {
		if (flags.warmup !== false) await warmUp(load, kind, functions);
		const pick = () => nameOf(kind, Math.floor(Math.random() * functions));
		const result = await load.run(flags.tasks ?? tasks, flags.seconds, pick);
		return report({benchmark: name, ...result}, 1, flags.output);
	});
}

/** `bench play`: the calls of a trace, in its order and over again. */
export async function play({path: directory, trace, seconds, tasks = 1}: PlayFlags): Promise<number> {
	const names = (await readFile(trace, 'utf8'))
		.split('\n')
		.map((line) => line.trim())
		.filter(Boolean);
	if (names.length === 0) throw new TypeError(`${trace}: expected a name in each line, got none`);
	const worker = await findWorker(directory);
	await checkReady(worker);
	return withLoad(worker, async (load) => {
		let next = 0;
		const pick = () => names[next++ % names.length] as string;
		const telling = setInterval(() => note(`throughput: ${load.sinceLast()}/second`), 1000);
		try {
			return await report({benchmark: 'play', ...(await load.run(tasks, seconds, pick))}, 5);
		} finally {
			clearInterval(telling);
		}
	});
}

/** What a benchmark calls: how many functions there are to choose from, and how many calls are made at once by default. */
function readName(name: string): {readonly kind: Kind; readonly functions: number; readonly tasks: number} {
	const [, kind = '', size = '', order] = /^(p[yd])(\w+)-(seq|par)$/.exec(name) ?? [];
	const functions = sizes[size];
	if (functions === undefined)
		throw new TypeError(`expected a benchmark such as py64-seq, got ${JSON.stringify(name)}`);
	return {kind: kind as Kind, functions, tasks: order === 'seq' ? 1 : 32};
}

function nameOf(kind: Kind, index: number): string {
	return `bench-${kind}-${index}`;
}

/** Writes those of the first functions of a kind that are missing. */
function writeFunctions(registry: string, kind: Kind, count: number): void {
	for (let index = 0; index < count; index += 1) {
		const folder = path.join(registry, nameOf(kind, index));
		const entry = path.join(folder, 'f.py');
		if (existsSync(entry)) continue;
		mkdirSync(folder, {recursive: true});
		// The entry comes last: a folder without it is not finished.
		if (kind === 'pd') writeFileSync(path.join(folder, 'requirements.txt'), 'numpy\npandas\n');
		writeFileSync(entry, kind === 'pd' ? correlation : `def f(event):\n    return ${index}\n`);
	}
}

async function warmUp(load: Load, kind: Kind, functions: number): Promise<void> {
	note(`warming up: calling each of ${functions} functions once`);
	for (let index = 0; index < functions; index += 1) {
		const fault = await load.call(nameOf(kind, index));
		if (fault !== undefined) throw new Error(`warming up: ${fault}`);
	}
}

type Result = {readonly seconds: number; readonly successes: number; readonly errors: number};

/** Prints a result, unless too many calls failed. */
async function report(
	result: Result & {readonly benchmark: string},
	maxPercent: number,
	output?: string,
): Promise<number> {
	const {benchmark, seconds, successes, errors} = result;
	if (errors * 100 > (successes + errors) * maxPercent) {
		note(`more than ${maxPercent} % of the requests failed: ${errors} of ${successes + errors}`);
		return exitCodes.refused;
	}
	const round = (value: number) => Math.round(value * 1000) / 1000;
	const line = `${JSON.stringify({benchmark, seconds: round(seconds), successes, errors, 'ops/s': round(successes / seconds)})}\n`;
	await print(process.stdout, line);
	if (output !== undefined) await writeFile(output, line);
	return exitCodes.ok;
}

/** Gives a load to run, which a signal ends. */
async function withLoad(worker: WorkerPlace, action: (load: Load) => Promise<number>): Promise<number> {
	const interrupts = new Interrupts();
	const load = new Load(worker, interrupts.signal);
	try {
		return await action(load);
	} catch (error) {
		if (interrupts.code === undefined) throw error;
		return interrupts.code;
	} finally {
		load.close();
		interrupts.close();
	}
}

/** Calls functions of a worker over connections that are kept. */
class Load {
	readonly #url: string;
	readonly #headers: Readonly<Record<string, string | number>>;
	readonly #signal: AbortSignal;
	readonly #agent = new Agent({keepAlive: true});
	#successes = 0;
	#errors = 0;
	#told = 0;

	constructor({url, token}: Address, signal: AbortSignal) {
		this.#url = url;
		this.#headers = {...authorization(token), 'content-type': 'text/json', 'content-length': 4};
		this.#signal = signal;
		signal.addEventListener('abort', () => this.close(), {once: true});
	}

	/** Breaks off what runs. */
	close(): void {
		this.#agent.destroy();
	}

	/** Successes since it was asked last. */
	sinceLast(): number {
		const fresh = this.#successes - this.#told;
		this.#told = this.#successes;
		return fresh;
	}

	/** Makes so many calls at once, each followed by another, for so long; those that run then are waited for and count. */
	async run(tasks: number, seconds: number, pick: () => string): Promise<Result> {
		note(`calling for ${seconds} seconds, ${tasks} at once`);
		const began = performance.now();
		const end = began + seconds * 1000;
		const loop = async () => {
			while (performance.now() < end) this.#count(await this.call(pick()));
		};
		await Promise.all(Array.from({length: tasks}, loop));
		return {seconds: (performance.now() - began) / 1000, successes: this.#successes, errors: this.#errors};
	}

	#count(fault: string | undefined): void {
		if (fault === undefined) {
			this.#successes += 1;
			return;
		}
		this.#errors += 1;
		if (this.#errors <= maxPrinted) note(fault);
	}

	/** Calls a function; answers what went wrong. @throws the signal's reason */
	async call(name: string): Promise<string | undefined> {
		this.#signal.throwIfAborted();
		const url = `${this.#url}/run/${encodeURIComponent(name)}`;
		const fault = await this.#post(url);
		this.#signal.throwIfAborted();
		return fault === undefined ? undefined : `POST ${url}: ${fault}`;
	}

	#post(url: string): Promise<string | undefined> {
		return new Promise((resolve) => {
			const asking = request(url, {
				method: 'POST',
				agent: this.#agent,
				headers: this.#headers,
			});
			const timer = setTimeout(
				() => asking.destroy(new Error(`no answer within ${callDeadlineMs / 1000} seconds`)),
				callDeadlineMs,
			);
			const done = (fault: string | undefined) => {
				clearTimeout(timer);
				resolve(fault);
			};
			asking.once('error', (error) => done(error.message));
			asking.once('response', (response) => {
				let shown = '';
				response.setEncoding('latin1').on('data', (chunk: string) => {
					if (shown.length < maxAnswerShown) shown += chunk;
				});
				response.once('end', () =>
					done(
						response.statusCode === 200
							? undefined
							: `${response.statusCode}: ${oneLine(shown.slice(0, maxAnswerShown))}`,
					),
				);
				response.once('error', (error) => done(error.message));
			});
			asking.end('null');
		});
	}
}
