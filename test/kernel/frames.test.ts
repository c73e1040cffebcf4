import test from 'ava';
import fc from 'fast-check';
import {encodeFrame, FrameDecoder, FrameError} from '../../src/kernel/frames.ts';

type Frame = readonly [type: number, payload: string];

/** What a decoder calls back with when it is given these pieces. */
function decode(pieces: readonly Uint8Array[], maxSize = 1 << 20): Frame[] {
	const decoder = new FrameDecoder(maxSize);
	const frames: Frame[] = [];
	for (const piece of pieces)
		decoder.push(Buffer.from(piece), (type, payload) => frames.push([type, payload.toString('hex')]));
	return frames;
}

const anyFrames = fc.array(fc.tuple(fc.nat(255), fc.uint8Array({maxLength: 40})), {maxLength: 8});

function encodeAll(frames: ReadonlyArray<readonly [number, Uint8Array]>): Buffer {
	return Buffer.concat(frames.map(([type, payload]) => encodeFrame(type, payload)));
}

test('a frame is its length, its type and its payload', (t) => {
	t.is(encodeFrame(7, Buffer.from('abc')).toString('hex'), '0300000007616263');
	t.is(encodeFrame(255, new Uint8Array()).toString('hex'), '00000000ff');
	t.is(encodeFrame(1, 'ä').toString('hex'), '0200000001c3a4');
});

for (const [title, hex, expected] of [
	['nothing', '', []],
	['half a header', '00000000', []],
	['an empty payload', '0000000004', [[4, '']]],
	['a payload that has not come', '0200000004ff', []],
	[
		'two frames',
		'0100000004ff0000000005',
		[
			[4, 'ff'],
			[5, ''],
		],
	],
	['a frame and a half', '0100000004ff02000000', [[4, 'ff']]],
	['a frame of the largest size', `0800000004${'00'.repeat(8)}`, [[4, '00'.repeat(8)]]],
] as ReadonlyArray<readonly [string, string, readonly Frame[]]>) {
	test(`decodes ${title}`, (t) => t.deepEqual(decode([Buffer.from(hex, 'hex')], 8), [...expected]));
}

for (const [title, hex] of [
	['one byte too many', '0900000004'],
	['the largest number', 'ffffffff00'],
	['a number that is negative as a signed one', '0000008000'],
] as const) {
	test(`refuses a length of ${title} before its payload comes`, (t) => {
		const decoder = new FrameDecoder(8);
		const error = t.throws(() => decoder.push(Buffer.from(hex, 'hex'), () => t.fail()), {instanceOf: FrameError});
		t.regex(error.message, /at most 8 bytes/);
		t.is(error.type, Number.parseInt(hex.slice(8), 16));
	});
}

test('frames before a bad one are given', (t) => {
	const frames: number[] = [];
	const bytes = Buffer.concat([encodeFrame(1, 'x'), encodeFrame(2, ''), Buffer.from('ffffffff63', 'hex')]);
	t.throws(() => new FrameDecoder(8).push(bytes, (type) => frames.push(type)), {instanceOf: FrameError});
	t.deepEqual(frames, [1, 2]);
});

test('wherever the stream is cut once, the frames are the same', (t) => {
	fc.assert(
		fc.property(anyFrames, (frames) => {
			const bytes = encodeAll(frames);
			const expected = frames.map(([type, payload]) => [type, Buffer.from(payload).toString('hex')]);
			for (let at = 0; at <= bytes.length; at += 1)
				t.deepEqual(decode([bytes.subarray(0, at), bytes.subarray(at)]), expected as never);
		}),
		{numRuns: 30},
	);
});

test('byte by byte the frames are the same', (t) => {
	fc.assert(
		fc.property(anyFrames, (frames) => {
			const bytes = encodeAll(frames);
			t.deepEqual(decode([...bytes].map((byte) => Uint8Array.of(byte))), decode([bytes]));
		}),
	);
});

test('garbage is frames or a FrameError, never anything else', (t) => {
	fc.assert(
		fc.property(fc.array(fc.uint8Array({maxLength: 30}), {maxLength: 6}), (pieces) => {
			try {
				const total = decode(pieces, 64).reduce((sum, [, payload]) => sum + 5 + payload.length / 2, 0);
				return total <= pieces.reduce((sum, piece) => sum + piece.length, 0);
			} catch (error) {
				return error instanceof FrameError;
			}
		}),
	);
	t.pass();
});
