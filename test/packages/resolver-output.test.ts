import test from 'ava';
import fc from 'fast-check';
import {stringify} from 'smol-toml';
import {type Found, readPipReport, readPylock} from '../../src/packages/resolver-output.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const sha256 = 'a'.repeat(64);

test('reads a pylock.toml', (t) => {
	const text = `
lock-version = "1.0"
[[packages]]
name = "My.Lib"
version = "1.0"
marker = "os_name == 'posix'"
wheels = [{ url = "https://example.org/a%2Bb/my_lib-1.0%2Bx-py3-none-any.whl", upload-time = 2024-02-05T23:53:15Z, size = 5, hashes = { sha256 = "${sha256}" } }]
`;
	const url = 'https://example.org/a%2Bb/my_lib-1.0%2Bx-py3-none-any.whl';
	const files = [{file: 'my_lib-1.0+x-py3-none-any.whl', url, sha256, sizeBytes: 5}];
	t.deepEqual(readPylock(text), [{name: 'my-lib', version: '1.0', files}]);
	t.deepEqual(readPylock('lock-version = "1.0"'), []);
});

test('reads a report of pip, old and new', (t) => {
	const url = 'https://example.org/six-1.0-py3-none-any.whl';
	const report = (archive: object) =>
		JSON.stringify({install: [{download_info: {url, archive_info: archive}, metadata: {name: 'six', version: '1.0'}}]});
	const found = [
		{name: 'six', version: '1.0', files: [{file: 'six-1.0-py3-none-any.whl', url, sha256, sizeBytes: undefined}]},
	];
	t.deepEqual(readPipReport(report({hash: `sha256=${sha256}`})), found);
	t.deepEqual(readPipReport(report({hashes: {sha256}})), found);
	t.throws(() => readPipReport(report({hash: `md5=${sha256}`})), {instanceOf: SyntaxError});
});

test('what lacks something is not read', (t) => {
	for (const text of [
		'x',
		'packages = 1',
		'packages = [1]',
		'[[packages]]\nname = "six"',
		'[[packages]]\nname = "six"\nversion = "1"\nwheels = []',
		'[[packages]]\nname = "six"\nversion = "1"\nsdist = {url = "https://example.org/six-1.tar.gz"}',
		'[[packages]]\nname = "six"\nversion = 1\nwheels = [{url = "https://example.org/x", hashes = {sha256 = "a"}}]',
		'[[packages]]\nname = "six"\nversion = "1"\nwheels = [{url = "x", hashes = {sha256 = "a"}}]',
		'[[packages]]\nname = "six"\nversion = "1"\nwheels = [{url = "https://example.org/x", hashes = {md5 = "a"}}]',
	]) {
		t.throws(() => readPylock(text), {instanceOf: SyntaxError}, text);
	}
	for (const text of ['', 'null', '[]', '{}', '{"install": [{}]}', '{"install": [null]}']) {
		t.throws(() => readPipReport(text), {instanceOf: SyntaxError}, text);
	}
});

/** Whether text is refused, or what comes of it has the types that it is said to have. */
function isSound(read: (text: string) => Found[], text: string): boolean {
	let found: Found[];
	try {
		found = read(text);
	} catch (error) {
		if (error instanceof SyntaxError) return true;
		throw error;
	}
	return found.every(
		({name, version, files}) =>
			typeof name === 'string' &&
			typeof version === 'string' &&
			files.length > 0 &&
			files.every(({file, url, sha256: hash}) => [file, url, hash].every((each) => typeof each === 'string')),
	);
}

const some = <T>(arbitrary: fc.Arbitrary<T>) =>
	fc.oneof({weight: 4, arbitrary}, {weight: 1, arbitrary: fc.jsonValue()});
const address = fc.constantFrom('https://example.org/%E0%A4%A', 'file:///x/six-1.0-py3-none-any.whl', 'six', '%');
const wheel = fc.record({
	url: some(address),
	size: some(fc.integer()),
	hashes: some(fc.record({sha256: some(fc.string())})),
});
const entry = fc.record({name: some(fc.string()), version: some(fc.string()), wheels: some(fc.array(some(wheel)))});
const item = fc.record({
	download_info: some(
		fc.record({url: some(address), archive_info: some(fc.record({hash: some(fc.string()), hashes: fc.jsonValue()}))}),
	),
	metadata: some(fc.record({name: some(fc.string()), version: some(fc.string())})),
});

test('whatever a sandbox prints is refused, or is what it is said to be', (t) => {
	const locks = fc.record({packages: some(fc.array(some(entry)))}).map((value) => {
		try {
			return stringify(value);
		} catch {
			return ''; // TOML has no null
		}
	});
	fc.assert(
		fc.property(fc.oneof(locks, fc.string()), (text) => isSound(readPylock, text)),
		fuzzParameters(2),
	);
	const reports = fc.record({install: some(fc.array(some(item)))}).map((value) => JSON.stringify(value));
	fc.assert(
		fc.property(fc.oneof(reports, fc.json(), fc.string()), (text) => isSound(readPipReport, text)),
		fuzzParameters(2),
	);
	const deep = `x = ${'['.repeat(100_000)}`;
	t.throws(() => readPylock(deep), {instanceOf: SyntaxError});
	t.throws(() => readPipReport(`${'['.repeat(100_000)}`), {instanceOf: SyntaxError});
});
