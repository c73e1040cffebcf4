import test from 'ava';
import {figuresOf, formatTime} from '../../src/cli/tree-figures.ts';
import {cut, drawTree} from '../../src/cli/tree-text.ts';
import {readTree} from '../../src/zygote/tree.ts';

const figures = (count: number, ms: number, mib: number) => ({count, ms, mib});
const tree = readTree({
	...figures(100, 0, 0),
	children: [
		{
			packages: ['numpy==1.26.4'],
			...figures(60, 5280, 12),
			children: [
				{packages: ['pandas==2.1.0', 'pytz==2023.3', 'six==1.16.0'], ...figures(40, 12_345.6, 25.26), children: []},
				{packages: ['scipy'], ...figures(5, 750, 120.4)},
			],
		},
		{packages: ['requests'], children: [{packages: ['flask==2.3.3']}]},
	],
});

test('a tree with its figures', (t) => {
	t.is(
		drawTree(tree, figuresOf(tree, undefined), Number.POSITIVE_INFINITY),
		`
node                    calls  saved ms   MiB
root                      100         0     0
├─ numpy==1.26.4           60      5280  12.0
│  ├─ pandas==2.1.0 +2     40     12346  25.3
│  └─ scipy                 5       750   120
└─ requests                 -         -     -
   └─ flask==2.3.3          -         -     -
`.slice(1),
	);
});

test('a tree without figures is names alone', (t) => {
	const bare = readTree({children: [{packages: ['a'], children: [{packages: ['b', 'c']}]}, {packages: ['d']}]});
	t.is(drawTree(bare, figuresOf(bare, undefined), 80), 'root\n├─ a\n│  └─ b +1\n└─ d\n');
	t.is(drawTree(readTree({}), [], 80), 'root\n');
});

test('only figures that some node has', (t) => {
	const counted = readTree({count: 3, children: [{packages: ['a'], count: 2, benefit: 1.5}]});
	t.is(drawTree(counted, figuresOf(counted, undefined), 80), 'node  calls\nroot      3\n└─ a      2\n');
});

test('no figures of which there is nothing', (t) => {
	const empty = readTree({count: 3, ms: 0, mib: 0, children: [{packages: ['a'], count: 2, ms: 0, mib: 0}]});
	t.is(drawTree(empty, figuresOf(empty, undefined), 80), 'node  calls\nroot      3\n└─ a      2\n');
});

test('what is no amount is not known', (t) => {
	for (const count of [-1, '3', null, {}, [1], true]) {
		const odd = readTree({count, children: [{packages: ['a']}]});
		t.is(drawTree(odd, figuresOf(odd, undefined), 80), 'root\n└─ a\n');
	}
});

test('lines are cut to the width, labels first', (t) => {
	t.is(
		drawTree(tree, figuresOf(tree, undefined), 43),
		`
node                  calls  saved ms   MiB
root                    100         0     0
├─ numpy==1.26.4         60      5280  12.0
│  ├─ pandas==2.1.0…     40     12346  25.3
│  └─ scipy               5       750   120
└─ requests               -         -     -
   └─ flask==2.3.3        -         -     -
`.slice(1),
	);
	for (let width = 1; width < 60; width++) {
		const lines = drawTree(tree, figuresOf(tree, undefined), width).trimEnd().split('\n');
		t.is(lines.length, 7);
		for (const line of lines) t.true([...line].length <= width, `${width}: ${line}`);
	}
});

test('a node far from the root keeps its name', (t) => {
	let deep: object = {packages: ['the-last==1']};
	for (let level = 27; level > 0; level--) deep = {packages: [`p${level}`], children: [deep]};
	const lines = drawTree(readTree({children: [deep]}), [], 40).split('\n');
	t.is(lines[1], '└─ p1');
	t.is(lines[28], `…${' '.repeat(25)}└─ the-last==1`);
});

test('calls say what each node is good for: those of the nodes below it as well', (t) => {
	const plan = readTree({children: [{packages: ['a==1'], children: [{packages: ['b'], mib: 7}]}]});
	const costs = new Map([
		['a==1', {ms: 10, mib: 1}],
		['b==2', {ms: 5, mib: 2}],
	]);
	const calls = [
		{packages: ['a==1'], count: 3},
		{packages: ['a==1', 'b==2'], count: 2},
		{packages: ['c==1'], count: 1},
	];
	t.deepEqual(figuresOf(plan, {calls, costs, closures: new Map()}), [
		{calls: 6, savedMs: 0, mib: 0},
		{calls: 5, savedMs: 50, mib: 1},
		{calls: 2, savedMs: 10, mib: 7},
	]);
	t.deepEqual(figuresOf(plan, {calls, costs: new Map(), closures: new Map()}), [
		{calls: 6, savedMs: undefined, mib: undefined},
		{calls: 5, savedMs: undefined, mib: undefined},
		{calls: 2, savedMs: undefined, mib: 7},
	]);
});

for (const [milliseconds, text] of [
	[0, '0 ms'],
	[0.04, '0.0 ms'],
	[9.96, '10.0 ms'],
	[99.94, '99.9 ms'],
	[99.95, '100 ms'],
	[999.4, '999 ms'],
	[999.5, '1.0 s'],
	[123_456, '123 s'],
] as const) {
	test(`${milliseconds} ms is ${text}`, (t) => {
		t.is(formatTime(milliseconds), text);
	});
}

test('cut', (t) => {
	t.deepEqual(
		[4, 3, 2, 1].map((length) => cut('abcd', length)),
		['abcd', 'ab…', 'a…', '…'],
	);
});
