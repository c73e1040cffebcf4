/** Figures of a bench: percentiles, marks, the host, and how they are printed. */
import {readFileSync} from 'node:fs';
import {cpus, release, totalmem} from 'node:os';
import process from 'node:process';

/** Percentiles of a series, in milliseconds. */
export type Summary = {readonly n: number; readonly p50Ms: number; readonly p95Ms: number; readonly p99Ms: number};

/** A figure of this run against what it should be. */
export type Mark = {
	readonly name: string;
	readonly value: number;
	readonly relation: '<=' | '>=';
	readonly limit: number;
	readonly ok: boolean;
	readonly unit: string;
};

/** Figures that belong together, all rows of a bench with the same names. */
export type Row = Readonly<Record<string, number | string>>;

/** What every bench answers. */
export type BenchResult = {
	readonly bench: string;
	readonly host: Record<string, string | number>;
	readonly marks: readonly Mark[];
	readonly samples: Readonly<Record<string, Summary>>;
	/** A table of its own. */
	readonly rows?: readonly Row[];
	/** Figures that are no series, and marks that were left out and why. */
	readonly notes?: readonly string[];
};

/** Part of a bench's result. */
export type Part = {
	readonly marks: readonly Mark[];
	readonly samples: Readonly<Record<string, Summary>>;
	readonly notes: readonly string[];
};

/** The nearest-rank percentile. */
export function percentile(series: readonly number[], percent: number): number {
	const sorted = [...series].sort((a, b) => a - b);
	return sorted[Math.min(sorted.length - 1, Math.floor((percent / 100) * sorted.length))] ?? Number.NaN;
}

export function mean(series: readonly number[]): number {
	return series.reduce((sum, each) => sum + each, 0) / series.length;
}

/** To four digits. */
export function round(value: number): number {
	return Number(value.toPrecision(4));
}

export function summarize(series: readonly number[]): Summary {
	return {
		n: series.length,
		p50Ms: round(percentile(series, 50)),
		p95Ms: round(percentile(series, 95)),
		p99Ms: round(percentile(series, 99)),
	};
}

export function mark(name: string, value: number, relation: '<=' | '>=', limit: number, unit: string): Mark {
	return {
		name,
		value: round(value),
		relation,
		limit: round(limit),
		ok: relation === '<=' ? value <= limit : value >= limit,
		unit,
	};
}

/** Collects what is measured. */
export class Results {
	readonly marks: Mark[] = [];
	readonly samples: Record<string, Summary> = {};
	readonly notes: string[] = [];

	add({marks, samples, notes}: Part): void {
		this.marks.push(...marks);
		Object.assign(this.samples, samples);
		this.notes.push(...notes);
	}

	/** Answers the series' median. */
	series(name: string, values: readonly number[]): number {
		this.samples[name] = summarize(values);
		return percentile(values, 50);
	}
}

/** What the figures were measured on, and with which `programs`. */
export function describeHost(
	cgroup: string,
	programs: Readonly<Record<string, string>>,
): Record<string, string | number> {
	const model = /^model name\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown';
	return {
		kernel: release(),
		cores: cpus().length,
		cpu: model,
		memoryMb: Math.round(totalmem() / 1024 / 1024),
		cgroup,
		node: process.version,
		...programs,
	};
}

function pad(rows: readonly string[][]): string {
	const widths = (rows[0] ?? []).map((_cell, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
	return rows.map((row) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`).join('\n');
}

/** Rows with a header, as a Markdown table. */
export function table(header: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
	return pad([[...header], header.map((cell) => '-'.repeat(cell.length)), ...rows.map((row) => [...row])]);
}

export function summaryTable(samples: Readonly<Record<string, Summary>>): string {
	const rows = Object.entries(samples).map(([name, {n, p50Ms, p95Ms, p99Ms}]) => [
		name,
		...[n, p50Ms, p95Ms, p99Ms].map(String),
	]);
	return table(['series', 'n', 'p50 ms', 'p95 ms', 'p99 ms'], rows);
}

export function rowTable(rows: readonly Row[]): string {
	return table(
		Object.keys(rows[0] ?? {}),
		rows.map((row) => Object.values(row).map(String)),
	);
}

export function markTable(marks: readonly Mark[]): string {
	const rows = marks.map(({name, value, relation, limit, ok, unit}) => [
		name,
		`${value} ${unit}`,
		`${relation} ${limit}`,
		ok ? 'yes' : 'NO',
	]);
	return table(['mark', 'measured', 'wanted', 'held'], rows);
}
