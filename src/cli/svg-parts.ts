/** Small things of which pictures are made. */

/** Text as it may stand in XML: what XML has no way to say, control characters above all, becomes a sign for that. */
export function escapeXml(text: string): string {
	return text
		.replace(/[\p{Cc}\p{Cs}\uFFFE\uFFFF]/gu, '\uFFFD')
		.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);
}

/**
 * How wide a text is, in pixels. Only an estimate, since the font is that of whoever looks at it; rather too wide.
 * @param size of the font, in pixels
 */
export function textWidth(text: string, size: number, isBold = false): number {
	let width = 0;
	for (const character of text) {
		if (/[ijl.,:;'|! ()[\]ftr·-]/.test(character)) width += 0.32;
		else if (/[mwMW@%+=]/.test(character)) width += 0.82;
		else if (/[A-Z_]/.test(character)) width += 0.68;
		else width += 0.56;
	}
	return width * size * (isBold ? 1.07 : 1);
}

/** The longest beginning of a text that is not wider than this, with a sign that something was cut. */
export function shorten(text: string, width: number, size: number, isBold = false): string {
	if (textWidth(text, size, isBold) <= width) return text;
	let length = 0;
	let taken = textWidth('…', size, isBold);
	while (length < text.length) {
		taken += textWidth(text.charAt(length), size, isBold);
		if (taken > width) break;
		length++;
	}
	return length === 0 ? '' : `${text.slice(0, length)}…`;
}

/** A colour `#rrggbb` between others, at a share of the way from the first to the last. */
export function mix(colours: readonly string[], share: number): string {
	const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
	const from = channelsOf(colours[Math.floor(at)]);
	const to = channelsOf(colours[Math.ceil(at)]);
	const channels = from.map((value, index) => Math.round(value + ((to[index] ?? value) - value) * (at % 1)));
	return `#${channels.map((value) => value.toString(16).padStart(2, '0')).join('')}`;
}

/** How light a colour looks, from 0 to 1. */
export function luminance(colour: string): number {
	const [red = 0, green = 0, blue = 0] = channelsOf(colour).map((value) => (value / 255) ** 2.2);
	return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Two digits after the point are finer than anybody sees. */
export function round(value: number): number {
	return Math.round(value * 100) / 100;
}

function channelsOf(colour = '#000000'): number[] {
	return [1, 3, 5].map((start) => Number.parseInt(colour.slice(start, start + 2), 16));
}
