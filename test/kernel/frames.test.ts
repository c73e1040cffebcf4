import {writeSync} from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import {FrameChannel, type FrameError} from '../../src/kernel/frames.ts';
import {closeFd, pipe, socketPair, watch} from '../../src/native.ts';

type Frame = readonly [type: number, payload: string];
type Heard = {readonly frames: Frame[]; readonly error: FrameError | undefined};

/** What a channel tells when the other side writes these pieces, one after the other, and closes. */
async function hear(pieces: readonly Uint8Array[], maxSize = 1 << 20): Promise<Heard> {
	const [ours, theirs] = socketPair(false);
	const frames: Frame[] = [];
	return new Promise((resolve) => {
		const channel = new FrameChannel(ours, maxSize, {
			frame: (type, payload) =>
				frames.push([type, typeof payload === 'string' ? `text ${payload}` : payload.toString('hex')]),
			broken: (error) => {
				channel.close();
				resolve({frames, error});
			},
		});
		void writeAll(theirs, pieces);
	});
}

async function writeAll(fd: number, pieces: readonly Uint8Array[]): Promise<void> {
	try {
		for (const piece of pieces) {
			if (piece.length > 0) writeSync(fd, piece);
			await new Promise(setImmediate); // so that it is read by itself
		}
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error; // it was closed after a bad frame
	} finally {
		closeFd(fd);
	}
}

function encode(type: number, payload: Uint8Array): Buffer {
	const header = Buffer.alloc(5);
	header.writeUInt32LE(payload.length, 0);
	header[4] = type;
	return Buffer.concat([header, payload]);
}

const anyFrames = fc.array(fc.tuple(fc.nat(127), fc.uint8Array({maxLength: 40})), {maxLength: 8});

function expected(frames: ReadonlyArray<readonly [number, Uint8Array]>): Frame[] {
	return frames.map(([type, payload]) => [type, Buffer.from(payload).toString('hex')]);
}

for (const [title, type, payload, hex] of [
	['bytes', 7, Buffer.from('abc'), '0300000007616263'],
	['nothing', 255, new Uint8Array(), '00000000ff'],
	['text', 1, 'ä', '0200000001c3a4'],
	['text that is longer than it looks', 1, 'ä'.repeat(3000), `7017000001${'c3a4'.repeat(3000)}`],
	['text that just fills the small buffer', 1, 'x'.repeat(4090), `fa0f000001${'78'.repeat(4090)}`],
	['many bytes', 2, Buffer.alloc(5000, 1), `8813000002${'01'.repeat(5000)}`],
] as const) {
	test(`sends ${title}: its length, its type and its payload`, async (t) => {
		const [ours, theirs] = socketPair(false);
		const channel = new FrameChannel(ours, 10, {frame: () => t.fail(), broken: () => t.fail()});
		t.is(channel.send(type, payload), undefined);
		channel.close();
		const parts: Buffer[] = [];
		await new Promise<void>((resolve) => {
			const reader = watch(theirs, 'pipe', (event, data) => {
				if (event === 0) return void parts.push(data as Buffer);
				reader.close();
				resolve();
			});
		});
		t.is(Buffer.concat(parts).toString('hex'), hex);
		t.is(channel.send(type, payload), 'EPIPE');
	});
}

for (const [title, hex, frames] of [
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
	['text', '0200000080c3a4', [[128, 'text ä']]],
	['text that is no UTF-8', '0100000080ff', [[128, 'text \ufffd']]],
] as ReadonlyArray<readonly [string, string, readonly Frame[]]>) {
	test(`hears ${title}`, async (t) => {
		t.deepEqual(await hear([Buffer.from(hex, 'hex')], 8), {frames: [...frames], error: undefined});
	});
}

for (const [title, hex] of [
	['one byte too many', '0900000004'],
	['the largest number', 'ffffffff00'],
	['a number that is negative as a signed one', '0000008000'],
	['too much text', '09000000ff'],
] as const) {
	test(`refuses a length of ${title} before its payload comes`, async (t) => {
		const {frames, error} = await hear([Buffer.from(hex, 'hex')], 8);
		t.deepEqual(frames, []);
		t.regex(error?.message ?? '', /at most 8 bytes/);
		t.is(error?.type, Number.parseInt(hex.slice(8), 16));
	});
}

test('frames before a bad one are told', async (t) => {
	const bytes = [encode(1, Buffer.from('x')), encode(2, Buffer.alloc(0)), Buffer.from('ffffffff63', 'hex')];
	const {frames, error} = await hear([Buffer.concat(bytes)], 8);
	t.deepEqual(
		frames.map(([type]) => type),
		[1, 2],
	);
	t.is(error?.type, 0x63);
});

test('wherever the stream is cut once, the frames are the same', async (t) => {
	await fc.assert(
		fc.asyncProperty(anyFrames, async (frames) => {
			const bytes = Buffer.concat(frames.map(([type, payload]) => encode(type, payload)));
			const cuts = Array.from({length: bytes.length + 1}, async (_each, at) =>
				hear([bytes.subarray(0, at), bytes.subarray(at)]),
			);
			for (const heard of await Promise.all(cuts)) {
				t.deepEqual(heard, {frames: expected(frames), error: undefined});
			}
		}),
		{numRuns: 10},
	);
});

test('byte by byte the frames are the same', async (t) => {
	await fc.assert(
		fc.asyncProperty(anyFrames, async (frames) => {
			const bytes = Buffer.concat(frames.map(([type, payload]) => encode(type, payload)));
			const heard = await hear([...bytes].map((byte) => Uint8Array.of(byte)));
			t.deepEqual(heard.frames, expected(frames));
		}),
		{numRuns: 10},
	);
});

test('garbage is frames, or refused', async (t) => {
	await fc.assert(
		fc.asyncProperty(fc.array(fc.uint8Array({maxLength: 30}), {maxLength: 6}), async (pieces) => {
			const {frames} = await hear(pieces, 64);
			t.true(frames.length * 5 <= pieces.reduce((sum, piece) => sum + piece.length, 0));
		}),
	);
});

test('what a followed pipe holds is told before the frame that was written after it', async (t) => {
	const order: string[] = [];
	const [ours, theirs] = socketPair(false);
	const [readEnd, writeEnd] = pipe();
	const printed = watch(readEnd, 'pipe', (event, data) => event === 0 && order.push(String(data)));
	let onFrame = () => {};
	const channel = new FrameChannel(ours, 100, {
		frame: () => {
			order.push('frame');
			onFrame();
		},
		broken: () => channel.close(),
	});
	channel.follow([printed]);
	for (const words of ['first', 'second']) {
		const told = new Promise<void>((resolve) => {
			onFrame = resolve;
		});
		writeSync(writeEnd, words);
		writeSync(theirs, encode(1, Buffer.alloc(0)));
		await told;
	}
	t.deepEqual(order, ['first', 'frame', 'second', 'frame']);
	printed.close();
	for (const fd of [writeEnd, theirs]) closeFd(fd);
});

test('frames that are sent together come in one piece, with the fds of the first', async (t) => {
	const [ours, theirs] = socketPair(true); // which keeps the borders of what was sent at once
	const [readEnd, writeEnd] = pipe();
	const channel = new FrameChannel(ours, 10, {frame: () => t.fail(), broken: () => t.fail()});
	const pieces: string[] = [];
	const fds: number[] = [];
	let onPiece = () => {};
	const reader = watch(theirs, 'packets', (event, data, taken) => {
		if (event !== 0) return;
		pieces.push((data as Buffer).toString('hex'));
		fds.push(...(taken ?? []));
		onPiece();
	});
	const told = new Promise<void>((resolve) => {
		onPiece = () => pieces.length === 3 && resolve();
	});
	channel.send(1, 'a');
	channel.together(() => {
		channel.send(2, 'b', [writeEnd]);
		channel.send(3, '');
		channel.send(4, Buffer.from('c'));
	});
	channel.together(() => {});
	channel.send(5, '');
	await told;
	t.deepEqual(pieces, ['010000000161', '0100000002620000000003010000000463', '0000000005']);
	t.is(fds.length, 1);
	channel.close();
	reader.close();
	for (const fd of [readEnd, writeEnd, ...fds]) closeFd(fd);
});

test('what is accepted can be changed between frames', async (t) => {
	const [ours, theirs] = socketPair(false);
	const sizes: number[] = [];
	const error = await new Promise<FrameError | undefined>((resolve) => {
		const channel = new FrameChannel(ours, 2, {
			frame: (_type, payload) => {
				sizes.push(payload.length);
				channel.accept(5);
			},
			broken: (reason) => {
				channel.close();
				resolve(reason);
			},
		});
		writeSync(theirs, Buffer.concat([2, 5, 6].map((size) => encode(1, Buffer.alloc(size)))));
	});
	t.deepEqual(sizes, [2, 5]);
	t.regex(error?.message ?? '', /at most 5 bytes, got one of 6/);
	closeFd(theirs);
});
