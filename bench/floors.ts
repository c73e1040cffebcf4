/** Runs floors.py and times fresh interpreters: what the same takes without any isolation. */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import net from 'node:net';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import {fileURLToPath} from 'node:url';
import {dir as temporaryDirectory} from 'tmp-promise';
import {guestDirectory, nativeDirectory} from '../src/native.ts';

const floorsPy = path.join(path.dirname(fileURLToPath(import.meta.url)), 'floors.py');

/** The interpreter and packages that both sides use. */
export type FloorOptions = {
	readonly python: string;
	readonly folders: readonly string[];
	readonly modules: readonly string[];
};

function environment(folders: readonly string[]): NodeJS.ProcessEnv {
	return {
		PATH: process.env.PATH,
		LANG: 'C.UTF-8',
		OPENBLAS_NUM_THREADS: '1',
		OMP_NUM_THREADS: '1',
		MKL_NUM_THREADS: '1',
		PYTHONDONTWRITEBYTECODE: '1',
		...(folders.length === 0 ? {} : {PYTHONPATH: folders.join(':')}),
	};
}

async function start(
	options: FloorOptions,
	extra: readonly string[],
): Promise<{child: ChildProcess; ask: (word: string) => Promise<unknown>}> {
	const args = ['-S', floorsPy, guestDirectory, nativeDirectory(), options.modules.join(','), ...extra];
	const child = spawn(options.python, args, {env: environment(options.folders), stdio: ['pipe', 'pipe', 'inherit']});
	const lines = createInterface({input: child.stdout as NodeJS.ReadableStream})[Symbol.asyncIterator]();
	const next = async () => {
		const {value, done} = await lines.next();
		if (done === true) throw new Error('floors.py ended');
		return JSON.parse(value as string) as unknown;
	};
	await next();
	return {
		child,
		ask: async (word) => {
			child.stdin?.write(`${word}\n`);
			return next();
		},
	};
}

async function stop(child: ChildProcess): Promise<void> {
	const ended = once(child, 'exit');
	child.stdin?.end('exit\n');
	await ended;
}

/** A warmed plain interpreter. */
export type ProcessFloor = {
	/** Forks, until the child answers. */
	forkMs(): Promise<number>;
	/** Forks that many children that end at once, one after the other. */
	churnMs(count: number): Promise<number>;
	/** A call of first_call.py in the process itself. */
	callMs(): Promise<number>;
	close(): Promise<void>;
};

export async function openProcessFloor(options: FloorOptions): Promise<ProcessFloor> {
	const {child, ask} = await start(options, []);
	return {
		forkMs: async () => (await ask('fork')) as number,
		churnMs: async (count) => (await ask(`churn ${count}`)) as number,
		callMs: async () => (await ask('call')) as number,
		close: async () => stop(child),
	};
}

/** A Unix socket between this Node process and a Python that sends everything back. */
export async function openSocketFloor(
	python: string,
): Promise<{roundTripMs(message: Buffer): Promise<number>; close(): Promise<void>}> {
	const folder = await temporaryDirectory({unsafeCleanup: true});
	const server = net.createServer();
	const file = path.join(folder.path, 'socket');
	server.listen(file);
	await once(server, 'listening');
	const connected = once(server, 'connection') as Promise<[net.Socket]>;
	const {child} = await start({python, folders: [], modules: []}, [file]);
	const [socket] = await connected;
	return {
		async roundTripMs(message) {
			let missing = message.length;
			const done = new Promise<void>((resolve) => {
				const take = (data: Buffer) => {
					missing -= data.length;
					if (missing > 0) return;
					socket.off('data', take);
					resolve();
				};
				socket.on('data', take);
			});
			const started = performance.now();
			socket.write(message);
			await done;
			return performance.now() - started;
		},
		async close() {
			socket.destroy();
			server.close();
			await stop(child);
			await folder.cleanup();
		},
	};
}

/** A fresh process that imports the modules, from spawn to exit. */
export async function importMs({python, folders, modules}: FloorOptions): Promise<number> {
	const started = performance.now();
	const child = spawn(python, ['-c', `import ${modules.join(', ')}`], {env: environment(folders), stdio: 'ignore'});
	const [code] = (await once(child, 'exit')) as [number];
	if (code !== 0) throw new Error(`python -c 'import ${modules.join(', ')}' exited with ${code}`);
	return performance.now() - started;
}
