/** Steps of an installation that need no network and no interpreter, but write real files. */
import {createHash} from 'node:crypto';
import {chown, mkdir, readFile, writeFile} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {ForktreeError} from '../../src/errors.ts';
import {type Archive, abiOf, type Lock, type LockedDistribution} from '../../src/packages/lock.ts';
import type {DistributionMetadata} from '../../src/packages/metadata.ts';
import type {InstallSteps, StepOptions} from '../../src/packages/steps.ts';
import type {Interpreter} from '../../src/sandbox/interpreter.ts';

export const interpreter: Interpreter = {
	executable: '/usr/bin/python3',
	version: '3.11.2',
	build: '3.11.2 (fake)',
	cacheTag: 'cpython-311',
	directories: [],
};
export const abi = abiOf(interpreter);

export function sha256(content: string | Uint8Array): string {
	return createHash('sha256').update(content).digest('hex');
}

/** What the archive of a distribution holds, where there is no network to get it from. */
function contentOf(file: string): string {
	return `the content of ${file}\n`;
}

/** A distribution as in `name==1.0`, or `name==1.0 sdist`. */
export function distribution(text: string): LockedDistribution {
	const [, name = '', version = '', kind] = /^(.*)==(\S*)(?: (sdist))?$/.exec(text) ?? [];
	const file = kind === 'sdist' ? `${name}-${version}.tar.gz` : `${name}-${version}-py3-none-any.whl`;
	const content = contentOf(file);
	const archive: Archive = {
		kind: kind === 'sdist' ? 'sdist' : 'wheel',
		file,
		url: `https://example.invalid/${file}`,
		sha256: sha256(content),
		sizeBytes: content.length,
	};
	return {name, version, archive};
}

export function lockOf(...texts: readonly string[]): Lock {
	const distributions = texts.map(distribution);
	return {key: sha256(texts.join()).slice(0, 32), abi, distributions};
}

export type StepName = 'fetch' | 'build' | 'unpack';

/** What a step does before it does its work; `name` is of the distribution or file. */
export type Before = (step: StepName, name: string, options: StepOptions) => Promise<void> | void;

export type FakeSteps = InstallSteps & {readonly log: string[]};

/** The files that unpacking any wheel writes. */
export function filesOf(name: string, wheel: string): Record<string, string> {
	const module = name.replaceAll('-', '_');
	return {
		[`${module}/__init__.py`]: `WHEEL = ${JSON.stringify(wheel)}\n`,
		[`${module}/data/table.bin`]: '\0'.repeat(2000),
		[`${module}-tool`]: '#!/bin/sh\n',
	};
}

/** Steps that note what they did, each as `step name`. What a sandbox would write belongs to another user here too. */
export function fakeSteps(before: Before = () => undefined): FakeSteps {
	const log: string[] = [];
	const begin = async (step: StepName, name: string, options: StepOptions): Promise<void> => {
		log.push(`${step} ${name}`);
		options.onProgress?.(step === 'fetch' ? 'downloading' : step === 'build' ? 'building' : 'compiling');
		await before(step, name, options);
	};
	return {
		log,
		async fetch(archive, file, options) {
			await begin('fetch', archive.file, options);
			await writeFile(file, contentOf(archive.file));
		},
		async build({name}, sdist, folder, options) {
			await begin('build', name, options);
			const wheel = join(folder, basename(sdist).replace('.tar.gz', '-py3-none-any.whl'));
			await writeFile(join(folder, 'leftover'), '');
			await writeFile(wheel, `built from ${await readFile(sdist, 'utf8')}`);
			return wheel;
		},
		async unpack({name, version}, wheel, folder, options) {
			await begin('unpack', name, options);
			const entries = Object.entries(filesOf(name, await readFile(wheel, 'utf8')));
			const files: Array<[string, string, number]> = [];
			for (const [path, content] of entries) {
				await mkdir(join(folder, path, '..'), {recursive: true, mode: 0o700});
				const executable = path.endsWith('-tool');
				await writeFile(join(folder, path), content, {mode: executable ? 0o700 : 0o600});
				await chown(join(folder, path), 4321, 4321);
				files.push([path, sha256(content), content.length]);
			}
			files.sort(([one], [other]) => (one < other ? -1 : 1));
			const metadata: DistributionMetadata = {
				name,
				version,
				modules: [name.replaceAll('-', '_')],
				requires: ['something'],
				extras: {more: ['else']},
				files,
				sizeBytes: files.reduce((sum, [, , size]) => sum + size, 0),
				nativeLibraries: [],
			};
			return metadata;
		},
		async measure() {
			throw new ForktreeError('InstallFailed', 'these steps measure nothing');
		},
	};
}
