import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {limitNames, parseConfig} from '../../src/lambda/config.ts';
import {
	checkDeployOptions,
	type ResolvedSettings,
	type RuntimeOptions,
	resolveRuntimeOptions,
	resolveSettings,
} from '../../src/lambda/options.ts';
import {defaultLimits} from '../../src/sandbox/limits.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const parameters = fuzzParameters(2);

for (const options of [null, 5, 'stateDir', [], [{python: 'python3'}]]) {
	test(`${JSON.stringify(options)} is no object of options`, (t) => {
		const message = /^(createRuntime|deploy) options: expected an object$/;
		t.throws(() => resolveRuntimeOptions(options as never), {instanceOf: TypeError, message});
		t.throws(() => checkDeployOptions(options as never), {instanceOf: TypeError, message});
	});
}

const anyValue = fc.anything({
	withBigInt: true,
	withDate: true,
	withMap: true,
	withNullPrototype: true,
	withSet: true,
	withSparseArray: true,
	withTypedArray: true,
});

/** A value of the right type, nearly always: else most errors would be those of the first option. */
function mostly<T>(usual: fc.Arbitrary<T>): fc.Arbitrary<unknown> {
	return fc.oneof({weight: 12, arbitrary: usual}, anyValue);
}

function anyOptions(options: Readonly<Record<string, fc.Arbitrary<unknown>>>): fc.Arbitrary<unknown> {
	const known = fc.record(options, {requiredKeys: []});
	const unknown = fc.tuple(known, fc.string(), anyValue).map(([object, key, value]) => ({...object, [key]: value}));
	return mostly(fc.oneof({weight: 8, arbitrary: known}, unknown));
}

/** What `resolve` answers; undefined when it threw an error of options whose message begins with one of `names`. */
function resolved<T>(t: {true(value: boolean, message: string): void}, names: RegExp, resolve: () => T): T | undefined {
	try {
		return resolve();
	} catch (error) {
		const isTree = error instanceof ForktreeError && error.code === 'InvalidTree';
		const isOption = error instanceof TypeError || error instanceof RangeError;
		t.true(isTree || (isOption && names.test(error.message)), String(error));
		return undefined;
	}
}

const anyText = mostly(fc.string({minLength: 1}));
const anyNumber = mostly(fc.oneof(fc.double(), fc.integer(), fc.integer({min: 1, max: 100})));

test('any options of a runtime are resolved or refused by name', (t) => {
	const options = anyOptions({
		stateDir: anyText,
		packagesDir: anyText,
		sharedPackages: mostly(fc.array(fc.string({minLength: 1}))),
		python: anyText,
		memoryBudgetMb: anyNumber,
		restore: mostly(fc.boolean()),
		offline: mostly(fc.boolean()),
		bestEffort: mostly(fc.boolean()),
		promote: mostly(fc.boolean()),
		spares: mostly(fc.integer({min: 0, max: 64})),
		instancePauseMs: anyNumber,
		instanceIdleMs: anyNumber,
		zygoteIdleMs: anyNumber,
		packagesGb: anyNumber,
		packagesIdleMs: anyNumber,
		limits: mostly(fc.dictionary(fc.constantFrom(...limitNames), fc.integer({min: 1}))),
		zygote: mostly(fc.boolean()),
		lookup: mostly(fc.constant(async () => [])),
		tree: mostly(fc.constant({packages: [], children: [{packages: ['a==1']}]})),
	});
	fc.assert(
		fc.property(options, (given) => {
			const names =
				/^(createRuntime options|stateDir|restore|packagesDir|sharedPackages|python|memoryBudgetMb|offline|bestEffort|promote|spares|tree|instancePauseMs|instanceIdleMs|zygoteIdleMs|packagesGb|packagesIdleMs|limits|zygote|lookup): |^(unknown key ")?limits\b/;
			const settings = resolved(t, names, () => resolveRuntimeOptions(given as never));
			if (settings === undefined) return;
			const {memoryBudgetMb, restore, offline, bestEffort, promote, tree, spares, lookup, gc, functions, ...others} =
				settings;
			const {instancePauseMs, instanceIdleMs, zygoteIdleMs, sharedPackages, ...texts} = others;
			t.true(sharedPackages.every((folder) => typeof folder === 'string' && folder !== ''));
			t.deepEqual(Object.keys(texts).sort(), ['packagesDir', 'python', 'stateDir']);
			t.true(Object.values(texts).every((text) => text === undefined || (typeof text === 'string' && text !== '')));
			t.true(gc === undefined || (gc.everyMs >= 60_000 && gc.everyMs <= 60 * 60_000));
			const {packagesGb, packagesIdleMs} = given as RuntimeOptions;
			const isMeant = packagesGb !== undefined || packagesIdleMs !== undefined;
			t.is(gc !== undefined, isMeant);
			const {limits = {}, zygote = true} = given as RuntimeOptions;
			t.deepEqual(functions, {limits: {...defaultLimits, ...limits}, zygote});
			t.is(typeof restore, 'boolean');
			t.is(typeof offline, 'boolean');
			t.is(typeof bestEffort, 'boolean');
			t.is(typeof lookup, 'function');
			t.is(typeof promote, 'boolean');
			t.true(Number.isInteger(spares) && spares >= 0 && spares <= 64);
			for (const idleMs of [instancePauseMs, instanceIdleMs, zygoteIdleMs]) t.true(idleMs >= 1 && idleMs < 2 ** 31);
			t.true(tree === undefined || tree.packages.length === 0);
			t.true(Number.isFinite(memoryBudgetMb) && memoryBudgetMb > 0);
		}),
		parameters,
	);
});

function isComplete(settings: ResolvedSettings): boolean {
	const {
		environment,
		limits,
		reuse,
		concurrency,
		maxQueue,
		zygote,
		entryFile,
		spares,
		ownZygote,
		warmup,
		network,
		triggers,
		noNewExecutables,
		...others
	} = settings;
	return (
		(network === 'none' || network.allow.every((rule) => typeof rule === 'string')) &&
		triggers.http.every((method) => method !== '') &&
		Object.keys(others).length === 0 &&
		Object.entries(environment).every(([name, value]) => /^\w+$/.test(name) && typeof value === 'string') &&
		Object.keys(limits).sort().join() === [...limitNames].sort().join() &&
		Object.values(limits).every((limit) => Number.isFinite(limit) && limit > 0) &&
		typeof reuse === 'boolean' &&
		Number.isSafeInteger(concurrency) &&
		concurrency > 0 &&
		Number.isSafeInteger(maxQueue) &&
		maxQueue >= 0 &&
		typeof zygote === 'boolean' &&
		typeof ownZygote === 'boolean' &&
		typeof noNewExecutables === 'boolean' &&
		(warmup === undefined || (warmup.includes(':') && zygote && ownZygote)) &&
		entryFile.endsWith('.py') &&
		spares >= 0 &&
		spares <= 64
	);
}

test('any options of a function are resolved or refused by name', (t) => {
	const config = parseConfig('{environment: {A: b}, limits: {memoryMb: 5}, concurrency: 3}');
	const variable = fc.oneof(
		{weight: 12, arbitrary: fc.stringMatching(/^[A-Z_][A-Z0-9_]*$/)},
		fc.constantFrom('OL_ENTRY_FILE', '__proto__'),
		fc.string(),
	);
	const content = mostly(
		fc.oneof(fc.constantFrom('g.py', 'lib/g.py', '../g.py'), fc.string(), fc.integer(), fc.boolean()),
	);
	const options = anyOptions({
		env: mostly(fc.dictionary(variable, content)),
		limits: anyOptions(Object.fromEntries(limitNames.map((name) => [name, anyNumber]))),
		requirements: mostly(fc.array(mostly(fc.string()))),
		reuse: mostly(fc.boolean()),
		concurrency: anyNumber,
		maxQueue: anyNumber,
		zygote: mostly(fc.boolean()),
		ownZygote: mostly(fc.boolean()),
		warmup: fc.option(fc.constantFrom('f:a', 'a.b:c.d', 'f', 'f:', 'f:a:b', 3), {nil: undefined}),
		spares: mostly(fc.integer({min: 0, max: 64})),
		noNewExecutables: mostly(fc.boolean()),
		network: mostly(
			fc.oneof(fc.constant('none'), anyOptions({allow: mostly(fc.constant(['a.example:1'])), connections: anyNumber})),
		),
	});
	const names =
		/^(deploy options|env|limits|requirements|reuse|concurrency|maxQueue|zygote|spares|ownZygote|warmup|network|noNewExecutables)\b|^unknown key "limits\./;
	fc.assert(
		fc.property(options, (given) => {
			const entryFile = resolved(t, names, () => checkDeployOptions(given as never) ?? 'f.py');
			if (entryFile === undefined) return;
			const settings = resolved(t, names, () => resolveSettings(given as never, {...config, entryFile}));
			if (settings === undefined) return;
			t.true(isComplete(settings), JSON.stringify(settings));
			const {limits} = given as {limits?: {memoryMb?: number}};
			t.is(settings.limits.memoryMb, limits?.memoryMb ?? 5);
		}),
		parameters,
	);
});

test('what is left out comes from ol.yaml, and else from the defaults', (t) => {
	const config = parseConfig(
		'{environment: {A: b, C: d}, limits: {memoryMb: 5, processes: 6}, concurrency: 3, max-queue: 0, zygote: false}',
	);
	t.deepEqual(resolveSettings({env: {A: 'e'}, limits: {processes: 7}, concurrency: 4}, config), {
		environment: {A: 'e', C: 'd'},
		limits: {...defaultLimits, memoryMb: 5, processes: 7},
		reuse: true,
		concurrency: 4,
		maxQueue: 0,
		spares: 4,
		ownZygote: true,
		warmup: undefined,
		zygote: false,
		network: 'none',
		triggers: {http: ['*'], cron: [], kafka: []},
		noNewExecutables: false,
		entryFile: 'f.py',
	});
	const defaults = resolveSettings({}, parseConfig(undefined));
	t.true(isComplete(defaults));
	t.deepEqual(defaults.limits, defaultLimits);
});

test('what a function leaves out comes from the runtime, where that says something', (t) => {
	const runtime = {limits: {...defaultLimits, memoryMb: 70, processes: 8, timeoutMs: 900}, zygote: false};
	const resolve = (yaml: string, options = {}) => resolveSettings(options, parseConfig(yaml), runtime);
	const {limits, zygote} = resolve('{limits: {memoryMb: 5}}', {limits: {timeoutMs: 1}});
	t.deepEqual(limits, {...defaultLimits, memoryMb: 5, processes: 8, timeoutMs: 1});
	t.false(zygote);
	t.true(resolve('{zygote: true}').zygote);
	t.true(resolve('{}', {zygote: true}).zygote);
	t.is(resolve('{warmup: "f:warm"}').warmup, undefined, 'nothing that could do it');
	t.throws(() => resolve('{warmup: "f:warm"}', {zygote: false}), {message: /^warmup: /});
});
