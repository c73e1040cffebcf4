/** Unpacks wheels: checked, compiled, and described, in sandboxes. */
import {availableParallelism} from 'node:os';
import path from 'node:path';
import {ForktreeError} from '../errors.ts';
import {inside} from '../sandbox/rootfs.ts';
import {modulesOfFiles} from './distributions.ts';
import {runGuest, type Workshop} from './guest-script.ts';
import {type DistributionMetadata, readMetadata} from './metadata.ts';
import type {InstallSteps} from './steps.ts';

/** Limits of unpacking. */
export type UnpackOptions = {
	/** What one distribution may take on the disk, byte code included, in MiB. */
	readonly maxInstalledMb?: number;
	readonly timeoutMs?: number;
};

const mebibyte = 1024 * 1024;
const wheelFolder = '/wheel';
/** The most entries of a wheel. */
const maxEntries = 200_000;
/** Each worker takes about 40 MiB; the largest directories of archives and files to compile take hundreds. */
const memoryMb = 1024;
/** What is said of 200,000 entries, in MiB. */
const outputMb = 128;

/**
 * The step that unpacks a wheel. Nothing of the package is run. The wheel must lie alone in its folder, and be readable for
 * everybody; what the folder holds afterwards belongs to a user of no importance.
 * @returns which throws {ForktreeError} `UnsafeArchive` for one that leads outside, holds links, or is too large; `InstallFailed`
 * when it can't be unpacked or is of another name or version; `InstallTimeout`; `Aborted`
 */
export function createUnpack(
	workshop: Workshop,
	{maxInstalledMb = 4096, timeoutMs = 10 * 60_000}: UnpackOptions = {},
): InstallSteps['unpack'] {
	return async ({name, version}, wheel, folder, {signal, onProgress}) => {
		onProgress?.('compiling', name);
		const maxBytes = Math.floor(maxInstalledMb * mebibyte);
		const seenAs = path.posix.join(wheelFolder, path.basename(wheel));
		const request = {
			wheel: seenAs,
			folder: inside.packages,
			seenAt: inside.packages,
			name,
			version,
			maxBytes,
			maxEntries,
		};
		const {metadata} = await runGuest(workshop, {
			script: 'unpack.py',
			request,
			what: `unpacking ${name}==${version}`,
			failure: 'InstallFailed',
			codes: ['UnsafeArchive'],
			options: {
				network: 'none',
				mounts: [
					{source: path.dirname(wheel), target: wheelFolder},
					{source: folder, target: inside.packages, readonly: false},
				],
				cwd: '/',
				timeoutMs,
				memoryMb,
				scratchMb: 16,
				processes: 32,
				outputMb,
				cpuPercent: 100 * availableParallelism(),
				signal,
			},
		});
		return describe(metadata, {name, version});
	};
}

function describe(answer: unknown, expected: {readonly name: string; readonly version: string}): DistributionMetadata {
	try {
		const metadata = readMetadata({...(answer as object), modules: []}, expected);
		const paths = metadata.files.map(([file]) => file);
		return {...metadata, modules: modulesOfFiles(expected.name, paths)};
	} catch (error) {
		const message = error instanceof Error ? error.message : String(error);
		throw new ForktreeError('InstallFailed', `unpacking ${expected.name}==${expected.version}: ${message}`, {
			cause: error,
		});
	}
}
