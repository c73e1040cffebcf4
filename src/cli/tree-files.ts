/** Files of `forktree tree`: reads trees and calls, plain or compressed, and writes whole files only. */
import {randomUUID} from 'node:crypto';
import {readFile, realpath, rename, rm, stat, writeFile} from 'node:fs/promises';
import process from 'node:process';
import {buffer} from 'node:stream/consumers';
import {promisify} from 'node:util';
import {gunzip} from 'node:zlib';
import {type CallsHalf, type FitInput, ForktreeError, parseCalls, readTree, type TreeNode} from '../index.ts';

/** Of a file, decompressed. */
const maxBytes = 256 * 1024 * 1024;
const inflate = promisify(gunzip);

/** @param path of the file, or `-` for stdin */
export async function readTreeFile(path: string): Promise<TreeNode> {
	const text = await readText(path, 'InvalidTree');
	return at(path, () => readTree(parseJson(text)));
}

/** @param path of the file, or `-` for stdin */
export async function readCallsFile(path: string, half: CallsHalf | undefined): Promise<FitInput> {
	const text = await readText(path, 'InvalidCalls');
	return at(path, () => parseCalls(text, half));
}

/** Writes beside it first, so that the file is as it was or whole; what is no plain file, as /dev/stdout, is written to. */
export async function writeWhole(path: string, data: string | Uint8Array): Promise<void> {
	const target = await realpath(path).catch(() => path);
	const former = await stat(target).catch(() => undefined);
	if (former !== undefined && !former.isFile()) {
		await writeFile(target, data);
		return;
	}
	const temporary = `${target}.${randomUUID()}`;
	try {
		await writeFile(temporary, data, {flag: 'wx', mode: former?.mode ?? 0o666});
		await rename(temporary, target);
	} catch (error) {
		await rm(temporary, {force: true});
		throw error;
	}
}

async function readText(path: string, code: 'InvalidCalls' | 'InvalidTree'): Promise<string> {
	const bytes = path === '-' ? await buffer(process.stdin) : await readFile(path);
	try {
		const plain = bytes[0] === 0x1f && bytes[1] === 0x8b ? await inflate(bytes, {maxOutputLength: maxBytes}) : bytes;
		if (plain.byteLength > maxBytes) throw new RangeError(`more than ${maxBytes} bytes`);
		return new TextDecoder('utf-8', {fatal: true}).decode(plain);
	} catch (cause) {
		const expected = `expected UTF-8, plain or as gzip, of at most ${maxBytes} bytes`;
		throw new ForktreeError(code, `${nameOf(path)}: ${expected}`, {cause});
	}
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch (cause) {
		throw new ForktreeError('InvalidTree', 'expected JSON', {cause});
	}
}

/** Errors name the file. */
function at<T>(path: string, work: () => T): T {
	try {
		return work();
	} catch (error) {
		if (!(error instanceof ForktreeError)) throw error;
		throw new ForktreeError(error.code, `${nameOf(path)}: ${error.message}`, {cause: error});
	}
}

function nameOf(path: string): string {
	return path === '-' ? 'stdin' : path;
}
