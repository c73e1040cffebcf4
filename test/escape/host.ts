/** What of the host the attempts try to reach: listeners, files and processes that are really there. */
import {once} from 'node:events';
import {mkdtemp, rm, writeFile} from 'node:fs/promises';
import {createServer, type Server} from 'node:net';
import {networkInterfaces, tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';

/** What attempts are told; enough to find it, if there were a way. */
export type HostFacts = {
	/** Name of an abstract Unix socket that somebody listens on. */
	readonly abstract: string;
	/** A Unix socket with a path. */
	readonly socketFile: string;
	/** A TCP port on every address. */
	readonly port: number;
	/** An address of the machine that is not loopback, if it has one. */
	readonly address: string;
	/** A file that everyone may read. */
	readonly file: string;
	readonly stateDir: string;
	/** Of this process, its parent, zygotes and sandboxes. */
	readonly pids: readonly number[];
};

export class Host {
	readonly #servers: Server[] = [];
	readonly #folder: string;
	/** Connections from anywhere to the listeners. */
	connections = 0;

	private constructor(folder: string) {
		this.#folder = folder;
	}

	static async create(): Promise<Host> {
		return new Host(await mkdtemp(path.join(tmpdir(), 'forktree-test-host-')));
	}

	async facts(stateDir: string, pids: readonly number[]): Promise<HostFacts> {
		const abstract = `forktree-escape-${process.pid}`;
		const socketFile = path.join(this.#folder, 'socket');
		const file = path.join(this.#folder, 'file');
		await writeFile(file, 'of the host', {mode: 0o644});
		await this.#listen(`\0${abstract}`);
		await this.#listen(socketFile);
		const server = await this.#listen({port: 0, host: '::'});
		const address = server.address();
		if (address === null || typeof address === 'string') throw new Error('expected a port');
		const outer = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
		return {
			abstract,
			socketFile,
			port: address.port,
			address: outer.find(({family, internal}) => family === 'IPv4' && !internal)?.address ?? '192.0.2.2',
			file,
			stateDir,
			pids: [process.pid, process.ppid, ...pids],
		};
	}

	async #listen(where: string | {readonly port: number; readonly host: string}): Promise<Server> {
		const server = createServer((socket) => {
			this.connections += 1;
			socket.destroy();
		});
		server.listen(where);
		await once(server, 'listening');
		this.#servers.push(server);
		return server;
	}

	async close(): Promise<void> {
		for (const server of this.#servers) server.close();
		await rm(this.#folder, {recursive: true, force: true});
	}
}
