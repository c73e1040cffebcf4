/** Builds the C++ programs of native/bench when they are older than their sources: benches alone need them. */
import {chmodSync, existsSync, mkdirSync, statSync} from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {execa} from 'execa';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const native = path.join(root, 'native');
const common = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror'];
const freestanding = [
	...['-ffreestanding', '-fno-stack-protector', '-fcf-protection=none', '-fno-pie', '-nostdlib', '-static', '-no-pie'],
];

const filters = ['filters.h', 'filters_x64.h', 'filters_arm64.h'].map((name) => `filters/${name}`);

const recipes = {
	/** Ends with 42. Alone in its folder, which sandboxes see. */
	program: {flags: freestanding, sources: ['bench/program.cc'], uses: ['guest/syscalls.h']},
	spawn: {flags: [], sources: ['bench/spawn.cc'], uses: []},
	floor: {
		flags: [],
		sources: [
			'bench/floor.cc',
			...['assemble', 'idmap', 'message', 'plan', 'root', 'system', 'writable'].map((name) => `keeper/${name}.cc`),
		],
		uses: ['keeper/assemble.h', 'keeper/keeper.h'],
	},
	floor_sandbox: {
		flags: ['-static'],
		sources: ['bench/floor_sandbox.cc'],
		uses: filters,
	},
	walls: {
		flags: [],
		sources: ['bench/walls.cc', 'guest/landlock.cc'],
		uses: ['guest/landlock.h', 'guest/kernel.h', 'guest/syscalls.h', ...filters],
	},
};

/** A program of native/bench. */
export type BenchProgram = keyof typeof recipes;

/** The path of a program. @throws what the compiler says */
export async function benchProgram(name: BenchProgram): Promise<string> {
	const {flags, sources, uses} = recipes[name];
	const folder = path.join(root, 'build', 'bench', name);
	const file = path.join(folder, name);
	const inputs = sources.map((source) => path.join(native, source));
	const newest = Math.max(...[...inputs, ...uses.map((use) => path.join(native, use))].map(modified));
	if (existsSync(file) && modified(file) >= newest) return file;
	mkdirSync(folder, {recursive: true});
	await execa('g++', [...common, ...flags, ...inputs, '-o', file]);
	chmodSync(file, 0o755);
	return file;
}

function modified(file: string): number {
	return statSync(file).mtimeMs;
}
