/** The functions that can be called: pulled from the registry when they are first called, and looked at again now and then. */
import {performance} from 'node:perf_hooks';
import pLimit from 'p-limit';
import {type ErrorCode, ForktreeError, type OutcomeError, type Runtime} from '../index.ts';
import {Refusal, refuseOutcome, toRefusal} from './refusal.ts';
import type {FunctionRegistry, Source} from './registry.ts';

/** A function that is deployed. */
export type CallableFunction = {
	readonly name: string;
	readonly maxEventBytes: number;
	/** Whether it may reach hosts: what failed may then succeed without a change of its code. */
	readonly reachesOut: boolean;
};

/** Answers which functions there are. */
export type Functions = {
	/** At once if it is known. @throws {Refusal} 404 when there is none; why it can't be deployed, or its import failed */
	find(name: string): CallableFunction | Promise<CallableFunction>;
	/** Its module can't be imported: until its code changes, callers are told so without a start. */
	noteImportFailed(lambda: CallableFunction, error: OutcomeError): void;
};

export type PullOptions = {
	/** How long what was looked at is used before it is looked at again. */
	readonly cacheMs: number;
	/** Told how long each look took, deploys included. */
	readonly onPulled: (durationMs: number) => void;
	readonly onFailed: (name: string, error: unknown) => void;
};

/** What became of a version. */
type Entry = {
	readonly source: string;
	readonly lambda: CallableFunction | undefined;
	/** Answered until the code changes, or, when trying again may help, until it is looked at again. */
	refusal: Refusal | undefined;
	isLasting: boolean;
	checkedMs: number;
};

/** Each takes a sandbox, and some an installer. */
const maxDeploys = 16;
/** The same code fails the same way again. */
const lasting: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
	'EntryFileMissing',
	'HashMismatch',
	'InterpreterMismatch',
	'InvalidConfig',
	'InvalidName',
	'InvalidRequirements',
	'InvalidSource',
	'InvalidSyntax',
	'UnsafeArchive',
]);

/** Functions of a registry. */
export class PulledFunctions implements Functions {
	readonly #runtime: Runtime;
	readonly #registry: FunctionRegistry;
	readonly #options: PullOptions;
	readonly #limit = pLimit(maxDeploys);
	/** Only of functions that are there: names that somebody makes up leave nothing. */
	readonly #entries = new Map<string, Entry>();
	readonly #pulls = new Map<string, Promise<CallableFunction>>();

	constructor(runtime: Runtime, registry: FunctionRegistry, options: PullOptions) {
		this.#runtime = runtime;
		this.#registry = registry;
		this.#options = options;
	}

	/** Those of an earlier run that have left the registry go. */
	async removeStrangers(): Promise<void> {
		const names = new Set(await this.#registry.names());
		const known = [...this.#runtime.dormant(), ...this.#runtime.list().map(({name}) => name)];
		for (const name of known) if (!names.has(name)) await this.#runtime.remove(name);
	}

	find(name: string): CallableFunction | Promise<CallableFunction> {
		const entry = this.#entries.get(name);
		if (entry !== undefined && performance.now() - entry.checkedMs < this.#options.cacheMs) return callable(entry);
		const running = this.#pulls.get(name);
		if (running !== undefined) return running;
		const pull: Promise<CallableFunction> = this.#pull(name, () => this.#pulls.get(name) === pull).finally(() => {
			if (this.#pulls.get(name) === pull) this.#pulls.delete(name);
		});
		this.#pulls.set(name, pull);
		return pull;
	}

	noteImportFailed(lambda: CallableFunction, error: OutcomeError): void {
		const entry = this.#entries.get(lambda.name);
		if (entry === undefined || entry.lambda !== lambda) return;
		entry.refusal = refuseOutcome(error);
		entry.isLasting = !lambda.reachesOut;
	}

	/** The next call looks at the registry; what runs goes on. */
	forget(name: string): void {
		this.#entries.delete(name);
		this.#pulls.delete(name);
	}

	/** It has left the registry. Its running calls have ten seconds. */
	remove(name: string): void {
		this.forget(name);
		this.#runtime.remove(name).catch((error: unknown) => {
			const isGone = error instanceof ForktreeError && ['UnknownFunction', 'RuntimeClosed'].includes(error.code);
			if (!isGone) this.#options.onFailed(name, error);
		});
	}

	/** @param isWanted false once the function was changed through the API meanwhile: then nothing is noted */
	async #pull(name: string, isWanted: () => boolean): Promise<CallableFunction> {
		const beganMs = performance.now();
		const source = await this.#registry.find(name);
		if (source === undefined) {
			if (isWanted() && this.#entries.has(name)) this.remove(name);
			throw unknown(name);
		}
		const known = this.#entries.get(name);
		const isKnown = known?.source === source.version && (known.lambda !== undefined || known.isLasting);
		const entry = isKnown ? known : await this.#limit(() => this.#deploy(name, source));
		if (!entry.isLasting && entry.lambda !== undefined) entry.refusal = undefined;
		entry.checkedMs = performance.now();
		if (isWanted()) this.#entries.set(name, entry);
		this.#options.onPulled(performance.now() - beganMs);
		return callable(entry);
	}

	async #deploy(name: string, source: Source): Promise<Entry> {
		const entry = {source: source.version, refusal: undefined, isLasting: false, checkedMs: 0};
		try {
			await this.#runtime.deploy(name, source.path);
			return {...entry, lambda: describe(this.#runtime, name)};
		} catch (error) {
			this.#options.onFailed(name, error);
			const isLasting = error instanceof ForktreeError && lasting.has(error.code);
			return {...entry, lambda: undefined, refusal: toRefusal(error), isLasting};
		}
	}
}

/** Functions that somebody else deploys. */
export class DeployedFunctions implements Functions {
	readonly #runtime: Runtime;

	constructor(runtime: Runtime) {
		this.#runtime = runtime;
	}

	find(name: string): CallableFunction {
		return describe(this.#runtime, name);
	}

	noteImportFailed(): void {}
}

function describe(runtime: Runtime, name: string): CallableFunction {
	const {limits, network} = runtime.describe(name);
	return {name, maxEventBytes: limits.eventMb * 1024 * 1024, reachesOut: network !== 'none'};
}

function callable({lambda, refusal}: Entry): CallableFunction {
	if (lambda === undefined || refusal !== undefined) throw refusal;
	return lambda;
}

function unknown(name: string): Refusal {
	return new Refusal(404, 'UnknownFunction', `no function ${JSON.stringify(name)} is deployed`);
}
