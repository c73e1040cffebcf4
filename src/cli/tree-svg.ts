/** Draws a tree as an SVG. */
import type {TreeNode} from '../index.ts';
import {escapeXml, luminance, mix, round, shorten, textWidth} from './svg-parts.ts';
import {count, formatAmount, formatTime, type NodeFigures} from './tree-figures.ts';
import {type Placed, placeNodes} from './tree-layout.ts';

/** An SVG and its size in pixels. */
export type Picture = {readonly svg: string; readonly width: number; readonly height: number};

const cell = {width: 186, height: 38, gapX: 54, gapY: 9, gapFamily: 9, gapStack: 5};
const margin = 28;
const headHeight = 64;
const minWidth = 640;
const legendSize = {width: 180, height: 10};
/** From nothing to the most; steps of one colour that also differ in print. */
const shades = ['#f3f6f3', '#dcefdc', '#addfc4', '#6cc6bf', '#3a9bb8', '#2669a3', '#22407f'] as const;
const ink = '#1d2733';
const faint = '#5f6b78';
const paper = '#ffffff';
const lineColour = '#b9c3cc';

/** What the colour stands for. */
type Scale = {readonly of: keyof NodeFigures; readonly max: number; readonly title: string; readonly label: string};

/**
 * A picture of all nodes with their main package and what is known of them. The more a node saves, the darker it is; the
 * more calls it is good for, the thicker is the line to it.
 */
export function drawSvg(
	tree: TreeNode,
	figures: readonly NodeFigures[],
	{title, subtitle}: {readonly title: string; readonly subtitle: string},
): Picture {
	const placed = placeNodes(tree, cell);
	const scale = scaleOf(figures);
	const [left, right] = extent(
		placed.map(({x}) => x),
		cell.width,
	);
	const [top, bottom] = extent(
		placed.map(({y}) => y),
		cell.height,
	);
	const headWidth = Math.max(textWidth(title, 21, true), textWidth(subtitle, 13)) + 2 * margin + legendSize.width + 40;
	const width = Math.ceil(Math.max(right - left + 2 * margin, headWidth, minWidth));
	const height = Math.ceil(bottom - top + headHeight + 3 * margin);
	const x = round((width - right - left) / 2);
	const y = round(headHeight + 2 * margin - top);
	const svg = [
		`<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="'PT Sans', 'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif">`,
		`<title>${escapeXml(title)}</title>`,
		`<rect width="${width}" height="${height}" fill="${paper}"/>`,
		`<text x="${margin}" y="${margin + 20}" font-size="21" font-weight="700" fill="${ink}">${escapeXml(title)}</text>`,
		`<text x="${margin}" y="${margin + 43}" font-size="13" fill="${faint}">${escapeXml(subtitle)}</text>`,
		...(scale === undefined ? [] : drawLegend(scale, width - margin - legendSize.width)),
		`<g transform="translate(${x} ${y})">`,
		`<g fill="none" stroke="${lineColour}" stroke-linecap="round">`,
		...drawLines(placed, figures),
		'</g>',
		...placed.map((node) => drawBox(node, figures[node.flat.id], scale)),
		'</g>',
		'</svg>',
	];
	return {svg: `${svg.join('\n')}\n`, width, height};
}

function extent(centres: readonly number[], size: number): [number, number] {
	const reduce = (choose: (one: number, other: number) => number) => centres.reduce((one, other) => choose(one, other));
	return [reduce(Math.min) - size / 2, reduce(Math.max) + size / 2];
}

function scaleOf(figures: readonly NodeFigures[]): Scale | undefined {
	const maxOf = (key: keyof NodeFigures) => figures.reduce((max, each) => Math.max(max, each[key] ?? 0), 0);
	const savedMs = maxOf('savedMs');
	if (savedMs > 0) {
		return {of: 'savedMs', max: savedMs, title: 'Import time saved · lines: calls', label: formatTime(savedMs)};
	}
	const calls = maxOf('calls');
	return calls > 0 ? {of: 'calls', max: calls, title: 'Calls', label: calls.toFixed(0)} : undefined;
}

/** By the root, since few nodes save most: what is small would else look like nothing. */
function shadeOf(figures: NodeFigures | undefined, scale: Scale | undefined): string {
	if (scale === undefined) return shades[1];
	return mix(shades, Math.sqrt((figures?.[scale.of] ?? 0) / scale.max));
}

function drawLegend({title, label, max, of}: Scale, x: number): string[] {
	const {width, height} = legendSize;
	const y = margin + 14;
	const stops = shades.map(
		(shade, index) => `<stop offset="${round(index / (shades.length - 1))}" stop-color="${shade}"/>`,
	);
	const middle = of === 'calls' ? formatAmount(max / 4) : formatTime(max / 4);
	const text = (at: number, anchor: string, words: string) =>
		`<text x="${x + at}" y="${y + height + 13}" text-anchor="${anchor}">${escapeXml(words)}</text>`;
	return [
		`<defs><linearGradient id="shades">${stops.join('')}</linearGradient></defs>`,
		`<g font-size="11" fill="${faint}">`,
		`<text x="${x}" y="${y - 6}">${escapeXml(title)}</text>`,
		`<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="3" fill="url(#shades)" stroke="${lineColour}" stroke-width="0.75"/>`,
		text(0, 'start', '0'),
		text(width / 2, 'middle', middle),
		text(width, 'end', label),
		'</g>',
	];
}

function drawLines(placed: readonly Placed[], figures: readonly NodeFigures[]): string[] {
	const most = figures.reduce((max, {calls}) => Math.max(max, calls ?? 0), 1);
	return placed.flatMap((node) => {
		const {flat, parent} = node;
		if (parent === undefined) return [];
		const thickness = round(1 + 7 * Math.sqrt((figures[flat.id]?.calls ?? 0) / most));
		return `<path d="${pathTo(node, parent)}" stroke-width="${thickness}"/>`;
	});
}

function pathTo({x, y, side}: Placed, parent: Placed): string {
	if (side === 'below') return `M${round(x)} ${round(parent.y)}V${round(y)}`;
	const half = (side === 'right' ? cell.width : -cell.width) / 2;
	const [from, to] = [parent.x + half, x - half];
	const bend = round((from + to) / 2);
	return `M${round(from)} ${round(parent.y)}C${bend} ${round(parent.y)} ${bend} ${round(y)} ${round(to)} ${round(y)}`;
}

function drawBox({flat, x, y}: Placed, figures: NodeFigures | undefined, scale: Scale | undefined): string {
	const fill = shadeOf(figures, scale);
	const [left, top] = [round(x - cell.width / 2), round(y - cell.height / 2)];
	const room = cell.width - 20;
	const words = wordsOf(flat.node.packages.length === 0 ? {calls: figures?.calls} : figures);
	const [first = 'root', ...more] = flat.node.packages;
	const [name = '', version] = first.split('==');
	const count = more.length === 0 ? '' : ` +${more.length}`;
	const shownName = shorten(name, room - textWidth(count, 11), 13, true);
	const rest = room - textWidth(shownName, 13, true) - textWidth(count, 11);
	const shownVersion = version === undefined || textWidth(` ${version}`, 11) > rest ? '' : ` ${version}`;
	const [strong, weak] = luminance(fill) < 0.4 ? [paper, '#e3edf5'] : [ink, '#46525e'];
	const baseline = round(y + (words === '' ? 4.5 : -2.5));
	return [
		'<g>',
		`<title>${escapeXml(flat.loaded.length === 0 ? 'root: no packages' : flat.loaded.join(', '))}</title>`,
		`<rect x="${left}" y="${top}" width="${cell.width}" height="${cell.height}" rx="9" fill="${fill}" stroke="${mix([fill, ink], 0.25)}"/>`,
		`<text x="${left + 10}" y="${baseline}" font-size="11" fill="${weak}"><tspan font-size="13" font-weight="700" fill="${strong}">${escapeXml(shownName)}</tspan>${escapeXml(shownVersion + count)}</text>`,
		words === ''
			? ''
			: `<text x="${left + 10}" y="${round(y + 12.5)}" font-size="11" fill="${weak}">${escapeXml(shorten(words, room, 11))}</text>`,
		'</g>',
	].join('');
}

function wordsOf({calls, savedMs, mib}: Partial<NodeFigures> = {}): string {
	return [
		calls === undefined ? [] : count(calls, 'call'),
		savedMs === undefined ? [] : formatTime(savedMs),
		mib === undefined || mib === 0 ? [] : `${formatAmount(mib)} MiB`,
	]
		.flat()
		.join(' · ');
}
