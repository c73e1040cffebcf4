/** Draws what the bench of ReqBench measured: latency and throughput against the size of the tree, as the paper on Forklift does. */
import {axisX, axisY, dot, gridY, line, type Markish} from '@observablehq/plot';
import {drawPicture, writePicture} from './plot.ts';
import type {Row} from './report.ts';

/** What is no tree. */
const others: Readonly<Record<string, string>> = {'no zygote': 'none', 'one plain zygote': '1, plain'};
const colours = ['#0b6e99', '#d1495b', '#6a994e'] as const;
const steps = [1, 2, 5].flatMap((digit) => [0.1, 1, 10, 100, 1000, 10_000].map((power) => digit * power));

type Point = {readonly place: string; readonly value: number; readonly series: string};

/** Sizes are far apart, so each has a place of its own. */
function placeOf({contender, nodes}: Row): string {
	return others[String(contender)] ?? String(nodes);
}

function seriesOf({trace, outstanding}: Row): string {
	const atOnce = `${outstanding} at once`;
	return trace === 'zipf' ? `${atOnce}, Zipf trace` : atOnce;
}

/** A line through the trees, and dots for the others. */
function curve(points: readonly Point[], kind: 'plain' | 'dashed'): Markish[] {
	const at = {x: 'place', y: 'value'} as const;
	const trees = points.filter(({place}) => !Object.values(others).includes(place));
	if (kind === 'plain')
		return [
			line(trees, {...at, stroke: 'series', strokeWidth: 2.25}),
			dot(points, {...at, fill: 'series', r: 4.5, stroke: 'white', strokeWidth: 1}),
		];
	return [
		line(trees, {...at, stroke: 'series', strokeWidth: 1.25, strokeDasharray: '4 4'}),
		dot(points, {...at, stroke: 'series', fill: 'white', r: 3}),
	];
}

/**
 * @param subtitle says what was called
 * @returns the paths of the pictures
 */
export async function plotReqBench(rows: readonly Row[], subtitle: string, file: string): Promise<string[]> {
	const places = [...new Set(rows.map(placeOf))];
	const series = [...new Set(rows.map(seriesOf))];
	const pick = (name: string): Point[] =>
		rows.map((row) => ({place: placeOf(row), value: Number(row[name]), series: seriesOf(row)}));
	const [medians, worse, rates] = [pick('p50Ms'), pick('p95Ms'), pick('perSecond')];
	const latencies = [...medians, ...worse].map(({value}) => value);
	const [least, most] = [Math.min(...latencies) / 1.25, Math.max(...latencies) * 1.25];
	const ticks = steps.filter((step) => step >= least && step <= most);
	const common = {
		marginLeft: 44,
		marginRight: 12,
		marginTop: 12,
		marginBottom: 46,
		color: {domain: series, range: colours.slice(0, series.length)},
		x: {type: 'point', domain: places, padding: 0.4},
	} as const;
	const across = axisX({label: 'zygotes', labelAnchor: 'center', labelArrow: 'none', tickSize: 0, tickPadding: 10});
	const quiet = {tickSize: 0, label: null} as const;
	const svg = drawPicture({
		title: 'Functions of real projects, by the size of the tree of zygotes',
		subtitle,
		legend: series.map((words, index) => ({words, colour: colours[index] ?? 'black'})),
		charts: [
			{
				title: 'Latency in ms: median, and 95th percentile (dashed)',
				options: {
					...common,
					y: {type: 'log', domain: [least, most]},
					marks: [
						gridY(ticks),
						across,
						axisY(ticks, {...quiet, text: (each: number) => each.toLocaleString('en')}),
						...curve(worse, 'dashed'),
						...curve(medians, 'plain'),
					],
				},
			},
			{
				title: 'Throughput in calls a second',
				options: {
					...common,
					y: {zero: true, nice: true},
					marks: [gridY(), across, axisY(quiet), ...curve(rates, 'plain')],
				},
			},
		],
	});
	return writePicture(file, svg);
}
