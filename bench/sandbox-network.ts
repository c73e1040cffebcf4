/** What a connection by an allow-list takes, against one that is made straight to the same server. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {createInterface} from 'node:readline';
import {Readable} from 'node:stream';
import type {SandboxOptions, SandboxPool} from 'forktree';
import {alternate} from './alternate.ts';
import {mark, type Part, Results} from './report.ts';

const largeBytes = 1024 * 1024;
/** A process of its own: in this one it would wait for the gateway, and that for it. */
const server = `
import socket
listener = socket.create_server(('127.0.0.1', 0), backlog=64)
print(listener.getsockname()[1], flush=True)
large = bytes(${largeBytes})
while True:
	connection, _ = listener.accept()
	asked = connection.recv(1)
	connection.sendall(large if asked == b'l' else asked)
	connection.close()
`;
/** Each line of its input is a connection, whose first byte is the line's; it prints the milliseconds until all is there. */
const client = `
import socket, sys, time
for line in sys.stdin:
	began = time.perf_counter()
	with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as connection:
		connection.sendall(line[:1].encode())
		while connection.recv(1 << 18): pass
	print((time.perf_counter() - began) * 1000, flush=True)
`;

/** A client in a sandbox. */
class Client {
	readonly #input = new Readable({read() {}});
	readonly #ended: Promise<unknown>;
	#tell: (line: string) => void = () => undefined;

	constructor(pool: SandboxPool, port: number, network: SandboxOptions['network'] & {}) {
		const limits = {outputMb: 64, timeoutMs: 10 * 60_000};
		this.#ended = pool.run(['python3', '-Sc', client, String(port)], {
			stdin: this.#input,
			onStdout: (text) => this.#tell(text),
			sandbox: {network, limits},
		});
	}

	/** What one connection takes. */
	async ms(kind: 'small' | 'large'): Promise<number> {
		const line = new Promise<string>((resolve) => {
			this.#tell = resolve;
		});
		this.#input.push(`${kind}\n`);
		return Number(await line);
	}

	async close(): Promise<void> {
		this.#input.push(null);
		await this.#ended;
	}
}

/** @param n connections of each kind */
export async function measureNetwork(pool: SandboxPool, n: number): Promise<Part> {
	const results = new Results();
	const serving = spawn('python3', ['-Sc', server], {stdio: ['ignore', 'pipe', 'inherit']});
	const [line] = (await once(createInterface(serving.stdout), 'line')) as [string];
	const port = Number(line);
	const listed = new Client(pool, port, {
		allow: [`127.0.0.1:${port}`],
		connectionsPerSecond: 100_000,
		transferMb: 2 ** 20,
	});
	const direct = new Client(pool, port, 'host');
	try {
		for (const kind of ['small', 'large'] as const) {
			const contestants = [async () => listed.ms(kind), async () => direct.ms(kind)] as const;
			await alternate(Math.ceil(n / 10), 0, ...contestants);
			const [mine, floor] = await alternate(n, 0, ...contestants);
			const what = kind === 'small' ? 'connection' : 'connection with 1 MiB';
			const a = results.series(`allow-listed ${what}`, mine);
			const b = results.series(`direct ${what}`, floor);
			if (kind === 'small') results.marks.push(mark('allow-listed connection / direct, p50', a / b, '<=', 2, '×'));
			else results.marks.push(mark('throughput of an allow-listed connection / direct, 1 MiB', b / a, '>=', 0.5, '×'));
		}
	} finally {
		await Promise.all([listed.close(), direct.close()]);
		serving.kill();
		await once(serving, 'exit');
	}
	return results;
}
