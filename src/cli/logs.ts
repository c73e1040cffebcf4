/** `forktree logs`: what a function has printed in a running worker. */
import process from 'node:process';
import {exitCodes, Interrupts, print, printable} from './terminal.ts';
import {ask, findWorker, refused} from './worker-client.ts';

export type LogsFlags = {readonly path?: string; readonly follow?: boolean; readonly json?: boolean};

/** Answers the exit code, with `follow` once a signal has come or the worker has ended. */
export async function logs(name: string, {path, follow = false, json = false}: LogsFlags): Promise<number> {
	const worker = await findWorker(path);
	const interrupts = new Interrupts();
	try {
		const query = follow ? '?follow=1' : '';
		const answer = await ask(worker, `/logs/${encodeURIComponent(name)}${query}`, {signal: interrupts.signal});
		if (answer.status !== 200) return await refused(answer);
		let unfinished = '';
		for await (const chunk of answer.body.setEncoding('utf8')) {
			const lines: string[] = `${unfinished}${chunk}`.split('\n');
			unfinished = lines.pop() ?? '';
			for (const line of lines) await print(process.stdout, json ? `${line}\n` : textOf(line));
		}
		return exitCodes.ok;
	} catch (error) {
		if (interrupts.code === undefined) throw error;
		return interrupts.code;
	} finally {
		interrupts.close();
	}
}

/** What was printed, of a line that tells of that; others tell of the ends of calls. */
function textOf(line: string): string {
	const {text = ''} = JSON.parse(line) as {readonly text?: string};
	return printable(text);
}
