/** What becomes of a call. */
import type {OutcomeCode} from '../errors.ts';

/** Any value that strict JSON can hold. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | {readonly [key: string]: JsonValue};

/** Where the interpreter came from: fresh, forked from a zygote, or an idle instance again. */
export type StartKind = 'cold' | 'forked' | 'warm';

/** What was started ahead for a call: a child of its zygote, or an instance with its module loaded. */
export type SpareKind = 'node' | 'function';

/** Why a call failed, in the guest's own words where it has any. */
export type OutcomeError = {
	readonly code: OutcomeCode;
	/** The exception's type, for example `ValueError`; empty when it was not an exception. */
	readonly type: string;
	readonly message: string;
	/** As Python prints it; empty when it was not an exception. */
	readonly traceback: string;
	/** With `Exited`: the exit status. */
	readonly exitStatus?: number;
	/** With `Killed`: the signal's name. */
	readonly signal?: string;
};

/** Milliseconds of a call. Phases that a kind of start does not have are 0. */
export type Timings = {
	/** From asking until an instance could be taken or started. */
	readonly queueMs: number;
	/** Finding or making the zygote; for a cold start, starting the interpreter. */
	readonly zygoteMs: number;
	/** Cgroup, sockets and mounts on the host. */
	readonly prepareMs: number;
	/** From asking the zygote until the child runs. */
	readonly forkMs: number;
	/** The child's set-up: cgroups, namespaces, mounts, privileges, filter. */
	readonly isolateMs: number;
	/** Importing the handler's module, with whatever the zygote had not imported. */
	readonly loadMs: number;
	/** From asking until the sandbox could take the event. */
	readonly startMs: number;
	/** From then, or from the event's hand-over if that was later, to the outcome. */
	readonly handlerMs: number;
	/** From asking to the outcome. */
	readonly totalMs: number;
};

/** Memory of the sandbox in MiB, read when it is first looked at, or when the sandbox ended if that was before. */
export type OutcomeMemory = {
	/** Charged to its cgroup; undefined where there is none that counts memory. */
	readonly currentMiB: number | undefined;
	/** The most that was charged; undefined where the kernel keeps none. */
	readonly peakMiB: number | undefined;
	/** With `memoryDetails`: pages of its first process alone. */
	readonly privateMiB?: number;
	/** With `memoryDetails`: shared pages counted in proportion. */
	readonly proportionalMiB?: number;
	/** With `memoryDetails`: pages shared with the zygote and others. */
	readonly sharedMiB?: number;
};

/** Limits that were reached without ending the call. */
export type LimitHit = 'stdout' | 'stderr';

type Common = {
	readonly start: StartKind;
	/** Undefined: its sandbox was started when it was asked for, or had been used before. */
	readonly spare: SpareKind | undefined;
	readonly timings: Timings;
	readonly memory: OutcomeMemory;
	/** What the handler printed in this call. */
	readonly logs: {readonly stdout: string; readonly stderr: string};
	readonly limitsHit: readonly LimitHit[];
	/** Which sandbox it ran in. */
	readonly sandbox: string;
	/** Packages that its zygote had imported before, as `name==version`. */
	readonly preloaded: readonly string[];
	/** Whether its zygote was the function's own, which has loaded the handler's module as well. */
	readonly ownZygote: boolean;
};

/** The handler answered. */
export type Success = Common & {
	readonly ok: true;
	/** JSON, or bytes when the handler answered bytes. Of a generator: the array of its chunks. */
	readonly value: JsonValue | Uint8Array | ReadonlyArray<JsonValue | Uint8Array>;
};

/** It did not. */
export type Failure = Common & {readonly ok: false; readonly error: OutcomeError};

/** Every call that was accepted ends in exactly one. */
export type Outcome = Success | Failure;
