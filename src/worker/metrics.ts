/** Metrics for Prometheus, under OpenTelemetry's names for functions as a service where there are any. */
import process from 'node:process';
import {Counter, Gauge, Histogram, Registry} from 'prom-client';
import {type Outcome, outcomeCodes, type Runtime, type RuntimeStats, type Timings} from '../index.ts';
import {hear} from './events.ts';

/** OpenTelemetry's, for durations in seconds. */
const durationBuckets = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
/** Of a start's phases, which are often shorter than a millisecond. */
const phaseBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10];
const phases = {
	queue: 'queueMs',
	zygote: 'zygoteMs',
	prepare: 'prepareMs',
	fork: 'forkMs',
	isolate: 'isolateMs',
	load: 'loadMs',
} as const satisfies Readonly<Record<string, keyof Timings>>;
const trigger = {faas_trigger: 'http'} as const;
const bytesPerMb = 1024 * 1024;

/** A worker's metrics, in a registry of their own. Labels name functions, statuses and kinds, never calls. */
export class Metrics {
	readonly #registry = new Registry();
	readonly #registers = [this.#registry];
	readonly #invocations = this.#counter('faas_invocations_total', 'Calls that ended', ['faas_name', 'faas_trigger']);
	readonly #errors = this.#counter('faas_errors_total', 'Calls that failed, by code', [
		'faas_name',
		'faas_trigger',
		'error_type',
	]);
	readonly #timeouts = this.#counter('faas_timeouts_total', 'Calls that exceeded their deadline', [
		'faas_name',
		'faas_trigger',
	]);
	readonly #coldStarts = this.#counter('faas_coldstarts_total', 'Calls that no idle instance took', [
		'faas_name',
		'faas_trigger',
	]);
	readonly #responses = this.#counter('forktree_http_responses_total', 'Answers to /run, by status', ['status']);
	readonly #starts = this.#counter('forktree_starts_total', 'Calls, by how their sandbox came to be', [
		'start',
		'spare',
	]);
	readonly #zygotes = this.#counter('forktree_zygote_hits_total', 'Forked starts, by what their zygote had imported', [
		'zygote',
	]);
	readonly #created = this.#counter('forktree_sandboxes_created_total', 'Sandboxes that were made for functions', []);
	readonly #destroyed = this.#counter(
		'forktree_sandboxes_destroyed_total',
		'Sandboxes that ended: evicted, used up or replaced',
		[],
	);
	readonly #zygotesCreated = this.#counter('forktree_zygotes_created_total', 'Zygotes that were made', []);
	readonly #zygotesDestroyed = this.#counter('forktree_zygotes_destroyed_total', 'Zygotes that ended', []);
	readonly #installed = this.#counter('forktree_packages_installed_total', 'Packages that were installed', []);
	readonly #invoke = this.#histogram('faas_invoke_duration_seconds', 'From asking to the outcome', durationBuckets, [
		'faas_trigger',
	]);
	readonly #init = this.#histogram(
		'faas_init_duration_seconds',
		'From asking until a new instance could take the event',
		durationBuckets,
		['faas_trigger'],
	);
	readonly #phases = this.#histogram('forktree_start_phase_seconds', 'Phases of starts', phaseBuckets, ['phase']);
	readonly #functions = this.#gauge('forktree_functions', 'Functions that are deployed', []);
	readonly #instances = this.#gauge('forktree_instances', 'Instances, and calls that wait for one', ['state']);
	readonly #liveZygotes = this.#gauge('forktree_zygotes', 'Zygotes that are alive', []);
	readonly #memory = this.#gauge(
		'forktree_memory_bytes',
		'Memory: what may be used, what instances reserve, what zygotes use',
		['kind'],
	);
	readonly #process = this.#gauge('process_resident_memory_bytes', 'Of the worker itself', []);
	readonly #runtime: Runtime;

	readonly #stop: () => void;

	/** Listens to the runtime until it is closed. */
	constructor(runtime: Runtime) {
		this.#runtime = runtime;
		this.#stop = hear(runtime, {
			created: () => this.#created.inc(),
			destroyed: () => this.#destroyed.inc(),
			zygoteCreated: () => this.#zygotesCreated.inc(),
			zygoteDestroyed: () => this.#zygotesDestroyed.inc(),
			installed: ({packages}) => this.#installed.inc(packages.length),
			removed: ({function: name}) => this.#forget(name),
		});
	}

	close(): void {
		this.#stop();
	}

	get contentType(): string {
		return this.#registry.contentType;
	}

	/** A call that was accepted has ended. */
	noteOutcome(name: string, outcome: Outcome): void {
		const labels = {faas_name: name, ...trigger};
		const {start, spare, timings} = outcome;
		this.#invocations.inc(labels);
		this.#invoke.observe(trigger, timings.totalMs / 1000);
		this.#starts.inc({start, spare: spare ?? 'none'});
		if (!outcome.ok) this.#errors.inc({...labels, error_type: outcome.error.code});
		if (!outcome.ok && outcome.error.code === 'Timeout') this.#timeouts.inc(labels);
		if (start !== 'warm') this.#noteStart(labels, outcome);
	}

	/** An answer to `/run`, whoever made it. */
	noteResponse(status: number): void {
		this.#responses.inc({status});
	}

	/** As Prometheus reads it. */
	async read(): Promise<string> {
		this.#measure(await this.#runtime.stats());
		return this.#registry.metrics();
	}

	#noteStart(labels: {faas_name: string; faas_trigger: string}, {start, timings, ownZygote, preloaded}: Outcome): void {
		this.#coldStarts.inc(labels);
		this.#init.observe(trigger, timings.startMs / 1000);
		for (const [phase, key] of Object.entries(phases)) this.#phases.observe({phase}, timings[key] / 1000);
		if (start === 'forked') this.#zygotes.inc({zygote: ownZygote ? 'own' : preloaded.length > 0 ? 'packages' : 'root'});
	}

	#measure({functions, zygotes, memory}: RuntimeStats): void {
		this.#functions.set(functions.length);
		this.#liveZygotes.set(zygotes.filter(({pid}) => pid !== undefined).length);
		for (const state of ['running', 'idle', 'paused', 'parked', 'spares', 'waiting'] as const) {
			this.#instances.set(
				{state},
				functions.reduce((sum, counts) => sum + counts[state], 0),
			);
		}
		this.#memory.set({kind: 'budget'}, memory.budgetMb * bytesPerMb);
		this.#memory.set({kind: 'reserved'}, memory.reservedMb * bytesPerMb);
		this.#memory.set({kind: 'zygotes'}, memory.zygotesMb * bytesPerMb);
		this.#process.set(process.memoryUsage.rss());
	}

	/** A name that is gone leaves no series behind. */
	#forget(name: string): void {
		for (const counter of [this.#invocations, this.#timeouts, this.#coldStarts])
			counter.remove({faas_name: name, ...trigger});
		for (const code of Object.keys(outcomeCodes)) this.#errors.remove({faas_name: name, ...trigger, error_type: code});
	}

	#counter<Label extends string>(name: string, help: string, labelNames: readonly Label[]): Counter<Label> {
		return new Counter({name, help, labelNames, registers: this.#registers});
	}

	#gauge<Label extends string>(name: string, help: string, labelNames: readonly Label[]): Gauge<Label> {
		return new Gauge({name, help, labelNames, registers: this.#registers});
	}

	#histogram<Label extends string>(
		name: string,
		help: string,
		buckets: number[],
		labelNames: readonly Label[],
	): Histogram<Label> {
		return new Histogram({name, help, buckets, labelNames, registers: this.#registers});
	}
}
