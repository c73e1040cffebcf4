import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {readImportCost, readMetadata} from '../../src/packages/metadata.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const sum = 'a'.repeat(64);
const expected = {name: 'pkg', version: '1.0'};
const good = {
	...expected,
	modules: ['pkg', 'ü'],
	requires: ['a', 'b-c'],
	extras: {x: ['d']},
	files: [
		['pkg/__init__.py', sum, 3],
		['pkg/z.so', sum, 0],
	],
	sizeBytes: 3,
	nativeLibraries: [{file: 'pkg/z.so', needs: ['libc.so.6']}],
};

test('metadata is read, sorted, without what is not known', (t) => {
	const shuffled = {
		...good,
		more: 1,
		modules: ['ü', 'pkg'],
		requires: ['b-c', 'a'],
		files: [...good.files].reverse(),
		nativeLibraries: [{...good.nativeLibraries[0], more: 1}],
	};
	t.deepEqual(readMetadata(JSON.parse(JSON.stringify(shuffled)), expected), good as never);
});

const file = (path: unknown, sha256: unknown = sum, size: unknown = 3) => ({
	files: [[path, sha256, size]],
	nativeLibraries: [],
});
const wrong: Readonly<Record<string, unknown>> = {
	nothing: undefined,
	null: null,
	'a list': [good],
	'another name': {...good, name: 'other'},
	'another version': {...good, version: '1.0.0'},
	'modules that are no names': {...good, modules: ['a..b']},
	'modules that are private': {...good, modules: ['_a']},
	'modules twice': {...good, modules: ['a', 'a']},
	'modules that are no list': {...good, modules: 'pkg'},
	'requirements as they are spelled': {...good, requires: ['A_b']},
	'a requirement that is a path': {...good, requires: ['../a']},
	'too many requirements': {...good, requires: Array.from({length: 10_001}, (_, n) => `r${n}`)},
	'extras in a list': {...good, extras: [['x', ['d']]]},
	'an extra that is no name': {...good, extras: {'x y': []}},
	'an extra without a list': {...good, extras: {x: 'd'}},
	'an absolute path': {...good, ...file('/etc/passwd')},
	'a path that leads outside': {...good, ...file('a/../../b')},
	'a path with a dot': {...good, ...file('./a')},
	'an empty path': {...good, ...file('')},
	'a folder': {...good, ...file('a/')},
	'a path with NUL': {...good, ...file('a\0b')},
	'a path with a line break': {...good, ...file('a\nb')},
	'a path with half a character': {...good, ...file('a\ud800b')},
	'a path that is too long': {...good, ...file(`${'d/'.repeat(600)}a`)},
	'a name that is too long': {...good, ...file('ü'.repeat(128))},
	'a path that is no text': {...good, ...file(['a'])},
	'a sum that is none': {...good, ...file('a', 'A'.repeat(64))},
	'a sum with a line break': {...good, ...file('a', `${sum}\n`)},
	'a size below 0': {...good, ...file('a', sum, -1), sizeBytes: -1},
	'a size that is not whole': {...good, ...file('a', sum, 0.5), sizeBytes: 0.5},
	'a size as text': {...good, ...file('a', sum, '3')},
	'a path twice': {...good, files: [good.files[0], good.files[0]], sizeBytes: 6, nativeLibraries: []},
	'a file that is a folder too': {
		...good,
		files: [
			['a', sum, 0],
			['a-b', sum, 0],
			['a/b/c', sum, 3],
		],
		nativeLibraries: [],
	},
	'a row that is too long': {...good, files: [['a', sum, 3, 4]], nativeLibraries: []},
	'another sum of sizes': {...good, sizeBytes: 4},
	'a native library that is no file': {...good, nativeLibraries: [{file: 'pkg/y.so', needs: []}]},
	'a native library twice': {...good, nativeLibraries: [good.nativeLibraries[0], good.nativeLibraries[0]]},
	'needs that are no text': {...good, nativeLibraries: [{file: 'pkg/z.so', needs: [1]}]},
	'needs with a control character': {...good, nativeLibraries: [{file: 'pkg/z.so', needs: ['a\x1b']}]},
};

for (const [what, value] of Object.entries(wrong)) {
	test(`metadata is refused for ${what}`, (t) => {
		const error = t.throws(() => readMetadata(value, expected), {instanceOf: ForktreeError});
		t.is(error.code, 'PackageDamaged');
		t.regex(error.message, /^pkg==1\.0: metadata: expected /);
	});
}

test('an extra with the name of a property of all objects is one of its own', (t) => {
	const {extras} = readMetadata({...good, extras: JSON.parse('{"constructor": ["a"]}')}, expected);
	t.deepEqual(Object.entries(extras), [['constructor', ['a']]]);
	t.throws(() => readMetadata({...good, extras: JSON.parse('{"__proto__": ["a"]}')}, expected), {
		instanceOf: ForktreeError,
	});
});

/** Good metadata in which one place, anywhere, holds something else. */
const mutated = fc
	.tuple(fc.nat(), fc.oneof(fc.jsonValue(), fc.string({unit: 'binary'}), fc.constantFrom('..', '/', '', -1, 1e300)))
	.map(([seed, value]) => {
		const copy: unknown = structuredClone(good);
		let place = copy as Record<string, unknown>;
		for (let rest = seed; ; rest = Math.floor(rest / 7)) {
			const keys = Object.keys(place);
			const key = keys[rest % Math.max(keys.length, 1)];
			if (key === undefined) return copy;
			const next = place[key];
			if (rest % 3 === 0 || typeof next !== 'object' || next === null) {
				place[key] = value;
				return copy;
			}
			place = next as Record<string, unknown>;
		}
	});

test('whatever is read, is either refused or sound', (t) => {
	fc.assert(
		fc.property(fc.oneof(fc.jsonValue(), mutated), (value) => {
			let read: ReturnType<typeof readMetadata>;
			try {
				read = readMetadata(value, expected);
			} catch (error) {
				return error instanceof ForktreeError && error.code === 'PackageDamaged';
			}
			const paths = read.files.map(([path]) => path);
			return (
				paths.every(
					(path) => !path.startsWith('/') && !path.split('/').some((part) => ['', '.', '..'].includes(part)),
				) &&
				paths.join('\n') === [...new Set(paths)].sort().join('\n') &&
				read.files.every(
					([, sha256, size]) => /^[0-9a-f]{64}$/.test(sha256) && Number.isSafeInteger(size) && size >= 0,
				) &&
				read.nativeLibraries.every(({file}) => paths.includes(file))
			);
		}),
		fuzzParameters(1),
	);
	t.pass();
});

test('costs are numbers from 0', (t) => {
	const cost = {exclusiveMs: 1.5, inclusiveMs: 2, privateMiB: 0, runs: 5};
	t.deepEqual(readImportCost({...cost, more: 1}), cost);
	for (const value of [-1, '1', null, undefined, Number.NaN, Number.POSITIVE_INFINITY]) {
		t.throws(() => readImportCost({...cost, privateMiB: value}), {instanceOf: ForktreeError});
	}
});
