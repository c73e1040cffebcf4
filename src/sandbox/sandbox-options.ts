/** Options of sandboxes and pools that users give, resolved once into types without optional fields. */
import {totalmem} from 'node:os';
import path from 'node:path';
import {ForktreeError, quote} from '../errors.ts';
import {chooseVictim, type EvictionPolicy} from './evictor.ts';
import {defaultDevices} from './keeper.ts';
import {type Lookup, lookUpByHost} from './network/dial.ts';
import {type NetworkOptions, type ResolvedNetwork, resolveNetwork} from './network/settings.ts';
import {readSeccompProfile, type SeccompProfile} from './seccomp-profile.ts';

/** Limits of a program sandbox; every one is enforced. */
export type SandboxLimits = {
	/** Memory that its cgroup is charged for, its `/tmp` included, in MiB. Beyond it: `OutOfMemory`. */
	readonly memoryMb: number;
	/** Swap besides, in MiB, where the kernel accounts for it. */
	readonly swapMb: number;
	/** Share of one core, in percent. */
	readonly cpuPercent: number;
	/** Processes and threads, its own first process included. */
	readonly processes: number;
	/** Open files of one process. */
	readonly openFiles: number;
	/** Size of `/tmp`, in MiB. */
	readonly scratchMb: number;
	/** What a run may print on stdout and on stderr, in MiB each; the rest is cut and `limitsHit` says so. */
	readonly outputMb: number;
	/** Deadline of a run, in milliseconds. Beyond it: `Timeout`. */
	readonly timeoutMs: number;
	/** CPU time of a run, in milliseconds, of everything in the sandbox together. Beyond it: `CpuLimit`. */
	readonly cpuMs: number;
};

export const defaultSandboxLimits: SandboxLimits = {
	memoryMb: 256,
	swapMb: 0,
	cpuPercent: 100,
	processes: 64,
	openFiles: 1024,
	scratchMb: 64,
	outputMb: 1,
	timeoutMs: 30_000,
	cpuMs: Number.POSITIVE_INFINITY,
};

/** A folder of the host that a sandbox sees. */
export type SandboxMount = {
	/** An absolute path on the host, resolved once. Several: seen as one folder, read-only; of what many have, the first one's. */
	readonly source: string | readonly string[];
	/** An absolute path in the sandbox: a folder that its base has, or one below a top-level folder that its base has not. */
	readonly target: string;
	/** False: the sandbox can write what the modes let everybody write, as its own user. By default true. */
	readonly readonly?: boolean;
};

/** What a sandbox can write to. */
export type SandboxWritable = 'none' | 'scratch' | 'overlay' | {readonly overlay: string};

/** Options of `pool.create()`. Those left out come from the pool's own `defaults`. */
export type SandboxOptions = {
	/**
	 * What it sees as `/`: `host` (the default: system folders and interpreters of this machine, read-only), a folder, or a
	 * root-file-system archive (`.tar`, `.tar.gz`), unpacked once.
	 */
	readonly base?: string;
	/** Further folders over the base, later ones over earlier ones, read-only. */
	readonly layers?: readonly string[];
	/**
	 * `scratch`, the default: a `/tmp` of its own with `/tmp/work` in it, limited in size; `none`: nothing; `overlay`: besides
	 * `/tmp` everything that belongs to its user, in memory and lost with it; `{overlay: folder}`: likewise, kept in that folder
	 * of the host, which nobody but root may enter. With an overlay it is root of its own, without any capability, unless
	 * `uid` says otherwise; what belongs to root in the base belongs to it.
	 */
	readonly writable?: SandboxWritable;
	readonly mounts?: readonly SandboxMount[];
	/** `none`, the default: only loopback; `host`: the machine's network as it is; or what it may reach. */
	readonly network?: 'none' | 'host' | NetworkOptions;
	readonly limits?: Partial<SandboxLimits>;
	/** Variables of what runs in it; nothing of the host's environment is there. */
	readonly env?: Readonly<Record<string, string>>;
	/** Working folder; by default `/tmp/work`, or `/` when nothing is writable. */
	readonly cwd?: string;
	readonly hostname?: string;
	/** Its uid and gid as it sees them, from 0 to 65534; by default one that no other sandbox of the pool has. */
	readonly uid?: number;
	/**
	 * What it has in `/dev` besides null, by names below the host's; by default zero, full, random, urandom and tty. It may
	 * read and write them, unless the driver asks for capabilities.
	 */
	readonly devices?: readonly string[];
	/**
	 * A profile in the format of container engines, in place of the default one; `off`: neither. What the launcher itself is
	 * refused stays so in any case: tracing, bpf, io_uring, keys, changes of mounts. Namespaces and missing capabilities hold
	 * all the same.
	 */
	readonly seccomp?: 'default' | 'off' | SeccompProfile;
	/**
	 * Whether nothing that the sandbox itself writes can be executed or mapped as code: neither programs nor libraries in
	 * `/tmp` and in mounts, nor files in memory (`memfd_create`, which is refused). Interpreters still run what they can read,
	 * and a process that runs may make code in its own memory. Not with an overlay. By default false.
	 */
	readonly noNewExecutables?: boolean;
	/** How long to wait for memory in the budget, in milliseconds; 30 seconds by default. */
	readonly waitMs?: number;
};

/** Options of `createSandboxPool()`. */
export type SandboxPoolOptions = {
	/** Where unpacked archives are kept. By default a temporary folder that `close()` removes. */
	readonly stateDir?: string;
	/** MiB that all sandboxes together may be allowed to use. By default three quarters of the machine's memory. */
	readonly memoryBudgetMb?: number;
	/**
	 * Whether limits that this machine can't hold for us are no error: `stats().isolation` names them. What can be done instead is done.
	 * By default false.
	 */
	readonly bestEffort?: boolean;
	/**
	 * What `create()` does when the budget is taken: `wait` (the default) for its turn, `reject` with `Capacity`, or `evict`
	 * sandboxes in which nothing runs, least recently used first.
	 */
	readonly whenFull?: 'wait' | 'reject' | 'evict';
	/**
	 * Chooses whom `evict` takes away, one after the other as long as somebody waits; what runs in it ends as `Evicted`. By
	 * default the idle one that was used longest ago, paused ones first. It must not throw.
	 */
	readonly evictionPolicy?: EvictionPolicy;
	/**
	 * How many spares wait for each of the few sets of options that were asked for last: sandboxes, new and set up, which the
	 * next `create()` or `run()` with such options takes. Each serves one sandbox. They are made when a start is over, and take
	 * about half a MiB each besides the budget. By default 1; `uid` and `overlay` have none.
	 */
	readonly spares?: number;
	/** Answers the addresses of a name that an allow-list has; by default the host's resolver. Who may be connected to is checked afterwards. */
	readonly lookup?: Lookup;
	/** Defaults of every sandbox. */
	readonly defaults?: Omit<SandboxOptions, 'waitMs'>;
};

export type ResolvedSandboxOptions = {
	readonly base: string;
	readonly layers: readonly string[];
	readonly writable: SandboxWritable;
	readonly mounts: ReadonlyArray<Required<SandboxMount>>;
	readonly network: 'none' | 'host' | ResolvedNetwork;
	readonly limits: SandboxLimits;
	readonly env: Readonly<Record<string, string>>;
	readonly cwd: string;
	readonly hostname: string;
	/** Undefined: one of its own. */
	readonly uid: number | undefined;
	readonly devices: readonly string[];
	/** Whether the default filter is installed. */
	readonly defaultFilter: boolean;
	/** The instructions of the filter of each program besides; empty: none. */
	readonly profile: Uint8Array;
	readonly noNewExecutables: boolean;
	readonly waitMs: number;
};

export type ResolvedPoolOptions = {
	readonly stateDir: string | undefined;
	readonly memoryBudgetMb: number;
	readonly bestEffort: boolean;
	readonly whenFull: 'wait' | 'reject' | 'evict';
	readonly evictionPolicy: EvictionPolicy;
	readonly spares: number;
	readonly lookup: Lookup;
	readonly defaults: SandboxDefaults;
};

const counts: ReadonlySet<string> = new Set(['processes', 'openFiles']);
const mayBeZero: ReadonlySet<string> = new Set(['swapMb', 'scratchMb']);
const maxTimeoutMs = 2 ** 31 - 1;
const maxMounts = 8;
/** They are named in options of a mount, which may be a page long. */
const maxMountSources = 200;
const maxLayers = 64;
const maxDevices = 32;
const maxSpares = 64;
const maxUid = 65_534;
/** The longest host name the kernel takes, see sethostname(2). */
const maxHostname = 64;

function checkKeys(value: unknown, known: readonly string[], label: string): Readonly<Record<string, unknown>> {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) {
		throw new TypeError(`${label}: expected an object, got ${quote(value)}`);
	}
	for (const key of Object.keys(value)) {
		if (!known.includes(key)) throw new TypeError(`${label}: expected ${known.join(', ')}, got ${quote(key)}`);
	}
	return value as Readonly<Record<string, unknown>>;
}

function checkText(value: unknown, label: string): string {
	if (typeof value !== 'string' || value === '') throw new TypeError(`${label}: expected a non-empty string`);
	if (value.includes('\0')) throw new RangeError(`${label}: expected text without NUL, got ${quote(value)}`);
	return value;
}

function checkChoice<T extends string>(value: unknown, choices: readonly T[], label: string): T {
	if (!choices.includes(value as T))
		throw new RangeError(`${label}: expected ${choices.join(' or ')}, got ${quote(value)}`);
	return value as T;
}

function checkNumber(value: unknown, label: string): number {
	if (typeof value !== 'number') throw new TypeError(`${label}: expected a number, got ${quote(value)}`);
	return value;
}

/** A path inside a sandbox: absolute, and as it reads, without `.` and `..`. */
export function checkInsidePath(value: unknown, label: string): string {
	const text = checkText(value, label);
	if (!text.startsWith('/') || path.posix.normalize(text) !== text || (text !== '/' && text.endsWith('/'))) {
		throw new RangeError(`${label}: expected an absolute path without '.' and '..', got ${quote(text)}`);
	}
	return text;
}

/** Variables of a program. @throws {TypeError} or {RangeError} */
export function checkVariables(value: unknown, label: string): Readonly<Record<string, string>> {
	const variables = checkKeys(value, Object.keys((value as object | null) ?? {}), label);
	for (const [name, content] of Object.entries(variables)) {
		if (name === '' || /[=\0]/.test(name))
			throw new RangeError(`${label}: expected a variable's name, got ${quote(name)}`);
		if (typeof content !== 'string') throw new TypeError(`${label}.${name}: expected a string, got ${quote(content)}`);
		if (content.includes('\0')) throw new RangeError(`${label}.${name}: expected text without NUL`);
	}
	return variables as Readonly<Record<string, string>>;
}

/** @throws {TypeError} or {RangeError} naming the limit, what was expected and what it got */
export function checkSandboxLimits(value: unknown, label: string): Partial<SandboxLimits> {
	const limits = checkKeys(value, Object.keys(defaultSandboxLimits), label);
	for (const [name, content] of Object.entries(limits)) {
		const number = checkNumber(content, `${label}.${name}`);
		const least = mayBeZero.has(name) ? 0 : Number.MIN_VALUE;
		const most = name === 'timeoutMs' ? maxTimeoutMs : name === 'cpuMs' ? Number.POSITIVE_INFINITY : 2 ** 40;
		if (!(number >= least && number <= most)) {
			throw new RangeError(`${label}.${name}: expected a number ${least === 0 ? '>=' : '>'} 0, got ${number}`);
		}
		if (counts.has(name) && !Number.isSafeInteger(number)) {
			throw new RangeError(`${label}.${name}: expected a whole number, got ${number}`);
		}
	}
	return limits as Partial<SandboxLimits>;
}

function checkMount(value: unknown, label: string): Required<SandboxMount> {
	const mount = checkKeys(value, ['source', 'target', 'readonly'], label);
	const source = checkSource(mount.source, `${label}.source`);
	const target = checkInsidePath(mount.target, `${label}.target`);
	if (target === '/' || /^\/(?:proc|dev|tmp|forktree)(?:\/|$)/.test(target)) {
		throw new RangeError(
			`${label}.target: expected a path outside /proc, /dev, /tmp and /forktree, got ${quote(target)}`,
		);
	}
	if (mount.readonly !== undefined && typeof mount.readonly !== 'boolean') {
		throw new TypeError(`${label}.readonly: expected true or false, got ${quote(mount.readonly)}`);
	}
	if (typeof source !== 'string' && mount.readonly === false) {
		throw new RangeError(`${label}.readonly: expected true for several folders, got false`);
	}
	return {source, target, readonly: mount.readonly ?? true};
}

function checkSource(value: unknown, label: string): SandboxMount['source'] {
	if (!Array.isArray(value)) return checkAbsolute(value, label);
	if (value.length === 0) throw new RangeError(`${label}: expected at least one folder`);
	return checkList(value, maxMountSources, label, checkAbsolute);
}

function checkAbsolute(value: unknown, label: string): string {
	const text = checkText(value, label);
	if (!path.isAbsolute(text)) throw new RangeError(`${label}: expected an absolute path, got ${quote(text)}`);
	return text;
}

function checkList<T>(value: unknown, most: number, label: string, check: (each: unknown, label: string) => T): T[] {
	if (!Array.isArray(value)) throw new TypeError(`${label}: expected an array, got ${quote(value)}`);
	if (value.length > most) throw new RangeError(`${label}: expected at most ${most}, got ${value.length}`);
	return value.map((each, index) => check(each, `${label}[${index}]`));
}

function checkFolder(value: unknown, label: string): string {
	return path.resolve(checkText(value, label));
}

const sandboxKeys = [
	...['base', 'layers', 'writable', 'mounts', 'network', 'limits', 'env', 'cwd', 'hostname', 'uid', 'devices'],
	...['seccomp', 'noNewExecutables', 'waitMs'],
] as const;

/** What sandboxes of a pool have that their own options do not say. */
export type SandboxDefaults = {readonly given: SandboxOptions; readonly resolved: ResolvedSandboxOptions};

const builtIn: SandboxDefaults = {
	given: {},
	resolved: {
		base: 'host',
		layers: [],
		writable: 'scratch',
		mounts: [],
		network: 'none',
		limits: defaultSandboxLimits,
		env: {},
		cwd: '/tmp/work',
		hostname: 'sandbox',
		uid: undefined,
		devices: defaultDevices,
		defaultFilter: true,
		profile: new Uint8Array(),
		noNewExecutables: false,
		waitMs: 30_000,
	},
};

/**
 * Looks only at what is given: it is in the way of every start.
 * @throws {TypeError} or {RangeError} naming the option, what was expected and what it got
 */
export function resolveSandboxOptions(
	options: SandboxOptions,
	{given, resolved}: SandboxDefaults = builtIn,
): ResolvedSandboxOptions {
	checkKeys(options, sandboxKeys, 'sandbox options');
	const {base, layers, mounts, network, env, hostname, devices, seccomp, waitMs} = options;
	const limits =
		options.limits === undefined
			? resolved.limits
			: {...resolved.limits, ...checkSandboxLimits(options.limits, 'limits')};
	const writable = options.writable === undefined ? resolved.writable : checkWritable(options.writable);
	if (writable === 'overlay' && limits.scratchMb === 0) {
		throw new RangeError('limits.scratchMb: expected more than 0 for a writable overlay in memory');
	}
	const noNewExecutables = checkFlag(options.noNewExecutables ?? resolved.noNewExecutables, 'noNewExecutables');
	if (noNewExecutables && isOverlay(writable)) {
		throw new RangeError(
			'noNewExecutables: expected false with a writable overlay, in which programs lie among what is written',
		);
	}
	return {
		...resolved,
		noNewExecutables,
		...(base === undefined ? {} : {base: base === 'host' ? base : checkFolder(base, 'base')}),
		...(layers === undefined ? {} : {layers: checkList(layers, maxLayers, 'layers', checkFolder)}),
		writable,
		...(mounts === undefined ? {} : {mounts: checkList(mounts, maxMounts, 'mounts', checkMount)}),
		...(network === undefined ? {} : {network: checkNetwork(network)}),
		limits,
		...(env === undefined ? {} : {env: {...resolved.env, ...checkVariables(env, 'env')}}),
		cwd: resolveFolder(options.cwd ?? given.cwd, writable, limits),
		...(hostname === undefined ? {} : {hostname: checkHostname(hostname)}),
		uid: checkUid(options.uid ?? given.uid, isOverlay(writable)),
		...(devices === undefined ? {} : {devices: checkDevices(devices)}),
		...(seccomp === undefined ? {} : resolveSeccomp(seccomp)),
		...(waitMs === undefined ? {} : {waitMs: checkWait(waitMs)}),
	};
}

function resolveFolder(cwd: unknown, writable: SandboxWritable, {scratchMb}: SandboxLimits): string {
	if (cwd !== undefined) return checkInsidePath(cwd, 'cwd');
	return writable === 'none' || scratchMb === 0 ? '/' : '/tmp/work';
}

function checkNetwork(value: unknown): 'none' | 'host' | ResolvedNetwork {
	if (typeof value === 'object') return resolveNetwork(value, 'network');
	return checkChoice(value, ['none', 'host'] as const, 'network');
}

function checkHostname(value: unknown): string {
	const hostname = checkText(value, 'hostname');
	if (Buffer.byteLength(hostname) <= maxHostname) return hostname;
	throw new RangeError(`hostname: expected at most ${maxHostname} bytes, got ${quote(hostname)}`);
}

function checkWait(value: unknown): number {
	const waitMs = checkNumber(value, 'waitMs');
	if (waitMs >= 0 && waitMs <= maxTimeoutMs) return waitMs;
	throw new RangeError(`waitMs: expected milliseconds from 0, got ${waitMs}`);
}

function checkDevices(value: unknown): string[] {
	return [...new Set(['null', ...checkList(value, maxDevices, 'devices', checkDevice)])];
}

/** Whether everything in it is writable. */
export function isOverlay(writable: SandboxWritable): boolean {
	return writable === 'overlay' || typeof writable === 'object';
}

function checkWritable(value: unknown): SandboxWritable {
	if (typeof value !== 'object') return checkChoice(value, ['none', 'scratch', 'overlay'] as const, 'writable');
	const {overlay} = checkKeys(value, ['overlay'], 'writable');
	return {overlay: checkFolder(overlay, 'writable.overlay')};
}

function checkUid(value: unknown, isRoot: boolean): number | undefined {
	if (value === undefined) return isRoot ? 0 : undefined;
	const uid = checkNumber(value, 'uid');
	if (!(Number.isInteger(uid) && uid >= 0 && uid <= maxUid)) {
		throw new RangeError(`uid: expected a whole number from 0 to ${maxUid}, got ${uid}`);
	}
	return uid;
}

function checkDevice(value: unknown, label: string): string {
	const name = checkText(value, label);
	if (!/^[\w-][\w.-]*(?:\/[\w-][\w.-]*)*$/.test(name)) {
		throw new RangeError(`${label}: expected a name below /dev, such as fuse or net/tun, got ${quote(name)}`);
	}
	return name;
}

function resolveSeccomp(
	seccomp: 'default' | 'off' | SeccompProfile,
): Pick<ResolvedSandboxOptions, 'defaultFilter' | 'profile'> {
	const none = new Uint8Array();
	if (seccomp === 'default') return {defaultFilter: true, profile: none};
	if (seccomp === 'off') return {defaultFilter: false, profile: none};
	return {defaultFilter: false, profile: readSeccompProfile(seccomp)};
}

/** @throws {TypeError} or {RangeError} as {@link resolveSandboxOptions} */
export function resolvePoolOptions(options: SandboxPoolOptions): ResolvedPoolOptions {
	checkKeys(
		options,
		['stateDir', 'memoryBudgetMb', 'bestEffort', 'whenFull', 'evictionPolicy', 'spares', 'lookup', 'defaults'],
		'createSandboxPool options',
	);
	const memoryBudgetMb = checkNumber(
		options.memoryBudgetMb ?? Math.floor((totalmem() / 1024 / 1024) * 0.75),
		'memoryBudgetMb',
	);
	if (!(memoryBudgetMb > 0 && Number.isFinite(memoryBudgetMb))) {
		throw new RangeError(`memoryBudgetMb: expected a number of MiB above 0, got ${memoryBudgetMb}`);
	}
	const given = options.defaults ?? {};
	const defaults = {given, resolved: resolveSandboxOptions(given)};
	return {
		stateDir: options.stateDir === undefined ? undefined : checkText(options.stateDir, 'stateDir'),
		memoryBudgetMb,
		bestEffort: checkFlag(options.bestEffort ?? false, 'bestEffort'),
		whenFull: checkChoice(options.whenFull ?? 'wait', ['wait', 'reject', 'evict'], 'whenFull'),
		evictionPolicy: checkPolicy(options.evictionPolicy ?? chooseVictim),
		spares: checkSpares(options.spares ?? 1),
		lookup: checkLookup(options.lookup),
		defaults,
	};
}

function checkFlag(value: unknown, label: string): boolean {
	if (typeof value !== 'boolean') throw new TypeError(`${label}: expected true or false, got ${quote(value)}`);
	return value;
}

function checkSpares(value: unknown): number {
	const spares = checkNumber(value, 'spares');
	if (Number.isInteger(spares) && spares >= 0 && spares <= maxSpares) return spares;
	throw new RangeError(`spares: expected a whole number from 0 to ${maxSpares}, got ${spares}`);
}

function checkPolicy(value: unknown): EvictionPolicy {
	if (typeof value !== 'function') throw new TypeError(`evictionPolicy: expected a function, got ${quote(value)}`);
	return value as EvictionPolicy;
}

/** @throws {TypeError} for what can't be called */
export function checkLookup(value: unknown): Lookup {
	if (value === undefined) return lookUpByHost;
	if (typeof value !== 'function') throw new TypeError(`lookup: expected a function, got ${quote(value)}`);
	return value as Lookup;
}

/** The word for a folder or archive that is not there or not usable. */
export function invalidBase(message: string, cause?: unknown): ForktreeError {
	return new ForktreeError('InvalidSource', message, {cause});
}
