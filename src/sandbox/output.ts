/** What a sandbox prints: kept up to a limit for the call that runs, and passed on as it comes. */
import {fchmodSync} from 'node:fs';
import {StringDecoder} from 'node:string_decoder';
import {type NativeEndpoint, watch} from '../native.ts';

/** So that /dev/stdout and its like can be opened by name, which only who has the pipe already can try. */
export function openByName(end: number): void {
	fchmodSync(end, 0o666);
}

/** Receives one stream of one call. */
export class OutputSink {
	readonly #limit: number;
	readonly #onText: ((text: string) => void) | undefined;
	/** Made with the first bytes: most calls print nothing. */
	#decoder: StringDecoder | undefined;
	#text = '';
	#bytes = 0;
	/** Whether something was dropped. */
	cut = false;

	/** @param limit in bytes; what comes after it is dropped and a mark put in its place */
	constructor(limit: number, onText?: (text: string) => void) {
		this.#limit = Math.floor(limit);
		this.#onText = onText;
	}

	push(data: Buffer): void {
		if (this.cut) return;
		const room = this.#limit - this.#bytes;
		this.#bytes += data.length;
		this.#decoder ??= new StringDecoder();
		this.#add(this.#decoder.write(data.subarray(0, room)));
		if (data.length > room) {
			this.cut = true;
			this.#add(`${this.#decoder.end()}\n[output cut after ${this.#limit} bytes]\n`);
		}
	}

	/** Begins with what another one has. */
	follow(earlier: OutputSink): void {
		if (earlier.#text !== '') this.push(Buffer.from(earlier.#text));
	}

	/** Nothing more comes: what is left of a character that was begun is no character. */
	end(): void {
		if (!this.cut && this.#decoder !== undefined) this.#add(this.#decoder.end());
	}

	#add(text: string): void {
		if (text === '') return;
		this.#text += text;
		this.#onText?.(text);
	}

	/** All of it so far. */
	get text(): string {
		return this.#text;
	}
}

/** The host's end of a sandbox's stdout or stderr. What comes while nobody listens is dropped. */
export class OutputPipe {
	readonly endpoint: NativeEndpoint;
	#sink: OutputSink | undefined;

	constructor(readEnd: number) {
		this.endpoint = watch(readEnd, 'pipe', (event, data) => {
			if (event === 0 && Buffer.isBuffer(data)) this.#sink?.push(data);
		});
	}

	/** Gives what comes from now on to `sink`. */
	direct(sink: OutputSink | undefined): void {
		this.#sink = sink;
	}

	/** Takes in what the sandbox has written up to now. */
	drain(): void {
		this.endpoint.drain();
	}

	close(): void {
		this.endpoint.close();
	}
}
