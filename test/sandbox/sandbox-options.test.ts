import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/index.ts';
import {
	defaultSandboxLimits,
	resolvePoolOptions,
	resolveSandboxOptions,
	type SandboxOptions,
} from '../../src/sandbox/sandbox-options.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const names = [
	...['base', 'layers', 'writable', 'mounts', 'network', 'limits', 'env', 'cwd', 'hostname', 'uid', 'devices'],
	...['seccomp', 'waitMs'],
];

/** Something that an option may be, or anything at all. */
function mostly<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<unknown> {
	return fc.oneof({weight: 4, arbitrary: arbitrary as fc.Arbitrary<unknown>}, {weight: 1, arbitrary: fc.anything()});
}

const path = fc.oneof(fc.constantFrom('/', '/tmp', '/usr/bin', '/opt/x', '/a/../b', 'relative', '/end/'), fc.string());
const amount = mostly(fc.double({min: -1, max: 1000}));
const limits = fc.dictionary(fc.constantFrom(...Object.keys(defaultSandboxLimits), 'other'), amount, {maxKeys: 4});
const mount = fc.record(
	{
		source: mostly(fc.oneof(path, fc.array(mostly(path), {maxLength: 3}))),
		target: mostly(path),
		readonly: mostly(fc.boolean()),
	},
	{requiredKeys: []},
);
const options = fc.record(
	{
		base: mostly(path),
		layers: mostly(fc.array(mostly(path), {maxLength: 3})),
		writable: mostly(fc.oneof(fc.constantFrom('none', 'scratch', 'overlay'), fc.record({overlay: path}))),
		mounts: mostly(fc.array(mostly(mount), {maxLength: 3})),
		network: mostly(fc.constantFrom('none', 'host')),
		limits: mostly(limits),
		env: mostly(fc.dictionary(fc.string(), mostly(fc.string()))),
		cwd: mostly(path),
		hostname: mostly(fc.string()),
		uid: mostly(fc.integer({min: -1, max: 70_000})),
		devices: mostly(fc.array(mostly(fc.constantFrom('null', 'kvm', 'net/tun', '../mem')), {maxLength: 4})),
		seccomp: mostly(fc.constantFrom('default', 'off')),
		waitMs: amount,
	},
	{requiredKeys: []},
) as fc.Arbitrary<SandboxOptions>;

test('whatever is given: the options are whole, or the error names the one that is wrong', (t) => {
	fc.assert(
		fc.property(options, options, (given, defaults) => {
			try {
				const pool = resolvePoolOptions({defaults});
				const resolved = resolveSandboxOptions(given, pool.defaults);
				t.true(resolved.limits.memoryMb > 0 && resolved.cwd.startsWith('/') && resolved.devices.includes('null'));
				t.false(resolved.writable === 'overlay' && resolved.limits.scratchMb === 0);
			} catch (error) {
				if (!(error instanceof TypeError || error instanceof RangeError || error instanceof ForktreeError)) throw error;
				const [name = ''] = error.message.split(/[:.[ ]/);
				t.true([...names, 'sandbox'].includes(name), error.message);
			}
		}),
		fuzzParameters(1),
	);
});

test('what is not given comes from the pool, and else is built in', (t) => {
	const {defaults} = resolvePoolOptions({
		defaults: {limits: {memoryMb: 5, processes: 6}, env: {A: 'b', C: 'd'}, hostname: 'pool', cwd: '/usr', uid: 7},
	});
	const resolved = resolveSandboxOptions({limits: {processes: 7}, env: {A: 'e'}}, defaults);
	t.deepEqual(resolved.limits, {...defaultSandboxLimits, memoryMb: 5, processes: 7});
	t.deepEqual(resolved.env, {A: 'e', C: 'd'});
	t.like(resolved, {hostname: 'pool', cwd: '/usr', uid: 7, network: 'none', writable: 'scratch', base: 'host'});
	t.deepEqual(resolveSandboxOptions({hostname: undefined} as never, defaults).hostname, 'pool');
	t.like(resolveSandboxOptions({}), {cwd: '/tmp/work', uid: undefined, hostname: 'sandbox', defaultFilter: true});
});

test('the folder and the user follow what is writable', (t) => {
	t.is(resolveSandboxOptions({writable: 'none'}).cwd, '/');
	t.is(resolveSandboxOptions({limits: {scratchMb: 0}}).cwd, '/');
	t.is(resolveSandboxOptions({writable: 'overlay'}).uid, 0);
	t.is(resolveSandboxOptions({writable: 'overlay', uid: 5}).uid, 5);
	const {defaults} = resolvePoolOptions({defaults: {writable: 'overlay'}});
	t.is(resolveSandboxOptions({}, defaults).uid, 0);
	t.is(resolveSandboxOptions({writable: 'scratch'}, defaults).uid, undefined);
	t.throws(() => resolveSandboxOptions({limits: {scratchMb: 0}}, defaults), {message: /^limits.scratchMb: /});
});
