/** Runs the scripts of src/guest/packages, each in a sandbox, and reads their answers, which are not trusted. */
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import {type ErrorCode, ForktreeError} from '../errors.ts';
import {guestDirectory} from '../native.ts';
import type {Interpreter} from '../sandbox/interpreter.ts';
import {baseEnvironment} from '../sandbox/rootfs.ts';
import type {ExecLimitHit, ExecResult} from '../sandbox/run.ts';
import type {ToolOptions, ToolSandboxes} from './tool-sandboxes.ts';

/** What such scripts run in. */
export type Workshop = {readonly tools: Pick<ToolSandboxes, 'run'>; readonly interpreter: Interpreter};

/** One run of a script. */
export type GuestRun = {
	readonly script: 'unpack.py' | 'build.py' | 'measure.py';
	readonly request: unknown;
	/** For messages: what is being done, with which package. */
	readonly what: string;
	/** The code of its failures. */
	readonly failure: ErrorCode;
	/** Codes that the script itself may answer besides. */
	readonly codes?: readonly ErrorCode[];
	readonly options: ToolOptions & Required<Pick<ToolOptions, 'processes' | 'outputMb'>>;
};

const folder = path.join(guestDirectory, 'packages');
/** Runs the second text, which imports the first one as a module. */
const boot =
	"import sys, types; rules = sys.modules['rules'] = types.ModuleType('rules'); " +
	'exec(sys.argv.pop(1), vars(rules)); exec(sys.argv.pop(1))';
const maxWords = 4096;

/**
 * Runs a script.
 * @returns the object that it answered
 * @throws {ForktreeError} the run's `failure` with its last words and the limits that it reached, `InstallTimeout`, or `Aborted`
 */
export async function runGuest(
	{tools, interpreter}: Workshop,
	run: GuestRun,
): Promise<Readonly<Record<string, unknown>>> {
	// As texts: this package may be installed with modes that let only its owner read it.
	const texts = await Promise.all(['rules.py', run.script].map((file) => readFile(path.join(folder, file), 'utf8')));
	const python = [interpreter.executable, '-I', '-S', '-W', 'ignore'];
	const argv = [...python, '-c', boot, ...texts, JSON.stringify(run.request)];
	const {options} = run;
	const result = await tools.run(argv, {...options, env: {...baseEnvironment, ...options.env}});
	const answer = result.error === undefined && result.exitCode === 0 ? parse(result.stdout) : undefined;
	if (answer === undefined) throw explain(run, result);
	if (isObject(answer.error)) throw answeredError(run, answer.error, result);
	return answer;
}

function parse(text: string): Readonly<Record<string, unknown>> | undefined {
	try {
		const value: unknown = JSON.parse(text);
		return isObject(value) ? value : undefined;
	} catch {
		return undefined;
	}
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function answeredError(run: GuestRun, {code, message}: Readonly<Record<string, unknown>>, result: ExecResult): Error {
	const known = run.codes?.find((each) => each === code) ?? run.failure;
	return new ForktreeError(
		known,
		`${run.what}: ${String(message).slice(0, maxWords)}${limitsText(run, result)}${tail(result)}`,
	);
}

function explain(run: GuestRun, result: ExecResult): ForktreeError {
	const {what, failure, options} = run;
	if (result.error?.code === 'Timeout') {
		return new ForktreeError('InstallTimeout', `${what}: did not end within ${options.timeoutMs} ms${tail(result)}`);
	}
	const end = result.error?.message ?? `ended with ${result.signal ?? `exit code ${result.exitCode}`}`;
	return new ForktreeError(failure, `${what}: ${end}${limitsText(run, result)}${tail(result)}`);
}

/** Names the limits that a run reached. */
function limitsText({options}: GuestRun, {limitsHit}: ExecResult): string {
	const limits: Readonly<Record<ExecLimitHit, string>> = {
		memory: `${options.memoryMb} MiB of memory`,
		processes: `${options.processes} processes`,
		scratch: `${options.scratchMb} MiB of scratch space`,
		stdout: `${options.outputMb} MiB of answer`,
		stderr: `${options.outputMb} MiB of messages`,
	};
	return limitsHit.length === 0 ? '' : `; it reached its limit of ${limitsHit.map((hit) => limits[hit]).join(', ')}`;
}

/** What was printed last. */
function tail({stderr}: ExecResult): string {
	const bytes = Buffer.from(stderr.trim());
	const words = bytes
		.subarray(-maxWords)
		.toString('utf8')
		.replace(/^\uFFFD+/, '');
	return words === '' ? '' : `\n${words}`;
}
