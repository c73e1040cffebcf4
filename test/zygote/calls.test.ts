import test from 'ava';
import {type CallsHalf, parseCalls, readCalls} from '../../src/zygote/calls.ts';

const recorded = {
	calls: [
		{packages: ['numpy==1.26.4', 'Six==1.16.0'], count: 3},
		{packages: ['six==1.16.0', 'numpy==1.26.4', 'numpy==1.26.4'], count: 2},
		{packages: []},
	],
	costs: {'numpy==1.26.4': {ms: 88.5, mib: 12}, 'Six==1.16.0': {ms: 2}},
	closures: {'pandas==2.1.0': [['numpy==1.26.4', 'pandas==2.1.0'], ['six==1.16.0']], 'six==1.16.0': []},
};

test('what a worker recorded: names normalised, equal calls as one', (t) => {
	const {calls, costs, closures} = readCalls(recorded);
	t.deepEqual(calls, [
		{packages: ['numpy==1.26.4', 'six==1.16.0'], count: 5},
		{packages: [], count: 1},
	]);
	t.deepEqual(
		[...costs],
		[
			['numpy==1.26.4', {ms: 88.5, mib: 12}],
			['six==1.16.0', {ms: 2, mib: 0}],
		],
	);
	t.deepEqual(
		[...closures],
		[
			[
				'pandas==2.1.0',
				[
					['numpy==1.26.4', 'pandas==2.1.0'],
					['six==1.16.0', 'pandas==2.1.0'],
				],
			],
		],
	);
	t.deepEqual(parseCalls(JSON.stringify(recorded)), readCalls(recorded));
});

test('calls alone are enough', (t) => {
	const {calls, costs, closures} = readCalls({calls: [{packages: ['six==1.16.0']}]});
	t.deepEqual([calls, costs.size, closures.size], [[{packages: ['six==1.16.0'], count: 1}], 0, 0]);
});

test('a trace has a call a line', (t) => {
	const {calls, costs, closures} = parseCalls('["six==1.16.0"]\n\n["a==1", "B_c==2"]\r\n["six==1.16.0"]\n');
	t.deepEqual(calls, [
		{packages: ['six==1.16.0'], count: 2},
		{packages: ['a==1', 'b-c==2'], count: 1},
	]);
	t.deepEqual([costs.size, closures.size], [0, 0]);
});

const benchmark = {
	meta: {python: '3.11'},
	packages: {
		'numpy==1.26.4': {closures: [['numpy==1.26.4']], cost: {ms: 80, 'i-ms': 80, mb: 20, anon: 9}},
		'pandas==2.1.0': {closures: [['numpy==1.26.4', 'pandas==2.1.0']], cost: {ms: 200, mb: 30}},
	},
	functions: [
		{id: 'f1', requirements: ['numpy==1.26.4'], count: 9},
		{id: 'f2', requirements: ['numpy==1.26.4', 'pandas==2.1.0']},
	],
	train: ['f1', 'f2', 'f1'],
	test: ['f2'],
};

for (const [half, counts] of [
	[undefined, {'numpy==1.26.4': 2, 'numpy==1.26.4 pandas==2.1.0': 2}],
	['all', {'numpy==1.26.4': 2, 'numpy==1.26.4 pandas==2.1.0': 2}],
	['train', {'numpy==1.26.4': 2, 'numpy==1.26.4 pandas==2.1.0': 1}],
	['test', {'numpy==1.26.4 pandas==2.1.0': 1}],
] as const) {
	test(`a benchmark, ${half ?? 'without a word on its halves'}`, (t) => {
		const {calls, costs, closures} = parseCalls(JSON.stringify(benchmark), half);
		t.deepEqual(Object.fromEntries(calls.map(({packages, count}) => [packages.join(' '), count])), counts);
		t.deepEqual(
			[...costs],
			[
				['numpy==1.26.4', {ms: 80, mib: 9}],
				['pandas==2.1.0', {ms: 200, mib: 30}],
			],
		);
		t.deepEqual(closures.get('pandas==2.1.0'), [['numpy==1.26.4', 'pandas==2.1.0']]);
	});
}

const call = (packages: unknown) => ({calls: [{packages}]});
const long = 'x'.repeat(300);

for (const [value, message] of [
	[{calls: 3}, 'calls: expected a list, got 3'],
	[{calls: []}, 'the file: expected at least one call, got none'],
	[{calls: [null]}, 'calls[0]: expected an object, got null'],
	[{calls: [[]]}, 'calls[0]: expected an object, got a list of 0'],
	[{calls: [{}]}, 'calls[0].packages: expected a list, got nothing'],
	[{calls: [{packages: [], count: 0}]}, 'calls[0].count: expected a whole number above 0, got 0'],
	[{calls: [{packages: [], count: 1.5}]}, 'calls[0].count: expected a whole number above 0, got 1.5'],
	[{calls: [{packages: [], count: '1'}]}, 'calls[0].count: expected a whole number above 0, got "1"'],
	[call(['six']), 'calls[0].packages[0]: expected name==version, as in numpy==1.26.4, got "six"'],
	[call(['six>=1']), 'calls[0].packages[0]: expected name==version, as in numpy==1.26.4, got "six>=1"'],
	[call(['a==1', 7]), 'calls[0].packages[1]: expected name==version, as in numpy==1.26.4, got 7'],
	[
		call(['six==1\u001b[31m']),
		'calls[0].packages[0]: expected name==version, as in numpy==1.26.4, got "six==1\\u001b[31m"',
	],
	[
		call([`${long}==1`]),
		`calls[0].packages[0]: expected name==version, as in numpy==1.26.4, got "${long.slice(0, 60)}…"`,
	],
	[call(['a==1', 'A==2']), 'calls[0].packages: expected one version of a, got a==1 and a==2'],
	[call(Array(1001).fill('a==1')), 'calls[0].packages: expected at most 1000 packages, got a list of 1001'],
	[{...call([]), costs: []}, 'costs: expected an object, got a list of 0'],
	[{...call([]), costs: {'a==1': {}}}, 'costs["a==1"].ms: expected a number from 0, got nothing'],
	[{...call([]), costs: {'a==1': {ms: -1}}}, 'costs["a==1"].ms: expected a number from 0, got -1'],
	[{...call([]), costs: {'a==1': {ms: 1, mib: 'x'}}}, 'costs["a==1"].mib: expected a number from 0, got "x"'],
	[{...call([]), costs: {a: {ms: 1}}}, 'costs["a"]: expected name==version, as in numpy==1.26.4, got "a"'],
	[{...call([]), closures: {'a==1': ['a==1']}}, 'closures["a==1"][0]: expected a list, got "a==1"'],
	[{functions: {}, train: []}, 'functions: expected a list, got an object'],
	[{functions: [{}], train: []}, 'functions[0].id: expected a text, got nothing'],
	[{functions: [], train: ['f'], test: []}, 'train[0]: expected the id of one of the functions, got "f"'],
	[{functions: [], train: []}, 'test: expected a list, got nothing'],
	[
		{...benchmark, functions: [{id: 'f1', requirements: ['x']}], train: ['f1'], test: []},
		'functions[0].requirements[0]: expected name==version, as in numpy==1.26.4, got "x"',
	],
	[{...benchmark, packages: {'a==1': {cost: {}}}}, 'packages["a==1"].cost.ms: expected a number from 0, got nothing'],
	[
		{packages: [], children: []},
		'the file: expected calls, or packages, functions, train and test, got "packages", "children"',
	],
	[{}, 'the file: expected calls, or packages, functions, train and test, got none of them'],
] as const) {
	test(`refused: ${message.slice(0, 100)}`, (t) => {
		t.throws(() => parseCalls(JSON.stringify(value)), {code: 'InvalidCalls', message});
	});
}

for (const [text, message] of [
	['', 'the file: expected at least one call, got none'],
	['{', 'the file: expected JSON, got "{"'],
	['{"calls": [], "costs": {"a==1": {"ms": 1e999}}}', 'costs["a==1"].ms: expected a number from 0, got Infinity'],
	['["a==1"]\n[', 'line 2: expected JSON, got "["'],
	['["a==1"]\n["a"]', 'line 2[0]: expected name==version, as in numpy==1.26.4, got "a"'],
	['"a==1"', 'line 1: expected a list, got "a==1"'],
] as const) {
	test(`the text ${JSON.stringify(text)} is refused`, (t) => {
		t.throws(() => parseCalls(text), {code: 'InvalidCalls', message});
	});
}

test('only a benchmark has halves', (t) => {
	for (const text of ['["a==1"]', JSON.stringify(recorded)]) {
		for (const half of ['train', 'test', 'all'] satisfies CallsHalf[]) {
			t.throws(() => parseCalls(text, half), {
				code: 'InvalidCalls',
				message: /^the file: expected the halves train and test, /,
			});
		}
	}
});

test('names of a prototype are names as others', (t) => {
	const value = JSON.parse('{"calls": [{"packages": ["constructor==1"]}], "costs": {"__proto__": {"ms": 1}}}');
	t.throws(() => readCalls(value), {code: 'InvalidCalls', message: /^costs\["__proto__"\]/});
});
