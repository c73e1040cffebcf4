/** Counters and mean times under the reference's names: what `/stats` answers. */
import type {Outcome} from '../index.ts';

/** `NAME.cnt` and `NAME.ms-avg` of each counter, whole numbers. */
export type StatsSnapshot = Readonly<Record<string, number>>;

type Counter = {count: number; totalMs: number};

/** Counts what takes time. */
export class Stats {
	readonly #counters = new Map<string, Counter>();

	/** Something of this name has taken so long. */
	note(name: string, durationMs: number): void {
		const counter = this.#counters.get(name);
		if (counter === undefined) {
			this.#counters.set(name, {count: 1, totalMs: durationMs});
			return;
		}
		counter.count += 1;
		counter.totalMs += durationMs;
	}

	/** A call's parts, as far as its start had them. */
	noteOutcome({start, timings}: Outcome): void {
		this.note('LambdaFunc.Invoke', timings.totalMs);
		this.note('LambdaInstance-WaitSandbox', timings.startMs);
		this.note('LambdaInstance-RoundTrip', timings.handlerMs);
		if (start === 'warm') return;
		this.note('Create()', timings.startMs - timings.queueMs);
		if (start === 'forked') {
			this.note('ImportCache.Create', timings.zygoteMs);
			this.note('Create()/fork-proc', timings.forkMs);
		} else {
			this.note('LambdaInstance-WaitSandbox-NoImportCache', timings.startMs);
			this.note('Create()/fresh-proc', timings.zygoteMs);
		}
	}

	/** Sorted by name. */
	snapshot(): StatsSnapshot {
		const sorted = [...this.#counters].sort(([a], [b]) => (a < b ? -1 : 1));
		return Object.fromEntries(
			sorted.flatMap(([name, {count, totalMs}]) => [
				[`${name}.cnt`, count],
				[`${name}.ms-avg`, Math.floor(totalMs / count)],
			]),
		);
	}
}

/** As `/stats` answers it, and a worker leaves it behind: indented by tabs, a line break at the end. */
export function formatStats(snapshot: StatsSnapshot): string {
	return `${JSON.stringify(snapshot, undefined, '\t')}\n`;
}
