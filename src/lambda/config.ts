/** A function's `ol.yaml`, and checks of what can be given in code as well. */
import {isMap, isScalar, parseDocument} from 'yaml';
import {ForktreeError} from '../errors.ts';
import {defaultLimits, type Limits} from '../sandbox/limits.ts';
import {type ResolvedNetwork, resolveNetwork} from '../sandbox/network/settings.ts';
import {checkKeys, checkRecord, configError, type Fail} from './check.ts';
import {pathFault, quote} from './name.ts';
import {checkTriggers, defaultTriggers, type Triggers} from './triggers.ts';

export type LimitName = keyof Limits;

/** Names of the limits that a function can set. */
export const limitNames = Object.keys(defaultLimits) as readonly LimitName[];

/** Limits that a function sets itself; those left out come from the runtime. */
export type FunctionLimits = Readonly<Partial<Limits>>;

/** What a function's `ol.yaml` says. */
export type FunctionConfig = {
	/** Variables of the handler's environment. */
	readonly environment: Readonly<Record<string, string>>;
	/** `reuse-sandbox`: whether a sandbox serves more than one call. */
	readonly reuse: boolean | undefined;
	readonly triggers: Triggers;
	readonly limits: FunctionLimits;
	/** How many calls may run at once. */
	readonly concurrency: number | undefined;
	/** `max-queue`: how many more may wait. */
	readonly maxQueue: number | undefined;
	/** Whether to fork from a zygote. */
	readonly zygote: boolean | undefined;
	/** What its own zygote does ahead, as `module:function`. */
	readonly warmup: string | undefined;
	/** What it may reach. */
	readonly network: 'none' | ResolvedNetwork | undefined;
	/** `no-new-executables`: whether what its sandboxes write themselves can't be executed. */
	readonly noNewExecutables: boolean | undefined;
	/** The file with the handler, relative to the folder: the variable `OL_ENTRY_FILE`, else `f.py`. */
	readonly entryFile: string;
};

/** A larger ol.yaml is a mistake, and checking for double keys takes time quadratic in their number. */
export const maxConfigBytes = 64 * 1024;

/** The name of the configuration's file. */
export const configFile = 'ol.yaml';

/** The file with the handler, unless another one is named. */
export const defaultEntryFile = 'f.py';
/** The file of a function that is a program. */
export const programFile = 'f.bin';
// Aliases multiply: a file of a few hundred bytes can stand for gigabytes.
const MAX_ALIASES = 10;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;
const FUNCTION = /^[\p{ID_Start}_]\p{ID_Continue}*(?:\.[\p{ID_Start}_]\p{ID_Continue}*)*$/u;
// Longer ones overflow Node's timers, which then fire at once.
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
const COUNTS: ReadonlySet<LimitName> = new Set(['processes', 'openFiles']);
const KEYS = [
	'environment',
	'reuse-sandbox',
	'triggers',
	'limits',
	'concurrency',
	'max-queue',
	'zygote',
	'warmup',
	'network',
	'no-new-executables',
] as const;

/**
 * Reads the text of an `ol.yaml`; no text means the defaults.
 * @throws {ForktreeError} `InvalidConfig`
 */
export function parseConfig(text: string | undefined): FunctionConfig {
	const entries = new Map(Object.entries(text === undefined ? {} : readMapping(text)));
	checkKeys(entries.keys(), KEYS, '', configError);
	const read = <T>(key: (typeof KEYS)[number], check: (value: unknown, label: string, fail: Fail) => T) =>
		entries.has(key) ? check(entries.get(key), key, configError) : undefined;
	const environment = read('environment', checkEnvironment) ?? {};
	const zygote = read('zygote', checkBoolean);
	const warmup = read('warmup', checkWarmup);
	if (zygote === false && warmup !== undefined) throw configError('warmup: expected none with zygote: false', 'range');
	return {
		environment,
		reuse: read('reuse-sandbox', checkBoolean),
		triggers: read('triggers', checkTriggers) ?? defaultTriggers,
		limits: read('limits', checkLimits) ?? {},
		concurrency: read('concurrency', checkConcurrency),
		maxQueue: read('max-queue', checkMaxQueue),
		zygote,
		warmup,
		network: read('network', checkNetwork),
		noNewExecutables: read('no-new-executables', checkBoolean),
		entryFile: checkEntryFile(environment.OL_ENTRY_FILE ?? defaultEntryFile, 'OL_ENTRY_FILE', configError),
	};
}

/** Checks a map of environment variables; numbers and booleans become text. */
export function checkEnvironment(value: unknown, label: string, fail: Fail): Readonly<Record<string, string>> {
	const variables = Object.entries(checkRecord(value, label, fail)).map(([name, content]) => {
		if (!VARIABLE.test(name)) {
			throw fail(`${label} has the name ${quote(name)}, expected letters, digits and '_', and no digit first`, 'range');
		}
		return [name, checkVariable(content, `${label}.${name}`, fail)] as const;
	});
	return Object.fromEntries(variables);
}

function checkVariable(value: unknown, label: string, fail: Fail): string {
	if (typeof value === 'number' && !Number.isFinite(value)) {
		throw fail(`${label} is ${value}, expected a finite number`, 'range');
	}
	if (typeof value === 'boolean' || typeof value === 'number') return String(value);
	if (typeof value !== 'string')
		throw fail(`${label} is ${quote(value)}, expected a string, number or boolean`, 'type');
	if (value.includes('\0')) throw fail(`${label} holds a NUL character`, 'range');
	return value;
}

/** Checks a map of limits: known names and positive, finite numbers. */
export function checkLimits(value: unknown, label: string, fail: Fail): FunctionLimits {
	const entries = new Map(Object.entries(checkRecord(value, label, fail)));
	checkKeys(entries.keys(), limitNames, `${label}.`, fail);
	const limits: Partial<Record<LimitName, number>> = {};
	for (const name of limitNames) {
		if (entries.has(name)) limits[name] = checkLimit(name, entries.get(name), `${label}.${name}`, fail);
	}
	return limits;
}

function checkLimit(name: LimitName, value: unknown, label: string, fail: Fail): number {
	if (COUNTS.has(name)) return checkInteger(value, label, fail);
	if (typeof value !== 'number') throw fail(`${label} is ${quote(value)}, expected a positive number`, 'type');
	const maximum = name === 'timeoutMs' ? MAX_TIMEOUT_MS : Number.MAX_SAFE_INTEGER;
	if (!(value > 0 && value <= maximum)) {
		throw fail(`${label} is ${value}, expected a positive number up to ${maximum}`, 'range');
	}
	return value;
}

/** Checks how many calls may run at once. */
export function checkConcurrency(value: unknown, label: string, fail: Fail): number {
	return checkInteger(value, label, fail);
}

/** Checks how many calls may wait. */
export function checkMaxQueue(value: unknown, label: string, fail: Fail): number {
	return checkInteger(value, label, fail, 0);
}

function checkInteger(value: unknown, label: string, fail: Fail, minimum: 0 | 1 = 1): number {
	const expected = minimum === 0 ? 'an integer from 0' : 'a positive integer';
	if (typeof value !== 'number') throw fail(`${label} is ${quote(value)}, expected ${expected}`, 'type');
	if (!Number.isSafeInteger(value) || value < minimum)
		throw fail(`${label} is ${value}, expected ${expected}`, 'range');
	return value;
}

/** Checks a switch. */
export function checkBoolean(value: unknown, label: string, fail: Fail): boolean {
	if (typeof value !== 'boolean') throw fail(`${label} is ${quote(value)}, expected true or false`, 'type');
	return value;
}

/** Checks the name of what is done ahead. That it is there shows when it is done. */
export function checkWarmup(value: unknown, label: string, fail: Fail): string {
	if (typeof value !== 'string') throw fail(`${label} is ${quote(value)}, expected module:function`, 'type');
	const parts = value.split(':');
	if (parts.length === 2 && parts.every((part) => FUNCTION.test(part))) return value;
	throw fail(`${label} is ${quote(value)}, expected module:function`, 'range');
}

/** Checks what a function may reach. */
export function checkNetwork(value: unknown, label: string, fail: Fail): 'none' | ResolvedNetwork {
	if (value === 'none') return value;
	try {
		return resolveNetwork(value, label);
	} catch (error) {
		throw fail((error as Error).message, error instanceof TypeError ? 'type' : 'range');
	}
}

/** Checks the path of the file with the handler. That the file exists is checked once the code is staged. */
export function checkEntryFile(value: unknown, label: string, fail: Fail): string {
	if (typeof value !== 'string') throw fail(`${label} is ${quote(value)}, expected the path of a .py file`, 'type');
	const fault = pathFault(value) ?? (/[^/]\.py$/.test(value) ? undefined : 'does not end in .py');
	if (fault === undefined) return value;
	throw fail(
		`${label} names ${quote(value)}, which ${fault}; expected the path of a .py file inside the code`,
		'range',
	);
}

function readMapping(text: string): object {
	if (Buffer.byteLength(text) > maxConfigBytes) throw configError(`is larger than ${maxConfigBytes} bytes`, 'range');
	let value: unknown;
	try {
		value = readYaml(text);
	} catch (cause) {
		// Nesting beyond the stack and too many aliases arrive as exceptions of several classes.
		throw new ForktreeError('InvalidConfig', `ol.yaml: ${cause instanceof Error ? cause.message : cause}`, {cause});
	}
	return value === null || value === undefined ? {} : checkRecord(value, 'the document', configError);
}

function readYaml(text: string): unknown {
	const document = parseDocument(text, {
		schema: 'core',
		merge: false,
		resolveKnownTags: false,
		stringKeys: true,
		logLevel: 'error',
	});
	// Unknown tags are mere warnings to the parser.
	const fault = document.errors[0] ?? document.warnings[0];
	if (fault !== undefined) throw fault;
	keepWrittenText(document.get('environment', true));
	return document.toJS({maxAliasCount: MAX_ALIASES});
}

/** Makes `VERSION: 1.10` the text 1.10 instead of the number 1.1, and keeps every digit of a long id. */
function keepWrittenText(environment: unknown): void {
	if (!isMap(environment)) return;
	for (const {value} of environment.items) {
		if (!isScalar(value) || value.source === undefined) continue;
		if (typeof value.value === 'number' || typeof value.value === 'boolean') value.value = value.source;
	}
}
