/** The errors that forktree throws, and the codes that an outcome's error can carry: one table, one class a family. */

/** Codes of errors that forktree throws or rejects with. The meaning is one sentence each; README lists the same. */
export const errorCodes = {
	Aborted: 'the caller’s AbortSignal fired',
	BudgetExceeded: 'the memory budget stayed taken until the deadline',
	BuildFailed: 'a package could not be built from its sources; the message holds the last words of the build',
	Capacity: 'the memory budget is taken, and the pool does not wait',
	EntryFileMissing: 'the deployed code has no entry file',
	HashMismatch: 'an archive is not the one that the requirements or the lock name by its hash',
	InstallFailed: 'a requirement could not be installed; the message holds the installer’s own words',
	InstallTimeout: 'a step of an installation exceeded its deadline',
	InterpreterMismatch:
		'what a function states of its packages is for another Python or another platform; the message names both',
	InvalidCalls: 'the calls that a tree is to be fitted to are not understood',
	InvalidConfig: 'the function’s ol.yaml is not valid',
	InvalidName: 'a function’s name is not usable as one',
	InvalidRequirements: 'the requirements are not understood',
	InvalidSource:
		'the thing to deploy, or a base, layer, mount or device of a sandbox, is not usable as one, or is too large',
	InvalidStore: 'a package store, or an archive of one, is of another interpreter or format, or not safe to use',
	InvalidSyntax: 'a Python file of the function does not compile',
	InvalidTree: 'the tree of zygotes is not valid; the message names the place',
	MethodNotAllowed: 'the function’s ol.yaml does not list the HTTP method among its triggers',
	NativeMissing: 'the native addon is neither shipped for this machine nor built',
	NoMatchingDistribution: 'a required package, or a version of it, does not exist or is not made for this interpreter',
	NotAuthorized: 'a package index refused the name and password that it was given, or wants some; the message names it',
	NotPermitted: 'the asked isolation needs privileges that this process lacks',
	NotSupported: 'this operating system or kernel lacks what sandboxes need',
	PackageDamaged: 'an installed package is not what was installed',
	Offline: 'something that is not in the store is needed, and the store may not use the network',
	PythonNotFound: 'no usable CPython 3.9 or later was found',
	QueueFull: 'as many calls wait for the function as may (maxQueue)',
	ResolveFailed: 'the requirements have no solution; the message holds the resolver’s own words',
	RuntimeClosed: 'the runtime or the pool was closed',
	SandboxDead: 'the sandbox has ended; the message says why',
	StateDirInUse: 'another live process owns the state folder',
	StoreNotWritable:
		'the disk of the package store is full or read-only, or what is there is not ours; the message names the file',
	Syscall: 'the kernel refused a step',
	TransferFailed: 'an archive of packages could not be written, or not be read',
	UnknownFunction: 'no function of that name is deployed',
	UnsafeArchive: 'an archive holds links or paths that lead outside, or is too large',
	ZygoteFailed: 'a zygote could not be made or died',
} as const;

export type ErrorCode = keyof typeof errorCodes;

/** Codes of a failed call: what became of the handler. They arrive in `outcome.error.code`, never as an exception. */
export const outcomeCodes = {
	Evicted: 'the instance was taken away: its function was removed or the runtime closed',
	Exited: 'the handler ended its process',
	HandlerError: 'the handler raised',
	ImportFailed: 'importing the handler’s module raised',
	Killed: 'a signal ended the handler’s process',
	OutOfMemory: 'the sandbox exceeded its memory limit',
	ProtocolError: 'the sandbox sent something that is not a valid frame',
	ResultNotSerializable: 'the handler answered something that is not strict JSON; the message names the path',
	ResultTooLarge: 'the handler’s answer exceeds the size limit',
	StartFailed: 'the sandbox could not be set up; the message names the step',
	Timeout: 'the call exceeded its deadline',
} as const;

export type OutcomeCode = keyof typeof outcomeCodes;

/** Every error that forktree itself throws, apart from `TypeError` and `RangeError` for misuse of an option. */
export class ForktreeError extends Error {
	override readonly name: string = 'ForktreeError';
	/** A stable code; see {@link errorCodes}. */
	readonly code: ErrorCode;

	constructor(code: ErrorCode, message: string, options?: {cause?: unknown}) {
		super(message, options);
		this.code = code;
	}
}

/** A sandbox was used after its end. */
export class SandboxDeadError extends ForktreeError {
	override readonly name = 'SandboxDeadError';
	/** Which sandbox. */
	readonly sandbox: string;
	/** Why it ended. */
	readonly reason: string;

	constructor(sandbox: string, reason: string) {
		super('SandboxDead', `sandbox ${sandbox} has ended: ${reason}`);
		this.sandbox = sandbox;
		this.reason = reason;
	}
}

/** A function was asked by a method of HTTP that its triggers don't list. */
export class MethodNotAllowedError extends ForktreeError {
	override readonly name = 'MethodNotAllowedError';
	/** Methods that it takes. */
	readonly allowed: readonly string[];

	constructor(name: string, method: string, allowed: readonly string[]) {
		super('MethodNotAllowed', `function '${name}' expected ${allowed.join(' or ') || 'no method'}, got ${method}`);
		this.allowed = allowed;
	}
}

/** The kernel refused a step. Carries the fields of Node's own system errors, and the step. */
export class SyscallError extends ForktreeError {
	override readonly name = 'SyscallError';
	/** Negative, as in Node's system errors. */
	readonly errno: number;
	/** For example `EPERM`. */
	readonly errnoName: string;
	/** What was being done, for example `mount proc`. */
	readonly step: string;
	/** The path it was done to, if any. */
	readonly path: string | undefined;

	constructor(step: string, errno: number, errnoName: string, path?: string, hint?: string) {
		super(
			'Syscall',
			`${step}${path === undefined ? '' : ` '${path}'`}: ${errnoName}${hint === undefined ? '' : `; ${hint}`}`,
		);
		this.errno = errno;
		this.errnoName = errnoName;
		this.step = step;
		this.path = path;
	}
}

/** A value that was not expected, for the words of an error; never throws, whatever it is. */
export function quote(value: unknown): string {
	try {
		return JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? `${each}n` : each)) ?? String(value);
	} catch {
		return Object.prototype.toString.call(value); // it contains itself, or can't be looked at
	}
}
