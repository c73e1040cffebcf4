/** `forktree pprof`: profiles of a running worker, for the developer tools of Chrome. */
import {createWriteStream} from 'node:fs';
import {rm} from 'node:fs/promises';
import process from 'node:process';
import {pipeline} from 'node:stream/promises';
import {exitCodes, print} from './terminal.ts';
import {ask, findWorker, refused} from './worker-client.ts';

export type ProfileFlags = {readonly path?: string; readonly out?: string};

/** The worker stands still while it looks at its heap. */
const profileDeadlineMs = 10 * 60_000;

/** `pprof mem`: saves a snapshot of the heap. */
export async function saveHeap({path, out = 'mem.heapsnapshot'}: ProfileFlags): Promise<number> {
	return save(path, '/pprof/mem', out);
}

/** `pprof cpu-start`: begins to record. */
export async function startProfile({path}: ProfileFlags): Promise<number> {
	const answer = await ask(await findWorker(path), '/pprof/cpu-start', {
		signal: AbortSignal.timeout(profileDeadlineMs),
	});
	if (answer.status !== 200) return refused(answer);
	answer.body.destroy();
	await print(process.stdout, 'the profile is being recorded; forktree pprof cpu-stop ends and saves it\n');
	return exitCodes.ok;
}

/** `pprof cpu-stop`: ends the recording, and saves it. */
export async function stopProfile({path, out = 'cpu.cpuprofile'}: ProfileFlags): Promise<number> {
	return save(path, '/pprof/cpu-stop', out);
}

async function save(path: string | undefined, route: string, out: string): Promise<number> {
	const answer = await ask(await findWorker(path), route, {signal: AbortSignal.timeout(profileDeadlineMs)});
	if (answer.status !== 200) return refused(answer);
	try {
		await pipeline(answer.body, createWriteStream(out));
	} catch (error) {
		await rm(out, {force: true});
		throw error;
	}
	await print(process.stdout, `saved to ${out}; the developer tools of Chrome open it\n`);
	return exitCodes.ok;
}
