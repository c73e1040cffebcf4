/** Pictures of figures: charts side by side, as one SVG and the same as a PNG. */
import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {type PlotOptions, plot} from '@observablehq/plot';
import {Resvg} from '@resvg/resvg-js';
import {JSDOM} from 'jsdom';

const chart = {width: 460, height: 340} as const;
const [gap, head] = [28, 112];
/** Pixels of the PNG for each of the SVG: sharp on any screen. */
const zoom = 2;
const fonts = '"PT Sans", system-ui, sans-serif';
/** For the PNG: not every machine has fonts. */
const fontFiles = ['400Regular/PTSans_400Regular.ttf', '700Bold/PTSans_700Bold.ttf'].map((file) =>
	fileURLToPath(import.meta.resolve(`@expo-google-fonts/pt-sans/${file}`)),
);

/** Charts with what stands above them. */
export type Picture = {
	readonly title: string;
	readonly subtitle: string;
	/** What the colours mean in all of them. */
	readonly legend: ReadonlyArray<{readonly colour: string; readonly words: string}>;
	readonly charts: ReadonlyArray<{readonly title: string; readonly options: PlotOptions}>;
};

/** @returns an SVG document */
export function drawPicture({title, subtitle, legend, charts}: Picture): string {
	const {document} = new JSDOM('').window;
	const width = charts.length * (chart.width + gap) + gap;
	const height = head + chart.height + gap;
	const draw = (name: string, attributes: Readonly<Record<string, string | number>>, content = '') => {
		const element = document.createElementNS('http://www.w3.org/2000/svg', name);
		for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
		element.textContent = content;
		svg.append(element);
	};
	const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
	svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
	svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
	svg.setAttribute('font-family', fonts);
	draw('rect', {width, height, fill: 'white'});
	draw('text', {x: gap, y: 36, 'font-size': 16, 'font-weight': 600, fill: '#1a1a1a'}, title);
	draw('text', {x: gap, y: 58, 'font-size': 12, fill: '#666'}, subtitle);
	let right = width - gap;
	for (const {colour, words} of [...legend].reverse()) {
		const x = right - words.length * 6.2; // about as wide as the words are
		draw('text', {x, y: 36, 'font-size': 12, fill: '#333'}, words);
		draw('circle', {cx: x - 10, cy: 32, r: 5, fill: colour});
		right = x - 34;
	}
	for (const [index, {title: above, options}] of charts.entries()) {
		const left = gap + index * (chart.width + gap);
		draw('text', {x: left, y: head - 18, 'font-size': 13, 'font-weight': 600, fill: '#333'}, above);
		const drawn = plot({...chart, document, style: {fontFamily: fonts, fontSize: '12px'}, ...options});
		// Meant for a chart that is a page's element by itself.
		for (const style of drawn.querySelectorAll('style')) style.remove();
		drawn.setAttribute('x', String(left));
		drawn.setAttribute('y', String(head));
		svg.append(drawn);
	}
	return `${svg.outerHTML}\n`;
}

/**
 * Writes a picture.
 * @param file its path; the endings .svg and .png are its own
 * @returns both paths
 */
export async function writePicture(file: string, svg: string): Promise<string[]> {
	const base = path.resolve(file.replace(/\.(svg|png)$/, ''));
	await mkdir(path.dirname(base), {recursive: true});
	const font = {loadSystemFonts: false, fontFiles, defaultFontFamily: 'PT Sans'};
	const png = new Resvg(svg, {fitTo: {mode: 'zoom', value: zoom}, font}).render().asPng();
	await writeFile(`${base}.svg`, svg);
	await writeFile(`${base}.png`, png);
	return [`${base}.svg`, `${base}.png`];
}
