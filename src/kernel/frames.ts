/** Frames on a stream: length (4 bytes, little-endian, without the header), type (1 byte), payload. */

const headerSize = 5;

/** Thrown by {@link FrameDecoder} when the other side breaks the format; nothing after it can be trusted. */
export class FrameError extends Error {
	/** The type that the frame announced. */
	readonly type: number;

	constructor(message: string, type: number) {
		super(message);
		this.type = type;
	}
}

/** One frame as bytes. */
export function encodeFrame(type: number, payload: Uint8Array | string): Buffer {
	const size = Buffer.byteLength(payload);
	const frame = Buffer.allocUnsafe(headerSize + size);
	frame.writeUInt32LE(size, 0);
	frame[4] = type;
	if (typeof payload === 'string') frame.write(payload, headerSize);
	else frame.set(payload, headerSize);
	return frame;
}

/** Cuts a stream of bytes from an untrusted side into frames. */
export class FrameDecoder {
	readonly #maxSize: number;
	#chunks: Buffer[] = [];
	#buffered = 0;
	#wanted = headerSize;

	/** @param maxSize the largest payload that is accepted, in bytes */
	constructor(maxSize: number) {
		this.#maxSize = maxSize;
	}

	/**
	 * Takes bytes as they came and calls back for each whole frame.
	 * @throws {FrameError} when a frame announces more than the accepted size.
	 */
	push(data: Buffer, onFrame: (type: number, payload: Buffer) => void): void {
		this.#chunks.push(data);
		this.#buffered += data.length;
		while (this.#buffered >= this.#wanted) {
			const joined = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
			this.#chunks = [joined];
			const size = joined.readUInt32LE(0);
			if (size > this.#maxSize) {
				throw new FrameError(
					`expected a frame of at most ${this.#maxSize} bytes, got one of ${size}`,
					joined[4] as number,
				);
			}
			this.#wanted = headerSize + size;
			if (joined.length < this.#wanted) return;
			const payload = joined.subarray(headerSize, this.#wanted);
			const rest = joined.subarray(this.#wanted);
			this.#chunks = rest.length === 0 ? [] : [rest];
			this.#buffered = rest.length;
			this.#wanted = headerSize;
			onFrame(joined[4] as number, payload);
		}
	}
}
