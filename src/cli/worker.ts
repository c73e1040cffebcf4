/** `forktree worker up`: a registry behind HTTP, until a signal comes. */
import path from 'node:path';
import process from 'node:process';
import {createWorker, type Worker, type WorkerOptions} from '../worker/server.ts';
import {exitCodes, Interrupts, print} from './terminal.ts';

type Settings = Partial<WorkerOptions>;

/** What a timer can wait for. */
const maxMs = 2 ** 31 - 1;

const known: Readonly<Record<string, (value: string) => Settings>> = {
	worker_port: (value) => ({port: parseInteger('worker_port', value, 0, 65_535)}),
	worker_url: (value) => ({host: parseHost(value)}),
	mem_pool_mb: (value) => ({memoryBudgetMb: parseInteger('mem_pool_mb', value, 1, Number.MAX_SAFE_INTEGER)}),
	import_cache_tree: (value) => ({tree: value}),
	best_effort: (value) => ({bestEffort: parseFlag('best_effort', value)}),
	promote: (value) => ({promote: parseFlag('promote', value)}),
	spares: (value) => ({spares: parseInteger('spares', value, 0, 64)}),
	instance_pause_ms: (value) => ({instancePauseMs: parseInteger('instance_pause_ms', value, 1, maxMs)}),
	instance_idle_ms: (value) => ({instanceIdleMs: parseInteger('instance_idle_ms', value, 1, maxMs)}),
	zygote_idle_ms: (value) => ({zygoteIdleMs: parseInteger('zygote_idle_ms', value, 1, maxMs)}),
	shared_packages: (value) => ({sharedPackages: parseFolders('shared_packages', value)}),
	packages_gb: (value) => ({packagesGb: parseInteger('packages_gb', value, 0, Number.MAX_SAFE_INTEGER)}),
	packages_idle_ms: (value) => ({
		packagesIdleMs: parseInteger('packages_idle_ms', value, 0, Number.MAX_SAFE_INTEGER),
	}),
};

function parseInteger(key: string, value: string, minimum: number, maximum: number): number {
	const number = Number(value);
	if (/^\d+$/.test(value) && number >= minimum && number <= maximum) return number;
	throw new RangeError(`${key}: expected a whole number from ${minimum} to ${maximum}, got ${JSON.stringify(value)}`);
}

function parseFlag(key: string, value: string): boolean {
	if (value === 'true' || value === 'false') return value === 'true';
	throw new RangeError(`${key}: expected true or false, got ${JSON.stringify(value)}`);
}

function parseFolders(key: string, value: string): readonly string[] {
	const folders = value.split(':');
	if (folders.every((folder) => folder !== '')) return folders;
	throw new RangeError(`${key}: expected folders with colons between them, got ${JSON.stringify(value)}`);
}

function parseHost(value: string): string {
	if (/^[0-9A-Za-z.:_-]+$/.test(value)) return value;
	throw new TypeError(`worker_url: expected a host name or address to listen on, got ${JSON.stringify(value)}`);
}

/** @throws {TypeError} for an unknown key, listing the known ones; {RangeError} for a bad value */
function parseSettings(pairs: readonly (readonly [string, string])[]): Settings {
	const table = new Map(Object.entries(known));
	const settings: Settings = {};
	for (const [key, value] of pairs) {
		const parse = table.get(key);
		if (parse === undefined)
			throw new TypeError(`-o: expected ${[...table.keys()].join(', ')}, got ${JSON.stringify(key)}`);
		Object.assign(settings, parse(value));
	}
	return settings;
}

/** Answers the exit code, once a signal has come. @throws what starting or closing fails with */
export async function up(directory: string, pairs: readonly (readonly [string, string])[]): Promise<number> {
	const settings = parseSettings(pairs);
	const interrupts = new Interrupts();
	const {signal} = interrupts;
	try {
		const worker = await createWorker({
			...settings,
			registry: path.join(directory, 'registry'),
			stateDir: path.join(directory, 'state'),
			signal,
		});
		await serve(worker, signal);
	} catch (error) {
		if (!signal.aborted || error !== signal.reason) throw error;
	} finally {
		interrupts.close();
	}
	return exitCodes.ok;
}

async function serve(worker: Worker, signal: AbortSignal): Promise<void> {
	try {
		await print(process.stdout, `ready on ${worker.url}\n`);
		if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, {once: true}));
	} finally {
		await worker.close();
	}
}
