/** What a store takes whose packages hold nothing to run: to look through it, and to carry it to another machine. */
import {createHash, randomBytes} from 'node:crypto';
import {createReadStream, createWriteStream} from 'node:fs';
import {cp, mkdir, rm, stat, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {execa} from 'execa';
import {abiOf, createLock} from '../src/packages/lock.ts';
import {PackageStore, type PackageStoreOptions} from '../src/packages/package-store.ts';
import type {InstallSteps} from '../src/packages/steps.ts';
import type {Interpreter} from '../src/sandbox/interpreter.ts';
import {alternate} from './alternate.ts';
import {type Mark, mark, percentile, type Summary, summarize} from './report.ts';

/** How often each thing is measured, and with how much. */
export type Sizes = {
	readonly deploys: number;
	readonly installs: number;
	readonly imports: number;
	readonly scans: number;
	readonly transfers: number;
	/** What is carried to another machine, in MiB. */
	readonly transferMb: number;
	/** How many packages are removed. */
	readonly collected: number;
};

const manyPackages = 200;
const transferredPackages = 32;
const filesPerPackage = 250;
const mebibyte = 1024 * 1024;

/** Where this run puts things, and what it works with. */
export type Bench = {
	readonly work: string;
	readonly python: Interpreter;
	readonly uv: string;
	readonly sizes: Sizes;
	readonly requirements: readonly string[];
	readonly statement: string;
	readonly marks: Mark[];
	readonly samples: Record<string, Summary>;
};

export async function made(folder: string): Promise<string> {
	await mkdir(folder, {recursive: true});
	return folder;
}

export async function timed(work: () => Promise<unknown>): Promise<number> {
	const started = performance.now();
	await work();
	return performance.now() - started;
}

export function series(bench: Bench, name: string, values: readonly number[]): number {
	bench.samples[name] = summarize(values);
	return percentile(values, 50);
}

/** Packages without content: what is read at the start is what is known of each. */
export async function measureScan(bench: Bench): Promise<void> {
	const options = await fill(bench, 'many', manyPackages, []);
	const scan = async () =>
		timed(async () => {
			const found = await (await PackageStore.open(options)).list();
			if (found.length !== manyPackages) throw new Error(`expected ${manyPackages} packages, found ${found.length}`);
		});
	const [scans] = await alternate(bench.sizes.scans, 0, scan);
	bench.marks.push(mark(`start-up scan of ${manyPackages} packages`, series(bench, 'scan', scans), '<=', 50, 'ms'));
}

/** Files of several sizes, as packages have them, read from the page cache by both. What is written is on the disk at the end, by both. */
export async function measureTransfer(bench: Bench): Promise<void> {
	const {work, sizes} = bench;
	const meanBytes = (sizes.transferMb * mebibyte) / transferredPackages / filesPerPackage;
	const fileSizes = Array.from({length: filesPerPackage}, (_, index) =>
		Math.floor((meanBytes * 2 * index) / filesPerPackage),
	);
	const {dir, ...options} = await fill(bench, 'transferred', transferredPackages, fileSizes);
	const archive = path.join(work, 'packages.tar');
	const {signal} = new AbortController();
	const exportMs = await timed(async () =>
		(await PackageStore.open({dir, ...options})).export(createWriteStream(archive), signal),
	);
	await rm(dir, {recursive: true});
	const target = path.join(work, 'target');
	const synced = async () => execa('sync', ['--file-system', target]);
	const fresh = async (work: () => Promise<unknown>) => {
		await made(target);
		await synced();
		const ms = await timed(work);
		await rm(target, {recursive: true});
		return ms;
	};
	const ours = async () =>
		fresh(async () => {
			const store = await PackageStore.open({dir: target, ...options});
			const {imported} = await store.import(createReadStream(archive, {highWaterMark: mebibyte}), signal);
			if (imported.length !== transferredPackages)
				throw new Error(`expected ${transferredPackages}, got ${imported.length}`);
		});
	const floor = async () =>
		fresh(async () => {
			await execa('tar', ['-x', '-f', archive, '-C', target]);
			await synced();
		});
	await alternate(1, 0, ours, floor);
	const [oursMs, floorMs] = await alternate(sizes.transfers, 0, ours, floor);
	bench.samples.export = summarize([exportMs]);
	const a = series(bench, 'import of an archive', oursMs);
	const b = series(bench, 'tar -x of it, and sync', floorMs);
	const mib = Math.round((await stat(archive)).size / mebibyte);
	bench.marks.push(mark(`import of ${mib} MiB / tar -x and sync of the same`, a / b, '<=', 1.5, '×'));
	await rm(archive);
}

/** All of a store that nothing needs. */
export async function measureCollection(bench: Bench): Promise<void> {
	const {work, sizes} = bench;
	const {dir, ...options} = await fill(bench, 'collected', sizes.collected, [1000, 2000, 3000, 4000]);
	const target = path.join(work, 'target');
	const fresh = async (work: () => Promise<unknown>) => {
		await cp(dir, target, {recursive: true, preserveTimestamps: true});
		const ms = await timed(work);
		await rm(target, {recursive: true, force: true});
		return ms;
	};
	const ours = async () =>
		fresh(async () => {
			const {removed} = await (await PackageStore.open({dir: target, ...options})).gc({maxBytes: 0});
			if (removed.length !== sizes.collected) throw new Error(`expected ${sizes.collected}, got ${removed.length}`);
		});
	const floor = async () => fresh(() => execa('rm', ['-rf', target]));
	const [oursMs, floorMs] = await alternate(sizes.transfers, 0, ours, floor);
	const a = series(bench, 'gc', oursMs);
	series(bench, 'rm -rf of the same', floorMs);
	bench.marks.push(mark(`gc of ${sizes.collected} packages`, a, '<=', 2000, 'ms'));
	await rm(dir, {recursive: true});
}

/** A store with packages that each hold a module and further files. */
async function fill(
	bench: Bench,
	folder: string,
	packages: number,
	fileSizes: readonly number[],
): Promise<PackageStoreOptions> {
	const dir = await made(path.join(bench.work, folder));
	const noise = randomBytes(Math.max(0, ...fileSizes) + packages);
	const steps: InstallSteps = {
		fetch: async (archive, file) => writeFile(file, archive.file),
		build: async () => Promise.reject(new Error('nothing is built here')),
		unpack: async ({name, version}, _wheel, target) => {
			const module = name.replaceAll('-', '_');
			const contents = new Map<string, Uint8Array>([[`${module}.py`, Buffer.from(`${name} = 1\n`)]]);
			for (const [index, size] of fileSizes.entries()) {
				contents.set(
					`${module}/${String(index).padStart(6, '0')}`,
					noise.subarray(index % packages, (index % packages) + size),
				);
			}
			await mkdir(path.join(target, module));
			const files = [...contents].map(([file, bytes]) => [file, hashOf(bytes), bytes.length] as const);
			for (const [file, bytes] of contents) await writeFile(path.join(target, file), bytes);
			const sizeBytes = files.reduce((sum, [, , size]) => sum + size, 0);
			return {name, version, modules: [module], requires: ['numpy'], extras: {}, files, sizeBytes, nativeLibraries: []};
		},
		measure: async () => Promise.reject(new Error('nothing is measured here')),
	};
	const distributions = Array.from({length: packages}, (_, index) => {
		const name = `package-${index}`;
		const file = `${name.replaceAll('-', '_')}-1.0-py3-none-any.whl`;
		const url = `https://index.invalid/${file}`;
		return {
			name,
			version: '1.0',
			archive: {kind: 'wheel', file, url, sha256: hashOf(file), sizeBytes: undefined} as const,
		};
	});
	const options = {dir, interpreter: bench.python, steps};
	await (await PackageStore.open(options)).install(createLock(abiOf(bench.python), distributions));
	return options;
}

function hashOf(content: string | Uint8Array): string {
	return createHash('sha256').update(content).digest('hex');
}
