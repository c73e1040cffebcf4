/** What commands share: exit codes, writing that survives a closed pipe, and interrupts. */
import process from 'node:process';

export const exitCodes = {
	ok: 0,
	/** The handler's fault. */
	handler: 1,
	/** What was asked for can't be had: sandboxes don't work here, or the owner of a state folder lives. */
	refused: 1,
	/** As timeout(1). */
	timeout: 124,
	/** As timeout(1) and docker-run(1): not what was run, but what should have run it. */
	forktree: 125,
	/** As a shell says of a process that SIGKILL ended. */
	killed: 137,
} as const;

const interrupts = {SIGINT: 130, SIGTERM: 143} as const;
const brokenPipe: ReadonlySet<unknown> = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED']);

/** A reader may leave at any time: without a listener, that would end the process where it stands. */
export function ignoreBrokenPipes(): void {
	for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
}

/** Writes, and waits until it is written. @throws when it can't be, unless the reader has left */
export async function print(stream: NodeJS.WriteStream, data: string | Uint8Array): Promise<void> {
	await new Promise<void>((resolve, reject) => {
		stream.write(data, (error) => {
			if (error === null || error === undefined || brokenPipe.has((error as NodeJS.ErrnoException).code)) resolve();
			else reject(error);
		});
	});
}

/** Waits for something that does not fail, at most this long; answers whether it came. */
export async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
	let timer: NodeJS.Timeout | undefined;
	const deadline = new Promise<false>((resolve) => {
		timer = setTimeout(() => resolve(false), ms);
	});
	try {
		return await Promise.race([promise.then(() => true), deadline]);
	} finally {
		clearTimeout(timer);
	}
}

/** Text of several lines in one. */
export function oneLine(text: string): string {
	return text.trim().replace(/\s*\n\s*/g, ' | ');
}

/** Text that comes from files, without what a terminal would take for orders. */
export function printable(text: string): string {
	return text.replace(/[^\P{Cc}\n\t]/gu, (character) => {
		return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
	});
}

/** Reports an error of ours in one line; answers the exit code. */
export function failed(error: unknown): number {
	note(error instanceof Error ? error.message : String(error));
	return exitCodes.forktree;
}

/** Says something of ours in one line. */
export function note(message: string): void {
	process.stderr.write(`forktree: ${printable(oneLine(message))}\n`);
}

/** Hears SIGINT and SIGTERM: the first asks to end cleanly, the second ends at once. */
export class Interrupts {
	readonly #controller = new AbortController();
	readonly #onSignal = (name: NodeJS.Signals) => {
		const code = interrupts[name as keyof typeof interrupts];
		if (this.code !== undefined) process.exit(code);
		this.code = code;
		this.#controller.abort();
	};
	/** The exit code of what was interrupted; undefined when nothing was. */
	code: number | undefined;

	constructor() {
		for (const name of Object.keys(interrupts)) process.on(name, this.#onSignal);
	}

	get signal(): AbortSignal {
		return this.#controller.signal;
	}

	/** Signals do again what they do by default. */
	close(): void {
		for (const name of Object.keys(interrupts)) process.off(name, this.#onSignal);
	}
}
