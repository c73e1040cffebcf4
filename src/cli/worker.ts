/** `forktree worker`: makes a worker's folder, starts the worker in it, looks after it and ends it. */
import {closeSync, existsSync, writeSync} from 'node:fs';
import {mkdir, rm, writeFile} from 'node:fs/promises';
import process from 'node:process';
import {text} from 'node:stream/consumers';
import type {CleanupReport} from '../index.ts';
import {createWorker, type Worker} from '../worker/server.ts';
import {formatStats} from '../worker/stats.ts';
import {listCleanup} from './force-cleanup.ts';
import {tellPid} from './pid-socket.ts';
import {exitCodes, Interrupts, note, print, within} from './terminal.ts';
import {ask} from './worker-client.ts';
import {type Override, override, readConfig, readSettings, type WorkerSettings, writeConfig} from './worker-config.ts';
import {startDetached} from './worker-detached.ts';
import {type Instance, instanceFiles, WorkerFolder} from './worker-folder.ts';

/** Flags of every verb. */
export type FolderFlags = {readonly path?: string};
/** Flags that have no effect. */
type ImageFlags = {readonly image?: string; readonly newbase?: boolean};
export type InitFlags = FolderFlags & ImageFlags;
export type UpFlags = FolderFlags &
	ImageFlags & {
		readonly options: readonly Override[];
		readonly detach?: boolean;
		/** Of a detached worker: where it tells that it is ready. */
		readonly readyFd?: number;
	};

/** As long as OpenLambda waits. Calls that run get ten seconds of it. */
const downDeadlineMs = 60_000;
const statusDeadlineMs = 2000;

/** `worker init`: makes the folder, or gives it the default configuration again. Functions and packages stay. */
export async function init(flags: InitFlags): Promise<number> {
	sayNoImage(flags);
	const folder = new WorkerFolder(flags.path);
	if (!folder.isInitialized && existsSync(folder.config)) {
		throw new TypeError(
			`expected a worker’s folder or an empty one, got ${folder.directory}, which has a config.json but no ol.init`,
		);
	}
	const workerDir = await folder.workerDir();
	await folder.complete();
	return whileStopped(folder, workerDir, async () => {
		await folder.resetConfig();
		await print(
			process.stdout,
			`initialised ${folder.directory}\nYou may modify the defaults here: ${folder.config}\nNext start a worker: forktree worker up -p ${folder.directory}\n`,
		);
		return exitCodes.ok;
	});
}

/** `worker up`: serves until a signal comes, or, detached, starts who does. @throws what starting or closing fails with */
export async function up(flags: UpFlags): Promise<number> {
	sayNoImage(flags);
	const folder = new WorkerFolder(flags.path);
	const interrupts = new Interrupts();
	const {signal} = interrupts;
	try {
		const {settings, warnings, save} = await prepare(folder, flags.options);
		if (await folder.complete()) note(`made the worker’s folder ${folder.directory}`);
		for (const warning of warnings) note(warning);
		if (flags.detach === true) return await detached(folder, settings, flags.options, signal);
		return await whileStopped(folder, settings.workerDir, async () => {
			await save();
			await run(settings, signal, flags.readyFd);
			return exitCodes.ok;
		});
	} catch (error) {
		if (!signal.aborted || error !== signal.reason) throw error;
		return flags.detach === true ? (interrupts.code ?? exitCodes.ok) : exitCodes.ok;
	} finally {
		interrupts.close();
	}
}

/** `worker down`: ends the worker, and removes what one that was killed has left. */
export async function down({path: directory}: FolderFlags): Promise<number> {
	const folder = new WorkerFolder(directory);
	const workerDir = await folder.workerDir();
	const instance = await folder.inspect(workerDir);
	if (instance.state === 'StoppedClean') {
		await print(process.stdout, `no worker runs in ${folder.directory}\n`);
		return exitCodes.ok;
	}
	if (instance.state === 'Running' && !(await end(instance))) {
		note(
			`expected process ${instance.pid}, the worker of ${folder.directory}, to end within ${downDeadlineMs / 1000} seconds of SIGINT`,
		);
		return exitCodes.refused;
	}
	if (instance.state === 'Uninitialized' || instance.state === 'Unknown') return refuse(folder, instance);
	return whileStopped(folder, workerDir, async () => {
		await print(process.stdout, `stopped the worker of ${folder.directory}\n`);
		return exitCodes.ok;
	});
}

/** `worker status`: the state in one line, and what a running worker answers. */
export async function status({path: directory}: FolderFlags): Promise<number> {
	const folder = new WorkerFolder(directory);
	const workerDir = await folder.workerDir();
	const instance = await folder.inspect(workerDir);
	if (instance.state !== 'Running') {
		const why = instance.state === 'Unknown' ? `: ${instance.reason}` : '';
		await print(process.stdout, `${instance.state}${why}\n`);
		return exitCodes.refused;
	}
	instance.connection.destroy();
	const url = await folder.url(workerDir);
	const answer = url === undefined ? 'not ready yet' : await askStatus(url);
	await print(process.stdout, `Running\n\tPID: ${instance.pid}\n\tURL: ${url ?? '-'}\n\tStatus: ${answer}\n`);
	return answer === 'ready' ? exitCodes.ok : exitCodes.refused;
}

/** `worker force-cleanup`: removes what a killed worker left, and prints what that was. */
export async function forceCleanup({path: directory}: FolderFlags): Promise<number> {
	const folder = new WorkerFolder(directory);
	const workerDir = await folder.workerDir();
	return whileStopped(folder, workerDir, async (report) => {
		await print(process.stdout, listCleanup(report));
		return exitCodes.ok;
	});
}

function sayNoImage({image, newbase}: ImageFlags): void {
	if (image === undefined && newbase !== true) return;
	note('--image and --newbase have no effect: sandboxes show the host’s own system folders, and need no image');
}

/** What the folder's configuration and the command line come to; `save` keeps what the command line changed. Makes nothing yet. */
async function prepare(folder: WorkerFolder, overrides: readonly Override[]) {
	const written = existsSync(folder.config) ? await readConfig(folder.config) : folder.defaultConfig();
	const config = override(written, overrides);
	const {settings, warnings} = readSettings(config, folder.directory);
	const save = async () => {
		if (overrides.length > 0) await writeConfig(folder.overrides, config);
		else await rm(folder.overrides, {force: true});
	};
	return {settings, warnings, save};
}

/**
 * Does something while no worker runs in the folder, nor can start, and nothing is left of a killed one.
 * @param action gets what was removed of that; answers the exit code
 */
async function whileStopped(
	folder: WorkerFolder,
	workerDir: string,
	action: (removed: CleanupReport) => Promise<number>,
): Promise<number> {
	const instance = await folder.inspect(workerDir);
	if (instance.state === 'Running') instance.connection.destroy();
	if (instance.state !== 'StoppedClean' && instance.state !== 'StoppedDirty') return refuse(folder, instance);
	const lock = await folder.lock();
	if (lock === undefined) return refuse(folder, {state: 'Unknown', reason: 'another command works on it'});
	try {
		return await action(await folder.sweep(workerDir));
	} finally {
		await lock.close();
	}
}

function refuse({directory}: WorkerFolder, instance: Instance): number {
	note(`expected ${directory} to have a worker that is stopped: ${describe(instance)}`);
	return exitCodes.refused;
}

function describe(instance: Instance): string {
	if (instance.state === 'Running')
		return `process ${instance.pid} is its worker, and runs; forktree worker down ends it`;
	if (instance.state === 'Unknown') return instance.reason;
	return 'it is no worker’s folder; forktree worker init makes it one';
}

async function detached(
	folder: WorkerFolder,
	settings: WorkerSettings,
	overrides: readonly Override[],
	signal: AbortSignal,
): Promise<number> {
	const instance = await folder.inspect(settings.workerDir);
	if (instance.state === 'Running') instance.connection.destroy();
	if (instance.state === 'Running' || instance.state === 'Unknown') return refuse(folder, instance);
	return startDetached(folder, overrides, signal);
}

/** Serves until the signal comes. @param readyFd where it is told that it is ready, besides on stdout */
async function run(settings: WorkerSettings, signal: AbortSignal, readyFd: number | undefined): Promise<void> {
	const files = instanceFiles(settings.workerDir);
	await mkdir(settings.workerDir, {recursive: true, mode: 0o700});
	await rm(files.stats, {force: true});
	try {
		await writeFile(files.pid, String(process.pid), {mode: 0o644, flag: 'wx'});
		await tellPid(files.socket);
		const worker = await start(settings, signal);
		try {
			await writeFile(files.url, `${worker.url}\n`);
			if (readyFd !== undefined) tellReady(readyFd, worker.url);
			await print(process.stdout, `ready on ${worker.url}\n`);
			if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, {once: true}));
		} finally {
			await worker.close();
			await writeFile(files.stats, formatStats(worker.stats()));
		}
	} finally {
		for (const file of [files.url, files.socket, files.pid]) await rm(file, {force: true});
	}
}

function start(settings: WorkerSettings, signal: AbortSignal): Promise<Worker> {
	const {registry, registryCacheMs, mode, host, port, token, logOutput, pipMirror, runtime} = settings;
	// Installers have it from there, as if their user had said so.
	if (pipMirror !== undefined) Object.assign(process.env, {PIP_INDEX_URL: pipMirror, UV_DEFAULT_INDEX: pipMirror});
	const access = token === undefined ? {} : {token};
	return createWorker({...runtime, registry, registryCacheMs, mode, host, port, signal, logOutput, ...access});
}

function tellReady(fd: number, url: string): void {
	try {
		writeSync(fd, JSON.stringify({url}));
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error; // else who waited for it has left
	} finally {
		closeSync(fd);
	}
}

/** Sends SIGINT; false when the process has not ended before the deadline. */
async function end({pid, connection}: Extract<Instance, {state: 'Running'}>): Promise<boolean> {
	try {
		// The connection is open, so that the number can't have become that of another process.
		process.kill(pid, 'SIGINT');
		return await within(connection.closed, downDeadlineMs);
	} finally {
		connection.destroy();
	}
}

/** `ready`, or what went wrong. */
async function askStatus(url: string): Promise<string> {
	try {
		const answer = await ask({url, token: undefined}, '/status', {signal: AbortSignal.timeout(statusDeadlineMs)});
		return answer.status === 200 ? (await text(answer.body)).trim() : `answered with ${answer.status}`;
	} catch (error) {
		return `does not answer: ${messageOf(error)}`;
	}
}

function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}
