/** What is noted of a call for its outcome. */
import {performance} from 'node:perf_hooks';
import type {CallResult} from './answer.ts';
import {type Call, Instance} from './instance.ts';
import type {Outcome, OutcomeMemory, SpareKind, StartKind} from './outcome.ts';
import type {Phases, Started} from './starter.ts';

const noPhases: Phases = {zygoteMs: 0, prepareMs: 0, forkMs: 0, isolateMs: 0, loadMs: 0};

type StartDetails = Pick<Started, 'phases' | 'spare'>;

/** From asking to the outcome. */
export class CallRecord {
	readonly #asked: number;
	readonly #memoryDetails: boolean;
	#start: StartKind;
	#spare: SpareKind | undefined;
	#phases = noPhases;
	#queueMs = 0;
	#startedAt: number | undefined;
	#instance: Instance | undefined;

	/** @param start the kind, should the call end before one was made */
	constructor(asked: number, start: StartKind, memoryDetails: boolean) {
		this.#asked = asked;
		this.#start = start;
		this.#memoryDetails = memoryDetails;
	}

	leaveQueue(): void {
		this.#queueMs = performance.now() - this.#asked;
	}

	/** The instance can take the event, or could not be loaded, since `readyMs`. */
	begin(instance: Instance, start: StartKind, readyMs: number, {phases, spare}: Partial<StartDetails> = {}): void {
		this.#instance = instance;
		this.#start = start;
		this.#spare = spare;
		this.#phases = phases ?? noPhases;
		this.#startedAt = readyMs;
	}

	outcome(result: CallResult, call: Call): Outcome {
		const ended = performance.now();
		const startedAt = this.#startedAt ?? ended;
		const instance = this.#instance;
		const details = this.#memoryDetails ? instance?.memory(true) : undefined;
		let memory: OutcomeMemory | undefined = details;
		return {
			...result,
			start: this.#start,
			spare: this.#spare,
			timings: {
				...this.#phases,
				queueMs: this.#queueMs,
				startMs: startedAt - this.#asked,
				handlerMs: ended - startedAt,
				totalMs: ended - this.#asked,
			},
			get memory() {
				memory ??= instance?.memory(false) ?? {currentMiB: 0, peakMiB: undefined};
				return memory;
			},
			logs: {stdout: call.stdout.text, stderr: call.stderr.text},
			limitsHit: Instance.limitsHit(call),
			sandbox: instance?.leaf.id ?? '',
			preloaded: instance?.origin.preloaded ?? [],
			ownZygote: instance?.origin.isLoaded ?? false,
		};
	}
}
