/**
 * Frames on a stream socket: length (4 bytes, little-endian, without the header), type (1 byte), payload.
 * Of a type from 128 on the payload is UTF-8 text, of any other bytes. The addon cuts the stream into frames.
 */
import {getSystemErrorName} from 'node:util';
import {type NativeEndpoint, watch} from '../native.ts';

/** Text or bytes, by the frame's type. */
export type FramePayload = string | Buffer;

/** The other side broke the format; nothing after it can be trusted. */
export class FrameError extends Error {
	/** The type that the frame announced. */
	readonly type: number;

	constructor(message: string, type: number) {
		super(message);
		this.type = type;
	}
}

/** Called for what the other side says; it is untrusted. */
export type FrameListener = {
	frame(type: number, payload: FramePayload): void;
	/** The end of the stream, or something that is no frame. */
	broken(error: FrameError | undefined): void;
};

/** Owns one end of a socket. */
export class FrameChannel {
	readonly #endpoint: NativeEndpoint;
	#maxSize: number;

	/** @param maxSize the largest payload that is accepted, in bytes */
	constructor(fd: number, maxSize: number, listener: FrameListener) {
		this.#maxSize = maxSize;
		this.#endpoint = watch(
			fd,
			'frames',
			(event, data, _fds, type) => {
				if (event === 0) listener.frame(type, data as FramePayload);
				else if (event !== 3) listener.broken(undefined);
				else {
					const message = `expected a frame of at most ${this.#maxSize} bytes, got one of ${data}`;
					listener.broken(new FrameError(message, type));
				}
			},
			maxSize,
		);
		this.#endpoint.refuseFds(); // the kernel drops those that the other side sends
	}

	/** Sets the largest payload that is accepted from the next frame on, in bytes. */
	accept(maxSize: number): void {
		this.#maxSize = maxSize;
		this.#endpoint.acceptFrames(maxSize);
	}

	/** Sends a frame; what can't be sent now is sent when there is room. The fds stay the caller's. @returns why it can't be sent at all, if so */
	send(type: number, payload: Uint8Array | string, fds?: readonly number[]): string | undefined {
		const sent = this.#endpoint.sendFrame(type, payload, fds);
		return sent < 0 ? getSystemErrorName(sent) : undefined;
	}

	/** Sends at once what is sent meanwhile, so that the other side is woken once. Only the first frame may have fds. */
	together(send: () => void): void {
		this.#endpoint.hold();
		try {
			send();
		} finally {
			this.#endpoint.letGo();
		}
	}

	/** From now on, what those have to read by the time that a frame comes is told before it. */
	follow(endpoints: readonly NativeEndpoint[]): void {
		this.#endpoint.follow(endpoints);
	}

	/** Stops taking frames in; a side that goes on sending waits. */
	pause(): void {
		this.#endpoint.pause();
	}

	resume(): void {
		this.#endpoint.resume();
	}

	close(): void {
		this.#endpoint.close();
	}
}
