/** The registry: a folder whose folders and `NAME.tar.gz` files are the functions to deploy. */
import {readdir, stat} from 'node:fs/promises';
import path from 'node:path';
import {ForktreeError, type Runtime} from '../index.ts';

/** What became of one function of the registry. */
export type RegisteredFunction =
	| {readonly deployed: true; readonly maxEventBytes: number}
	| {readonly deployed: false; readonly error: Error};

/** Paths of each function's sources, by its name; one path, unless something is wrong. */
export type Sources = ReadonlyMap<string, readonly string[]>;

const archive = /\.tar\.gz$/;
/** Deploys at once: each takes a sandbox, and some an installer. */
const parallelDeploys = 4;

/**
 * Deploys every function of a registry, and removes those of an earlier run that are no longer in it.
 * @param onFailed told of each that can't be deployed; the others go on
 * @returns by name; a Map, so that no name can mean something else
 * @throws the signal's reason, or what removing throws.
 */
export async function deployRegistry(
	runtime: Runtime,
	sources: Sources,
	onFailed: (name: string, error: Error) => void,
	signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, RegisteredFunction>> {
	for (const {name} of runtime.list()) if (!sources.has(name)) await runtime.remove(name);
	const failures = new Map<string, Error>();
	const queue = sources.entries();
	const work = async () => {
		for (const [name, files] of queue) {
			signal?.throwIfAborted();
			try {
				await runtime.deploy(name, onlyOne(files));
			} catch (error) {
				signal?.throwIfAborted();
				const failure = error instanceof Error ? error : new Error(String(error));
				failures.set(name, failure);
				onFailed(name, failure);
			}
		}
	};
	const ends = await Promise.allSettled(Array.from({length: parallelDeploys}, work));
	for (const end of ends) if (end.status === 'rejected') throw end.reason;
	const functions = new Map<string, RegisteredFunction>();
	for (const {name, limits} of runtime.list())
		functions.set(name, {deployed: true, maxEventBytes: limits.eventMb * 1024 * 1024});
	// Last: an earlier version that could not be replaced is not what the registry holds.
	for (const [name, error] of failures) functions.set(name, {deployed: false, error});
	return functions;
}

/**
 * Finds the sources of each function. Other files, and what starts with a dot, are none.
 * @throws {ForktreeError} `InvalidSource` when the folder can't be read.
 */
export async function findSources(directory: string): Promise<Sources> {
	const sources = new Map<string, string[]>();
	for (const entry of (await readNames(directory)).sort()) {
		if (entry.startsWith('.')) continue;
		const file = path.join(directory, entry);
		const isFolder = (await stat(file).catch(() => undefined))?.isDirectory() === true;
		if (!isFolder && !archive.test(entry)) continue;
		const name = isFolder ? entry : entry.replace(archive, '');
		sources.set(name, [...(sources.get(name) ?? []), file]);
	}
	return sources;
}

async function readNames(directory: string): Promise<string[]> {
	try {
		return await readdir(directory);
	} catch (cause) {
		const reason = cause instanceof Error ? cause.message : cause;
		throw new ForktreeError('InvalidSource', `expected ${directory} to be a folder of functions: ${reason}`, {cause});
	}
}

function onlyOne(files: readonly string[]): string {
	const [file, ...others] = files;
	if (file !== undefined && others.length === 0) return file;
	throw new ForktreeError('InvalidSource', `expected one source of the function, got ${files.join(' and ')}`);
}
