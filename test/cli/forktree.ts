/** Runs the command line from its source. */
import {mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {execa, type Options} from 'execa';

const main = path.join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.ts');

/** Starts `forktree` with these arguments; a failing one does not reject. */
export function forktree<const T extends Options>(args: readonly string[], options?: T) {
	return execa(process.execPath, ['--import=tsx', main, ...args], {
		stdin: 'ignore',
		timeout: 60_000,
		killSignal: 'SIGKILL',
		...options,
		reject: false,
		stripFinalNewline: false,
	} as T & {readonly reject: false; readonly stripFinalNewline: false});
}

/** Writes files, and the folders above them. */
export async function writeFiles(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
	for (const [name, content] of Object.entries(files)) {
		const file = path.join(folder, name);
		await mkdir(path.dirname(file), {recursive: true});
		await writeFile(file, content);
	}
}

/** Waits until a stream has said this. */
export async function said(stream: NodeJS.ReadableStream | null | undefined, words: string): Promise<string> {
	let text = '';
	for await (const chunk of stream?.iterator?.({destroyOnReturn: false}) ?? []) {
		text += String(chunk);
		if (text.includes(words)) return text;
	}
	throw new Error(`expected ${JSON.stringify(words)}, got ${JSON.stringify(text)}`);
}
