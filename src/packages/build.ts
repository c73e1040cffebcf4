/** Builds wheels from source distributions, in sandboxes without network, see PEP 517 and 518. */
import {chmod, copyFile, mkdtemp, rm, writeFile} from 'node:fs/promises';
import {availableParallelism} from 'node:os';
import path from 'node:path';
import {parse} from 'smol-toml';
import {ForktreeError} from '../errors.ts';
import {inside} from '../sandbox/rootfs.ts';
import type {SandboxMount} from '../sandbox/sandbox-options.ts';
import {type GuestRun, runGuest, type Workshop} from './guest-script.ts';
import type {LockedDistribution} from './lock.ts';
import type {InstallSteps, StepOptions} from './steps.ts';

/** What building takes, and may take. */
export type BuildOptions = {
	/**
	 * Answers the folders of installed distributions that together satisfy what a build asks for. The requirements are the
	 * package's own words, of PEP 508: what else they may say, such as addresses, is for this to refuse.
	 */
	readonly provide: (requirements: readonly string[], options: StepOptions) => Promise<readonly string[]>;
	/** Of one sandbox, its scratch folder included, in MiB. */
	readonly memoryMb?: number;
	/** What sources and build may take, in MiB, and so the most that a wheel may have. */
	readonly scratchMb?: number;
	readonly processes?: number;
	/** Of each of the up to three steps, in milliseconds. */
	readonly timeoutMs?: number;
};

type BuildSystem = {
	readonly requires: readonly string[];
	readonly backend: string;
	readonly backendPath: readonly string[];
};

const mebibyte = 1024 * 1024;
const sdistFolder = '/sdist';
const outputFolder = '/output';
/** In it, the sandbox can write this file and nothing else: what it may fill of a disk is limited. */
const outputFile = 'wheel';
const maxEntries = 200_000;
const maxRequirements = 1000;
const maxRequirementLength = 1000;
/** Of a project without a word on how to build it, see PEP 517. */
const legacy: BuildSystem = {
	requires: ['setuptools>=40.8.0'],
	backend: 'setuptools.build_meta:__legacy__',
	backendPath: [],
};
const backendName = /^[\p{L}_][\p{L}\p{N}_.]*(?::[\p{L}_][\p{L}\p{N}_.]*)?$/u;
const wheelName = /^\w[\w.!+-]{0,250}\.whl$/;

/**
 * The step that builds a wheel. Code of the package runs, and of what it needs for its build: in a sandbox that has the system's
 * folders, the sources, and what `provide` answered. The sdist must lie alone in its folder, and be readable for everybody.
 * @returns which throws {ForktreeError} `UnsafeArchive` for sources that lead outside or are too large; `BuildFailed` with the last
 * words of the build, and with the limit that it reached; `InstallFailed`; `InstallTimeout`; `Aborted`
 */
export function createBuild(workshop: Workshop, options: BuildOptions): InstallSteps['build'] {
	return async (distribution, sdist, folder, step) => {
		step.onProgress?.('building', distribution.name);
		const build = new Build(workshop, options, distribution, sdist, step);
		const output = await mkdtemp(path.join(folder, 'output-'));
		try {
			await writeFile(path.join(output, outputFile), '');
			await chmod(output, 0o755);
			await chmod(path.join(output, outputFile), 0o666);
			const name = await build.run(output);
			return await takeWheel(path.join(output, outputFile), path.join(folder, name));
		} finally {
			await rm(output, {recursive: true, force: true});
		}
	};
}

/** As a copy: a process that the build left may still have the file open. */
async function takeWheel(from: string, to: string): Promise<string> {
	await copyFile(from, to);
	await chmod(to, 0o644);
	return to;
}

class Build {
	readonly #workshop: Workshop;
	readonly #provide: BuildOptions['provide'];
	readonly #limits: Pick<GuestRun['options'], 'memoryMb' | 'scratchMb' | 'processes' | 'timeoutMs'>;
	readonly #distribution: LockedDistribution;
	readonly #sdist: string;
	readonly #step: StepOptions;

	constructor(
		workshop: Workshop,
		{provide, memoryMb = 2048, scratchMb = 1024, processes = 128, timeoutMs = 10 * 60_000}: BuildOptions,
		distribution: LockedDistribution,
		sdist: string,
		step: StepOptions,
	) {
		this.#workshop = workshop;
		this.#provide = provide;
		this.#limits = {memoryMb, scratchMb, processes, timeoutMs};
		this.#distribution = distribution;
		this.#sdist = sdist;
		this.#step = step;
	}

	/** Answers the wheel's name; its content is in the output file then. */
	async run(output: string): Promise<string> {
		const {pyproject} = await this.#guest({}, []);
		const system = this.#readBuildSystem(pyproject);
		const first = await this.#attempt(system, system.requires, true, output);
		if (first.requires === undefined) return this.#checkName(first.wheel);
		const more = this.#checkRequirements(first.requires, 'get_requires_for_build_wheel');
		const second = await this.#attempt(system, [...new Set([...system.requires, ...more])], false, output);
		return this.#checkName(second.wheel);
	}

	/** Builds, unless the backend asks for more. */
	async #attempt(system: BuildSystem, requirements: readonly string[], askMore: boolean, output: string) {
		const folders = requirements.length === 0 ? [] : await this.#provide(requirements, this.#step);
		const {name, version} = this.#distribution;
		const {backend, backendPath} = system;
		const packages = folders.length === 0 ? [] : [inside.packages];
		const request = {name, version, backend, backendPath, packages, askMore, output: `${outputFolder}/${outputFile}`};
		return this.#guest(request, [
			{source: output, target: outputFolder, readonly: false},
			...(folders.length === 0 ? [] : [{source: folders, target: inside.packages}]),
		]);
	}

	async #guest(request: object, mounts: readonly SandboxMount[]) {
		const {name, version} = this.#distribution;
		const sdist = path.posix.join(sdistFolder, path.basename(this.#sdist));
		const maxBytes = Math.floor(this.#limits.scratchMb * mebibyte);
		return runGuest(this.#workshop, {
			script: 'build.py',
			request: {sdist, maxBytes, maxEntries, ...request},
			what: `building ${name}==${version}`,
			failure: 'BuildFailed',
			codes: ['UnsafeArchive', 'InstallFailed'],
			options: {
				...this.#limits,
				network: 'none',
				mounts: [{source: path.dirname(this.#sdist), target: sdistFolder}, ...mounts],
				cwd: '/tmp',
				outputMb: 64,
				cpuPercent: 100 * availableParallelism(),
				signal: this.#step.signal,
			},
		});
	}

	#readBuildSystem(text: unknown): BuildSystem {
		if (typeof text !== 'string') return legacy;
		let table: unknown;
		try {
			table = parse(text)['build-system'];
		} catch (error) {
			throw this.#failed(`pyproject.toml: ${error instanceof Error ? error.message : String(error)}`);
		}
		if (table === undefined) return legacy;
		const {
			requires,
			'build-backend': backend = legacy.backend,
			'backend-path': backendPath = [],
		} = table as {
			readonly [key: string]: unknown;
		};
		if (typeof backend !== 'string' || !backendName.test(backend)) {
			throw this.#failed(`pyproject.toml: expected the name of an object as build-backend, got ${quote(backend)}`);
		}
		return {
			requires: this.#checkRequirements(requires, 'requires of pyproject.toml'),
			backend,
			backendPath: this.#checkRequirements(backendPath, 'backend-path of pyproject.toml'),
		};
	}

	#checkRequirements(value: unknown, where: string): readonly string[] {
		const isList = Array.isArray(value) && value.length <= maxRequirements && value.every(isLine);
		if (!isList) throw this.#failed(`expected a list of texts as ${where}, got ${quote(value)}`);
		return value as readonly string[];
	}

	#checkName(name: unknown): string {
		if (typeof name === 'string' && wheelName.test(name)) return name;
		throw this.#failed(`expected the name of a wheel, got ${quote(name)}`);
	}

	#failed(message: string): ForktreeError {
		const {name, version} = this.#distribution;
		return new ForktreeError('BuildFailed', `building ${name}==${version}: ${message}`);
	}
}

function isLine(value: unknown): boolean {
	return typeof value === 'string' && value.length <= maxRequirementLength && !/\p{Cc}/u.test(value);
}

function quote(value: unknown): string {
	return (JSON.stringify(value) ?? String(value)).slice(0, 200);
}
