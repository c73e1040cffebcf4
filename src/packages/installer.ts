/** Runs uv or pip to fill a folder with wheels, and compiles what they put there. */
import {readFile, rm} from 'node:fs/promises';
import {dirname} from 'node:path';
import {execa} from 'execa';
import {dir as temporaryDirectory} from 'tmp-promise';
import {ForktreeError} from '../errors.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';

/** What an installation needs to know. */
export type InstallOptions = {
	/** A file of requirements that {@link readRequirements} has normalised. */
	readonly requirementsFile: string;
	/** Whether dependencies need hashes as well. */
	readonly requireHashes?: boolean | undefined;
	/** An existing, empty folder. Scratch files are put next to it, so its parent must be writable. */
	readonly targetDir: string;
	readonly signal?: AbortSignal | undefined;
};

/** Something that installs wheels into a folder. */
export type Installer = {
	readonly name: 'uv' | 'pip';
	/**
	 * Installs wheels, never source distributions: no code of a package runs. (An index that serves wheels whose
	 * dependencies are direct references can still make pip build those; the public index refuses such wheels.)
	 * The installer's own environment variables (`PIP_*`, `UV_*`) and configuration files apply.
	 * @throws {ForktreeError} `InstallFailed` with the installer's last words, or `Aborted`.
	 */
	install(options: InstallOptions): Promise<void>;
};

const DEADLINE_MS = 10 * 60_000;
const PROBE_DEADLINE_MS = 20_000;
const MAX_TAIL = 4 * 1024;

const DIE_WITH_PARENT = `
import os, sys
def die_with_parent(parent):
    try:
        import ctypes
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    except Exception:
        pass
    if os.getppid() != parent:
        os._exit(1)
`;

// An installer that outlived us would go on filling a folder that the next process believes abandoned.
const GUARD = `${DIE_WITH_PARENT}
die_with_parent(int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
`;

// Not "-m compileall -j 0": its workers wait for work for ever when it is killed. Files that do not compile are common
// in wheels (templates, other Python versions) and are left alone. Unchecked: the folder is mounted read-only, and its
// time stamps are not those of the build.
const COMPILE = `${DIE_WITH_PARENT}
import py_compile
files = [os.path.join(top, name) for top, _, names in os.walk(sys.argv[1]) for name in names if name.endswith('.py')]
workers = min(os.cpu_count() or 1, 8, len(files))
parent = os.getpid()
for worker in range(workers):
    if os.fork() == 0:
        die_with_parent(parent)
        for file in files[worker::workers]:
            try:
                py_compile.compile(file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            except Exception:
                pass
        os._exit(0)
for worker in range(workers):
    os.wait()
`;

/**
 * Finds what installs packages: `uv` from `PATH`, else the interpreter's `uv` module, else its `pip` module.
 * @throws {ForktreeError} `InstallFailed` when there is none.
 */
export async function findInstaller(interpreter: Interpreter): Promise<Installer> {
	const python = interpreter.executable;
	const candidates = [
		{name: 'uv', command: ['uv']},
		{name: 'uv', command: [python, '-I', '-m', 'uv']},
		{name: 'pip', command: [python, '-I', '-m', 'pip']},
	] as const;
	for (const {name, command} of candidates) {
		if (await answers(command)) return createInstaller(name, command, python);
	}
	throw new ForktreeError(
		'InstallFailed',
		`expected uv, or pip for ${python}, to install packages with: install uv, or on Debian and Ubuntu apt-get install python3-pip`,
	);
}

async function answers([file, ...args]: readonly [string, ...string[]]): Promise<boolean> {
	const result = await execa(file, [...args, '--version'], {
		reject: false,
		timeout: PROBE_DEADLINE_MS,
		stdin: 'ignore',
		stdout: 'ignore',
		stderr: 'ignore',
	});
	return !result.failed;
}

function createInstaller(name: 'uv' | 'pip', command: readonly string[], python: string): Installer {
	return {
		name,
		async install({requirementsFile, requireHashes = false, targetDir, signal}) {
			// Of the same parent as the target: swept along with it, and pip moves files from there instead of copying.
			const scratch = await temporaryDirectory({tmpdir: dirname(targetDir), template: 'scratch-XXXXXX'});
			try {
				const options = [
					...(name === 'uv' ? uvOptions(python) : pipOptions),
					...(requireHashes ? ['--require-hashes'] : []),
				];
				const args = [...command, ...options, '--target', targetDir, '-r', requirementsFile];
				const {failure, tail} = await run(python, args, scratch.path, signal);
				if (failure !== undefined) throw await installFailed(name, requirementsFile, failure, tail);
				await compile(python, targetDir, scratch.path, signal);
			} finally {
				await rm(scratch.path, {recursive: true, force: true, maxRetries: 3});
			}
		},
	};
}

const pipOptions = [
	'install',
	'--quiet',
	'--no-input',
	'--disable-pip-version-check',
	'--no-warn-script-location',
	'--progress-bar=off',
	'--only-binary=:all:',
	'--no-user',
	'--no-compile',
];

function uvOptions(python: string): readonly string[] {
	// Copies: links into the user's cache would let a later change of mode or content reach the cached files.
	const fixed = ['--quiet', '--no-progress', '--color=never', '--only-binary=:all:', '--link-mode=copy'];
	return ['pip', 'install', '--python', python, '--no-python-downloads', ...fixed];
}

async function compile(python: string, dir: string, cwd: string, signal: AbortSignal | undefined): Promise<void> {
	const {failure, tail} = await run(python, [python, '-I', '-S', '-W', 'ignore', '-c', COMPILE, dir], cwd, signal);
	if (failure !== undefined) throw new ForktreeError('InstallFailed', `compiling the packages ${failure}\n${tail}`);
}

type RunResult = {readonly failure: string | undefined; readonly tail: string};

/** Runs a command that dies with this process, keeping only the end of what it writes to stderr. */
async function run(python: string, args: readonly string[], cwd: string, signal?: AbortSignal): Promise<RunResult> {
	const subprocess = execa(python, ['-I', '-S', '-c', GUARD, `${process.pid}`, ...args], {
		reject: false,
		buffer: false,
		cwd,
		stdin: 'ignore',
		stdout: 'ignore',
		stderr: 'pipe',
		timeout: DEADLINE_MS,
		// Unknown settings are ignored by both, whereas an older pip refuses an unknown option.
		env: {PIP_ROOT_USER_ACTION: 'ignore', UV_COMPILE_BYTECODE: 'false', TMPDIR: cwd},
		...(signal === undefined ? {} : {cancelSignal: signal}),
	});
	let tail = Buffer.alloc(0);
	subprocess.stderr.on('data', (chunk: Buffer) => {
		tail = Buffer.concat([tail, chunk]).subarray(-2 * MAX_TAIL);
	});
	const result = await subprocess;
	if (result.isCanceled) throw new ForktreeError('Aborted', 'the installation was aborted', {cause: signal?.reason});
	return {failure: failureOf(result), tail: lastLines(tail)};
}

type ProcessEnd = {
	readonly failed: boolean;
	readonly timedOut: boolean;
	readonly exitCode?: number;
	readonly signal?: string;
};

function failureOf({failed, timedOut, exitCode, signal}: ProcessEnd): string | undefined {
	if (!failed) return undefined;
	if (timedOut) return `did not end within ${DEADLINE_MS / 60_000} minutes`;
	return exitCode === undefined ? `ended with ${signal ?? 'a failure to start'}` : `ended with exit code ${exitCode}`;
}

function lastLines(output: Buffer): string {
	// Installers mask the passwords in the addresses that they print, but not all versions do everywhere.
	const text = output
		.toString('utf8')
		.replace(/\/\/[^/@\s]+@/g, '//****@')
		.trim();
	const bytes = Buffer.from(text);
	if (bytes.length <= MAX_TAIL) return text;
	return bytes
		.subarray(-MAX_TAIL)
		.toString('utf8')
		.replace(/^\uFFFD+/, '');
}

async function installFailed(name: string, file: string, failure: string, tail: string): Promise<ForktreeError> {
	const lines = (await readFile(file, 'utf8')).split('\n');
	const requirements = lines
		.filter((line) => line !== '' && !line.startsWith(' '))
		.map((line) => line.replace(/ \\$/, ''));
	const named = requirements.filter((requirement) => isNamedIn(requirement, tail)).slice(0, 10);
	const subject = named.length > 0 ? named.join(', ') : 'the requirements';
	return new ForktreeError('InstallFailed', `could not install ${subject}: ${name} ${failure}\n${tail}`);
}

function isNamedIn(requirement: string, output: string): boolean {
	const name = /^[a-z0-9-]+/.exec(requirement)?.[0];
	return name !== undefined && new RegExp(`(?<![\\w.-])${name.replaceAll('-', '[-_.]')}(?![\\w-])`, 'i').test(output);
}
