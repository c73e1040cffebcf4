/** Finds the CPython to run functions with, and what of the host it needs: its real binary, never a shim. */
import {realpathSync} from 'node:fs';
import {execa} from 'execa';
import {ForktreeError} from '../errors.ts';

/** A CPython of this machine. */
export type Interpreter = {
	/** The real executable (a version manager's shim is resolved). */
	readonly executable: string;
	/** For example `3.11.2`. */
	readonly version: string;
	/** Which build of that version it is, in its own words; another one may take another time for the same. */
	readonly build: string;
	/** The tag of compiled files, for example `cpython-311`. */
	readonly cacheTag: string;
	/** Folders that it needs to run, absolute and without links: prefixes and the standard library. */
	readonly directories: readonly string[];
};

const PROBE = `
import sys, sysconfig, json, os
paths = [sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'), sysconfig.get_config_var('LIBDIR')]
print(json.dumps({
    'implementation': sys.implementation.name, 'version': list(sys.version_info[:3]), 'build': sys.version, 'cacheTag': sys.implementation.cache_tag,
    'executable': os.path.realpath('/proc/self/exe'), 'directories': sorted({os.path.realpath(p) for p in paths if p and os.path.isdir(p)}),
}))`;

type Probed = {
	implementation: string;
	version: [number, number, number];
	build: string;
	cacheTag: string;
	executable: string;
	directories: string[];
};

/** Undefined: the program that was run is something else. */
function readProbe(text: string): Probed | undefined {
	try {
		return JSON.parse(text) as Probed;
	} catch {
		return undefined;
	}
}

/**
 * Finds an interpreter.
 * @param python a path or command name; by default `python3` from `PATH`, else `/usr/bin/python3`.
 * @throws {ForktreeError} `PythonNotFound` when there is none that is CPython 3.9 or later.
 */
export async function findInterpreter(python?: string): Promise<Interpreter> {
	const candidates = python === undefined ? ['python3', '/usr/bin/python3'] : [python];
	const refusals: string[] = [];
	for (const candidate of candidates) {
		const result = await execa(candidate, ['-I', '-S', '-c', PROBE], {reject: false, timeout: 20_000, stdin: 'ignore'});
		if (result.failed) {
			refusals.push(
				`${candidate}: ${result.originalMessage || `ended with ${result.signal ?? `exit code ${result.exitCode}`}`}`,
			);
			continue;
		}
		const found = readProbe(result.stdout);
		if (found === undefined) {
			refusals.push(`${candidate}: is no Python`);
			continue;
		}
		const version = found.version.join('.');
		if (found.implementation !== 'cpython' || found.version[0] !== 3 || found.version[1] < 9) {
			refusals.push(`${candidate}: is ${found.implementation} ${version}`);
			continue;
		}
		return {
			executable: realpathSync(found.executable),
			version,
			build: found.build,
			cacheTag: found.cacheTag,
			directories: found.directories,
		};
	}
	throw new ForktreeError(
		'PythonNotFound',
		`expected a CPython 3.9 or later (on Debian and Ubuntu: apt-get install python3); ${refusals.join('; ')}`,
	);
}
