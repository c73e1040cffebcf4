import test from 'ava';
import fc from 'fast-check';
import {decodeBirth, decodeZygoteMessage, encodeRequest, frameType} from '../../src/zygote/protocol.ts';

test('every frame type has a number of its own', (t) => {
	const numbers = Object.values(frameType);
	t.is(new Set(numbers).size, numbers.length);
});

test('a request is seven words and text', (t) => {
	const request = encodeRequest({op: 'leaf', id: 5, uid: 1000, openFiles: 64, packages: true, text: 'size=1k'});
	t.deepEqual(
		[0, 4, 8, 12, 16, 20, 24].map((at) => request.readUInt32LE(at)),
		['L'.charCodeAt(0), 5, 1000, 1, 0, 0, 64],
	);
	t.is(request.toString('utf8', 28), 'size=1k');
	const zygote = encodeRequest({op: 'zygote', id: 0, packages: false, range: {start: 7, count: 9}, text: '{}'});
	t.deepEqual(
		[0, 12, 16, 20].map((at) => zygote.readUInt32LE(at)),
		['Z'.charCodeAt(0), 0, 7, 9],
	);
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
	);
	t.pass();
});

const report = {failed: [{module: 'm', traceback: 't'}], threaded: ['x'], importMs: 1.5};

test('the messages of a zygote are read', (t) => {
	const words = (op: string, id: number, value: number) => {
		const data = Buffer.alloc(12);
		data.write(op);
		data.writeUInt32LE(id, 4);
		data.writeInt32LE(value, 8);
		return data;
	};
	t.deepEqual(decodeZygoteMessage(Buffer.from('B')), {type: 'born'});
	t.deepEqual(decodeZygoteMessage(Buffer.from(`R${JSON.stringify(report)}`)), {type: 'ready', report});
	t.deepEqual(decodeZygoteMessage(words('X', 3, 256)), {type: 'leafEnded', id: 3, status: 256});
	t.deepEqual(decodeZygoteMessage(words('E', 4, -11)), {type: 'forkFailed', id: 4, errno: -11});
});

for (const [title, data] of [
	['nothing', ''],
	['an unknown letter', 'Q'],
	['a report that is no JSON', 'R{'],
	['a report that is null', 'Rnull'],
	['a report of wrong fields', `R${JSON.stringify({...report, threaded: [1]})}`],
	['a report of null failures', `R${JSON.stringify({...report, failed: [null]})}`],
	['a report without a time', `R${JSON.stringify({...report, importMs: '1'})}`],
	['an end that is too short', 'X1234567890'],
	['an end that is too long', 'X123456789012'],
] as const) {
	test(`${title} is no message`, (t) => t.is(decodeZygoteMessage(Buffer.from(data)), undefined));
}

test('any bytes are a message or none', (t) => {
	fc.assert(
		fc.property(fc.uint8Array({maxLength: 40}), (bytes) =>
			['object', 'undefined'].includes(typeof decodeZygoteMessage(Buffer.from(bytes))),
		),
	);
	fc.assert(
		fc.property(fc.json(), (text) =>
			['object', 'undefined'].includes(typeof decodeZygoteMessage(Buffer.from(`R${text}`))),
		),
	);
	t.pass();
});
