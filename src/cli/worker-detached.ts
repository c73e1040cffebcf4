/** `forktree worker up --detach`: starts the same command in a session of its own, and waits until it is ready. */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {constants} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';
import process from 'node:process';
import type {Readable} from 'node:stream';
import {text} from 'node:stream/consumers';
import {exitCodes, note, print, printable, within} from './terminal.ts';
import type {Override} from './worker-config.ts';
import type {WorkerFolder} from './worker-folder.ts';

/** Which of the child's fds it tells by that it is ready. */
const readyFd = 3;
const readyDeadlineMs = 300_000;
/** Running calls get ten of them. */
const endDeadlineMs = 20_000;
/** What is shown of a log. */
const tailBytes = 8192;
const {O_APPEND, O_CREAT, O_RDWR, O_TRUNC} = constants;

/**
 * Answers the exit code once the worker serves, or has ended before.
 * @param signal ends the worker as long as it is awaited
 * @throws the signal's reason
 */
export async function startDetached(
	folder: WorkerFolder,
	overrides: readonly Override[],
	signal: AbortSignal,
): Promise<number> {
	signal.throwIfAborted();
	await print(process.stdout, `Starting worker in ${folder.directory} and waiting until it's ready.\n`);
	const log = await open(folder.log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0o600);
	try {
		const child = spawnWorker(folder, overrides, log.fd);
		const exited = once(child, 'exit') as Promise<[number | null]>;
		const deadline = AbortSignal.timeout(readyDeadlineMs);
		const ready = await waitUntilReady(child, AbortSignal.any([signal, deadline]));
		if (ready === undefined) {
			await endChild(child, exited);
			signal.throwIfAborted();
			const fault = deadline.aborted
				? `was not ready within ${readyDeadlineMs / 1000} seconds`
				: 'ended before it was ready';
			return await tellFailure(fault, folder.log, log, exited);
		}
		child.unref();
		const {port} = new URL(ready.url);
		await print(process.stdout, `\tPID: ${child.pid}\n\tPort: ${port}\n\tLog File: ${folder.log}\nReady!\n`);
		return exitCodes.ok;
	} finally {
		await log.close();
	}
}

function spawnWorker({directory}: WorkerFolder, overrides: readonly Override[], log: number): ChildProcess {
	const [, program = ''] = process.argv;
	const options = overrides.flatMap(([key, value]) => ['--options', `${key}=${value}`]);
	const args = [program, 'worker', 'up', '--path', directory, ...options, '--ready-fd', String(readyFd)];
	return spawn(process.execPath, [...process.execArgv, ...args], {
		detached: true,
		stdio: ['ignore', log, log, 'pipe'],
	});
}

/** What it tells; undefined when it has ended before, or is not awaited any more. */
async function waitUntilReady(child: ChildProcess, signal: AbortSignal): Promise<{readonly url: string} | undefined> {
	const pipe = child.stdio[readyFd] as Readable;
	const giveUp = () => void pipe.destroy();
	signal.addEventListener('abort', giveUp, {once: true});
	try {
		// It ends when the child closes it, or ends itself.
		return JSON.parse(await text(pipe)) as {url: string};
	} catch {
		return undefined;
	} finally {
		signal.removeEventListener('abort', giveUp);
	}
}

/** Asks it to end, and kills it when it does not. */
async function endChild(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
	child.kill('SIGTERM');
	if (await within(exited, endDeadlineMs)) return;
	child.kill('SIGKILL');
	await exited;
}

/** Shows the end of the log; answers the exit code. */
async function tellFailure(
	fault: string,
	file: string,
	log: FileHandle,
	exited: Promise<[number | null]>,
): Promise<number> {
	const [code] = await exited;
	const {size} = await log.stat();
	const {buffer, bytesRead} = await log.read(Buffer.alloc(tailBytes), 0, tailBytes, Math.max(0, size - tailBytes));
	await print(process.stderr, printable(buffer.toString('utf8', 0, bytesRead)));
	note(`the worker ${fault}; ${file} has what it said`);
	return code === null || code === exitCodes.ok ? exitCodes.forktree : code;
}
