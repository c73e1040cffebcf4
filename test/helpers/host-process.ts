/** Starts helpers/host.ts, for tests that kill the owner of a runtime. */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import type {ExecutionContext} from 'ava';
import {python, temporaryFolder} from './runtime.ts';

export const hostScript = path.join(import.meta.dirname, 'host.ts');

export type Host = {readonly process: ChildProcess; readonly stateDir: string; readonly pids: readonly number[]};

/** A process with a runtime in the middle of a call, which the test may kill. @param given its state folder, by default a new one */
export async function startHost(t: ExecutionContext, given?: string): Promise<Host> {
	const stateDir = given ?? (await temporaryFolder());
	t.teardown(() => rm(stateDir, {recursive: true, force: true}));
	const host = spawn(process.execPath, ['--import=tsx', hostScript, stateDir, python], {
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	t.teardown(() => host.kill('SIGKILL'));
	const [line] = (await Promise.race([
		once(createInterface(host.stdout), 'line'),
		once(host, 'exit').then(([code]) => {
			throw new Error(`the host ended with ${code}`);
		}),
	])) as [string];
	return {process: host, stateDir, pids: JSON.parse(line) as number[]};
}

/** Not reaped yet is as good as gone: nothing of it runs or holds anything. */
export function isAlive(pid: number): boolean {
	try {
		return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
	} catch {
		return false;
	}
}
