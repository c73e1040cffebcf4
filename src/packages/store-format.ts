/** The format of a store's folder, in a file of its own: a later forktree may keep things otherwise. */
import {join} from 'node:path';
import {ForktreeError, quote} from '../errors.ts';
import {readSmall, statusOf} from './disk.ts';
import {type Layout, stampName} from './layout.ts';
import {replaceFile} from './scratch.ts';

/** What we write. There is no earlier one; stores that were made before there was a stamp are of it. */
const FORMAT = 1;
const MAX_BYTES = 4096;

/**
 * Checks that we understand a store.
 * @returns whether it says its format
 * @throws {ForktreeError} `InvalidStore` naming the format that was expected and the one that it has
 */
export function checkFormat(layout: Layout): boolean {
	const path = join(layout.dir, stampName);
	if (statusOf(path) === undefined) return false;
	const text = readSmall(path, MAX_BYTES) ?? '';
	const format = formatIn(text);
	if (format === FORMAT) return true;
	const got = format === undefined ? quote(text.slice(0, 100)) : quote(format);
	throw new ForktreeError(
		'InvalidStore',
		`expected a package store of format ${FORMAT} at ${layout.dir}, got one of format ${got}; a later forktree may have made it`,
	);
}

/** Has a store say its format. */
export async function stampFormat(layout: Layout): Promise<void> {
	await replaceFile(layout, layout.dir, stampName, `${JSON.stringify({format: FORMAT})}\n`);
}

function formatIn(text: string): unknown {
	try {
		return (JSON.parse(text) as {readonly format?: unknown} | null)?.format;
	} catch {
		return undefined;
	}
}
