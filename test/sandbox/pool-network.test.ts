/** Sandboxes whose network is an allow-list. */
import {mkdirSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import {createServer} from 'node:net';
import path from 'node:path';
import {Readable} from 'node:stream';
import test, {type ExecutionContext} from 'ava';
import type {ExecResult, NetworkEvents, Sandbox, SandboxOptions} from '../../src/index.ts';
import {resolveSandboxOptions} from '../../src/sandbox/sandbox-options.ts';
import {kernelTest, rootTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {makePool, startReady, until, usePool, within} from '../helpers/pool.ts';
import {python} from '../helpers/python.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {listen, listenEcho, listenHttp, lookUpInTable, names} from '../helpers/servers.ts';

const fixture = usePool({lookup: lookUpInTable});
names.set('db.test', ['127.0.0.1']);
names.set('www.web.test', ['127.0.0.1']);
names.set('rebound.test', ['169.254.169.254']);

type Told = Array<[name: keyof NetworkEvents, destination: string]>;

/** Notes events of a sandbox's connections. */
function watch(sandbox: Sandbox): Told {
	const told: Told = [];
	for (const name of ['connected', 'disconnected', 'connectionRefused'] as const) {
		sandbox.on(name, (detail: {readonly destination: string}) => told.push([name, detail.destination]));
	}
	return told;
}

async function create(t: ExecutionContext, allow: readonly string[], options: SandboxOptions = {}) {
	const sandbox = await fixture().create(t, {network: {allow}, ...options});
	return {sandbox, told: watch(sandbox)};
}

async function runPython(sandbox: Sandbox, code: string, ...words: readonly (string | number)[]): Promise<ExecResult> {
	return within(sandbox.exec([python, '-Sc', code, ...words.map(String)]), 'the end of a program');
}

/** What a server answers that is sent the third word, or the name of an error. */
const ask = `
import errno, socket, sys
try:
	with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
		connection.sendall(sys.argv[3].encode())
		connection.shutdown(socket.SHUT_WR)
		data = b''
		while part := connection.recv(65536): data += part
		print(data.decode())
except OSError as error:
	print(errno.errorcode.get(error.errno, type(error).__name__))
`;

async function asked(sandbox: Sandbox, host: string, port: number, text = 'ping'): Promise<string> {
	const {stdout, stderr} = await runPython(sandbox, ask, host, port, text);
	return stdout.trim() + stderr;
}

kernelTest('a listed name is reached by any program, as a name', async (t) => {
	const port = await listenEcho(t);
	const {sandbox, told} = await create(t, [`db.test:${port}`, `127.0.0.1:${port}`]);
	t.is(await asked(sandbox, 'db.test', port), 'ping');
	await until(() => told.length === 2, 'both events');
	t.deepEqual(told, [
		['connected', `db.test:${port}`],
		['disconnected', `db.test:${port}`],
	]);
});

kernelTest('a listed address is reached as it is', async (t) => {
	const port = await listenEcho(t);
	const {sandbox} = await create(t, [`127.0.0.1:${port}`]);
	t.is(await asked(sandbox, '127.0.0.1', port), 'ping');
});

kernelTest('what went both ways is counted, in a large answer as well', async (t) => {
	const port = await listenEcho(t);
	const {sandbox} = await create(t, [`127.0.0.1:${port}`]);
	const ended = new Promise<NetworkEvents['disconnected'][0]>((resolve) => sandbox.once('disconnected', resolve));
	const code = `
import socket, sys, threading
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
def send():
	connection.sendall(bytes(3 << 20))
	connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
size = 0
while part := connection.recv(65536): size += len(part)
print(size)
`;
	t.is((await runPython(sandbox, code, port)).stdout.trim(), String(3 << 20));
	t.like(await within(ended, 'its end'), {
		sentBytes: 3 << 20,
		receivedBytes: 3 << 20,
		via: 'socket',
		address: '127.0.0.1',
	});
});

kernelTest('nothing else is reached', async (t) => {
	const [port, other] = [await listenEcho(t), await listenEcho(t)];
	const {sandbox, told} = await create(t, [
		`127.0.0.1:${port}`,
		`rebound.test:${port}`,
		'db.test:81',
		'10.0.0.0/7:81',
		'[2000::/3]:81',
	]);
	t.is(await asked(sandbox, '127.0.0.1', other), 'ECONNREFUSED');
	t.is(await asked(sandbox, '192.0.2.1', 80), 'ENETUNREACH');
	t.is(await asked(sandbox, '2001:db8::1', 80), 'ECONNREFUSED', 'of that network only the port is served');
	t.is(await asked(sandbox, 'unknown.test', 80), 'gaierror');
	t.deepEqual(told, []);
	t.is(await asked(sandbox, '127.0.0.2', port), 'ECONNRESET');
	t.is(await asked(sandbox, 'rebound.test', port), 'ECONNRESET');
	t.is(await asked(sandbox, 'rebound.test', 81), 'ECONNRESET');
	t.is(await asked(sandbox, 'db.test', 81), 'ECONNRESET');
	t.is(
		await asked(sandbox, '10.1.2.3', 81),
		'ECONNRESET',
		'whoever lists 10.0.0.0/7 does not mean the private part of it',
	);
	t.is(await asked(sandbox, '2001:db8::1', 81), 'ECONNRESET');
	t.deepEqual(
		told,
		[
			`127.0.0.2:${port}`,
			`rebound.test:${port}`,
			'rebound.test:81',
			'db.test:81',
			'10.1.2.3:81',
			'[2001:db8:0:0:0:0:0:1]:81',
		].map((destination) => ['connectionRefused', destination]),
	);
});

const fetch = `
import sys, urllib.error, urllib.request
try: print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
except urllib.error.HTTPError as error: print(error.code, error.read().decode())
`;

kernelTest('programs that know proxies reach names below a listed one', async (t) => {
	const port = await listenHttp(t);
	const {sandbox, told} = await create(t, [`*.web.test:${port}`, `127.0.0.1:${port}`]);
	const {stdout} = await runPython(sandbox, fetch, `http://www.web.test:${port}/page?of=it`);
	t.is(stdout.trim(), `www.web.test:${port} /page?of=it`);
	const refused = await runPython(sandbox, fetch, `http://web.test:${port}/`);
	t.regex(refused.stdout, /^403 forktree: NotListed/);
	await until(() => told.length === 3, 'the events');
	t.deepEqual(told.at(-1), ['connectionRefused', `web.test:${port}`]);
});

kernelTest('a tunnel is made by CONNECT', async (t) => {
	const port = await listenEcho(t);
	const {sandbox} = await create(t, [`*.web.test:${port}`, `127.0.0.1:${port}`]);
	const code = `
import http.client, os, sys, urllib.parse
proxy = urllib.parse.urlparse(os.environ['HTTPS_PROXY'])
connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=10)
connection.set_tunnel('www.web.test', int(sys.argv[1]))
connection.connect()
connection.sock.sendall(b'through')
print(connection.sock.recv(100).decode())
`;
	t.is((await runPython(sandbox, code, port)).stdout.trim(), 'through');
});

kernelTest('variables of the caller win over those of the proxy', async (t) => {
	const {sandbox} = await create(t, [], {env: {HTTP_PROXY: 'own'}});
	const {stdout} = await sandbox.exec(['sh', '-c', 'echo $HTTP_PROXY $http_proxy $NO_PROXY'], {env: {NO_PROXY: '*'}});
	t.is(stdout.trim(), 'own http://127.200.255.254:3128 *');
});

kernelTest('a sandbox made ahead is one of its own allow-list', async (t) => {
	const [port, other] = [await listenEcho(t), await listenEcho(t)];
	const {pool} = await makePool(t, {lookup: lookUpInTable});
	for (const listed of [port, other, port, other]) {
		const network = {allow: [`db.test:${listed}`, `127.0.0.1:${listed}`]};
		const {stdout} = await pool.run([python, '-Sc', ask, 'db.test', String(listed), 'x'], {sandbox: {network}});
		t.is(stdout.trim(), 'x');
		await until(() => pool.stats().spares > 0, 'a spare');
	}
	const network = {allow: [`db.test:${port}`, `127.0.0.1:${port}`]};
	const {stdout} = await pool.run([python, '-Sc', ask, '127.0.0.1', String(other), 'x'], {sandbox: {network}});
	t.is(stdout.trim(), 'ECONNREFUSED');
});

for (const [title, options] of [
	['with a uid of its own', {uid: 1000}],
	['that is root', {uid: 0}],
	['with a writable root', {writable: 'overlay'}],
	['without anything to write to', {writable: 'none'}],
	['with folders over the host’s', {layers: ['LAYER']}],
] as const) {
	const declare = 'writable' in options && options.writable === 'overlay' ? rootTest : kernelTest;
	declare(`a sandbox ${title} has its names as well`, async (t) => {
		const port = await listenEcho(t);
		const layer = await temporaryFolder();
		t.teardown(() => rm(layer, {recursive: true}));
		mkdirSync(path.join(layer, 'etc'));
		writeFileSync(path.join(layer, 'etc', 'hosts'), '192.0.2.1 db.test\n');
		const layers = 'layers' in options ? {layers: [layer]} : {};
		const {sandbox} = await create(t, [`db.test:${port}`, `127.0.0.1:${port}`], {...options, ...layers});
		t.is(await asked(sandbox, 'db.test', port), 'ping');
	});
}

kernelTest('without an /etc/hosts to put them in, names are the proxy’s alone', async (t) => {
	const port = await listenEcho(t);
	const layer = await temporaryFolder();
	t.teardown(() => rm(layer, {recursive: true}));
	mkdirSync(path.join(layer, 'etc'));
	const {sandbox} = await create(t, [`db.test:${port}`, `127.0.0.1:${port}`], {layers: [layer]});
	t.is(await asked(sandbox, 'db.test', port), 'gaierror');
	t.is(await asked(sandbox, '127.200.0.1', port), 'ping');
});

rootTest('the file of names can’t be changed', async (t) => {
	const {sandbox} = await create(t, ['db.test:1'], {uid: 0, writable: 'overlay'});
	const {stderr} = await sandbox.exec(['sh', '-c', 'echo 127.0.0.1 other >> /etc/hosts; rm /etc/hosts']);
	t.regex(stderr, /Permission denied/);
	t.regex(stderr, /busy/);
});

kernelTest('connections end with their sandbox, and that is told before its end', async (t) => {
	let broken = 0;
	const port = await listen(
		t,
		createServer((socket) => void socket.on('close', () => (broken += 1)).resume()),
	);
	const {sandbox, told} = await create(t, [`127.0.0.1:${port}`]);
	const words: string[] = [];
	sandbox.on('disconnected', ({reason}) => words.push(reason));
	sandbox.on('destroyed', () => words.push('destroyed'));
	const code = `import socket, sys
open = [socket.create_connection(('127.0.0.1', ${port})) for _ in range(3)]
print('ready', flush=True)
sys.stdin.read()`;
	const {result} = await startReady(sandbox, `exec ${python} -Sc "${code}"`, {stdin: new Readable({read() {}})});
	await until(() => told.length >= 3, 'the connections');
	await sandbox.destroy();
	await result;
	t.is(words.length, 4);
	t.is(words.at(-1), 'destroyed');
	await until(() => broken === 3, 'the server’s connections to end');
});

kernelTest('a pool that is closed ends what its sandboxes have open', async (t) => {
	let open = 0;
	const server = createServer((socket) => {
		open += 1;
		socket.on('close', () => (open -= 1)).resume();
	});
	const port = await listen(t, server);
	const {pool} = await makePool(t);
	const sandbox = await pool.create({network: {allow: [`127.0.0.1:${port}`]}, limits: {timeoutMs: 60_000}});
	const running = sandbox.exec([
		python,
		'-Sc',
		`import socket, time; s = socket.create_connection(('127.0.0.1', ${port})); time.sleep(60)`,
	]);
	await until(() => open === 1, 'a connection');
	await pool.close(0);
	t.is((await running).error?.code, 'Killed');
	await until(() => open === 0, 'no connection');
});

/** Opens connections and holds them, until its stdin ends. */
const hold = `
import socket, sys
held, refused = [], 0
for _ in range(int(sys.argv[2])):
	try:
		connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)
		connection.sendall(b'x')
		held.append(connection) if connection.recv(1) else None
	except ConnectionError: refused += 1
print(len(held), refused)
`;

kernelTest('a flood of connections gets no further than the limit', async (t) => {
	let [open, most] = [0, 0];
	const server = createServer((socket) => {
		open += 1;
		most = Math.max(most, open);
		socket.on('close', () => (open -= 1)).pipe(socket);
	});
	const port = await listen(t, server);
	const network = {allow: [`127.0.0.1:${port}`], connections: 4, connectionsPerSecond: 1000};
	const {sandbox, told} = await create(t, [], {network});
	const {stdout, stderr} = await runPython(sandbox, hold, port, 40);
	t.is(stdout.trim() + stderr, '4 36');
	t.is(most, 4);
	t.is(told.filter(([name]) => name === 'connectionRefused').length, 36);
	await until(() => open === 0, 'no connection');
	t.is(await asked(sandbox, '127.0.0.1', port), 'ping', 'there is room again');
});

serialKernelTest('connections beyond the rate wait', async (t) => {
	const port = await listenEcho(t);
	const network = {allow: [`127.0.0.1:${port}`], connectionsPerSecond: 2};
	const {sandbox} = await create(t, [], {network});
	const times: number[] = [];
	sandbox.on('connected', () => times.push(performance.now()));
	t.is((await runPython(sandbox, hold, port, 4)).stdout.trim(), '4 0');
	// Two at once, then one each half a second.
	const [first = 0, , , last = 0] = times;
	t.true(last - first > 900, `${times}`);
});

kernelTest('beyond its bytes a sandbox is cut off', async (t) => {
	const port = await listenEcho(t);
	const network = {allow: [`127.0.0.1:${port}`], transferMb: 1};
	const {sandbox, told} = await create(t, [], {network});
	t.is(await asked(sandbox, '127.0.0.1', port), 'ping');
	const code = `
import socket, sys
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
try:
	while True: connection.sendall(bytes(65536))
except OSError as error: print(type(error).__name__)
`;
	t.regex((await runPython(sandbox, code, port)).stdout, /ConnectionResetError|BrokenPipeError/);
	t.is(await asked(sandbox, '127.0.0.1', port), 'ECONNRESET');
	t.deepEqual(told.at(-1)?.[0], 'connectionRefused');
});

kernelTest('a paused sandbox keeps its connections', async (t) => {
	const port = await listenEcho(t);
	const {sandbox} = await create(t, [`127.0.0.1:${port}`]);
	const code = `import socket, sys
s = socket.create_connection(('127.0.0.1', ${port}))
print('ready', flush=True)
sys.stdin.read()
s.sendall(b'kept')
print(s.recv(9).decode())`;
	const stdin = new Readable({read() {}});
	const {result} = await startReady(sandbox, `exec ${python} -Sc "${code}"`, {stdin});
	await sandbox.pause();
	await sandbox.resume();
	stdin.push(null);
	t.regex((await result).stdout, /kept/);
});

test('what is no network is refused', (t) => {
	for (const [network, error, message] of [
		['some', RangeError, /^network: expected none or host, got "some"/],
		[5, RangeError, /^network: expected none or host, got 5/],
		[null, TypeError, /^network: expected an object with the rules as allow/],
		[{allow: ['db.test']}, RangeError, /^network\.allow\[0\]: expected 'host:port'/],
	] as const) {
		t.throws(() => resolveSandboxOptions({network} as never), {instanceOf: error, message});
	}
});
