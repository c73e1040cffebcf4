import test from 'ava';
import fc from 'fast-check';
import {
	type MeasuredCost,
	type PackageContents,
	type PackageSummary,
	readContents,
	readCost,
	readSummary,
	readUser,
	type UserRecord,
	writeContents,
	writeCost,
	writeSummary,
	writeUser,
} from '../../src/packages/records.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const size = fc.nat(Number.MAX_SAFE_INTEGER);
const number = fc.double({min: 0, noNaN: true, noDefaultInfinity: true}).map((value) => value + 0);
const names = fc.array(fc.string());
const id = {name: 'a', version: '1.0'};

const summaries: fc.Arbitrary<PackageSummary> = fc.record({
	name: fc.constant('a'),
	version: fc.constant('1.0'),
	modules: names,
	requires: names,
	extras: fc.dictionary(fc.string(), names, {noNullPrototype: true}),
	sizeBytes: size,
	archive: fc.record({
		kind: fc.constantFrom('wheel', 'sdist'),
		file: fc.string(),
		url: fc.string(),
		sha256: fc.string(),
		sizeBytes: fc.option(size, {nil: undefined}),
	}),
	contentsSha256: fc.string(),
});
const contents: fc.Arbitrary<PackageContents> = fc.record({
	files: fc.array(fc.tuple(fc.string(), fc.string(), size)),
	nativeLibraries: fc.array(fc.record({file: fc.string(), needs: names})),
});
const costs: fc.Arbitrary<MeasuredCost> = fc.record(
	{
		exclusiveMs: number,
		inclusiveMs: number,
		privateMiB: number,
		runs: size,
		interpreter: fc.string(),
	},
	{requiredKeys: ['exclusiveMs', 'inclusiveMs', 'privateMiB', 'runs']},
);
const users: fc.Arbitrary<UserRecord> = fc.record({
	id: fc.string(),
	manifest: fc.tuple(fc.string(), fc.string()),
	packages: names,
});

const kinds = {
	summary: {values: summaries, write: writeSummary, read: (text: string) => readSummary(text, id)},
	contents: {values: contents, write: writeContents, read: readContents},
	cost: {values: costs, write: writeCost, read: readCost},
	user: {values: users, write: writeUser, read: readUser},
};

/** The value with one thing in it replaced by something else. */
function damaged(value: unknown, path: readonly number[], replacement: unknown): unknown {
	const [first, ...rest] = path;
	if (first === undefined || typeof value !== 'object' || value === null) return replacement;
	const keys = Object.keys(value);
	const key = keys[first % keys.length];
	if (key === undefined) return replacement;
	const inner = damaged((value as Record<string, unknown>)[key], rest, replacement);
	if (Array.isArray(value)) return value.map((each, index) => (String(index) === key ? inner : each));
	return {...value, [key]: inner};
}

for (const [name, {values, write, read}] of Object.entries(kinds) as ReadonlyArray<
	[string, {values: fc.Arbitrary<unknown>; write: (value: never) => string; read: (text: string) => unknown}]
>) {
	test(`${name}: what is written is read again`, (t) => {
		fc.assert(
			fc.property(values, (value) => {
				t.deepEqual(read(write(value as never)), JSON.parse(JSON.stringify(value), revive(value)));
			}),
			fuzzParameters(12),
		);
	});

	test(`${name}: any other text is either none, or read as something that is written to the same`, (t) => {
		const texts = fc.oneof(
			fc.string(),
			fc.json(),
			fc
				.tuple(values, fc.array(fc.nat(9), {maxLength: 4}), fc.jsonValue())
				.map(([value, path, replacement]) =>
					JSON.stringify(damaged(JSON.parse(write(value as never)), path, replacement)),
				),
			fc.tuple(values, fc.nat(), fc.nat(255)).map(([value, at, byte]) => {
				const bytes = Buffer.from(write(value as never));
				bytes[at % bytes.length] = byte;
				return bytes.toString();
			}),
			fc.tuple(values, fc.nat()).map(([value, at]) => write(value as never).slice(0, at % 500)),
		);
		fc.assert(
			fc.property(texts, (text) => {
				const value = read(text);
				if (value !== undefined) t.deepEqual(read(write(value as never)), value);
			}),
			fuzzParameters(12),
		);
	});
}

/** JSON has no undefined: a field of that value comes back as it was. */
function revive(value: unknown): (key: string, each: unknown) => unknown {
	const size = (value as Partial<PackageSummary>).archive;
	if (size === undefined || size.sizeBytes !== undefined) return (_, each) => each;
	return (key, each) => (key === 'archive' ? {...(each as object), sizeBytes: undefined} : each);
}

const wrong: ReadonlyArray<readonly [keyof typeof kinds, string]> = [
	['summary', JSON.stringify({format: 2})],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], name: 'b'} as PackageSummary)],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], version: '2'} as PackageSummary)],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], sizeBytes: -1} as PackageSummary)],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], modules: [1]} as unknown as PackageSummary)],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], extras: {a: 'b'}} as unknown as PackageSummary)],
	['summary', writeSummary({...fc.sample(summaries, 1)[0], archive: {kind: 'egg'}} as unknown as PackageSummary)],
	['contents', writeContents({files: [['a', 'b']], nativeLibraries: []} as unknown as PackageContents)],
	['contents', writeContents({files: [['a', 'b', 0.5]], nativeLibraries: []})],
	['contents', writeContents({files: [], nativeLibraries: [{file: 'a'}]} as unknown as PackageContents)],
	['cost', writeCost({exclusiveMs: -1, inclusiveMs: 0, privateMiB: 0, runs: 1})],
	['cost', writeCost({exclusiveMs: 1, inclusiveMs: 0, privateMiB: 0, runs: 1.5})],
	['user', writeUser({id: 'a', manifest: ['a'], packages: []} as unknown as UserRecord)],
	['user', writeUser({id: 'a', manifest: ['a', 'b', 'c'], packages: []} as unknown as UserRecord)],
];
for (const [index, [kind, text]] of wrong.entries()) {
	test(`${kind}: is none (${index}): ${text.slice(0, 60)}`, (t) => t.is(kinds[kind].read(text), undefined));
}
