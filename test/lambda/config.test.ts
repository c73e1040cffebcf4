import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {optionError} from '../../src/lambda/check.ts';
import {
	checkBoolean,
	checkConcurrency,
	checkEntryFile,
	checkEnvironment,
	checkLimits,
	limitNames,
	parseConfig,
} from '../../src/lambda/config.ts';
import {resolveSettings} from '../../src/lambda/options.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const parameters = fuzzParameters(3);

const defaults = {
	triggers: {http: ['*'], cron: [], kafka: []},
	environment: {},
	reuse: undefined,
	limits: {},
	concurrency: undefined,
	maxQueue: undefined,
	zygote: undefined,
	warmup: undefined,
	network: undefined,
	noNewExecutables: undefined,
	entryFile: 'f.py',
};

for (const text of [undefined, '', '\n', '# nothing\n', '{}', '---\n', '\ufeff']) {
	test(`the defaults come from ${JSON.stringify(text)}`, (t) => {
		t.deepEqual(parseConfig(text), defaults);
	});
}

test('every key is read', (t) => {
	const text = `
triggers:
  http:
    - method: Get
    - method: '*'
  cron:
    - schedule: '* * * * *'
  kafka:
    - {bootstrap_servers: ['a:1'], topics: [t, u]}
    - {bootstrap_servers: ['a:1', 'b:2'], topics: [v], auto_offset_reset: earliest}
environment: {A: text, _b: "", OL_ENTRY_FILE: lib/app.py}
reuse-sandbox: false
limits: {${limitNames.map((name, index) => `${name}: ${index + 1}`).join(', ')}}
concurrency: 4
max-queue: 0
zygote: true
warmup: lib.app:caches.fill
network: {allow: ['a.example:1'], connections: 2}
no-new-executables: true
`;
	t.deepEqual(parseConfig(text), {
		triggers: {
			http: ['GET', '*'],
			cron: [{schedule: '* * * * *'}],
			kafka: [
				{bootstrapServers: ['a:1'], topics: ['t', 'u'], autoOffsetReset: 'latest'},
				{bootstrapServers: ['a:1', 'b:2'], topics: ['v'], autoOffsetReset: 'earliest'},
			],
		},
		environment: {A: 'text', _b: '', OL_ENTRY_FILE: 'lib/app.py'},
		reuse: false,
		limits: Object.fromEntries(limitNames.map((name, index) => [name, index + 1])),
		concurrency: 4,
		maxQueue: 0,
		zygote: true,
		warmup: 'lib.app:caches.fill',
		network: {allow: ['a.example:1'], connections: 2, connectionsPerSecond: 64, transferMb: 1024},
		noNewExecutables: true,
		entryFile: 'lib/app.py',
	});
});

test('numbers and booleans of the environment keep the text that was written', (t) => {
	const text = 'environment: {A: 1.10, B: 0x1F, C: 12345678901234567890, D: True, E: 1e3, F: yes, G: 2024-01-01}';
	t.deepEqual(parseConfig(text).environment, {
		A: '1.10',
		B: '0x1F',
		C: '12345678901234567890',
		D: 'True',
		E: '1e3',
		F: 'yes',
		G: '2024-01-01',
	});
});

test('names of built-in properties are plain variables', (t) => {
	const {environment} = parseConfig('environment: {__proto__: a, constructor: b, toString: c}');
	t.deepEqual(Object.entries(environment), [
		['__proto__', 'a'],
		['constructor', 'b'],
		['toString', 'c'],
	]);
	t.is(Object.getPrototypeOf(environment), Object.prototype);
	t.is(Object.getPrototypeOf({}).a, undefined);
});

const bomb = `x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n${[1, 2, 3, 4, 5, 6, 7, 8]
	.map((n) => `x${n}: &x${n} [${new Array(10).fill(`*x${n - 1}`).join(', ')}]`)
	.join('\n')}`;

const bad: ReadonlyArray<readonly [label: string, text: string, message: RegExp]> = [
	['an unknown key', 'memory: 5', /unknown key "memory", expected one of environment, reuse-sandbox/],
	['a key of the prototype', '__proto__: {zygote: true}', /unknown key "__proto__"/],
	['a merge key', '<<: {zygote: true}', /unknown key "<<"/],
	['a list', '- a', /the document is an array, expected a mapping/],
	['a scalar', 'hello', /the document is .*expected a mapping/],
	['several documents', 'zygote: true\n---\nzygote: false', /multiple documents/],
	['a double key', 'zygote: true\nzygote: false', /unique/],
	['broken syntax', 'environment: {', /./],
	['a custom tag', 'environment: !!js/function {A: b}', /tag/],
	['a binary tag', 'environment: {A: !!binary aGk=}', /tag/],
	['a local tag', 'zygote: !ruby/object true', /tag/],
	['a mapping as key', '? {a: b}\n: c', /keys must be strings/],
	['too many aliases', bomb, /alias/],
	['too deep nesting', `triggers: ${'['.repeat(30_000)}`, /./],
	['too much', `#${' '.repeat(64 * 1024)}`, /larger than 65536 bytes/],
	['triggers: a list', 'triggers: [http]', /triggers is an array, expected a mapping/],
	['triggers: nothing', 'triggers:', /triggers is null/],
	['triggers: another kind', 'triggers: {mqtt: []}', /unknown key "triggers.mqtt"/],
	['triggers.http: no list', 'triggers: {http: GET}', /triggers.http is "GET", expected a list/],
	['triggers.http: an empty method', 'triggers: {http: [{method: ""}]}', /triggers.http\[0\].method is ""/],
	['triggers.http: no method', 'triggers: {http: [{method: A B}]}', /expected a method of HTTP/],
	['triggers.http: another key', 'triggers: {http: [{path: a}]}', /unknown key "triggers.http\[0\].path"/],
	['triggers.cron: no schedule', 'triggers: {cron: [{}]}', /triggers.cron\[0\].schedule is/],
	['triggers.kafka: no topics', 'triggers: {kafka: [{bootstrap_servers: [a], topics: []}]}', /kafka\[0\].topics is/],
	[
		'triggers.kafka: another offset',
		'triggers: {kafka: [{bootstrap_servers: [a], topics: [b], auto_offset_reset: x}]}',
		/auto_offset_reset is "x", expected latest or earliest/,
	],
	['environment: a list', 'environment: [a]', /environment is an array/],
	['environment: a bad name', 'environment: {"1A": b}', /the name "1A"/],
	['environment: an empty name', 'environment: {"": b}', /the name ""/],
	['environment: a name with =', 'environment: {"A=B": b}', /the name "A=B"/],
	['environment: NUL', 'environment: {A: "b\\0c"}', /environment\.A holds a NUL/],
	['environment: nothing', 'environment: {A: }', /environment\.A is null/],
	['environment: a list as value', 'environment: {A: [b]}', /environment\.A is an array/],
	['environment: a mapping as value', 'environment: {A: {b: c}}', /environment\.A is of type object/],
	['reuse-sandbox: a word', 'reuse-sandbox: yes', /reuse-sandbox is "yes", expected true or false/],
	['zygote: a number', 'zygote: 1', /zygote is 1, expected true or false/],
	['warmup: no function', 'warmup: f', /warmup is "f", expected module:function/],
	['warmup: a path', 'warmup: a/f:g', /warmup is "a\/f:g", expected module:function/],
	['warmup: a number', 'warmup: 1', /warmup is 1, expected module:function/],
	['warmup without zygotes', '{warmup: "f:g", zygote: false}', /warmup: expected none with zygote: false/],
	['no-new-executables: a word', 'no-new-executables: yes', /no-new-executables is "yes", expected true or false/],
	['concurrency: zero', 'concurrency: 0', /concurrency is 0, expected a positive integer/],
	['concurrency: a fraction', 'concurrency: 1.5', /concurrency is 1\.5/],
	['concurrency: infinite', 'concurrency: .inf', /concurrency is Infinity/],
	['concurrency: text', 'concurrency: "4"', /concurrency is "4"/],
	['max-queue: below zero', 'max-queue: -1', /max-queue is -1, expected an integer from 0/],
	['limits: unknown', 'limits: {memory: 5}', /unknown key "limits\.memory", expected one of memoryMb/],
	['limits: text', 'limits: {memoryMb: "5"}', /limits\.memoryMb is "5"/],
	['limits: zero', 'limits: {memoryMb: 0}', /limits\.memoryMb is 0/],
	['limits: negative', 'limits: {cpuPercent: -1}', /limits\.cpuPercent is -1/],
	['limits: no number', 'limits: {cpuPercent: .nan}', /limits\.cpuPercent is NaN/],
	['limits: infinite', 'limits: {memoryMb: .inf}', /limits\.memoryMb is Infinity/],
	['limits: half a process', 'limits: {processes: 1.5}', /limits\.processes is 1\.5/],
	['limits: beyond timers', 'limits: {timeoutMs: 2147483648}', /limits\.timeoutMs is 2147483648/],
	['entry file: outside', 'environment: {OL_ENTRY_FILE: ../f.py}', /"\.\.\/f\.py".*expected the path of a \.py/],
	['entry file: absolute', 'environment: {OL_ENTRY_FILE: /f.py}', /is absolute/],
	['entry file: no Python', 'environment: {OL_ENTRY_FILE: f.txt}', /does not end in \.py/],
	['entry file: no name', 'environment: {OL_ENTRY_FILE: a/.py}', /does not end in \.py/],
];
for (const [label, text, message] of bad) {
	test(`${label} is refused`, (t) => {
		const error = t.throws(() => parseConfig(text), {instanceOf: ForktreeError});
		t.is(error?.code, 'InvalidConfig');
		t.regex(error?.message ?? '', /^ol\.yaml: /);
		t.regex(error?.message ?? '', message);
	});
}

test('a few aliases are fine', (t) => {
	t.deepEqual(parseConfig('environment: {A: &a b, C: *a}').environment, {A: 'b', C: 'b'});
});

test('options given in code fail with TypeError or RangeError', (t) => {
	const type = {instanceOf: TypeError};
	const range = {instanceOf: RangeError};
	t.throws(() => checkEnvironment([], 'environment', optionError), type);
	t.throws(() => checkEnvironment({A: undefined}, 'environment', optionError), type);
	t.throws(() => checkEnvironment({A: Number.NaN}, 'environment', optionError), range);
	t.throws(() => checkEnvironment({'a-b': ''}, 'environment', optionError), range);
	t.throws(() => checkEnvironment({A: '\0'}, 'environment', optionError), range);
	t.throws(() => checkLimits({memory: 1}, 'limits', optionError), type);
	t.throws(() => checkLimits({memoryMb: '1'}, 'limits', optionError), type);
	t.throws(() => checkLimits({memoryMb: -1}, 'limits', optionError), range);
	t.throws(() => checkConcurrency('1', 'concurrency', optionError), type);
	t.throws(() => checkConcurrency(0, 'concurrency', optionError), range);
	t.throws(() => checkBoolean('true', 'zygote', optionError), type);
	t.throws(() => checkEntryFile(1, 'entryFile', optionError), type);
	t.throws(() => checkEntryFile('/f.py', 'entryFile', optionError), range);
	t.deepEqual(checkEnvironment({A: 1.5, B: true}, 'environment', optionError), {A: '1.5', B: 'true'});
	t.deepEqual(checkLimits({timeoutMs: 0.5}, 'limits', optionError), {timeoutMs: 0.5});
});

test('the largest configuration is read in reasonable time', (t) => {
	const variables = Array.from({length: 4000}, (_, index) => `  A${index}: b`).join('\n');
	const start = performance.now();
	t.is(Object.keys(parseConfig(`environment:\n${variables}`).environment).length, 4000);
	t.true(performance.now() - start < 10_000);
});

/** Undefined when the text was refused as it should be. */
function parse(t: {true(value: boolean, message: string): void}, text: string, fault = /./) {
	try {
		return parseConfig(text);
	} catch (error) {
		const {code, message} = error as ForktreeError;
		t.true(error instanceof ForktreeError && code === 'InvalidConfig', String(error));
		t.true(message.startsWith('ol.yaml: ') && fault.test(message), message);
		return undefined;
	}
}

test('any text is a whole configuration or none', (t) => {
	const tokens = [
		'environment',
		'limits',
		'memoryMb',
		'zygote',
		'true',
		'1',
		': ',
		':',
		'\n',
		'  ',
		'- ',
		'{',
		'}',
		'[',
		']',
	];
	const marks = [
		',',
		'"',
		"'",
		'#',
		'&a',
		'*a',
		'!!',
		'!x',
		'? ',
		'|\n',
		'>',
		'---\n',
		'...\n',
		'%YAML 1.2\n',
		'<<',
		'\t',
		'\0',
	];
	const soup = fc.array(fc.constantFrom(...tokens, ...marks), {maxLength: 40}).map((parts) => parts.join(''));
	for (const text of [fc.string({unit: 'binary', maxLength: 100}), soup]) {
		fc.assert(
			fc.property(text, (each) => {
				const config = parse(t, each);
				if (config !== undefined) t.deepEqual(Object.keys(config).sort(), Object.keys(defaults).sort());
			}),
			parameters,
		);
	}
});

test('any JSON is a whole configuration, or the key that is wrong is named', (t) => {
	const mostly = (usual: fc.Arbitrary<unknown>) => fc.oneof({weight: 12, arbitrary: usual}, fc.jsonValue());
	const anyNumber = mostly(fc.oneof(fc.integer({min: 1}), fc.double({noNaN: true, noDefaultInfinity: true})));
	const name = fc.oneof(
		fc.constantFrom('A', 'OL_ENTRY_FILE', '__proto__'),
		fc.stringMatching(/^[A-Z_][A-Z0-9_]*$/),
		fc.string(),
	);
	const value = fc.oneof(fc.constantFrom('g.py', '/g.py'), fc.string(), fc.integer(), fc.boolean());
	const limits = fc.record(Object.fromEntries(limitNames.map((each) => [each, anyNumber])), {requiredKeys: []});
	const document = fc.record(
		{
			environment: mostly(fc.dictionary(name, mostly(value))),
			'reuse-sandbox': mostly(fc.boolean()),
			triggers: mostly(fc.dictionary(fc.string(), fc.jsonValue())),
			limits: mostly(limits),
			concurrency: anyNumber,
			'max-queue': anyNumber,
			zygote: mostly(fc.boolean()),
			warmup: mostly(fc.constantFrom('f:a', 'f')),
			'no-new-executables': mostly(fc.boolean()),
		},
		{requiredKeys: []},
	);
	const fault =
		/environment|reuse-sandbox|triggers|limits|concurrency|max-queue|zygote|warmup|no-new-executables|OL_ENTRY_FILE|the document|unknown key/;
	fc.assert(
		fc.property(mostly(document), (given) => {
			const config = parse(t, JSON.stringify(given), fault);
			if (config === undefined) return;
			const {limits: chosen, reuse, zygote, concurrency, maxQueue} = resolveSettings({}, config);
			t.true(Object.values(chosen).every((limit) => Number.isFinite(limit) && limit > 0));
			t.deepEqual([typeof reuse, typeof zygote], ['boolean', 'boolean']);
			t.true(Number.isSafeInteger(concurrency) && concurrency > 0);
			t.true(Number.isSafeInteger(maxQueue) && maxQueue >= 0);
			t.true(Object.values(config.environment).every((each) => typeof each === 'string'));
		}),
		parameters,
	);
});
