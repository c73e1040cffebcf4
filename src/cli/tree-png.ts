/** Makes a PNG of a picture. */
import {fileURLToPath} from 'node:url';
import type {Picture} from './tree-svg.ts';

/** Twice as fine as the SVG's pixels when that isn't too much. */
const maxScale = 2;
const minScale = 0.25;
const maxPixels = 40_000_000;

/** @throws {Error} when the picture is too large, or the library has no build for this machine */
export async function renderPng(picture: Picture): Promise<Uint8Array> {
	const scale = scaleOf(picture);
	const {Resvg} = await load();
	// A server often has no fonts at all, and text would silently be missing.
	const fontFiles = [
		import.meta.resolve('@expo-google-fonts/pt-sans/400Regular/PTSans_400Regular.ttf'),
		import.meta.resolve('@expo-google-fonts/pt-sans/700Bold/PTSans_700Bold.ttf'),
	].map((url) => fileURLToPath(url));
	const resvg = new Resvg(picture.svg, {
		fitTo: {mode: 'zoom', value: scale},
		font: {fontFiles, loadSystemFonts: false, defaultFontFamily: 'PT Sans'},
	});
	return resvg.render().asPng();
}

/**
 * How many pixels of a PNG one of the SVG becomes.
 * @throws {RangeError} when nothing could be read in it any more
 */
export function scaleOf({width, height}: Omit<Picture, 'svg'>): number {
	const scale = Math.min(maxScale, Math.sqrt(maxPixels / (width * height)));
	if (scale >= minScale) return scale;
	throw new RangeError(`a picture of ${width} × ${height} is too large for a PNG; write an SVG`);
}

async function load(): Promise<typeof import('@resvg/resvg-js')> {
	try {
		return await import('@resvg/resvg-js');
	} catch (cause) {
		const reason = cause instanceof Error ? cause.message : String(cause);
		throw new Error(`a PNG can't be made on this machine; write an SVG (${reason})`, {cause});
	}
}
