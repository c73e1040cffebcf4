/** A program that answers each line with a line of JSON. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {createInterface} from 'node:readline';
import {withDeadline} from '../src/kernel/deadline.ts';

const endDeadlineMs = 15_000;

/** Owns the program's process. */
export type LineServer = {
	/** @throws when it has ended, or does not answer in time */
	ask(line: string, deadlineMs?: number): Promise<unknown>;
	/** Its first line, where it says one by itself. */
	greeting(): Promise<unknown>;
	/** Ends its input and waits for its end. @throws when it failed */
	close(): Promise<void>;
};

/** What it prints on stderr goes to ours. */
export function serveLines(file: string, args: readonly string[]): LineServer {
	const child = spawn(file, args, {stdio: ['pipe', 'pipe', 'inherit']});
	const ended = once(child, 'exit') as Promise<[number | null]>;
	child.stdin.on('error', () => undefined); // its end is told by the missing answer
	const lines = createInterface({input: child.stdout})[Symbol.asyncIterator]();
	const next = async (deadlineMs: number) => {
		const line = await withDeadline(lines.next(), deadlineMs, () => new Error(`${file} did not answer in time`));
		if (line.done === true) throw new Error(`${file} ended`);
		return JSON.parse(line.value) as unknown;
	};
	return {
		greeting: async () => next(10_000),
		ask: async (line, deadlineMs = 10_000) => {
			child.stdin.write(`${line}\n`);
			return next(deadlineMs);
		},
		async close() {
			child.stdin.end();
			const [code] = await withDeadline(ended, endDeadlineMs, () => new Error(`${file} did not end`));
			if (code !== 0) throw new Error(`${file} ended with ${code}`);
		},
	};
}
