/** A function's files, in memory. */
import {createHash} from 'node:crypto';
import type {CodeFiles} from '../../src/packages/stated.ts';

export function filesOf(texts: Readonly<Record<string, string>>): CodeFiles {
	const textOf = (path: string) => (Object.hasOwn(texts, path) ? texts[path] : undefined);
	return {
		has: (path) => textOf(path) !== undefined,
		readText: async (path) => textOf(path),
		paths: () => Object.keys(texts),
		sha256Of: (path) => {
			const text = textOf(path);
			return text === undefined ? undefined : createHash('sha256').update(text).digest('hex');
		},
		readStart: async (path, maxBytes) => Buffer.from(textOf(path) ?? '').subarray(0, maxBytes),
	};
}
