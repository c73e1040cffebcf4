/** A runtime that the tests of one file share, and short ways to use it. */
import {mkdtemp, realpath, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {
	createRuntime,
	type DeployOptions,
	type Failure,
	type InvokeOptions,
	type JsonValue,
	type Outcome,
	type Runtime,
	type RuntimeOptions,
	type Success,
} from '../../src/index.ts';
import {refusal} from './kernel-test.ts';
import {LeakCheck} from './leak-check.ts';
import {python} from './python.ts';

export {python} from './python.ts';

/** Python text as it stands, less the indentation that all its lines share. */
export function py(strings: TemplateStringsArray, ...values: readonly unknown[]): string {
	const text = String.raw(strings, ...values)
		.replace(/^\n/, '')
		.trimEnd();
	const filled = text.split('\n').filter((line) => line.trim() !== '');
	const shared = Math.min(...filled.map((line) => /^\t*/.exec(line)?.[0].length ?? 0));
	return `${text
		.split('\n')
		.map((line) => line.slice(shared))
		.join('\n')}\n`;
}

/** An empty folder of the test's own. */
export async function temporaryFolder(): Promise<string> {
	return realpath(await mkdtemp(path.join(tmpdir(), 'forktree-test-')));
}

/** How many times as long anything may take as on a machine that is not emulated. */
export const patience = Number(process.env.FORKTREE_TEST_PATIENCE ?? 1);

/** The default deadline of calls, where there is time for it. */
export const patientLimits: {readonly timeoutMs?: number} = patience === 1 ? {} : {timeoutMs: 30_000 * patience};

let lastName = 0;

/** What a test file works with. */
export class Fixture {
	readonly runtime: Runtime;
	readonly stateDir: string;

	constructor(runtime: Runtime, stateDir: string) {
		this.runtime = runtime;
		this.stateDir = stateDir;
	}

	/** Deploys code as a function of its own; answers its name. */
	async deploy(code: string | Readonly<Record<string, string>>, options: DeployOptions = {}): Promise<string> {
		lastName += 1;
		const name = `function-${lastName}`;
		const limits = {...patientLimits, ...options.limits};
		await this.runtime.deploy(name, typeof code === 'string' ? {'f.py': code} : code, {...options, limits});
		return name;
	}

	/** Deploys code and calls it once. */
	async run(
		code: string | Readonly<Record<string, string>>,
		event: JsonValue | Uint8Array = null,
		options?: DeployOptions & {readonly invoke?: InvokeOptions},
	): Promise<Outcome> {
		const {invoke, ...deploy} = options ?? {};
		const name = await this.deploy(code, deploy);
		return this.runtime.invoke(name, event, invoke);
	}
}

/**
 * Makes a runtime before the tests of this file, and after them closes it and looks for what it left behind.
 * @returns gives the fixture, once a test runs
 */
export function useRuntime(options: RuntimeOptions = {}): () => Fixture {
	let fixture: Fixture | undefined;
	let leaks: LeakCheck | undefined;
	test.serial.before(async () => {
		if (refusal !== undefined) return;
		const stateDir = await temporaryFolder();
		leaks = new LeakCheck();
		fixture = new Fixture(await createRuntime({stateDir, python, ...options}), stateDir);
		leaks.track(stateDir);
	});
	test.after.always('nothing is left when the runtime is closed', async (t) => {
		if (fixture === undefined) return;
		await fixture.runtime.close();
		leaks?.verify(t);
		await rm(fixture.stateDir, {recursive: true, force: true});
	});
	return () => {
		if (fixture === undefined) throw new Error('expected a runtime: it is made before the first test');
		return fixture;
	};
}

/** A runtime of one test's own, closed with it. What {@link useRuntime} looks for in the end includes what it leaves. */
export async function makeRuntime(
	t: ExecutionContext,
	options: RuntimeOptions = {},
): Promise<{readonly runtime: Runtime; readonly stateDir: string}> {
	const stateDir = options.stateDir ?? (await temporaryFolder());
	t.teardown(() => rm(stateDir, {recursive: true, force: true}));
	const runtime = await createRuntime({stateDir, python, ...options});
	t.teardown(() => runtime.close());
	return {runtime, stateDir};
}

/** The failure that an outcome is; the test fails when it is none. */
export function failure(t: ExecutionContext, outcome: Outcome): Failure['error'] {
	if (!outcome.ok) return outcome.error;
	throw t.fail(`expected a failure, got the value ${JSON.stringify(outcome.value)}`);
}

/** The value of an outcome; the test fails when there is none. */
export function value(t: ExecutionContext, outcome: Outcome): Success['value'] {
	if (outcome.ok) return outcome.value;
	t.log(outcome.error.traceback);
	throw t.fail(`expected a value, got ${outcome.error.code}: ${outcome.error.message}`);
}
