/** `config.json`: the keys that a worker is configured by, those of OpenLambda and ours, and what each comes to. */
import {readFile, rename, rm, writeFile} from 'node:fs/promises';
import {totalmem} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {fileURLToPath, pathToFileURL} from 'node:url';
import type {Limits, RuntimeOptions} from '../index.ts';

/** What a worker is told by its configuration. */
export type WorkerSettings = {
	/** Where it leaves its pid and its socket; absolute. */
	readonly workerDir: string;
	/** The folder of functions. */
	readonly registry: string;
	readonly registryCacheMs: number;
	/** Whether it serves functions, or sandboxes alone. */
	readonly mode: 'lambda' | 'sock';
	readonly host: string;
	readonly port: number;
	/** What requests must bring; undefined: nothing. */
	readonly token: string | undefined;
	/** Whether what handlers print is printed. */
	readonly logOutput: boolean;
	/** The index that packages come from; undefined: that of the installer's own configuration. */
	readonly pipMirror: string | undefined;
	readonly runtime: RuntimeOptions;
};

/** What was read, with what is said of keys that come to nothing. */
export type ReadSettings = {readonly settings: WorkerSettings; readonly warnings: readonly string[]};

/** A `key=value` of the command line; the key may be one in a group, as `limits.mem_mb`. */
export type Override = readonly [key: string, value: string];

/** What a `config.json` holds. */
export type Config = Readonly<Record<string, unknown>>;

type Mutable<T> = {-readonly [K in keyof T]: T[K]};
/** What is put together, key by key. */
type Draft = Mutable<Partial<Omit<WorkerSettings, 'runtime'>>> & {
	readonly runtime: Mutable<RuntimeOptions>;
	readonly limits: Mutable<Partial<Limits>>;
};

type Kind = 'text' | 'number' | 'flag' | 'object';
type Key = {
	readonly kind: Kind;
	/** What `config.json` says when nobody has changed it; null where we have no number. @param folder the worker's */
	readonly byDefault: (folder: string) => unknown;
	/** Puts a value of the right kind in its place. @throws {RangeError} or {TypeError} naming the key */
	readonly apply?: (draft: Draft, value: never, key: string) => void;
	/** Why a value has no effect, or another than it had in OpenLambda; undefined: it is as it says. */
	readonly remark?: (value: unknown) => string | undefined;
};

const maxConfigBytes = 1024 * 1024;
/** What a timer can wait for. */
const maxMs = 2 ** 31 - 1;

function text(
	byDefault: string | ((folder: string) => string),
	apply: (draft: Draft, value: string, key: string) => void,
): Key {
	return {kind: 'text', byDefault: typeof byDefault === 'string' ? () => byDefault : byDefault, apply};
}

function flag(byDefault: boolean, apply: (draft: Draft, value: boolean) => void): Key {
	return {kind: 'flag', byDefault: () => byDefault, apply};
}

/** @param range of whole numbers */
function number(
	byDefault: number | null,
	[least, most]: readonly [number, number],
	apply: (draft: Draft, value: number) => void,
): Key {
	return {
		kind: 'number',
		byDefault: () => byDefault,
		apply: (draft, value: number, key) => {
			if (!(Number.isInteger(value) && value >= least && value <= most)) {
				throw new RangeError(`${key}: expected a whole number from ${least} to ${most}, got ${value}`);
			}
			apply(draft, value);
		},
	};
}

/** A key that changes nothing here: whoever sets it is told why. */
function unused(kind: Kind, byDefault: unknown | ((folder: string) => unknown), why: string): Key {
	const standard = (folder: string): unknown => (typeof byDefault === 'function' ? byDefault(folder) : byDefault);
	return {kind, byDefault: standard, remark: () => why};
}

function whole(least: number, most = Number.MAX_SAFE_INTEGER): readonly [number, number] {
	return [least, most];
}

const noImage = 'sandboxes show the host’s own system folders, read-only, and need no image';
const noDocker = 'sandboxes are forktree’s own';
const noTrace = 'nothing is traced; GET /stats has counters and times';
const ownStorage = 'the storage of a sandbox is always private to it';
const noKafka = 'this worker reads from no Kafka';
const installerLimits = 'installers and builds have limits of their own';

/** In the order of `config.json`. */
const keys: ReadonlyMap<string, Key> = new Map(
	Object.entries({
		worker_dir: text(
			(folder) => path.join(folder, 'worker'),
			(draft, value, key) => {
				if (!path.isAbsolute(value))
					throw new RangeError(`${key}: expected an absolute path, got ${JSON.stringify(value)}`);
				draft.workerDir = value;
			},
		),
		worker_url: text('localhost', (draft, value, key) => {
			if (!/^[0-9A-Za-z.:_-]+$/.test(value)) {
				throw new TypeError(`${key}: expected a host name or address to listen on, got ${JSON.stringify(value)}`);
			}
			draft.host = value;
		}),
		worker_port: text('5000', (draft, value, key) => {
			draft.port = parseWhole(key, value, 0, 65_535);
		}),
		log_output: flag(true, (draft, value) => {
			draft.logOutput = value;
		}),
		sandbox: unused('text', 'sock', noDocker),
		server_mode: text('lambda', (draft, value, key) => {
			if (value !== 'lambda' && value !== 'sock') {
				throw new RangeError(`${key}: expected "lambda" or "sock", got ${JSON.stringify(value)}`);
			}
			draft.mode = value;
		}),
		registry: text(
			(folder) => pathToFileURL(path.join(folder, 'registry')).href,
			(draft, value, key) => {
				draft.registry = parseRegistry(key, value);
			},
		),
		registry_cache_ms: number(5000, whole(0, maxMs), (draft, value) => {
			draft.registryCacheMs = value;
		}),
		Pkgs_dir: text(
			(folder) => path.join(folder, 'state', 'packages'),
			(draft, value) => {
				draft.runtime.packagesDir = value;
			},
		),
		pip_mirror: text('', (draft, value, key) => {
			if (value !== '') draft.pipMirror = parseIndex(key, value);
		}),
		mem_pool_mb: number(defaultPoolMb(), whole(1), (draft, value) => {
			draft.runtime.memoryBudgetMb = value;
		}),
		import_cache_tree: text('', (draft, value, key) => {
			if (value !== '') draft.runtime.tree = parseTree(key, value);
		}),
		sock_base_path: unused('text', (folder: string) => path.join(folder, 'lambda'), noImage),
		sandbox_config: unused('object', {}, 'functions get variables by environment in ol.yaml'),
		'docker.runtime': unused('text', '', noDocker),
		'docker.base_image': unused('text', 'ol-min', noImage),
		'limits.procs': number(64, whole(1), (draft, value) => {
			draft.limits.processes = value;
		}),
		'limits.mem_mb': number(256, whole(1), (draft, value) => {
			draft.limits.memoryMb = value;
		}),
		'limits.cpu_percent': number(100, whole(1), (draft, value) => {
			draft.limits.cpuPercent = value;
		}),
		'limits.swappiness': unused('number', 0, 'sandboxes of functions do not swap'),
		'limits.runtime_sec': number(30, whole(1, Math.floor(maxMs / 1000)), (draft, value) => {
			draft.limits.timeoutMs = value * 1000;
		}),
		'installer_limits.procs': unused('number', 0, installerLimits),
		'installer_limits.mem_mb': unused('number', 250, installerLimits),
		'installer_limits.cpu_percent': unused('number', 0, installerLimits),
		'installer_limits.swappiness': unused('number', 0, installerLimits),
		'installer_limits.runtime_sec': unused('number', 300, installerLimits),
		'features.reuse_cgroups': unused('flag', false, 'control groups are made ahead'),
		'features.import_cache': {
			...text('tree', (draft, value, key) => {
				if (!['', 'tree', 'multitree'].includes(value)) {
					throw new RangeError(`${key}: expected "tree" or "", got ${JSON.stringify(value)}`);
				}
				draft.runtime.zygote = value !== '';
			}),
			remark: (value) => (value === 'multitree' ? 'there is one tree, whose zygotes fork ahead' : undefined),
		},
		'features.downsize_paused_mem': unused('flag', true, 'what a paused sandbox does not use is always given back'),
		'features.enable_seccomp': unused('flag', true, 'no sandbox runs without its filter'),
		'trace.cgroups': unused('flag', false, noTrace),
		'trace.memory': unused('flag', false, noTrace),
		'trace.evictor': unused('flag', false, noTrace),
		'trace.package': unused('flag', false, noTrace),
		'trace.latency': unused('flag', false, noTrace),
		'storage.root': unused('text', 'private', ownStorage),
		'storage.scratch': unused('text', '', ownStorage),
		'storage.code': unused('text', '', ownStorage),
		'kafka.cache_enabled': unused('flag', true, noKafka),
		'kafka.cache_size': unused('number', 1024, noKafka),
		'kafka.session_timeout_sec': unused('number', 10, noKafka),
		'kafka.heartbeat_interval_sec': unused('number', 3, noKafka),
		'kafka.poll_timeout_sec': unused('number', 1, noKafka),
		token: text('', (draft, value) => {
			if (value !== '') draft.token = value;
		}),
		best_effort: flag(false, (draft, value) => {
			draft.runtime.bestEffort = value;
		}),
		promote: flag(true, (draft, value) => {
			draft.runtime.promote = value;
		}),
		spares: number(4, whole(0, 64), (draft, value) => {
			draft.runtime.spares = value;
		}),
		instance_pause_ms: number(1000, whole(1, maxMs), (draft, value) => {
			draft.runtime.instancePauseMs = value;
		}),
		instance_idle_ms: number(10 * 60_000, whole(1, maxMs), (draft, value) => {
			draft.runtime.instanceIdleMs = value;
		}),
		zygote_idle_ms: number(60 * 60_000, whole(1, maxMs), (draft, value) => {
			draft.runtime.zygoteIdleMs = value;
		}),
		shared_packages: text('', (draft, value, key) => {
			if (value !== '') draft.runtime.sharedPackages = parseFolders(key, value);
		}),
		packages_gb: number(null, whole(0), (draft, value) => {
			draft.runtime.packagesGb = value;
		}),
		packages_idle_ms: number(null, whole(0), (draft, value) => {
			draft.runtime.packagesIdleMs = value;
		}),
	} satisfies Record<string, Key>),
);

const topNames: readonly string[] = [...new Set([...keys.keys()].map((key) => topOf(key)))];
const groups: ReadonlySet<string> = new Set(
	[...keys.keys()].filter((key) => key.includes('.')).map((key) => topOf(key)),
);

function topOf(key: string): string {
	return key.split('.', 1)[0] ?? key;
}

/** Three quarters of the machine's memory. */
function defaultPoolMb(): number {
	return Math.floor((totalmem() / 1024 / 1024) * 0.75);
}

function parseWhole(key: string, value: string, least: number, most: number): number {
	const parsed = Number(value);
	if (/^\d+$/.test(value) && parsed >= least && parsed <= most) return parsed;
	throw new RangeError(`${key}: expected a whole number from ${least} to ${most}, got ${JSON.stringify(value)}`);
}

function parseFlag(key: string, value: string): boolean {
	const lower = value.toLowerCase();
	if (lower === 'true' || lower === 'false') return lower === 'true';
	throw new RangeError(`${key}: expected true or false, got ${JSON.stringify(value)}`);
}

function parseFolders(key: string, value: string): readonly string[] {
	const folders = value.split(':');
	if (folders.every((folder) => folder !== '')) return folders;
	throw new RangeError(`${key}: expected folders with colons between them, got ${JSON.stringify(value)}`);
}

/** A path, or a file URL. */
function parseRegistry(key: string, value: string): string {
	const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase();
	const expected = `${key}: expected a folder or a file:// URL of one, got ${JSON.stringify(value)}`;
	if (value === '') throw new RangeError(expected);
	if (scheme === undefined) return path.resolve(value);
	if (scheme !== 'file') throw new RangeError(expected);
	try {
		return fileURLToPath(value);
	} catch (cause) {
		throw new RangeError(expected, {cause});
	}
}

function parseIndex(key: string, value: string): string {
	if (URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)) return value;
	throw new RangeError(`${key}: expected the http or https URL of a package index, got ${JSON.stringify(value)}`);
}

/** The path of a file, JSON as text, or what that stands for. */
function parseTree(key: string, value: string | object): string | object {
	if (typeof value === 'object' || !value.trimStart().startsWith('{')) return value;
	try {
		return JSON.parse(value) as object;
	} catch (cause) {
		throw new TypeError(`${key}: expected a path or JSON: ${messageOf(cause)}`, {cause});
	}
}

function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

function isRecord(value: unknown): value is Record<string, unknown> {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a key of a configuration says; undefined when nothing. */
function look(config: Config, key: string): unknown {
	const [top = '', below] = key.split('.');
	const value = Object.hasOwn(config, top) ? config[top] : undefined;
	if (below === undefined) return value;
	return isRecord(value) && Object.hasOwn(value, below) ? value[below] : undefined;
}

/** With one key changed. */
function withValue(config: Config, key: string, value: unknown): Config {
	const [top = '', below] = key.split('.', 2);
	if (below === undefined) return {...config, [top]: value};
	return {...config, [top]: {...(isRecord(config[top]) ? config[top] : {}), [below]: value}};
}

/** What `init` writes. @param folder the worker's, absolute */
export function defaultConfig(folder: string): Config {
	let config: Config = {};
	for (const [key, {byDefault}] of keys) config = withValue(config, key, byDefault(folder));
	return config;
}

/** A value of the kind that the key has, from text. */
function parseOverride(key: string, {kind}: Key, value: string): unknown {
	if (kind === 'flag') return parseFlag(key, value);
	if (kind === 'number') return parseWhole(key, value, 0, Number.MAX_SAFE_INTEGER);
	if (kind === 'object') throw new TypeError(`-o: ${key} can only be changed in config.json`);
	return value;
}

/**
 * A configuration with what the command line changes of it. Keys in a group that we don't know are kept; reading tells of them.
 * @throws {TypeError} for a key that does not exist, listing those that do; {RangeError} for a value of the wrong kind
 */
export function override(config: Config, overrides: readonly Override[]): Config {
	let changed = config;
	for (const [key, value] of overrides) {
		const known = keys.get(key);
		const isGrouped = /^\w+\.\w+$/.test(key) && groups.has(topOf(key));
		if (groups.has(key)) throw new TypeError(`-o: expected ${key}.KEY, got ${JSON.stringify(key)}`);
		if (known === undefined && !isGrouped) {
			throw new TypeError(`-o: expected ${topNames.join(', ')}, got ${JSON.stringify(key)}`);
		}
		changed = withValue(changed, key, known === undefined ? value : parseOverride(key, known, value));
	}
	return changed;
}

/** @throws {TypeError} naming the key */
function checkKind(key: string, {kind}: Key, value: unknown): unknown {
	const isText = typeof value === 'string';
	if (kind === 'flag' && typeof value === 'boolean') return value;
	if (kind === 'number' && typeof value === 'number') return value;
	if (kind === 'object' && isRecord(value)) return value;
	if (kind === 'text' && isText) return value;
	if (key === 'worker_port' && typeof value === 'number') return String(value);
	if (key === 'import_cache_tree' && isRecord(value)) return value;
	const expected = {text: 'text', number: 'a number', flag: 'true or false', object: 'an object'}[kind];
	throw new TypeError(`config.json: ${key}: expected ${expected}, got ${JSON.stringify(value)}`);
}

/** Keys that nobody knows. */
function strangers(config: Config): string[] {
	return Object.entries(config).flatMap(([top, value]) => {
		if (!groups.has(top)) return keys.has(top) ? [] : [top];
		return isRecord(value)
			? Object.keys(value).flatMap((below) => (keys.has(`${top}.${below}`) ? [] : [`${top}.${below}`]))
			: [];
	});
}

/**
 * What a configuration comes to. Of keys that it leaves out, the defaults count.
 * @param folder the worker's, absolute
 * @throws {TypeError} or {RangeError} naming the key, what was expected and what it got
 */
export function readSettings(config: Config, folder: string): ReadSettings {
	const draft: Draft = {runtime: {stateDir: path.join(folder, 'state')}, limits: {}};
	const warnings = strangers(config).map((key) => `${key} is no key of a worker’s config.json, and has no effect`);
	for (const top of groups) {
		const group = look(config, top);
		if (group !== undefined && !isRecord(group))
			throw new TypeError(`config.json: ${top}: expected an object, got ${JSON.stringify(group)}`);
	}
	for (const [key, known] of keys) {
		const standard = known.byDefault(folder);
		const value = look(config, key) ?? standard;
		if (value === null) continue;
		const checked = checkKind(key, known, value);
		known.apply?.(draft, checked as never, key);
		if (JSON.stringify(value) === JSON.stringify(standard)) continue;
		const remark = known.remark?.(value);
		if (remark !== undefined) warnings.push(`${key} is ${JSON.stringify(value)}, which has no effect: ${remark}`);
	}
	return {settings: finish(draft), warnings};
}

/** Every key has a default, so that nothing is missing. */
function finish({runtime, limits, ...draft}: Draft): WorkerSettings {
	return {
		pipMirror: undefined,
		token: undefined,
		...(draft as Omit<WorkerSettings, 'runtime' | 'pipMirror' | 'token'>),
		runtime: {...runtime, limits},
	};
}

/** @throws {TypeError} naming the file when it is no JSON object; Node's own error when it can't be read */
export async function readConfig(file: string): Promise<Config> {
	const bytes = await readFile(file);
	if (bytes.byteLength > maxConfigBytes)
		throw new RangeError(`${file}: expected at most ${maxConfigBytes} bytes, got ${bytes.byteLength}`);
	let value: unknown;
	try {
		value = JSON.parse(bytes.toString());
	} catch (cause) {
		throw new TypeError(`${file}: expected JSON: ${messageOf(cause)}`, {cause});
	}
	if (isRecord(value)) return value;
	throw new TypeError(`${file}: expected a JSON object, got ${Array.isArray(value) ? 'an array' : String(value)}`);
}

/** Writes a configuration as a whole or not at all, for its owner alone. */
export async function writeConfig(file: string, config: Config): Promise<void> {
	const unfinished = `${file}.${process.pid}.tmp`;
	try {
		await writeFile(unfinished, `${JSON.stringify(config, undefined, '\t')}\n`, {mode: 0o600, flush: true});
		await rename(unfinished, file);
	} catch (error) {
		await rm(unfinished, {force: true});
		throw error;
	}
}
