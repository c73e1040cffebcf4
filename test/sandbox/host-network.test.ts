import {readlinkSync} from 'node:fs';
import {createServer} from 'node:net';
import process from 'node:process';
import {createSandboxPool, doctor} from '../../src/index.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {python} from '../helpers/runtime.ts';

kernelTest("network: 'host' is the machine's network, also of the second sandbox and those after it", async (t) => {
	const pool = await createSandboxPool();
	t.teardown(() => pool.close());
	const seen: string[] = [];
	for (let i = 0; i < 3; i += 1) {
		const sandbox = await pool.create({network: 'host'});
		seen.push((await sandbox.exec(['readlink', '/proc/self/ns/net'])).stdout.trim());
		await sandbox.destroy();
	}
	t.deepEqual([...new Set(seen)], [readlinkSync('/proc/self/ns/net')]);
});

kernelTest('with the machine’s network a sandbox reaches no abstract socket, where Landlock knows these', async (t) => {
	const {checks} = await doctor({python});
	const version = Number(/^version (\d+)/.exec(checks.find(({name}) => name === 'landlock')?.detail ?? '')?.[1] ?? 0);
	const name = `forktree-test-${process.pid}`;
	const server = createServer((socket) => socket.end()).listen(`\0${name}`);
	t.teardown(() => server.close());
	await using pool = await createSandboxPool();
	const connect = `import socket; socket.socket(socket.AF_UNIX).connect(('\\0${name}').ljust(108, '\\0'))`;
	const {exitCode, stderr} = await pool.run(['python3', '-c', connect], {sandbox: {network: 'host'}});
	if (version < 6) t.is(exitCode, 0, stderr);
	else t.regex(stderr, /PermissionError: \[Errno 1\]/);
});
