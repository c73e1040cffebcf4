/** Options that users give, resolved once into types without optional fields. */
import {readFileSync} from 'node:fs';
import {totalmem} from 'node:os';
import {ForktreeError} from '../errors.ts';
import {checkFolders, checkGcOptions, type GcOptions} from '../packages/package-cache.ts';
import {defaultLimits, type Limits} from '../sandbox/limits.ts';
import type {Lookup} from '../sandbox/network/dial.ts';
import type {NetworkOptions, ResolvedNetwork} from '../sandbox/network/settings.ts';
import {checkLookup} from '../sandbox/sandbox-options.ts';
import {readTree, type TreeNode} from '../zygote/tree.ts';
import {optionError} from './check.ts';
import {
	checkBoolean,
	checkConcurrency,
	checkEntryFile,
	checkEnvironment,
	checkLimits,
	checkMaxQueue,
	checkNetwork,
	checkWarmup,
	type FunctionConfig,
} from './config.ts';
import type {Triggers} from './triggers.ts';

const runtimeOptions: ReadonlyArray<keyof RuntimeOptions> = [
	'stateDir',
	'restore',
	'packagesDir',
	'sharedPackages',
	'packagesGb',
	'packagesIdleMs',
	'offline',
	'python',
	'memoryBudgetMb',
	'bestEffort',
	'tree',
	'promote',
	'spares',
	'instancePauseMs',
	'instanceIdleMs',
	'zygoteIdleMs',
	'limits',
	'zygote',
	'lookup',
];
const deployOptions: ReadonlyArray<keyof DeployOptions> = [
	'env',
	'limits',
	'requirements',
	'reuse',
	'concurrency',
	'maxQueue',
	'zygote',
	'spares',
	'ownZygote',
	'warmup',
	'network',
	'noNewExecutables',
];
const defaultConcurrency = 32;
const defaultMaxQueue = 1024;
const defaultSpares = 4;
/** How often packages that nothing needs are looked for, at the least and at the most: uses are noted to the minute. */
const maxCollectMs = 60 * 60_000;
const minCollectMs = 60_000;

/** Options of `createRuntime`. */
export type RuntimeOptions = {
	/** Where deployed code, and by default packages, are kept. By default a temporary folder that `close()` removes. */
	readonly stateDir?: string;
	/**
	 * Whether functions that an earlier runtime deployed in this state folder can be called at once; by default true. Else each has to be
	 * deployed again, for which what its requirements were resolved to is known: thousands of them take no time at the start.
	 */
	readonly restore?: boolean;
	/** The install cache, which several runtimes may share. By default `packages` in the state folder. */
	readonly packagesDir?: string;
	/**
	 * Folders of install caches whose packages are used rather than installed in `packagesDir`, such as those of an image; the first
	 * that has one counts. They are only read, and must not change meanwhile.
	 */
	readonly sharedPackages?: readonly string[];
	/**
	 * How large the install cache may be, in GiB: what nothing needs is removed beyond that, once an hour and what was used longest ago
	 * first. By default nothing is.
	 */
	readonly packagesGb?: number;
	/** Milliseconds after which a package that nothing needs and nobody used is removed, looked for once an hour at the least. By default it stays. */
	readonly packagesIdleMs?: number;
	/** Whether nothing may be downloaded: what a deploy needs and is not there already is `Offline`. */
	readonly offline?: boolean;
	/** The interpreter: a path or a command name; CPython 3.9 or later. By default `python3` from `PATH`. */
	readonly python?: string;
	/** MiB that all sandboxes together may be allowed to use. By default three quarters of the machine's memory. */
	readonly memoryBudgetMb?: number;
	/**
	 * Whether limits that this machine can't hold for us are no error: `stats().isolation` names them. What can be done instead is done.
	 * By default false.
	 */
	readonly bestEffort?: boolean;
	/**
	 * The plan of zygotes: the path of a JSON file, or what is in one. Functions are forked from the node that saves most of their
	 * imports. By default each function's set of packages gets a node of its own.
	 */
	readonly tree?: string | object;
	/**
	 * Whether the tree follows what is called: sets of packages that it has too little for get nodes of their own, and it is fitted anew
	 * now and then; by default true.
	 */
	readonly promote?: boolean;
	/**
	 * The most children that each zygote forks ahead, while it is asked for again and again, for any of its functions; 4 by
	 * default, 0 for none.
	 */
	readonly spares?: number;
	/**
	 * Milliseconds after which an instance that nobody called is paused until the next call, so that nothing that a handler left
	 * running takes CPU time; a second by default. After twice as long it is parked: of its memory limit it keeps what it uses. Where
	 * control groups can't be frozen neither is done.
	 */
	readonly instancePauseMs?: number;
	/** Milliseconds after which an instance that nobody called is ended; ten minutes by default. */
	readonly instanceIdleMs?: number;
	/** Milliseconds after which a zygote that nothing was forked from is ended; an hour by default. */
	readonly zygoteIdleMs?: number;
	/** Limits of functions that set none themselves. */
	readonly limits?: Partial<Limits>;
	/** Whether functions that do not say so themselves are forked from zygotes; by default true. */
	readonly zygote?: boolean;
	/** Answers the addresses of a name that a function's `network` lists; by default the host's resolver. What they are is checked afterwards. */
	readonly lookup?: Lookup;
};

/** What is removed of the install cache, and how often it is looked for. */
export type PeriodicGc = GcOptions & {readonly everyMs: number};

/** What functions are that do not say otherwise. */
export type FunctionDefaults = {readonly limits: Limits; readonly zygote: boolean};

export type ResolvedRuntimeOptions = {
	readonly stateDir: string | undefined;
	readonly restore: boolean;
	readonly packagesDir: string | undefined;
	readonly sharedPackages: readonly string[];
	/** Undefined: nothing is removed. */
	readonly gc: PeriodicGc | undefined;
	readonly offline: boolean;
	readonly python: string | undefined;
	readonly memoryBudgetMb: number;
	readonly bestEffort: boolean;
	readonly tree: TreeNode | undefined;
	readonly promote: boolean;
	readonly spares: number;
	readonly instancePauseMs: number;
	readonly instanceIdleMs: number;
	readonly zygoteIdleMs: number;
	readonly functions: FunctionDefaults;
	readonly lookup: Lookup;
};

/** Options of `deploy`; they win over the function's `ol.yaml`. */
export type DeployOptions = {
	/** Variables of the handler's environment; added to those of `ol.yaml`. */
	readonly env?: Readonly<Record<string, string>>;
	readonly limits?: Partial<Limits>;
	/** Lines of a requirements.txt, in place of the file in the code. */
	readonly requirements?: readonly string[];
	/** False: every call gets a fresh sandbox. True, the default: an idle instance serves the next call. */
	readonly reuse?: boolean;
	/** Calls that run at once, 32 by default; more wait in line. */
	readonly concurrency?: number;
	/** Calls that may wait in line, 1024 by default; one more is refused at once, with `QueueFull`. */
	readonly maxQueue?: number;
	/** False: every start is a fresh interpreter, which shares neither memory layout nor hash seed with others. */
	readonly zygote?: boolean;
	/**
	 * The most sandboxes that are started ahead, their module loaded, while fresh ones are asked for again and again; 4 by default, 0
	 * for none. Each serves one call, or none.
	 */
	readonly spares?: number;
	/**
	 * False: its module is loaded in each sandbox anew. True, the default: when that pays, a zygote of its own loads it once, and what
	 * the module computes as it is loaded is the same in all sandboxes from then on.
	 */
	readonly ownZygote?: boolean;
	/**
	 * A function of its code, as `module:function`, that its own zygote calls once when the module is loaded, so that what is slow the
	 * first time is done in no call. The function gets that zygote when it was called once.
	 */
	readonly warmup?: string;
	/** What it may reach: `none`, the default, or rules. */
	readonly network?: 'none' | NetworkOptions;
	/**
	 * Whether what its sandboxes write themselves can't be executed, nor mapped as code: what lies in `/tmp`, and files in memory, which
	 * are refused. False by default. Interpreters still run what they can read, and a process can make code in memory of its own.
	 */
	readonly noNewExecutables?: boolean;
};

/** A function's settings, apart from its packages. */
export type ResolvedSettings = {
	readonly environment: Readonly<Record<string, string>>;
	readonly limits: Limits;
	readonly reuse: boolean;
	readonly concurrency: number;
	readonly maxQueue: number;
	readonly zygote: boolean;
	readonly entryFile: string;
	readonly spares: number;
	readonly ownZygote: boolean;
	readonly warmup: string | undefined;
	readonly network: 'none' | ResolvedNetwork;
	readonly triggers: Triggers;
	readonly noNewExecutables: boolean;
};

function checkText(value: unknown, label: string): string | undefined {
	if (value === undefined) return undefined;
	if (typeof value !== 'string' || value === '') throw new TypeError(`${label}: expected a non-empty string`);
	return value;
}

function checkFlag(value: unknown, label: string, byDefault: boolean): boolean {
	if (value === undefined) return byDefault;
	if (typeof value !== 'boolean') throw new TypeError(`${label}: expected true or false`);
	return value;
}

function checkIdle(value: unknown, label: string, byDefault: number): number {
	if (value === undefined) return byDefault;
	if (typeof value !== 'number') throw new TypeError(`${label}: expected a number of milliseconds`);
	// What a timer can wait for.
	if (!(value >= 1 && value < 2 ** 31))
		throw new RangeError(`${label}: expected 1 to 2^31 - 1 milliseconds, got ${value}`);
	return value;
}

function resolveGc(options: GcOptions): PeriodicGc | undefined {
	const {packagesGb, packagesIdleMs} = checkGcOptions(options);
	if (packagesGb === undefined && packagesIdleMs === undefined) return undefined;
	const everyMs = Math.min(maxCollectMs, Math.max(minCollectMs, packagesIdleMs ?? maxCollectMs));
	return {packagesGb, packagesIdleMs, everyMs};
}

function checkSpares(value: unknown): number {
	if (value === undefined) return defaultSpares;
	if (typeof value !== 'number') throw new TypeError('spares: expected a number');
	if (!Number.isInteger(value) || value < 0 || value > 64)
		throw new RangeError(`spares: expected 0 to 64, got ${value}`);
	return value;
}

function openTree(value: unknown): TreeNode | undefined {
	if (value === undefined) return undefined;
	if (typeof value === 'string') return readTreeFile(value);
	if (typeof value !== 'object' || value === null) throw new TypeError('tree: expected a path or an object');
	return readTree(value);
}

/** @throws {ForktreeError} `InvalidTree` also when there is no such file, or it is no JSON */
function readTreeFile(file: string): TreeNode {
	let value: unknown;
	try {
		value = JSON.parse(readFileSync(file, 'utf8'));
	} catch (error) {
		const reason = error instanceof Error ? error.message : String(error);
		throw new ForktreeError('InvalidTree', `tree: expected a JSON file: ${reason}`, {cause: error});
	}
	return readTree(value);
}

function checkKnown(options: unknown, known: readonly string[], label: string): void {
	if (typeof options !== 'object' || options === null || Array.isArray(options)) {
		throw new TypeError(`${label}: expected an object`);
	}
	for (const key of Object.keys(options)) {
		if (!known.includes(key)) throw new TypeError(`${label}: expected ${known.join(', ')}, got ${JSON.stringify(key)}`);
	}
}

/** @throws {TypeError} or {RangeError} naming the option, what was expected and what it got; {ForktreeError} `InvalidTree` */
export function resolveRuntimeOptions(options: RuntimeOptions): ResolvedRuntimeOptions {
	checkKnown(options, runtimeOptions, 'createRuntime options');
	const memoryBudgetMb = options.memoryBudgetMb ?? Math.floor((totalmem() / 1024 / 1024) * 0.75);
	if (typeof memoryBudgetMb !== 'number') throw new TypeError('memoryBudgetMb: expected a number of MiB');
	if (!(memoryBudgetMb > 0 && Number.isFinite(memoryBudgetMb))) {
		throw new RangeError(`memoryBudgetMb: expected a number of MiB above 0, got ${memoryBudgetMb}`);
	}
	return {
		stateDir: checkText(options.stateDir, 'stateDir'),
		restore: checkFlag(options.restore, 'restore', true),
		packagesDir: checkText(options.packagesDir, 'packagesDir'),
		sharedPackages: checkFolders(options.sharedPackages, 'sharedPackages'),
		gc: resolveGc(options),
		offline: checkFlag(options.offline, 'offline', false),
		python: checkText(options.python, 'python'),
		memoryBudgetMb,
		bestEffort: checkFlag(options.bestEffort, 'bestEffort', false),
		tree: openTree(options.tree),
		promote: checkFlag(options.promote, 'promote', true),
		spares: checkSpares(options.spares),
		instancePauseMs: checkIdle(options.instancePauseMs, 'instancePauseMs', 1000),
		instanceIdleMs: checkIdle(options.instanceIdleMs, 'instanceIdleMs', 10 * 60_000),
		zygoteIdleMs: checkIdle(options.zygoteIdleMs, 'zygoteIdleMs', 60 * 60_000),
		functions: {
			limits: {...defaultLimits, ...givenLimits(options.limits)},
			zygote: checkFlag(options.zygote, 'zygote', true),
		},
		lookup: checkLookup(options.lookup),
	};
}

function givenLimits(value: unknown): Partial<Limits> {
	return value === undefined ? {} : checkLimits(value, 'limits', optionError);
}

/** @throws {TypeError} or {RangeError} as {@link resolveRuntimeOptions} */
export function resolveSettings(
	options: DeployOptions,
	config: FunctionConfig,
	defaults: FunctionDefaults = {limits: defaultLimits, zygote: true},
): ResolvedSettings {
	const environment = options.env === undefined ? {} : checkEnvironment(options.env, 'env', optionError);
	const pick = <T>(
		given: unknown,
		check: (value: unknown, label: string, fail: typeof optionError) => T,
		label: string,
	) => (given === undefined ? undefined : check(given, label, optionError));
	const asked = pick(options.zygote, checkBoolean, 'zygote') ?? config.zygote;
	const zygote = asked ?? defaults.zygote;
	const ownZygote = checkFlag(options.ownZygote, 'ownZygote', true);
	const warmup = pick(options.warmup, checkWarmup, 'warmup') ?? config.warmup;
	if (warmup !== undefined && (asked === false || !ownZygote)) {
		throw new RangeError('warmup: expected none without a zygote of the function’s own, which would do it');
	}
	return {
		environment: {...config.environment, ...environment},
		limits: {...defaults.limits, ...config.limits, ...givenLimits(options.limits)},
		reuse: pick(options.reuse, checkBoolean, 'reuse') ?? config.reuse ?? true,
		concurrency: pick(options.concurrency, checkConcurrency, 'concurrency') ?? config.concurrency ?? defaultConcurrency,
		maxQueue: pick(options.maxQueue, checkMaxQueue, 'maxQueue') ?? config.maxQueue ?? defaultMaxQueue,
		zygote,
		entryFile: config.entryFile,
		spares: checkSpares(options.spares),
		ownZygote,
		warmup: zygote ? warmup : undefined,
		network: pick(options.network, checkNetwork, 'network') ?? config.network ?? 'none',
		triggers: config.triggers,
		noNewExecutables:
			pick(options.noNewExecutables, checkBoolean, 'noNewExecutables') ?? config.noNewExecutables ?? false,
	};
}

/** Checks what can be before anything is staged; answers the entry file that the options name, if they do. */
export function checkDeployOptions(options: DeployOptions): string | undefined {
	checkKnown(options, deployOptions, 'deploy options');
	const {requirements} = options;
	if (
		requirements !== undefined &&
		!(Array.isArray(requirements) && requirements.every((line) => typeof line === 'string'))
	) {
		throw new TypeError('requirements: expected an array of lines');
	}
	const entryFile = options.env?.OL_ENTRY_FILE;
	return entryFile === undefined ? undefined : checkEntryFile(entryFile, 'env.OL_ENTRY_FILE', optionError);
}
