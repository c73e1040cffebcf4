import test from 'ava';
import fc from 'fast-check';
import {
	decodeBirth,
	decodeLauncherMessage,
	decodeParked,
	decodePopulated,
	encodeHandOver,
	encodeLeafRequest,
	encodeRefillRequest,
	encodeSpareRequest,
	encodeWorkingSet,
	encodeZygoteRequest,
	maxRanges,
} from '../../src/sandbox/launch-protocol.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const parameters = fuzzParameters(3);

const leaf = {
	id: 5,
	uid: 1000,
	ownUserNamespace: false,
	openFiles: 64,
	left: {processes: undefined, memoryMb: undefined},
	scratch: 'size=1k',
	hostname: 'h',
	folder: '/',
	network: undefined,
	targets: ['/a', '/b'],
	streams: true,
	ownNetwork: true,
	filter: true,
	workFolder: false,
	writable: 'none' as const,
	noNewExecutables: false,
};

function words(data: Buffer): number[] {
	return Array.from({length: 10}, (_each, index) => data.readUInt32LE(index * 4));
}

test('a request is ten words and text', (t) => {
	const request = encodeLeafRequest(leaf);
	t.deepEqual(words(request), ['L'.charCodeAt(0), 5, 1000, 0, 2, 0, 0, 64, 0, 0]);
	t.is(request.toString('utf8', 40), 'size=1k\0h\0/\0\0/a\0/b\0');
	const zygote = encodeZygoteRequest({start: 7, count: 9}, ['/a'], {modules: []});
	t.deepEqual(words(zygote), ['Z'.charCodeAt(0), 0, 0, 0, 1, 7, 9, 0, 0, 0]);
	t.is(zygote.toString('utf8', 40), '{"modules":[],"targets":["/a"]}');
	t.deepEqual(words(encodeRefillRequest()), ['N'.charCodeAt(0), 0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

test('a request that a launcher has no room for is refused', (t) => {
	const ofSize = (size: number) => () =>
		encodeLeafRequest({...leaf, targets: [], hostname: '', folder: 'x'.repeat(size)});
	const others = encodeLeafRequest({...leaf, targets: [], hostname: '', folder: ''}).length - 40;
	t.is(ofSize(65_535 - others)().length, 40 + 65_535);
	t.throws(ofSize(65_536 - others), {instanceOf: RangeError, message: /fewer than 65536 bytes of text, got 65536/});
});

test('a spare is asked for without what it is for, which a hand-over has', (t) => {
	const spare = encodeSpareRequest({...leaf, warmUps: true});
	t.deepEqual(words(spare), ['S'.charCodeAt(0), 5, 1000, 0, 0, 0, 0, 0, 0, 0]);
	t.is(spare.toString('utf8', 40), '\0h\0');
	t.is(words(encodeSpareRequest({...leaf, warmUps: false, filter: false, ownNetwork: false}))[3], 22);
	const handOver = encodeHandOver(leaf);
	const numbers = (data: Buffer) => [0, 4, 8, 12, 16].map((at) => data.readUInt32LE(at));
	t.deepEqual(numbers(handOver), [64, 2, 0, 0, 0]);
	t.deepEqual(numbers(encodeHandOver({...leaf, noNewExecutables: true})), [64, 2, 0, 0, 256]);
	t.deepEqual(numbers(encodeHandOver({...leaf, left: {processes: 7, memoryMb: 1.5}})), [64, 2, 7, 2, 0]);
	t.is(handOver.toString('utf8', 20), 'size=1k\0/\0\0/a\0/b\0');
	t.is(encodeHandOver({...leaf, scratch: undefined, targets: []}).toString('utf8', 20), '\0/\0\0');
});

test('a working set is words of eight bytes: how many ranges are written to, these, and those that are read', (t) => {
	const wordsOf = (data: Buffer) =>
		Array.from({length: data.length / 8}, (_each, i) => Number(data.readBigUInt64LE(i * 8)));
	const written = [[2 ** 46, 4096]] as const;
	t.deepEqual(wordsOf(encodeWorkingSet({written, read: [[8192, 12_288]]})), [1, 2 ** 46, 4096, 8192, 12_288]);
	t.deepEqual(wordsOf(encodeWorkingSet({written: [], read: []})), [0]);
	const many = Array.from({length: maxRanges + 5}, (_each, i) => [i * 8192, 4096] as const);
	t.is(encodeWorkingSet({written: many.slice(9), read: many}).length, 8 + maxRanges * 16);
	t.is(wordsOf(encodeWorkingSet({written: many, read: many}))[0], maxRanges);
	t.true(8 + maxRanges * 16 < 65_536, 'what a spare takes');
});

test('what a spare says is read, and anything else is not', (t) => {
	t.deepEqual(decodeParked('{"ms":1.5,"failed":["a"],"more":1}'), {ms: 1.5, failed: ['a']});
	for (const text of [
		'',
		'{',
		'null',
		'[]',
		'1',
		'{}',
		'{"ms":"1","failed":[]}',
		'{"ms":1,"failed":[1]}',
		'{"ms":1}',
	]) {
		t.is(decodeParked(text), undefined, text);
	}
	const data = Buffer.alloc(8);
	data.writeUInt32LE(7, 0);
	data.writeUInt32LE(2500, 4);
	t.deepEqual(decodePopulated(data), {ranges: 7, ms: 2.5});
	for (const other of [Buffer.alloc(7), Buffer.alloc(9), Buffer.alloc(0), 'eight of'] as const) {
		t.is(decodePopulated(other), undefined);
	}
});

for (const [title, change, flags] of [
	['without streams', {streams: false}, 1],
	['with its launcher’s network', {ownNetwork: false}, 2],
	['without a filter', {filter: false}, 4],
	['with a work folder', {workFolder: true}, 8],
	['in a user namespace of its own', {ownUserNamespace: true}, 32],
	['with mounts to write to', {writable: 'mounts'}, 64],
	['with a root to write to', {writable: 'root'}, 128],
	['that executes nothing that it writes', {noNewExecutables: true}, 256],
] as const) {
	test(`a leaf ${title} is asked for by a bit`, (t) => t.is(words(encodeLeafRequest({...leaf, ...change}))[3], flags));
}

test('without scratch its word is empty', (t) => {
	t.is(encodeLeafRequest({...leaf, scratch: undefined, targets: []}).toString('utf8', 40), '\0h\0/\0\0');
});

test('a network is a word of a leaf and of a hand-over', (t) => {
	const network = 'p80;';
	t.is(encodeLeafRequest({...leaf, network}).toString('utf8', 40), 'size=1k\0h\0/\0p80;\0/a\0/b\0');
	t.is(encodeHandOver({...leaf, network}).toString('utf8', 20), 'size=1k\0/\0p80;\0/a\0/b\0');
});

test('a birth names the step that failed', (t) => {
	const data = Buffer.alloc(32);
	data.writeUInt32LE(3, 0);
	data.writeUInt32LE(5, 4);
	data.writeUInt32LE(13, 8);
	data.writeBigUInt64LE(7n, 16);
	data.writeBigUInt64LE(2n ** 33n, 24);
	const times = {beganMs: 7e-6, endedMs: 2 ** 33 / 1e6};
	t.deepEqual(decodeBirth(data), {id: 3, failedStep: 'mount proc', errno: 13, ...times});
	data.writeUInt32LE(0, 4);
	t.is(decodeBirth(data)?.failedStep, undefined);
	data.writeUInt32LE(77, 4);
	t.is(decodeBirth(data)?.failedStep, 'step 77');
});

test('any bytes are a birth or none', (t) => {
	fc.assert(
		fc.property(fc.uint8Array({maxLength: 40}), (bytes) => {
			return (decodeBirth(Buffer.from(bytes)) === undefined) === (bytes.length !== 32);
		}),
		parameters,
	);
	t.pass();
});

test('the messages of a launcher are read', (t) => {
	const message = (op: string, id: number, value: number) => {
		const data = Buffer.alloc(12);
		data.write(op);
		data.writeUInt32LE(id, 4);
		data.writeInt32LE(value, 8);
		return data;
	};
	t.deepEqual(decodeLauncherMessage(Buffer.from('B')), {type: 'born'});
	t.deepEqual(decodeLauncherMessage(Buffer.from('Rwords')), {type: 'ready', words: 'words'});
	t.deepEqual(decodeLauncherMessage(message('X', 3, 256)), {type: 'leafEnded', id: 3, status: 256});
	t.deepEqual(decodeLauncherMessage(message('E', 4, -11)), {type: 'forkFailed', id: 4, errno: -11});
});

for (const [title, data] of [
	['nothing', ''],
	['an unknown letter', 'Q'],
	['an end that is too short', 'X1234567890'],
	['an end that is too long', 'X123456789012'],
] as const) {
	test(`${title} is no message`, (t) => t.is(decodeLauncherMessage(Buffer.from(data)), undefined));
}

test('any bytes are a message or none', (t) => {
	const isMessage = (message: ReturnType<typeof decodeLauncherMessage>) =>
		message === undefined || ['born', 'ready', 'leafEnded', 'forkFailed'].includes(message.type);
	fc.assert(
		fc.property(fc.uint8Array({maxLength: 40}), (bytes) => isMessage(decodeLauncherMessage(Buffer.from(bytes)))),
		parameters,
	);
	fc.assert(
		fc.property(fc.constantFrom('X', 'E'), fc.nat(2 ** 32 - 1), fc.integer(), (op, id, value) => {
			const data = Buffer.alloc(12, op);
			data.writeUInt32LE(id, 4);
			data.writeInt32LE(value, 8);
			t.deepEqual(
				decodeLauncherMessage(data),
				op === 'X' ? {type: 'leafEnded', id, status: value} : {type: 'forkFailed', id, errno: value},
			);
		}),
		parameters,
	);
});
