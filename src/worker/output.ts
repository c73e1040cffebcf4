/** What handlers print, kept for a while: the newest lines of each function, and whoever follows them. */
import {Readable} from 'node:stream';

/** What a handler printed at once, or how its call ended. */
export type OutputLine =
	| {readonly requestId: string; readonly stream: 'stdout' | 'stderr'; readonly text: string}
	| {readonly requestId: string; readonly stream: 'end'; readonly status: number; readonly durationMs: number};

/** Kept of one function, and of all together: then those that printed nothing for the longest time go. */
const maxFunctionBytes = 64 * 1024;
const maxBytes = 16 * 1024 * 1024;
const maxTextLength = 16 * 1024;
/** What a follower may leave unread before it is cut off. */
const maxUnreadBytes = 1024 * 1024;

/** JSON lines of one function, the oldest first. */
type Ring = {readonly lines: string[]; bytes: number};

/** Keeps JSON lines by function. */
export class OutputLog {
	/** In the order in which they were last written to. */
	readonly #rings = new Map<string, Ring>();
	readonly #followers = new Map<string, Set<Readable>>();
	#bytes = 0;

	note(name: string, line: OutputLine): void {
		const text = encode(line);
		this.#keep(name, text);
		for (const follower of this.#followers.get(name) ?? []) {
			if (follower.readableLength > maxUnreadBytes) follower.destroy();
			else follower.push(text);
		}
	}

	/** A call that printed nothing is not worth a line, unless somebody follows. */
	noteEnd(name: string, line: OutputLine, hasPrinted: boolean): void {
		if (hasPrinted || this.#followers.has(name)) this.note(name, line);
	}

	/** What is kept of a function: one JSON document a line. */
	read(name: string): string {
		return this.#rings.get(name)?.lines.join('') ?? '';
	}

	/** What is kept, and then whatever comes, until the stream is destroyed or the log closed. */
	follow(name: string): Readable {
		const follower = new Readable({read: () => undefined});
		const followers = this.#followers.get(name) ?? new Set();
		this.#followers.set(name, followers.add(follower));
		follower.once('close', () => {
			followers.delete(follower);
			if (followers.size === 0) this.#followers.delete(name);
		});
		follower.push(this.read(name));
		return follower;
	}

	forget(name: string): void {
		this.#bytes -= this.#rings.get(name)?.bytes ?? 0;
		this.#rings.delete(name);
	}

	/** Ends what is followed. */
	close(): void {
		for (const followers of this.#followers.values()) for (const follower of followers) follower.push(null);
	}

	#keep(name: string, text: string): void {
		const ring = this.#rings.get(name) ?? {lines: [], bytes: 0};
		this.#rings.delete(name);
		this.#rings.set(name, ring);
		const before = ring.bytes;
		ring.lines.push(text);
		ring.bytes += text.length;
		while (ring.bytes > maxFunctionBytes) ring.bytes -= ring.lines.shift()?.length ?? 0;
		this.#bytes += ring.bytes - before;
		while (this.#bytes > maxBytes) this.forget([...this.#rings.keys()][0] ?? name);
	}
}

function encode(line: OutputLine): string {
	const time = new Date().toISOString();
	const cut = line.stream !== 'end' && line.text.length > maxTextLength;
	const kept = cut ? {...line, text: line.text.slice(0, maxTextLength), cut} : line;
	return `${JSON.stringify({time, ...kept})}\n`;
}
