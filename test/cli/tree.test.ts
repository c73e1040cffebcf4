import {
	closeSync,
	constants,
	mkdirSync,
	openSync,
	readdirSync,
	readFileSync,
	readSync,
	statSync,
	symlinkSync,
	writeFileSync,
} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import {gzipSync} from 'node:zlib';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {temporaryFolder} from '../helpers/runtime.ts';
import {type CommandEnd, forktree} from './forktree.ts';

const recorded = {
	calls: [
		{packages: ['numpy==1.26.4', 'pandas==2.1.0', 'six==1.16.0'], count: 30},
		{packages: ['numpy==1.26.4'], count: 20},
		{packages: ['flask==2.3.3'], count: 5},
	],
	costs: {
		'numpy==1.26.4': {ms: 80, mib: 12},
		'pandas==2.1.0': {ms: 200, mib: 25},
		'six==1.16.0': {ms: 2, mib: 0.5},
		'flask==2.3.3': {ms: 100, mib: 10},
	},
	closures: {'pandas==2.1.0': [['numpy==1.26.4', 'six==1.16.0', 'pandas==2.1.0']]},
};

const plan = {
	packages: [],
	count: 55,
	children: [
		{packages: ['numpy'], count: 50, ms: 4000, mib: 12, children: [{packages: ['pandas==2.1.0', 'six==1.16.0']}]},
		{packages: ['flask==2.3.3'], direct: ['flask'], benefit: 1.5, children: null},
	],
};

/** A folder of the test with these files; those that are not texts are written as JSON. */
async function folder(t: ExecutionContext, files: Readonly<Record<string, unknown>> = {}): Promise<string> {
	const place = await temporaryFolder();
	t.teardown(() => rm(place, {recursive: true, force: true}));
	for (const [name, content] of Object.entries(files)) {
		mkdirSync(path.dirname(path.join(place, name)), {recursive: true});
		const isRaw = typeof content === 'string' || content instanceof Uint8Array;
		writeFileSync(path.join(place, name), isRaw ? content : JSON.stringify(content));
	}
	return place;
}

type Node = {readonly packages: string[]; readonly children: Node[]; readonly count?: number};

function shapeOf({packages, children}: Node): unknown {
	return children.length === 0 ? packages : [packages, ...children.map(shapeOf)];
}

function succeeded(t: ExecutionContext, {exitCode, stdout, stderr}: CommandEnd): string {
	t.is(exitCode, 0, stderr);
	return stdout;
}

function refused(t: ExecutionContext, {exitCode, stdout, stderr}: CommandEnd, message: RegExp | string): void {
	t.is(exitCode, 125);
	t.is(stdout, '');
	if (typeof message === 'string') t.is(stderr, `forktree: ${message}\n`);
	else t.regex(stderr, message);
	// One line, without anything that a terminal would obey.
	t.regex(stderr, /^[^\p{Cc}]*\n$/u);
}

test.serial('fit: from what a worker recorded, to a file', async (t) => {
	const place = await folder(t, {'state/calls.json': recorded, 'tree.json': 'what was there'});
	const file = path.join(place, 'tree.json');
	const {stdout, stderr, exitCode} = await forktree(['tree', 'fit', '--state', path.join(place, 'state'), '-o', file]);
	t.is(exitCode, 0, stderr);
	t.is(stdout, '');
	const tree = JSON.parse(readFileSync(file, 'utf8')) as Node;
	t.deepEqual(shapeOf(tree), [
		[],
		['pandas==2.1.0', 'numpy==1.26.4', 'six==1.16.0'],
		['numpy==1.26.4'],
		['flask==2.3.3'],
	]);
	t.is(tree.children[0]?.count, 30);
	t.deepEqual(stderr.split('\n').slice(0, 3), [
		'4 nodes for 55 calls',
		'still to import a call: 0 ms, without the tree 192 ms',
		'packages still to import a call: 0.0, without the tree 2.1',
	]);
	t.regex(stderr, /^memory of the nodes: \d+(\.\d)? MiB\n$/m);
	t.deepEqual(readdirSync(place).sort(), ['state', 'tree.json']);
});

test.serial('fit: it says that costs are missing', async (t) => {
	const {'six==1.16.0': _, ...costs} = recorded.costs;
	const {stderr} = await forktree(['tree', 'fit', '-', '--nodes', '1'], {input: JSON.stringify({...recorded, costs})});
	t.deepEqual(stderr.split('\n').slice(-3), ['memory of the nodes: 0 MiB', '1 package without a known cost', '']);
});

test.serial('fit: the same calls in each form are the same tree', async (t) => {
	const text = JSON.stringify(recorded);
	const place = await folder(t, {'calls.json': text, 'calls.json.gz': gzipSync(text)});
	const plain = succeeded(t, await forktree(['tree', 'fit', path.join(place, 'calls.json')]));
	t.is(succeeded(t, await forktree(['tree', 'fit', path.join(place, 'calls.json.gz')])), plain);
	t.is(succeeded(t, await forktree(['tree', 'fit', '-'], {input: text})), plain);
	t.is((JSON.parse(plain) as Node).children.length, 3);
});

test.serial('fit: a trace has no costs', async (t) => {
	const trace = '["numpy==1.26.4"]\n["numpy==1.26.4", "six==1.16.0"]\n';
	const place = await folder(t, {'trace.jsonl': trace});
	const file = path.join(place, 'trace.jsonl');
	const {stdout, stderr} = await forktree(['tree', 'fit', file, '--weights', 'uniform', '--nodes', '2']);
	t.deepEqual(shapeOf(JSON.parse(stdout) as Node), [[], ['numpy==1.26.4']]);
	t.is(
		stderr,
		`2 nodes for 2 calls
packages still to import a call: 0.5, without the tree 1.5
`,
	);
	refused(
		t,
		await forktree(['tree', 'fit', file]),
		'--weights time: expected calls with the costs of their packages; without them use uniform',
	);
});

test.serial('fit: options say how large the tree may be, and which calls count', async (t) => {
	const benchmark = {
		packages: Object.fromEntries(
			Object.entries(recorded.costs).map(([pin, {ms, mib}]) => [pin, {closures: [[pin]], cost: {ms, anon: mib}}]),
		),
		functions: [
			{id: 'a', requirements: ['numpy==1.26.4', 'six==1.16.0']},
			{id: 'b', requirements: ['flask==2.3.3']},
		],
		train: ['a', 'a'],
		test: ['b'],
	};
	const place = await folder(t, {'calls.json': recorded, 'benchmark.json': benchmark});
	const shape = async (file: string, ...args: string[]) =>
		shapeOf(JSON.parse(succeeded(t, await forktree(['tree', 'fit', path.join(place, file), ...args]))) as Node);
	t.deepEqual(await shape('benchmark.json', '--half', 'train', '--nodes', '2'), [[], ['numpy==1.26.4']]);
	t.deepEqual(await shape('benchmark.json', '--half', 'test'), [[], ['flask==2.3.3']]);
	t.deepEqual(await shape('benchmark.json', '--nodes', '1'), []);
	t.deepEqual(await shape('calls.json', '--memory', '1'), []);
	t.deepEqual(await shape('calls.json', '--memory', '1000', '--nodes', '2'), [[], ['numpy==1.26.4']]);
	t.deepEqual(await shape('calls.json', '--single-package', '--nodes', '4'), [
		[],
		[['numpy==1.26.4'], ['six==1.16.0']],
		['flask==2.3.3'],
	]);
	t.deepEqual(await shape('calls.json', '--single-package', '--max-depth', '1'), [
		[],
		['numpy==1.26.4'],
		['flask==2.3.3'],
	]);
});

test.serial('fit: what is written is whole or not there', async (t) => {
	const place = await folder(t, {'calls.json': recorded, 'tree.json': 'old'});
	const calls = path.join(place, 'calls.json');
	refused(t, await forktree(['tree', 'fit', calls, '-o', path.join(place, 'nowhere/tree.json')]), /ENOENT/);
	symlinkSync('tree.json', path.join(place, 'link'));
	succeeded(t, await forktree(['tree', 'fit', calls, '-o', path.join(place, 'link')]));
	t.true(statSync(path.join(place, 'tree.json')).size > 100);
	t.deepEqual(readdirSync(place).sort(), ['calls.json', 'link', 'tree.json']);
	// What is no plain file stays what it is.
	const pipe = path.join(place, 'pipe');
	await execa('mkfifo', [pipe]);
	const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
	t.teardown(() => closeSync(reader));
	succeeded(t, await forktree(['tree', 'fit', calls, '-o', pipe]));
	const buffer = Buffer.alloc(64 * 1024);
	const text = buffer.subarray(0, readSync(reader, buffer)).toString();
	t.is(text, readFileSync(path.join(place, 'tree.json'), 'utf8'));
	t.true(statSync(pipe).isFIFO());
});

test.serial('show draws a tree, as wide as the terminal', async (t) => {
	const place = await folder(t, {'tree.json': plan, 'calls.json': recorded});
	const file = path.join(place, 'tree.json');
	t.is(
		succeeded(t, await forktree(['tree', 'show', file], {env: {COLUMNS: ''}})),
		`
node                    calls  saved ms   MiB
root                       55         -     -
├─ numpy                   50      4000  12.0
│  └─ pandas==2.1.0 +1      -         -     -
└─ flask==2.3.3             -         -     -
`.slice(1),
	);
	const narrow = succeeded(
		t,
		await forktree(['tree', 'show', '-'], {env: {COLUMNS: '40'}, input: JSON.stringify(plan)}),
	);
	for (const line of narrow.split('\n')) t.true(line.length <= 40, line);
	t.is(
		succeeded(t, await forktree(['tree', 'show', file, '--calls', path.join(place, 'calls.json')])),
		`
node                    calls  saved ms   MiB
root                       55         0     0
├─ numpy                   50      4000  12.0
│  └─ pandas==2.1.0 +1     30      6060  25.5
└─ flask==2.3.3             5       500  10.0
`.slice(1),
	);
	t.deepEqual(JSON.parse(succeeded(t, await forktree(['tree', 'show', file, '--json']))), [
		{id: 0, depth: 0, packages: [], calls: 55},
		{id: 1, parent: 0, depth: 1, packages: ['numpy'], calls: 50, savedMs: 4000, mib: 12},
		{id: 2, parent: 1, depth: 2, packages: ['pandas==2.1.0', 'six==1.16.0']},
		{id: 3, parent: 0, depth: 1, packages: ['flask==2.3.3']},
	]);
});

test.serial('check says which node, and why', async (t) => {
	const place = await folder(t, {
		'tree.json': plan,
		'calls.json': recorded,
		'requirements.txt': 'numpy==1.26.4\npandas==2.1.0\nflask==2.3.3\nidna==3.4 ; python_version < "4"\n',
	});
	const args = ['tree', 'check', path.join(place, 'tree.json'), path.join(place, 'requirements.txt')];
	const calls = ['--calls', path.join(place, 'calls.json')];
	t.is(
		succeeded(t, await forktree([...args, ...calls])),
		`node 3: flask==2.3.3
  loaded already: 1 of 4 packages, 100 ms
    flask==2.3.3, 100 ms
  still to import: 3 packages, 280 ms
    pandas==2.1.0, 200 ms
    numpy==1.26.4, 80.0 ms
    idna==3.4, 0 ms

next best: node 1: numpy==1.26.4
  loaded already: 1 package, 80.0 ms

not usable: node 2: numpy==1.26.4 > pandas==2.1.0 +1
  would have loaded: 2 packages, 280 ms
  in the way, not asked for: six==1.16.0

taken as holding here, which depends on the machine:
    idna==3.4 ; python_version < "4"

without a known cost:
    idna==3.4
`,
	);
	writeFileSync(path.join(place, 'requirements.txt'), 'numpy==1.26.4\npandas==2.1.1\nsix==1.16.0\n');
	t.is(
		succeeded(t, await forktree(args)),
		`node 1: numpy==1.26.4
  loaded already: 1 of 3 packages
    numpy==1.26.4
  still to import: 2 packages
    pandas==2.1.1
    six==1.16.0

not usable: node 2: numpy==1.26.4 > pandas==2.1.0 +1
  would have loaded: 2 packages
  in the way, another version:
    pandas==2.1.0 where pandas==2.1.1 is asked for

each package counts the same, since --calls names no costs
`,
	);
	t.deepEqual(JSON.parse(succeeded(t, await forktree([...args, ...calls, '--json']))), {
		requirements: ['numpy==1.26.4', 'pandas==2.1.1', 'six==1.16.0'],
		conditional: [],
		node: {id: 1, path: [['numpy==1.26.4']], covered: ['numpy==1.26.4'], coveredMs: 80},
		missing: ['pandas==2.1.1', 'six==1.16.0'],
		missingMs: 2,
		notUsable: [
			{
				id: 2,
				path: [['numpy==1.26.4'], ['pandas==2.1.0', 'six==1.16.0']],
				covered: ['numpy==1.26.4', 'six==1.16.0'],
				coveredMs: 82,
				obstacles: [{loaded: 'pandas==2.1.0', asked: 'pandas==2.1.1'}],
			},
		],
		unmeasured: ['pandas==2.1.1'],
	});
});

test.serial('check of many packages counts what it does not list', async (t) => {
	const pins = Array.from({length: 12}, (_, index) => `p${index}==1`);
	const place = await folder(t, {
		'tree.json': {children: [{packages: pins}]},
		'requirements.txt': `${[...pins.slice(6), ...pins.slice(0, 6).map((pin) => `x${pin}`)].join('\n')}\n`,
	});
	const args = ['tree', 'check', path.join(place, 'tree.json'), path.join(place, 'requirements.txt')];
	t.is(
		succeeded(t, await forktree(args)),
		`the root, without packages
  loaded already: 0 of 12 packages
  still to import: 12 packages
    p10==1
    p11==1
    p6==1
    p7==1
    p8==1
    p9==1
    xp0==1
    xp1==1
    and 4 more

not usable: node 1: p0==1 +11
  would have loaded: 6 packages
  in the way, not asked for: p0==1, p1==1, p2==1, p3==1, p4==1 and 1 more

each package counts the same, since --calls names no costs
`,
	);
});

test.serial('plot writes an SVG and a PNG', async (t) => {
	const place = await folder(t, {'tree.json': plan, 'calls.json': recorded});
	const file = path.join(place, 'tree.json');
	t.is(succeeded(t, await forktree(['tree', 'plot', file, '-o', path.join(place, 'tree.svg')])), '');
	const svg = readFileSync(path.join(place, 'tree.svg'), 'utf8');
	t.regex(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
	for (const words of ['Zygote tree of 4 nodes', '55 calls · 72.7 ms of importing saved a call · 12.0 MiB']) {
		t.true(svg.includes(`>${words}</text>`), words);
	}
	const calls = ['--calls', path.join(place, 'calls.json')];
	succeeded(t, await forktree(['tree', 'plot', file, ...calls, '-o', path.join(place, 'measured.SVG')]));
	const measured = readFileSync(path.join(place, 'measured.SVG'), 'utf8');
	t.true(measured.includes('>55 calls · 192 ms of importing saved a call · 0 ms left · 47.5 MiB</text>'));
	succeeded(
		t,
		await forktree(['tree', 'plot', '-', '-o', path.join(place, 'tree.png')], {input: JSON.stringify(plan)}),
	);
	t.is(readFileSync(path.join(place, 'tree.png')).subarray(1, 4).toString(), 'PNG');
	refused(
		t,
		await forktree(['tree', 'plot', file, '-o', path.join(place, 'tree.gif')]),
		/-o: expected a file that ends in \.svg or \.png, got ".*tree\.gif"/,
	);
	t.deepEqual(readdirSync(place).sort(), ['calls.json', 'measured.SVG', 'tree.json', 'tree.png', 'tree.svg']);
});

const orders = '\u001b]0;owned\u0007\u009b31m';
const deep = `${'{"packages":["a"],"children":['.repeat(100_000)}${']}'.repeat(100_000)}`;

for (const [title, text, message] of [
	['nothing', '', /expected JSON/],
	['no JSON', '{"packages": [', /expected JSON/],
	['no UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), /expected UTF-8, plain or as gzip/],
	['half a gzip', gzipSync('{}').subarray(0, 12), /expected UTF-8, plain or as gzip/],
	['a list', '[]', /expected an object with packages and children/],
	['a terminal’s orders for a name', JSON.stringify({children: [{packages: [`a${orders}`]}]}), /packages\[0\]/],
	['a terminal’s orders for a version', JSON.stringify({children: [{packages: [`a==1${orders}`]}]}), /packages\[0\]/],
	['a huge name', JSON.stringify({children: [{packages: ['a'.repeat(10_000_000)]}]}), /packages\[0\]/],
	['a deep tree', deep, /tree\.json: the tree/],
	['a deep list', '['.repeat(100_000) + ']'.repeat(100_000), /expected an object with packages and children/],
	['too many nodes', JSON.stringify({children: Array(20_000).fill({packages: ['a']})}), /at most 10000 nodes/],
	['a deep value', `{"direct": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`, /tree\.json: the tree/],
] as const) {
	test.serial(`a tree that is ${title} is refused, in one line`, async (t) => {
		const place = await folder(t, {'tree.json': text});
		const file = path.join(place, 'tree.json');
		const end = await forktree(['tree', 'show', file]);
		refused(t, end, message);
		t.true(end.stderr.includes(file) && end.stderr.length < 1000);
	});
}

for (const [title, text, message] of [
	[
		'orders for a name',
		JSON.stringify({calls: [{packages: [`a${orders}`]}]}),
		/calls\[0\]\.packages\[0\]: expected name==v/,
	],
	['orders for a key', JSON.stringify({calls: [{packages: []}], costs: {[orders]: {ms: 1}}}), /costs\["/],
	['orders in a trace', `["a==1"]\n["${'\\u001b[31m'}"]`, /line 2\[0\]: expected name==version/],
	['deep calls', `{"calls": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`, /calls\[0\]: expected an object/],
	['a tree', JSON.stringify(plan), /expected calls, or packages, functions, train and test/],
] as const) {
	test.serial(`calls that are ${title} are refused, in one line`, async (t) => {
		const place = await folder(t, {'calls.json': text});
		const file = path.join(place, 'calls.json');
		const end = await forktree(['tree', 'fit', file]);
		refused(t, end, message);
		t.true(end.stderr.includes(file) && end.stderr.length < 1000);
	});
}

test.serial('a file that grows without bounds is not read to its end', async (t) => {
	const place = await folder(t, {'tree.json.gz': gzipSync(Buffer.alloc(257 * 1024 * 1024), {level: 1})});
	refused(t, await forktree(['tree', 'show', path.join(place, 'tree.json.gz')]), /of at most 268435456 bytes/);
});

test.serial('requirements without a version are refused', async (t) => {
	const place = await folder(t, {'tree.json': plan, 'requirements.txt': 'numpy>=1\n'});
	const file = path.join(place, 'requirements.txt');
	refused(
		t,
		await forktree(['tree', 'check', path.join(place, 'tree.json'), file]),
		`${file}: expected name==version, as in a locked file, got numpy>=1`,
	);
});

for (const [args, message] of [
	[['fit'], 'expected either CALLS or --state DIR'],
	[['fit', 'x', '--state', 'y'], 'expected either CALLS or --state DIR'],
	[['fit', '/nowhere/calls.json'], /ENOENT.*\/nowhere\/calls\.json/],
	[['fit', '--state', '/nowhere'], /ENOENT.*\/nowhere\/calls\.json/],
	[['show', '-', '--calls', '-'], 'expected the tree or --calls on stdin, not both'],
	[['show', '-', '--half', 'test'], '--half: expected --calls, whose half it is'],
] as const) {
	test.serial(`tree ${args.join(' ')} is refused`, async (t) => {
		refused(t, await forktree(['tree', ...args]), message);
	});
}

for (const args of [
	[],
	['frob'],
	['show'],
	['check', 'tree.json'],
	['plot', 'tree.json'],
	['fit', 'x', '--nodes', '0'],
	['fit', 'x', '--nodes', 'many'],
	['fit', 'x', '--memory', '-1'],
	['fit', 'x', '--max-depth', '1.5'],
	['fit', 'x', '--weights', 'size'],
	['show', 'x', '--half', 'third'],
]) {
	test.serial(`tree ${args.join(' ')} is refused as bad usage`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(['tree', ...args]);
		t.is(exitCode, 125);
		t.is(stdout, '');
		t.regex(stderr, /^(forktree: |Usage: )/);
		t.notRegex(stderr, /^\s+at /m);
	});
}

for (const [args, words] of [
	[[], ['fit', 'show', 'check', 'plot', '$ forktree tree fit', '"packages": ["numpy==1.26.4"]']],
	[['fit'], ['[calls]', '--state <dir>', '--nodes <count>', '--memory <mib>', '--single-package', '--max-depth']],
	[['show'], ['<tree>', '--calls <file>', '--json']],
	[['check'], ['<tree> <requirements>', '--json']],
	[['plot'], ['-o, --output <file>', '--half <half>']],
] as const) {
	test.serial(`tree ${args.join(' ')} --help says what it does`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(['tree', ...args, '--help']);
		t.is(exitCode, 0);
		t.is(stderr, '');
		for (const word of words) t.true(stdout.includes(word), word);
	});
}
