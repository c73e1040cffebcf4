/** A pool of program sandboxes that the tests of one file share, and what the host knows of its sandboxes. */
import {readdirSync, readFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {
	createSandboxPool,
	type ExecOptions,
	type ExecResult,
	type Sandbox,
	type SandboxOptions,
	type SandboxPool,
	type SandboxPoolOptions,
} from '../../src/index.ts';
import {withDeadline} from '../../src/kernel/deadline.ts';
import {refusal} from './kernel-test.ts';
import {cgroupsOf, LeakCheck} from './leak-check.ts';
import {patience, temporaryFolder} from './runtime.ts';

/** How long anything that a test waits for may take; so many times as long where the machine is emulated. */
export const waitMs = 20_000 * patience;

/** A promise that a test waits for; what does not come is named. */
export async function within<T>(promise: Promise<T>, what: string): Promise<T> {
	return withDeadline(promise, waitMs, () => new Error(`expected ${what} within ${waitMs} ms`));
}

/** Waits for a condition of which no event tells. */
export async function until(condition: () => boolean, what: string): Promise<void> {
	const deadline = performance.now() + waitMs;
	while (!condition()) {
		if (performance.now() > deadline) throw new Error(`expected ${what} within ${waitMs} ms`);
		await new Promise((resolve) => setImmediate(resolve));
	}
}

/** What a test file works with. */
export class PoolFixture {
	readonly pool: SandboxPool;
	readonly stateDir: string;
	readonly #shared: Sandbox | undefined;

	constructor(pool: SandboxPool, stateDir: string, shared?: Sandbox) {
		this.pool = pool;
		this.stateDir = stateDir;
		this.#shared = shared;
	}

	/** One for the tests of a file that leave it as it was. */
	get shared(): Sandbox {
		if (this.#shared === undefined) throw new Error('expected a file that asked for a shared sandbox');
		return this.#shared;
	}

	/** A sandbox of one test's own, destroyed with it. */
	async create(t: ExecutionContext, options?: SandboxOptions): Promise<Sandbox> {
		const sandbox = await within(this.pool.create(options), 'a sandbox');
		t.teardown(async () => sandbox.destroy());
		return sandbox;
	}

	/** Runs one program in a sandbox of its own. */
	async run(argv: readonly string[], options?: SandboxOptions, exec?: ExecOptions): Promise<ExecResult> {
		const sandbox = await within(this.pool.create(options), 'a sandbox');
		try {
			return await within(sandbox.exec(argv, exec), 'the end of a program');
		} finally {
			await sandbox.destroy();
		}
	}
}

/** Of this file. */
let leaks: LeakCheck | undefined;

/**
 * Makes a pool before the tests of this file, and after them closes it and looks for what it left behind.
 * @param shared options of a sandbox that the tests share; undefined: none
 * @returns gives the fixture, once a test runs
 */
export function usePool(options: SandboxPoolOptions = {}, shared?: SandboxOptions): () => PoolFixture {
	let fixture: PoolFixture | undefined;
	test.serial.before(async () => {
		if (refusal !== undefined) return;
		const stateDir = await temporaryFolder();
		leaks = new LeakCheck();
		const pool = await createSandboxPool({stateDir, ...options});
		leaks.track(stateDir);
		fixture = new PoolFixture(pool, stateDir, shared === undefined ? undefined : await pool.create(shared));
	});
	test.after.always('nothing is left when the pool is closed', async (t) => {
		if (fixture === undefined) return;
		if (shared !== undefined) await fixture.shared.destroy();
		const {sandboxes, memory} = fixture.pool.stats();
		await fixture.pool.close();
		t.is(sandboxes, 0, 'sandboxes are left');
		t.is(memory.reservedMb, 0, 'memory is reserved');
		leaks?.verify(t);
		await rm(fixture.stateDir, {recursive: true, force: true});
	});
	return () => {
		if (fixture === undefined) throw new Error('expected a pool: it is made before the first test');
		return fixture;
	};
}

/** For files whose tests have pools of their own: nothing of those may be left in the end. */
export function checkLeaks(): void {
	test.serial.before(() => {
		leaks = new LeakCheck();
	});
	test.after.always('nothing is left when every pool is closed', (t) => leaks?.verify(t));
}

/** A pool of one test's own, closed with it. What {@link usePool} and {@link checkLeaks} look for includes what it leaves. */
export async function makePool(t: ExecutionContext, options: SandboxPoolOptions = {}): Promise<PoolFixture> {
	const stateDir = options.stateDir ?? (await temporaryFolder());
	t.teardown(() => rm(stateDir, {recursive: true, force: true}));
	const pool = await createSandboxPool({stateDir, ...options});
	leaks?.track(stateDir);
	t.teardown(() => pool.close());
	return new PoolFixture(pool, stateDir);
}

/** A program that runs until its stdin ends or it is killed, having said so on stdout. */
export type Waiting = {readonly result: Promise<ExecResult>};

/** Starts shell text that says `ready` when it has come to where the test wants it. */
export async function startReady(sandbox: Sandbox, text: string, options: ExecOptions = {}): Promise<Waiting> {
	let said = '';
	let isReady = () => {};
	const ready = new Promise<void>((resolve) => {
		isReady = resolve;
	});
	const onStdout = (words: string) => {
		said += words;
		if (said.includes('ready\n')) isReady();
	};
	const result = sandbox.exec(['sh', '-c', text], {...options, onStdout});
	const early = result.then((end) => {
		throw new Error(`expected a program that says ready, got ${JSON.stringify(end)}`);
	});
	early.catch(() => undefined);
	await within(Promise.race([ready, early]), 'a program that is ready');
	return {result};
}

function readOrEmpty(file: string): string {
	try {
		return readFileSync(file, 'latin1');
	} catch {
		return '';
	}
}

/** A sandbox as the host sees it. */
export type Seen = {
	/** Its first process. */
	readonly first: number;
	/** A control file's text, from whatever group of it has that file. */
	read(...names: readonly string[]): string;
};

/** Finds the groups of a sandbox by a program that runs in it. */
export async function seenByHost(stateDir: string, sandbox: Sandbox): Promise<Seen> {
	const mark = `mark-of-${sandbox.id}`;
	const controller = new AbortController();
	const {result} = await startReady(sandbox, `echo ready; sleep 600; : ${mark}`, {signal: controller.signal});
	const groups = cgroupsOf(stateDir).flatMap((parent) =>
		readdirSync(parent, {withFileTypes: true}).flatMap((each) =>
			each.isDirectory() ? [path.join(parent, each.name)] : [],
		),
	);
	const pidsOf = (group: string) => readOrEmpty(path.join(group, 'cgroup.procs')).split('\n').filter(Boolean);
	const own = groups.filter((group) =>
		// Which anybody may read; variables of a process with a given id its giver may not.
		pidsOf(group).some((pid) => readOrEmpty(`/proc/${pid}/cmdline`).includes(`: ${mark}\0`)),
	);
	const [firstGroup = ''] = own;
	const first = Math.min(...pidsOf(firstGroup).map(Number));
	controller.abort();
	await result.catch(() => undefined);
	return {
		first,
		read(...names) {
			for (const group of own) {
				for (const name of names) {
					const text = readOrEmpty(path.join(group, name)).trim();
					if (text !== '') return text;
				}
			}
			throw new Error(`expected one of ${names.join(', ')} in ${own.join(', ')}`);
		},
	};
}
