import {machine} from 'node:os';
import test from 'ava';
import fc from 'fast-check';
import {ForktreeError} from '../../src/errors.ts';
import {
	abiOf,
	createLock,
	isSameVersion,
	type LockedDistribution,
	lockAsText,
	readArchiveName,
	readLock,
	writeLock,
} from '../../src/packages/lock.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const abi = 'cpython-311-x86_64';
const six: LockedDistribution = {
	name: 'six',
	version: '1.16.0',
	archive: {
		kind: 'wheel',
		file: 'six-1.16.0-py2.py3-none-any.whl',
		url: 'https://example.org/six-1.16.0-py2.py3-none-any.whl',
		sha256: 'a'.repeat(64),
		sizeBytes: 10,
	},
};
const lib: LockedDistribution = {
	name: 'my-lib',
	version: '2.0.post1',
	archive: {
		kind: 'sdist',
		file: 'My.Lib-2.0-1.tar.gz',
		url: 'file:///links/My.Lib-2.0-1.tar.gz',
		sha256: 'b'.repeat(64),
		sizeBytes: undefined,
	},
};

/** The message of what is refused. */
function refusal(run: () => unknown): string | undefined {
	try {
		run();
		return undefined;
	} catch (error) {
		if (error instanceof ForktreeError && error.code === 'InvalidRequirements') return error.message;
		throw error;
	}
}

test('a lock is sorted, and named by its content', (t) => {
	const lock = createLock(abi, [six, lib]);
	t.deepEqual(lock.distributions, [lib, six]);
	t.regex(lock.key, /^[0-9a-f]{32}$/);
	t.is(createLock(abi, [lib, six]).key, lock.key);
	t.not(createLock('cpython-312-x86_64', [lib, six]).key, lock.key);
	t.not(createLock(abi, [lib, {...six, archive: {...six.archive, sha256: 'c'.repeat(64)}}]).key, lock.key);
	const elsewhere = {...six, archive: {...six.archive, url: 'https://example.com/six.whl', sizeBytes: undefined}};
	t.is(createLock(abi, [lib, elsewhere]).key, lock.key);
	t.is(createLock(abi, []).distributions.length, 0);
});

test('the ABI is that of the interpreter on this machine', (t) => {
	const interpreter = {
		executable: '/usr/bin/python3',
		version: '3.11.2',
		build: '',
		cacheTag: 'cpython-311',
		directories: [],
	};
	t.is(abiOf(interpreter), `cpython-311-${machine()}`);
});

test('a lock that was written is read as it was', (t) => {
	const lock = createLock(abi, [six, lib]);
	t.deepEqual(readLock(JSON.parse(writeLock(lock))), lock);
	t.is(
		lockAsText(lock),
		`# for ${abi}
# file:///links/My.Lib-2.0-1.tar.gz
my-lib==2.0.post1 --hash=sha256:${'b'.repeat(64)}
# https://example.org/six-1.16.0-py2.py3-none-any.whl
six==1.16.0 --hash=sha256:${'a'.repeat(64)}
`,
	);
});

test('every field is looked at', (t) => {
	const wrong: ReadonlyArray<readonly [Record<string, unknown>, RegExp]> = [
		[{name: 'Six'}, /name/],
		[{name: '../six'}, /name/],
		[{name: 'six', version: '../1'}, /version/],
		[{version: '1/2'}, /version/],
		[{version: '..'}, /version/],
		[{version: ''}, /version/],
		[{version: '1.17.0'}, /file of six: expected a wheel of six 1.17.0/],
		[{archive: {...six.archive, kind: 'egg'}}, /archive/],
		[{archive: {...six.archive, kind: 'sdist'}}, /file of six: expected a sdist/],
		[{archive: {...six.archive, file: '../six-1.16.0-py3-none-any.whl'}}, /name of a file/],
		[{archive: {...six.archive, file: 'other-1.16.0-py3-none-any.whl'}}, /wheel of six/],
		[{archive: {...six.archive, file: 'six-1.16.0.exe'}}, /wheel of six/],
		[{archive: {...six.archive, sha256: 'A'.repeat(64)}}, /sha256/],
		[{archive: {...six.archive, sha256: undefined}}, /sha256/],
		[{archive: {...six.archive, sizeBytes: -1}}, /size/],
		[{archive: {...six.archive, sizeBytes: 1.5}}, /size/],
		[{archive: {...six.archive, url: 'ftp://example.org/six.whl'}}, /url/],
		[{archive: {...six.archive, url: 'javascript:1'}}, /url/],
		[{archive: {...six.archive, url: 'file://host/six.whl'}}, /url/],
		[{archive: {...six.archive, url: 'six.whl'}}, /url/],
		[{archive: null}, /archive/],
	];
	for (const [fields, message] of wrong) {
		const found = refusal(() => createLock(abi, [{...six, ...fields} as LockedDistribution]));
		t.regex(`${found}`, message, JSON.stringify(fields));
	}
	const secret = {...six, archive: {...six.archive, url: 'https://somebody:secret@example.org/six.whl'}};
	t.is(
		refusal(() => createLock(abi, [secret])),
		'lock, url of six: expected no credentials',
	);
	t.regex(`${refusal(() => createLock(abi, [six, six]))}`, /each name once/);
	t.regex(`${refusal(() => createLock('../x', [six]))}`, /abi/);
});

test('a lock that was changed is not read', (t) => {
	const good = JSON.parse(writeLock(createLock(abi, [six])));
	t.is(
		refusal(() => readLock(good)),
		undefined,
	);
	for (const bad of [
		null,
		[],
		'',
		{...good, format: 2},
		{...good, key: 'none'},
		{...good, abi: 'cpython-312-x86_64'},
		{...good, distributions: undefined},
		{...good, distributions: [null]},
		{...good, distributions: [{...six, version: '1.16'}]},
	]) {
		t.truthy(
			refusal(() => readLock(bad)),
			JSON.stringify(bad),
		);
	}
});

test('names of archives', (t) => {
	t.deepEqual(readArchiveName('my_lib-1.0-1-py3-none-any.whl', 'my-lib'), {kind: 'wheel', version: '1.0'});
	t.deepEqual(readArchiveName('my-lib-extra-1.0.zip', 'my-lib-extra'), {kind: 'sdist', version: '1.0'});
	t.deepEqual(readArchiveName('my_lib-1.0.tar.gz', 'my-lib'), {kind: 'sdist', version: '1.0'});
	t.is(readArchiveName('my_lib-1.0.tar.gz', 'other'), undefined);
	t.is(readArchiveName('my_lib.tar.gz', 'my-lib'), undefined);
});

test('spellings of versions', (t) => {
	for (const [left, right] of [
		['1.0', '1.0.0'],
		['1.0.0-beta.1', '1.0b1'],
		['2024.01.05', '2024.1.5'],
		['v1.0', '1.0'],
		['1.0-1', '1.0.post1'],
		['1.0+Local_1', '1.0+local.1'],
		['1!2.0', '1_2.0'],
	] as const) {
		t.true(isSameVersion(left, right), `${left} ${right}`);
	}
	for (const [left, right] of [
		['1.0', '1.1'],
		['1.10', '1.1'],
		['1.0', '1.0rc1'],
		['1.0a1', '1.0b1'],
	] as const) {
		t.false(isSameVersion(left, right), `${left} ${right}`);
	}
});

test('whatever is read, what comes of it is a lock that is written and read the same', (t) => {
	const text = fc.oneof(
		fc.string(),
		fc.constantFrom('six', '1.16.0', six.archive.file, six.archive.url, six.archive.sha256),
	);
	const archive = fc.record(
		{
			kind: fc.oneof(text, fc.constantFrom('wheel', 'sdist')),
			file: text,
			url: text,
			sha256: text,
			sizeBytes: fc.jsonValue(),
		},
		{requiredKeys: []},
	);
	const distribution = fc.record(
		{name: text, version: text, archive: fc.oneof(archive, fc.jsonValue())},
		{requiredKeys: []},
	);
	fc.assert(
		fc.property(text, fc.array(fc.oneof(distribution, fc.jsonValue())), (name, distributions) => {
			let lock: ReturnType<typeof createLock> | undefined;
			if (refusal(() => (lock = createLock(name, distributions as LockedDistribution[]))) !== undefined) return true;
			return lock !== undefined && readLock(JSON.parse(writeLock(lock))).key === lock.key;
		}),
		fuzzParameters(1),
	);
	t.pass();
});
