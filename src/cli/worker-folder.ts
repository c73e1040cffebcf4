/** A worker's folder: what is in it, whether a worker runs there, and how one is told apart from what a dead one left. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, statSync} from 'node:fs';
import {type FileHandle, mkdir, open, readFile, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {type CleanupReport, ForktreeError, forceCleanup} from '../index.ts';
import {askPid, type PidConnection} from './pid-socket.ts';
import {
	type Config,
	defaultConfig,
	readConfig,
	readSettings,
	type WorkerSettings,
	writeConfig,
} from './worker-config.ts';

/**
 * - `Uninitialized`: no worker's folder.
 * - `Running`: its worker lives, be it ready yet or not.
 * - `StoppedClean`, `StoppedDirty`: none lives; one that was killed has left something in the second.
 * - `Unknown`: somebody holds its socket who is not the worker that it names, or does not answer.
 */
export type InstanceState = 'Uninitialized' | 'Running' | 'StoppedClean' | 'StoppedDirty' | 'Unknown';

/** What there is of a worker in a folder. */
export type Instance =
	| {readonly state: 'Running'; readonly pid: number; readonly connection: PidConnection}
	| {readonly state: 'Unknown'; readonly reason: string}
	| {readonly state: 'Uninitialized' | 'StoppedClean' | 'StoppedDirty'};

/** Where a command looks when it is not told. */
export const defaultFolder = 'default-ol';

const LOCKED = 75;
/** One that was just killed may take that long to end. */
const lockDeadlineSeconds = 5;

/** The files that a worker leaves in its `worker_dir` while it runs. */
export type InstanceFiles = {
	/** Its pid in decimal digits. */
	readonly pid: string;
	/** Where `GET /pid` is answered. */
	readonly socket: string;
	/** Where it is served, once it is ready. */
	readonly url: string;
	/** Counters and times of the last one, when it ended. */
	readonly stats: string;
};

/** The names of those files. @param workerDir `worker_dir` of the configuration */
export function instanceFiles(workerDir: string): InstanceFiles {
	return {
		pid: path.join(workerDir, 'worker.pid'),
		socket: path.join(workerDir, 'ol.sock'),
		url: path.join(workerDir, 'worker.url'),
		stats: path.join(workerDir, 'stats.json'),
	};
}

/** A worker's folder, which need not be there. */
export class WorkerFolder {
	/** Absolute. */
	readonly directory: string;

	constructor(directory: string = defaultFolder) {
		this.directory = path.resolve(directory);
	}

	get marker(): string {
		return path.join(this.directory, 'ol.init');
	}

	get config(): string {
		return path.join(this.directory, 'config.json');
	}

	/** `config.json` as the command line of the last `up` changed it; there only if it did. */
	get overrides(): string {
		return `${this.config}.overrides`;
	}

	/** What a detached worker prints. */
	get log(): string {
		return path.join(this.directory, 'worker.out');
	}

	get isInitialized(): boolean {
		return existsSync(this.marker);
	}

	/** Makes what is missing of it, and leaves the rest. Answers whether the folder itself was missing. */
	async complete(): Promise<boolean> {
		const made = await mkdir(this.directory, {recursive: true, mode: 0o700});
		await mkdir(path.join(this.directory, 'registry'), {recursive: true, mode: 0o700});
		await mkdir(path.join(this.directory, 'worker'), {recursive: true, mode: 0o700});
		if (!existsSync(this.config)) await this.resetConfig();
		if (!this.isInitialized) await writeFile(this.marker, `${new Date().toISOString()}\n`, {mode: 0o400});
		return made !== undefined;
	}

	/** What `config.json` says as long as nobody has changed it. */
	defaultConfig(): Config {
		return defaultConfig(this.directory);
	}

	/** Writes the default configuration in place of what was there. */
	async resetConfig(): Promise<void> {
		await writeConfig(this.config, this.defaultConfig());
		await rm(this.overrides, {force: true});
	}

	/** The configuration that the last `up` ran with. @throws as `readConfig` and `readSettings` */
	async settings(): Promise<WorkerSettings> {
		const file = existsSync(this.overrides) ? this.overrides : this.config;
		return readSettings(await readConfig(file), this.directory).settings;
	}

	/** Where `worker_dir` is. A configuration that was broken since must not keep one from ending what runs. */
	async workerDir(): Promise<string> {
		try {
			return (await this.settings()).workerDir;
		} catch {
			return path.join(this.directory, 'worker');
		}
	}

	/** Where its worker serves; undefined when none does. */
	async url(workerDir: string): Promise<string | undefined> {
		try {
			return (await readFile(instanceFiles(workerDir).url, 'utf8')).trim();
		} catch {
			return undefined;
		}
	}

	/** Looks whether a worker runs. The caller destroys the connection of one that does. */
	async inspect(workerDir: string): Promise<Instance> {
		if (!this.isInitialized) return {state: 'Uninitialized'};
		const files = instanceFiles(workerDir);
		const connection = await askPid(files.socket);
		if (connection === undefined) return {state: this.#isDirty(files) ? 'StoppedDirty' : 'StoppedClean'};
		const instance = await this.#identify(connection, files);
		if (instance.state !== 'Running') connection.destroy();
		return instance;
	}

	/** Whether who answers at the socket is this folder's worker. */
	async #identify(connection: PidConnection, {pid: pidFile, socket}: InstanceFiles): Promise<Instance> {
		const unknown = (reason: string): Instance => ({state: 'Unknown', reason});
		const {pid} = connection;
		if (pid === undefined) return unknown(`whoever listens on ${socket} does not answer`);
		const noted = (await readFile(pidFile, 'utf8').catch(() => '')).trim();
		if (noted !== String(pid)) return unknown(`${pidFile} says ${JSON.stringify(noted)}, and ${socket} says ${pid}`);
		// Of another pid namespace it would be a number that means somebody else here.
		if (!hasOpen(pid, this.marker)) return unknown(`process ${pid} is not the worker that listens on ${socket}`);
		return {state: 'Running', pid, connection};
	}

	#isDirty({pid, socket, url}: InstanceFiles): boolean {
		return [pid, socket, url, path.join(this.directory, 'state', 'lock')].some((file) => existsSync(file));
	}

	/**
	 * Takes the folder's lock, which the kernel frees when this process ends, however it does.
	 * @returns undefined when another process has it, and keeps it for a few seconds
	 * @throws {ForktreeError} `NotSupported` where there is no `flock` of util-linux
	 */
	async lock(): Promise<FileHandle | undefined> {
		const handle = await open(this.marker, 'r');
		let isOurs = false;
		try {
			isOurs = await takeLock(handle.fd);
			return isOurs ? handle : undefined;
		} finally {
			if (!isOurs) await handle.close();
		}
	}

	/**
	 * Removes what a killed worker left. Only for who has the lock.
	 * @throws {ForktreeError} `StateDirInUse` when another program uses its state folder
	 */
	async sweep(workerDir: string): Promise<CleanupReport> {
		const report = await forceCleanup({stateDir: path.join(this.directory, 'state')});
		const {pid, socket, url} = instanceFiles(workerDir);
		const left = [pid, socket, url].filter((file) => existsSync(file));
		for (const file of left) await rm(file, {force: true});
		return {...report, paths: [...report.paths, ...left]};
	}
}

/** Whether a process has this file open. */
function hasOpen(pid: number, file: string): boolean {
	const {dev, ino} = statSync(file);
	try {
		return readdirSync(`/proc/${pid}/fd`).some((fd) => {
			const target = statSync(`/proc/${pid}/fd/${fd}`, {throwIfNoEntry: false});
			return target?.ino === ino && target.dev === dev;
		});
	} catch {
		return false; // it has ended, or belongs to somebody else
	}
}

/** A lock belongs to the open file, so that a child that shares it can take it for us, and wait where no timer is needed. */
async function takeLock(fd: number): Promise<boolean> {
	const args = ['--exclusive', '--timeout', String(lockDeadlineSeconds), '--conflict-exit-code', String(LOCKED), '0'];
	const child = spawn('flock', args, {stdio: [fd, 'ignore', 'ignore']});
	let code: number | null;
	try {
		[code] = (await once(child, 'exit')) as [number | null];
	} catch (cause) {
		throw new ForktreeError('NotSupported', 'expected flock of util-linux on PATH, to lock a worker’s folder', {cause});
	}
	if (code === 0 || code === LOCKED) return code === 0;
	throw new ForktreeError('NotSupported', `expected flock to lock a worker’s folder, got exit code ${code}`);
}
