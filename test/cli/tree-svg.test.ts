import test from 'ava';
import fc from 'fast-check';
import {escapeXml, mix, shorten, textWidth} from '../../src/cli/svg-parts.ts';
import {figuresOf} from '../../src/cli/tree-figures.ts';
import {renderPng, scaleOf} from '../../src/cli/tree-png.ts';
import {drawSvg, type Picture} from '../../src/cli/tree-svg.ts';
import {flattenTree, readTree, type TreeNode} from '../../src/zygote/tree.ts';

const words = {title: 'A tree', subtitle: 'of nodes'};

function draw(tree: TreeNode): Picture {
	return drawSvg(tree, figuresOf(tree, undefined), words);
}

type Box = {readonly left: number; readonly top: number; readonly width: number; readonly height: number};

/** The boxes of nodes, in the order of the picture. */
function boxesOf({svg}: Picture): Box[] {
	const [, x = '0', y = '0'] = /<g transform="translate\((\S+) (\S+)\)">/.exec(svg) ?? [];
	return [...svg.matchAll(/<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)" rx="9"/g)].map((match) => {
		const [left = 0, top = 0, width = 0, height = 0] = match.slice(1).map(Number);
		return {left: left + Number(x), top: top + Number(y), width, height};
	});
}

/** Names of elements that are open at the end, or a closing one that fits none. */
function unbalanced(svg: string): string[] {
	const open: string[] = [];
	for (const [, closing, name = '', empty] of svg.matchAll(/<(\/?)([a-zA-Z]+)(?:\s[^<>]*?)?(\/?)>/g)) {
		if (closing === '/') {
			if (open.pop() !== name) return [`/${name}`];
		} else if (empty !== '/') open.push(name);
	}
	return open;
}

function chainOf(length: number): object[] {
	return length === 0 ? [] : [{packages: [`p${length}`], children: chainOf(length - 1)}];
}

/** Trees of many forms, with packages that are different everywhere. */
const trees = fc.array(fc.nat(), {maxLength: 120}).map((parents) => {
	const nodes: Array<{packages: string[]; children: object[]; depth: number; count: number; ms: number}> = [
		{packages: [], children: [], depth: 0, count: 9, ms: 0},
	];
	for (const [index, at] of parents.entries()) {
		const parent = nodes[at % nodes.length];
		if (parent === undefined || parent.depth === 28) continue;
		const node = {packages: [`p${index}==1`], children: [], depth: parent.depth + 1, count: at % 10, ms: at % 1000};
		parent.children.push(node);
		nodes.push(node);
	}
	return readTree(nodes[0]);
});

test('every node has a box in the picture, and none lies on another', (t) => {
	fc.assert(
		fc.property(trees, (tree) => {
			const picture = draw(tree);
			const boxes = boxesOf(picture);
			t.is(boxes.length, flattenTree(tree).length);
			t.deepEqual(unbalanced(picture.svg), []);
			for (const [index, {left, top, width, height}] of boxes.entries()) {
				t.true(left >= 0 && top >= 0 && left + width <= picture.width && top + height <= picture.height);
				for (const other of boxes.slice(index + 1)) {
					const isApart =
						left + width <= other.left ||
						other.left + other.width <= left ||
						top + height <= other.top ||
						other.top + other.height <= top;
					t.true(isApart);
				}
			}
		}),
		{numRuns: 50},
	);
});

test('a long chain is a stack, a wide tree has two sides', (t) => {
	const chain = draw(readTree({children: chainOf(28)}));
	t.true(chain.width < 700 && chain.height < 1500, `${chain.width} × ${chain.height}`);
	const children = Array.from({length: 60}, (_, index) => ({packages: [`p${index}`]}));
	const boxes = boxesOf(draw(readTree({children})));
	const [root] = boxes;
	const right = boxes.filter(({left}) => left > (root?.left ?? 0));
	t.is(right.length, 30);
	// In order, from top to bottom.
	t.deepEqual(
		right.map(({top}) => top),
		right.map(({top}) => top).sort((one, other) => one - other),
	);
});

test('what is known of a node stands in its box', (t) => {
	const tree = readTree({
		count: 7,
		children: [
			{packages: ['numpy==1.26.4', 'six'], count: 3, ms: 264, mib: 12.5},
			{packages: ['a-name-that-is-far-too-long-for-its-box==1.0'], count: 1, ms: 0},
		],
	});
	const {svg} = draw(tree);
	for (const part of [
		'>A tree</text>',
		'>of nodes</text>',
		'<title>numpy==1.26.4, six</title>',
		'>numpy</tspan> 1.26.4 +1</text>',
		'>3 calls · 264 ms · 12.5 MiB</text>',
		'>1 call · 0 ms</text>',
		'>7 calls</text>',
		'>Import time saved · lines: calls</text>',
		'>66.0 ms</text>',
	]) {
		t.true(svg.includes(part), part);
	}
	t.regex(svg, />a-name-that-is-[a-z-]+…<\/tspan><\/text>/);
});

test('the more is saved, the darker; the more calls, the thicker', (t) => {
	const child = (name: string, count: number, ms: number) => ({packages: [name], count, ms});
	const {svg} = draw(readTree({count: 100, children: [child('a', 100, 0), child('b', 25, 25), child('c', 1, 100)]}));
	const fills = [...svg.matchAll(/rx="9" fill="(\S+?)"/g)].map(([, fill]) => fill);
	t.deepEqual(fills, ['#f3f6f3', '#f3f6f3', '#6cc6bf', '#22407f']);
	const widths = [...svg.matchAll(/<path [^>]*stroke-width="(\S+)"/g)].map(([, width]) => Number(width));
	t.deepEqual(widths, [8, 4.5, 1.7]);
});

test('without times the colour is for calls, without anything there is no legend', (t) => {
	t.true(draw(readTree({count: 4, children: [{packages: ['a'], count: 2}]})).svg.includes('>Calls</text>'));
	const {svg} = draw(readTree({children: [{packages: ['a']}]}));
	t.false(svg.includes('linearGradient'));
	t.deepEqual(unbalanced(svg), []);
});

test('text is escaped', (t) => {
	const {svg} = drawSvg(readTree({}), [], {title: '<script>"&\u0000\u001b\'', subtitle: '</text>\ud800'});
	t.true(svg.includes('>&#60;script&#62;&#34;&#38;\ufffd\ufffd&#39;</text>'));
	t.true(svg.includes('>&#60;/text&#62;\ufffd</text>'));
	t.deepEqual(unbalanced(svg), []);
	t.is(escapeXml('näive \u{1f600}'), 'näive \u{1f600}');
});

test('text is shortened to a width', (t) => {
	t.is(shorten('numpy', 100, 12), 'numpy');
	const short = shorten('numpy-and-much-more', 60, 12);
	t.regex(short, /^numpy.*…$/);
	t.true(textWidth(short, 12) <= 60);
	t.is(shorten('numpy', 3, 12), '');
	t.true(textWidth('numpy', 12, true) > textWidth('numpy', 12));
});

test('colours between colours', (t) => {
	const colours = ['#000000', '#ff0000', '#ff00ff'];
	t.deepEqual(
		[-1, 0, 0.25, 0.5, 0.75, 1, 2].map((share) => mix(colours, share)),
		['#000000', '#000000', '#800000', '#ff0000', '#ff0080', '#ff00ff', '#ff00ff'],
	);
});

/** Width and height of a PNG. */
function sizeOf(png: Uint8Array): [number, number] {
	const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
	return [view.getUint32(16), view.getUint32(20)];
}

test('a PNG is twice as fine, and has its text without fonts of the system', async (t) => {
	const picture = draw(readTree({children: [{packages: ['numpy']}]}));
	const png = await renderPng(picture);
	t.is(Buffer.from(png.subarray(0, 8)).toString('latin1'), '\x89PNG\r\n\x1a\n');
	t.deepEqual(sizeOf(png), [picture.width * 2, picture.height * 2]);
	const bare = await renderPng({...picture, svg: picture.svg.replace(/<text.*<\/text>/g, '')});
	t.true(png.length > bare.length * 1.5, `${png.length}, ${bare.length} without text`);
});

test('a large picture becomes a coarser PNG, and one beyond measure is refused', (t) => {
	t.is(scaleOf({width: 1000, height: 1000}), 2);
	t.is(scaleOf({width: 4000, height: 40_000}), 0.5);
	t.throws(() => scaleOf({width: 40_000, height: 40_000}), {
		instanceOf: RangeError,
		message: 'a picture of 40000 × 40000 is too large for a PNG; write an SVG',
	});
});
