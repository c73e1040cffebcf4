/** Seccomp profiles in the format of container engines (a JSON document), for sandboxes without any capability. */
import {constants, release} from 'node:os';
import process from 'node:process';
import {ForktreeError, quote} from '../errors.ts';
import {compileProfile, type NativeRule} from '../native.ts';

/** A comparison of an argument of a call. */
export type SeccompArgument = {
	readonly index: number;
	readonly value: number;
	/** The second operand of `SCMP_CMP_MASKED_EQ`. */
	readonly valueTwo?: number;
	readonly op: string;
};

/** What becomes of some calls. */
export type SeccompRule = {
	readonly names?: readonly string[];
	readonly name?: string;
	readonly action: string;
	readonly errnoRet?: number;
	/** All have to hold; of several on one argument any. */
	readonly args?: readonly SeccompArgument[] | null;
	/** It applies only where all of this holds; `caps` never do, as sandboxes have none. */
	readonly includes?: SeccompConditions;
	/** It applies only where none of this holds. */
	readonly excludes?: SeccompConditions;
	readonly comment?: string;
};

export type SeccompConditions = {
	readonly caps?: readonly string[];
	/** As Go names them: `amd64`, `arm64`. */
	readonly arches?: readonly string[];
	/** For example `4.8`. */
	readonly minKernel?: string;
};

/** A profile as container engines read it; fields that concern other architectures are passed over. */
export type SeccompProfile = {
	readonly defaultAction: string;
	readonly defaultErrnoRet?: number;
	readonly syscalls?: readonly SeccompRule[] | null;
};

const operators: Readonly<Record<string, number>> = {
	SCMP_CMP_NE: 1,
	SCMP_CMP_LT: 2,
	SCMP_CMP_LE: 3,
	SCMP_CMP_EQ: 4,
	SCMP_CMP_GE: 5,
	SCMP_CMP_GT: 6,
	SCMP_CMP_MASKED_EQ: 7,
};

/** As in seccomp.h; what would need a tracer or a supervisor is refused. */
const actions: Readonly<Record<string, number>> = {
	SCMP_ACT_ALLOW: 0x7fff_0000,
	SCMP_ACT_LOG: 0x7ffc_0000,
	SCMP_ACT_ERRNO: 0x0005_0000,
	SCMP_ACT_TRAP: 0x0003_0000,
	SCMP_ACT_KILL: 0,
	SCMP_ACT_KILL_THREAD: 0,
	SCMP_ACT_KILL_PROCESS: 0x8000_0000,
};
const allowing: ReadonlySet<number | undefined> = new Set([actions.SCMP_ACT_ALLOW, actions.SCMP_ACT_LOG]);
/** Without these nothing could start or end. */
const neededCalls = ['execve', 'exit_group'];
const goArchitectures: Readonly<Record<string, string>> = {x64: 'amd64', arm64: 'arm64'};

function fail(message: string): never {
	throw new TypeError(`seccomp: ${message}`);
}

function readAction(action: unknown, errno: unknown): number {
	const number = typeof action === 'string' && Object.hasOwn(actions, action) ? actions[action] : undefined;
	if (number === undefined) fail(`expected an action such as SCMP_ACT_ERRNO, got ${quote(action)}`);
	if (number !== actions.SCMP_ACT_ERRNO) return number;
	const value = errno ?? constants.errno.EPERM;
	if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 4095) {
		fail(`expected an error number, got ${quote(errno)}`);
	}
	return number + value;
}

function readObject<T extends object>(value: T, label: string): T {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) {
		fail(`${label}: expected an object, got ${quote(value)}`);
	}
	return value;
}

/** What is left out is an empty list. */
function readList<T>(value: readonly T[] | null | undefined, label: string): readonly T[] {
	if (value === undefined || value === null) return [];
	if (!Array.isArray(value)) fail(`${label}: expected an array, got ${quote(value)}`);
	return value;
}

function isAtLeast(kernel: string, least: string): boolean {
	if (typeof least !== 'string' || !/^\d+\.\d+/.test(least)) {
		fail(`minKernel: expected a version such as 4.8, got ${quote(least)}`);
	}
	const [a = [], b = []] = [kernel, least].map((each) => each.split(/[.-]/).slice(0, 2).map(Number));
	return (a[0] ?? 0) > (b[0] ?? 0) || (a[0] === b[0] && (a[1] ?? 0) >= (b[1] ?? 0));
}

/** Whether a rule holds here: `includes` asks for all of it, `excludes` for none. */
function applies(rule: SeccompRule): boolean {
	const own = goArchitectures[process.arch] ?? process.arch;
	const includes = readObject(rule.includes ?? {}, 'includes');
	const excludes = readObject(rule.excludes ?? {}, 'excludes');
	const arches = readList(includes.arches, 'includes.arches');
	if (readList(includes.caps, 'includes.caps').length > 0 || (arches.length > 0 && !arches.includes(own))) return false;
	if (includes.minKernel !== undefined && !isAtLeast(release(), includes.minKernel)) return false;
	if (excludes.minKernel !== undefined && isAtLeast(release(), excludes.minKernel)) return false;
	return !readList(excludes.arches, 'excludes.arches').includes(own);
}

function readArgument(argument: SeccompArgument, call: string): NativeRule['args'][number] {
	const {index, value, valueTwo = 0, op} = readObject(argument, `${call}: args`);
	const number = typeof op === 'string' && Object.hasOwn(operators, op) ? operators[op] : undefined;
	if (number === undefined) fail(`${call}: expected an operator such as SCMP_CMP_EQ, got ${quote(op)}`);
	if (!(Number.isInteger(index) && index >= 0 && index < 6)) {
		fail(`${call}: expected an index from 0 to 5, got ${quote(index)}`);
	}
	for (const each of [value, valueTwo]) {
		if (!(Number.isSafeInteger(each) && each >= 0)) fail(`${call}: expected a whole number, got ${quote(each)}`);
	}
	return {index, op: number, value, second: valueTwo};
}

/** Conditions hold together, but for several on one argument: then each is enough, as container engines have it. */
function readRule(rule: SeccompRule): NativeRule[] {
	const names = readList(rule.names ?? (rule.name === undefined ? [] : [rule.name]), 'names');
	for (const name of names) if (typeof name !== 'string') fail(`names: expected names of calls, got ${quote(name)}`);
	const action = readAction(rule.action, rule.errnoRet);
	return names.flatMap((call) => {
		const args = readList(rule.args, `${call}: args`).map((each) => readArgument(each, call));
		const isEach = new Set(args.map(({index}) => index)).size < args.length;
		return isEach ? args.map((each) => ({call, action, args: [each]})) : [{call, action, args}];
	});
}

/**
 * The filter's instructions.
 * @throws {TypeError} for what is no profile; {ForktreeError} `NotSupported` without libseccomp
 */
export function readSeccompProfile(profile: SeccompProfile): Uint8Array {
	readObject(profile, 'profile');
	const rules = readList(profile.syscalls, 'syscalls').map((rule) => readObject(rule, 'syscalls'));
	const defaultAction = readAction(profile.defaultAction, profile.defaultErrnoRet);
	const here = rules.filter(applies).flatMap(readRule);
	for (const call of neededCalls) {
		const decided = here.filter((rule) => rule.call === call).map(({action}) => action);
		if (!(decided.length === 0 ? [defaultAction] : decided).some((action) => allowing.has(action))) {
			fail(`expected a profile that allows ${neededCalls.join(' and ')}, got one that forbids ${call}`);
		}
	}
	const compiled = compileProfile(defaultAction, here);
	if (typeof compiled === 'string') throw new ForktreeError('NotSupported', `seccomp: ${compiled}`);
	return compiled;
}
