/**
 * What only shows after many times. `npm run soak -- churn [TIMES]` makes sandboxes, runs programs in them that end in
 * every way, and destroys them; `npm run soak -- kill [TIMES]` kills the owner of busy sandboxes at random moments;
 * `npm run soak -- packages [TIMES]` installs and imports packages of real projects; `npm run soak -- squeeze [SECONDS]` calls several
 * times as many functions as fit into memory. Each ends with 0 when all went well and nothing was left.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import {setTimeout as delay} from 'node:timers/promises';
import {createSandboxPool, type ExecResult, type Sandbox, type SandboxPool} from '../../src/index.ts';
import {cgroupsOf, childrenOfOurs, processesIn} from '../helpers/leak-check.ts';
import {packages} from './packages.ts';
import {squeeze} from './squeeze.ts';

const busySandboxes = 32;
/** How long what an owner left may live. */
const endDeadlineMs = 1000;

function fail(message: string): never {
	throw new Error(message);
}

function mounts(): string[] {
	return readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
}

type Way = {readonly run: (sandbox: Sandbox) => Promise<ExecResult>; readonly expected: string};

/** Programs that end in every way, and the word for it. */
const ways: readonly Way[] = [
	{run: (sandbox) => sandbox.exec(['true']), expected: '0'},
	{run: (sandbox) => sandbox.exec(['sh', '-c', 'exit 3']), expected: '3'},
	{run: (sandbox) => sandbox.exec(['no-such-program']), expected: 'StartFailed'},
	{run: (sandbox) => sandbox.exec(['sleep', '60'], {timeoutMs: 5}), expected: 'Timeout'},
	{run: (sandbox) => sandbox.exec(['sh', '-c', 'kill -9 $$']), expected: 'Killed'},
	{run: (sandbox) => sandbox.exec(['sh', '-c', 'setsid sleep 60 & exit 4']), expected: '4'},
	{run: (sandbox) => sandbox.exec(['tail', '/dev/zero']), expected: 'OutOfMemory'},
	{run: (sandbox) => sandbox.exec(['head', '-c', '3000000', '/dev/zero']), expected: '0 stdout'},
];

function wordOf({error, exitCode, limitsHit}: ExecResult): string {
	return [error?.code ?? String(exitCode), ...limitsHit].join(' ');
}

async function runOnce(pool: SandboxPool, {run, expected}: Way): Promise<void> {
	const sandbox = await pool.create();
	const word = wordOf(await run(sandbox));
	if (word !== expected) fail(`expected ${expected}, got ${word}`);
	await sandbox.destroy();
}

async function churn(times: number): Promise<void> {
	const stateDir = await mkdtemp(path.join(tmpdir(), 'forktree-test-soak-'));
	const before = {mounts: mounts().length, children: childrenOfOurs().length, fds: readdirSync('/proc/self/fd').length};
	const pool = await createSandboxPool({stateDir, defaults: {limits: {memoryMb: 16, scratchMb: 4}}});
	const groups = cgroupsOf(stateDir);
	let next = 0;
	const worker = async () => {
		while (next < times) {
			const way = ways[next % ways.length] as Way;
			next += 1;
			if (next % 1000 === 0) process.stderr.write(`${next} of ${times}\n`);
			await runOnce(pool, way);
		}
	};
	await Promise.all(Array.from({length: 8}, worker));
	const {sandboxes, memory} = pool.stats();
	if (sandboxes !== 0 || memory.reservedMb !== 0) fail(`left in the pool: ${JSON.stringify({sandboxes, memory})}`);
	await pool.close();
	const after = {mounts: mounts().length, children: childrenOfOurs().length, fds: readdirSync('/proc/self/fd').length};
	if (JSON.stringify(after) !== JSON.stringify(before))
		fail(`${JSON.stringify(before)} became ${JSON.stringify(after)}`);
	checkNothingLeft(stateDir, groups);
	await rm(stateDir, {recursive: true});
}

function checkNothingLeft(stateDir: string, groups: readonly string[]): void {
	const left = groups.filter((group) => existsSync(group));
	if (left.length > 0) fail(`cgroups are left: ${left.join(', ')}`);
	const files = readdirSync(stateDir);
	if (files.length > 0) fail(`files are left in ${stateDir}: ${files.join(', ')}`);
}

async function startOwner(stateDir: string): Promise<{child: ChildProcess; said: (word: string) => Promise<void>}> {
	const script = path.join(import.meta.dirname, 'owner.ts');
	const child = spawn(process.execPath, ['--import=tsx', script, stateDir, String(busySandboxes)], {
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	const words = new Map<string, () => void>();
	const heard = new Set<string>();
	createInterface({input: child.stdout as NodeJS.ReadableStream}).on('line', (word) => {
		heard.add(word);
		words.get(word)?.();
	});
	const said = async (word: string) => {
		if (heard.has(word)) return;
		await new Promise<void>((resolve, reject) => {
			words.set(word, resolve);
			child.once('exit', () => reject(new Error(`the owner ended before it was ${word}`)));
		});
	};
	return {child, said};
}

async function killOnce(stateDir: string, turn: number): Promise<void> {
	const {child, said} = await startOwner(stateDir);
	// Every third one while it is still making its first sandboxes.
	await said(turn % 3 === 0 ? 'open' : 'busy');
	await delay(Math.random() * 100);
	const groups = cgroupsOf(stateDir);
	const exited = once(child, 'exit');
	child.kill('SIGKILL');
	await exited;
	const deadline = performance.now() + endDeadlineMs;
	// The owner was not our child's child alone: there is no event to wait for.
	while (processesIn(groups).length > 0 && performance.now() < deadline) await delay(5);
	const alive = processesIn(groups);
	if (alive.length > 0) fail(`alive after ${endDeadlineMs} ms: ${alive.join(', ')}`);
	await (await createSandboxPool({stateDir})).close();
	checkNothingLeft(stateDir, groups);
}

async function kill(times: number): Promise<void> {
	const stateDir = await mkdtemp(path.join(tmpdir(), 'forktree-test-soak-'));
	const before = mounts().length;
	for (let turn = 0; turn < times; turn += 1) {
		await killOnce(stateDir, turn);
		if (mounts().length !== before) fail('mounts are left');
		if (turn % 10 === 9) process.stderr.write(`${turn + 1} of ${times}\n`);
	}
	await rm(stateDir, {recursive: true});
}

const soaks = {
	churn: {run: churn, times: 10_000, unit: 'times'},
	kill: {run: kill, times: 100, unit: 'times'},
	packages: {run: packages, times: 82, unit: 'times'},
	squeeze: {run: squeeze, times: 60, unit: 'seconds'},
};
const [name = '', times] = process.argv.slice(2);
if (!Object.hasOwn(soaks, name) || (times !== undefined && !/^[1-9]\d*$/.test(times))) {
	process.stderr.write(`usage: npm run soak -- ${Object.keys(soaks).join('|')} [TIMES or SECONDS]\n`);
	process.exit(2);
}
const soak = soaks[name as keyof typeof soaks];
const started = performance.now();
const count = times === undefined ? soak.times : Number(times);
await soak.run(count);
process.stdout.write(
	`${name}: ${count} ${soak.unit}, nothing left, ${((performance.now() - started) / 1000).toFixed(0)} s\n`,
);
