/** Which wheels an interpreter can use, and which of several it prefers: the order of `packaging.tags`, which installers share. */
import {machine} from 'node:os';
import type {Interpreter} from '../sandbox/interpreter.ts';

/** Sorts before a tag that is preferred less. */
type Rank = readonly number[];

/** Greater than every version of a C library. */
const MAX_PLATFORM = 1e9;
const WHEEL = /^[^-]+-[^-]+(?:-(\d+)[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl$/;

/**
 * Finds the preferred one of wheels of one version, which are all usable for the interpreter.
 * @param files names of wheels
 * @param pythonMinor the minor version of CPython 3
 * @returns its name; undefined when none is a wheel's
 */
export function preferredWheel(files: readonly string[], pythonMinor: number): string | undefined {
	const ranked = files.flatMap((file) => {
		const rank = rankOf(file, pythonMinor);
		return rank === undefined ? [] : [{file, rank}];
	});
	return ranked.sort((left, right) => compare(left.rank, right.rank))[0]?.file;
}

function rankOf(file: string, minor: number): Rank | undefined {
	const [, build = '', pythons = '', abis = '', platforms = ''] = WHEEL.exec(file) ?? [];
	const tags = pythons
		.split('.')
		.flatMap((python) =>
			abis
				.split('.')
				.flatMap((abi) => platforms.split('.').flatMap((platform) => rankTag(python, abi, platform, minor))),
		);
	const [best] = tags.sort(compare);
	// A later build is better.
	return best && [...best, -Number(build)];
}

/** First what it was made for, then how old a Python, then how old a C library. None for what is not of Python 3. */
function rankTag(python: string, abi: string, platform: string, minor: number): Rank[] {
	const [, implementation, version] = /^([a-z]+)3(\d*)$/.exec(python) ?? [];
	if (implementation === undefined || version === undefined) return [];
	const isOwn = implementation === 'cp' && Number(version) === minor;
	// `py311`, `py3`, `py310`, …: the major version alone comes right after the interpreter's own.
	const distance = version === '' ? 0.5 : minor - Number(version);
	return [[kindOf(abi, platform, isOwn), distance, rankPlatform(platform)]];
}

function kindOf(abi: string, platform: string, isOwn: boolean): number {
	if (platform === 'any') return isOwn ? 5 : 6;
	if (abi.startsWith('abi3')) return isOwn ? 1 : 3;
	if (abi === 'none') return isOwn ? 2 : 4;
	return 0;
}

/** The newest C library that this machine has goes first, and what says nothing of it last. */
function rankPlatform(platform: string): number {
	const [, major, minor] = /^(?:many|musl)linux_(\d+)_(\d+)_/.exec(platform) ?? [];
	if (major !== undefined && minor !== undefined) return MAX_PLATFORM - (Number(major) * 1000 + Number(minor));
	const old = {manylinux2014: 2017, manylinux2010: 2012, manylinux1: 2005}[platform.split('_')[0] ?? ''];
	return old === undefined ? MAX_PLATFORM : MAX_PLATFORM - old + 0.5;
}

function compare(left: Rank, right: Rank): number {
	for (const [index, value] of left.entries()) {
		const difference = value - (right[index] ?? 0);
		if (difference !== 0) return difference;
	}
	return 0;
}

/**
 * Whether an interpreter of this machine could use a wheel, by its tags: for words, since what resolves also looks at the version of
 * the C library. Wheels for another C library than glibc are for others.
 */
export function fitsRoughly(file: string, {version}: Pick<Interpreter, 'version'>): boolean {
	const minor = Number(version.split('.')[1]);
	const [, , pythons = '', abis = '', platforms = ''] = WHEEL.exec(file) ?? [];
	const isHere = platforms.split('.').some((platform) => {
		return platform === 'any' || (/^(?:many)?linux/.test(platform) && platform.endsWith(`_${machine()}`));
	});
	return isHere && pythons.split('.').some((python) => abis.split('.').some((abi) => fitsPython(python, abi, minor)));
}

function fitsPython(python: string, abi: string, minor: number): boolean {
	const [, implementation, digits = ''] = /^(cp|py)3(\d*)$/.exec(python) ?? [];
	if (implementation === undefined) return false;
	const made = digits === '' ? 0 : Number(digits);
	if (implementation === 'py' || abi === 'abi3') return made <= minor;
	return made === minor && (abi === 'none' || abi === `cp3${minor}`);
}

/** An interpreter of this machine in words. */
export function describeHost({version}: Pick<Interpreter, 'version'>): string {
	return `CPython ${version} on linux ${machine()}`;
}
