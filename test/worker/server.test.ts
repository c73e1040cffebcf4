/** A worker with a runtime of its own: functions behind HTTP, its start and its end, and the command that runs it. */
import {once} from 'node:events';
import {existsSync, readdirSync} from 'node:fs';
import {mkdir, rm} from 'node:fs/promises';
import {connect, createServer} from 'node:net';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {createRuntime} from '../../src/index.ts';
import {createWorker, type Worker, type WorkerOptions} from '../../src/worker/server.ts';
import {Command, writeFiles} from '../cli/forktree.ts';
import {kernelTest, refusal} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {until} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const functions = {
	'echo/f.py': 'def f(event):\n\treturn event\n',
	'small/f.py': 'def f(event):\n\treturn len(event)\n',
	'small/ol.yaml': 'limits:\n  eventMb: 0.001\n',
	'raising/f.py': "def f(event):\n\traise KeyError('gone')\n",
	'slow/f.py': 'def f(event):\n\twhile True: pass\n',
	'slow/ol.yaml': 'limits:\n  timeoutMs: 300\n',
	'leaving/f.py': 'import os\ndef f(event):\n\tos._exit(3)\n',
	'hungry/f.py': 'def f(event):\n\treturn len(bytearray(200 << 20))\n',
	'hungry/ol.yaml': 'limits:\n  memoryMb: 64\n',
	'chunks/f.py': "def f(event):\n\tyield b'ab'\n\tyield b'cd'\n",
	'wsgi/f.py': `
def app(environ, start_response):
	start_response('202 Accepted', [('Content-Type', 'text/plain'), ('X-Own', 'yes')])
	keys = ['REQUEST_METHOD', 'SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'HTTP_X_ONE', 'HTTP_X_REQUEST_ID']
	yield ' '.join(str(environ.get(key)) for key in keys).encode()
	yield b' ' + environ['wsgi.input'].read()
`,
	'stuck/f.py': `
def app(environ, start_response):
	start_response('200 OK', [])
	yield b'so far'
	raise KeyError('gone')
`,
};

async function folder(t: ExecutionContext, files: Readonly<Record<string, string>>): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	await writeFiles(directory, files);
	return directory;
}

async function startWorker(
	t: ExecutionContext,
	files: Readonly<Record<string, string>>,
	options: Partial<WorkerOptions> = {},
) {
	const worker = await createWorker({registry: await folder(t, files), port: 0, python, log: false, ...options});
	t.teardown(() => worker.close());
	return worker;
}

/** One worker serves most tests. */
let shared: Worker | undefined;
let registry = '';

test.before(async () => {
	if (refusal !== undefined) return;
	registry = await temporaryFolder();
	await writeFiles(registry, functions);
	shared = await createWorker({registry, port: 0, python, log: false});
});

test.after.always(async () => {
	await shared?.close();
	await rm(registry, {recursive: true, force: true});
});

function call(name: string, init: RequestInit = {}): Promise<Response> {
	return fetch(`${shared?.url}/run/${name}`, {method: 'POST', ...init});
}

/** Waits until a function of a worker has printed something. */
async function printed({url}: Worker, name: string): Promise<void> {
	const leaving = new AbortController();
	const {body} = await fetch(`${url}/logs/${name}?follow=1`, {signal: leaving.signal});
	await body?.getReader().read();
	leaving.abort();
}

for (const [title, name, body, answer] of [
	['JSON is answered with JSON', 'echo', '{"ä": [1, null]}', '{"ä":[1,null]}'],
	['no body is an empty object', 'echo', undefined, '{}'],
	['a name may be encoded', '%65cho', '1', '1'],
	['a path and a query are not part of the name', 'echo/more?a=b', '1', '1'],
] as const) {
	kernelTest(title, async (t) => {
		const response = await call(name, body === undefined ? {} : {body});
		t.is(response.status, 200);
		t.is(response.headers.get('content-type'), 'application/json');
		t.is(await response.text(), answer);
	});
}

kernelTest('bytes are answered with bytes', async (t) => {
	const body = new Uint8Array([0, 255, 10]);
	const response = await call('echo', {body, headers: {'content-type': 'application/octet-stream; x=y'}});
	t.is(response.headers.get('content-type'), 'application/octet-stream');
	t.deepEqual(new Uint8Array(await response.arrayBuffer()), body);
	t.is(await (await call('chunks')).text(), 'abcd');
});

kernelTest('a web application gets the request, and its answer is the answer', async (t) => {
	const headers = {'x-one': '1', 'x-request-id': 'mine'};
	const response = await fetch(`${shared?.url}/run/wsgi/a/b?c=d`, {method: 'PUT', body: 'body', headers});
	t.is(response.status, 202);
	t.is(response.headers.get('x-own'), 'yes');
	t.is(response.headers.get('x-request-id'), 'mine');
	t.is(await response.text(), 'PUT /run/wsgi /a/b c=d 1 mine body');
});

kernelTest('an application that fails in the middle breaks the connection', async (t) => {
	await t.throwsAsync(call('stuck').then((response) => response.text()));
});

for (const [name, status, code, words] of [
	['nowhere', 404, 'UnknownFunction', /^no function "nowhere" is deployed\n$/],
	['raising', 500, 'HandlerError', /^Traceback [\s\S]*f\.py[\s\S]*KeyError: 'gone'\n$/],
	['slow', 504, 'Timeout', /^Timeout: the call took longer than 300 ms/],
	['leaving', 502, 'Exited', /^Exited: the handler ended its process, with status 3\n$/],
	['hungry', 507, 'OutOfMemory', /^OutOfMemory: /],
] as const) {
	kernelTest(`${name} is answered with ${status} and ${code}`, async (t) => {
		const response = await call(name);
		t.is(response.status, status);
		t.is(response.headers.get('x-forktree-error'), code);
		const text = await response.text();
		t.regex(text, words);
		t.false(/\/(tmp|var|home|sys)\//.test(text), text);
	});
}

kernelTest('no call is lost: in sandboxes of one call each, and after one that ended', async (t) => {
	const worker = await startWorker(t, {
		'fresh/f.py': 'calls = []\ndef f(event):\n\tcalls.append(event)\n\treturn len(calls)\n',
		'fresh/ol.yaml': 'reuse-sandbox: false\nconcurrency: 2\n',
		'ending/f.py': 'import os\ndef f(event):\n\tif event: os._exit(1)\n\treturn 1\n',
		'ending/ol.yaml': 'concurrency: 1\n',
	});
	const ask = (name: string, body: string) => fetch(`${worker.url}/run/${name}`, {method: 'POST', body});
	const fresh = await Promise.all(Array.from({length: 8}, async () => (await ask('fresh', '1')).text()));
	t.deepEqual(fresh, Array(8).fill('1'));
	const ended = await Promise.all(['1', '0', '1', '0'].map(async (body) => (await ask('ending', body)).status));
	t.deepEqual(ended, [502, 200, 502, 200]);
});

kernelTest('a function whose packages can’t be had: 500, and none of the installer’s words', async (t) => {
	const files = {'needy/f.py': 'def f(event): pass\n', 'needy/requirements.txt': 'forktree-no-such-package==1\n'};
	const worker = await startWorker(t, files, {offline: true});
	const response = await fetch(`${worker.url}/run/needy`);
	t.is(response.status, 500);
	t.is(response.headers.get('x-forktree-error'), 'Offline');
	t.is(await response.text(), 'something that is not in the store is needed, and the store may not use the network\n');
});

kernelTest('a body that is larger than the function takes is answered with 413', async (t) => {
	t.is((await call('small', {body: `"${'x'.repeat(1000)}"`})).status, 200);
	t.is((await call('small', {body: `"${'x'.repeat(1100)}"`})).status, 413);
});

kernelTest('a client that leaves ends its call', async (t) => {
	const code =
		"def f(event):\n\tif 'loop' in event: print('begun')\n\twhile event.get('loop'): pass\n\treturn 'done'\n";
	const worker = await startWorker(t, {'one/f.py': code, 'one/ol.yaml': 'concurrency: 1\n'});
	const leaving = new AbortController();
	const ask = (init: RequestInit) => fetch(`${worker.url}/run/one`, {method: 'POST', ...init});
	const first = ask({body: '{"loop": true}', signal: leaving.signal}).catch((error: unknown) => error);
	await printed(worker, 'one');
	leaving.abort();
	t.is(await first, leaving.signal.reason);
	// It takes one call at a time: this one's turn comes when the first has ended.
	t.is(await (await ask({})).text(), '"done"');
});

kernelTest('a call beyond those that may wait is answered with 429', async (t) => {
	const worker = await startWorker(t, {
		'full/f.py': "def f(event):\n\tprint('begun')\n\twhile True: pass\n",
		'full/ol.yaml': 'concurrency: 1\nmax-queue: 0\n',
	});
	const leaving = new AbortController();
	const url = `${worker.url}/run/full`;
	const first = fetch(url, {method: 'POST', signal: leaving.signal}).catch((error: unknown) => error);
	await printed(worker, 'full');
	const refused = await fetch(url, {method: 'POST'});
	t.is(refused.status, 429);
	t.is(refused.headers.get('x-forktree-error'), 'QueueFull');
	t.is(refused.headers.get('retry-after'), '1');
	t.is(await refused.text(), 'lambda function queue is full\n');
	leaving.abort();
	t.is(await first, leaving.signal.reason);
});

/** Sends bytes as they are; answers the first line of what comes. */
async function firstLine(worker: Worker, bytes: string): Promise<string> {
	const {port} = new URL(worker.url);
	const socket = connect(Number(port), 'localhost');
	socket.on('error', () => undefined);
	socket.write(bytes);
	const [chunk] = (await once(socket, 'data')) as [Buffer];
	socket.destroy();
	return chunk.toString('latin1').split('\r\n')[0] ?? '';
}

kernelTest('requests that are none, or whose head is too large, are refused', async (t) => {
	if (shared === undefined) throw new Error('expected a worker');
	t.regex(await firstLine(shared, 'nonsense\r\n\r\n'), /^HTTP\/1\.1 400 /);
	t.regex(
		await firstLine(shared, `GET /run/echo HTTP/1.1\r\nhost: h\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`),
		/^HTTP\/1\.1 431 /,
	);
	t.regex(await firstLine(shared, 'GET /run/echo/%zz HTTP/1.1\r\nhost: h\r\n\r\n'), /^HTTP\/1\.1 400 /);
	t.regex(await firstLine(shared, 'PROPFIND /run/echo HTTP/1.1\r\nhost: h\r\n\r\n'), /^HTTP\/1\.1 200 /);
	t.is((await fetch(`${shared.url}/nothing`)).status, 404);
});

kernelTest('a client that does not send all of a request’s head is cut', async (t) => {
	const {port} = new URL(shared?.url ?? '');
	const socket = connect(Number(port), 'localhost');
	const chunks: Buffer[] = [];
	socket.on('error', () => undefined).on('data', (chunk) => chunks.push(chunk));
	socket.write('GET /status HTTP/1.1\r\nhost: h\r\nx: ');
	const asked = performance.now();
	await once(socket, 'close');
	t.regex(Buffer.concat(chunks).toString(), /^HTTP\/1\.1 408 /);
	t.true(performance.now() - asked < 30_000);
});

kernelTest('closing lets running calls finish and takes no more', async (t) => {
	const code = "import time\ndef f(event):\n\tprint('begun')\n\ttime.sleep(0.5)\n\treturn 'done'\n";
	const worker = await startWorker(t, {'lasting/f.py': code});
	const running = fetch(`${worker.url}/run/lasting`, {method: 'POST'});
	await printed(worker, 'lasting');
	const closing = worker.close();
	const later = fetch(`${worker.url}/status`).then(
		({status}) => status,
		() => 'refused',
	);
	const response = await running;
	t.is(response.headers.get('connection'), 'close');
	t.is(await response.text(), '"done"');
	t.true(['refused', 503].includes(await later));
	await closing;
	await worker.close();
	t.is(worker.stats()['web-request.cnt'], 1);
});

kernelTest('closing does not wait for a body that does not come', async (t) => {
	const worker = await startWorker(t, {'echo/f.py': functions['echo/f.py']});
	const {port} = new URL(worker.url);
	const socket = connect(Number(port), 'localhost');
	const ended = new Promise((resolve) => socket.once('close', resolve));
	socket.on('error', () => undefined);
	socket.write('POST /run/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n');
	await new Promise((resolve) => socket.once('data', resolve)); // the worker waits for the body now
	await worker.close();
	await ended;
	t.pass();
});

kernelTest('a port that is taken is an error, and nothing is left running', async (t) => {
	const other = createServer();
	await new Promise<void>((resolve) => other.listen(0, 'localhost', resolve));
	t.teardown(() => other.close());
	const address = other.address();
	if (address === null || typeof address === 'string') throw new Error('expected a port');
	const directory = await folder(t, {});
	await mkdir(path.join(directory, 'registry'));
	const stateDir = path.join(directory, 'state');
	const options = {
		registry: path.join(directory, 'registry'),
		stateDir,
		python,
		log: false as const,
		port: address.port,
	};
	await t.throwsAsync(createWorker(options), {code: 'EADDRINUSE'});
	await (await createRuntime({stateDir, python})).close(); // nobody owns the folder
});

kernelTest('a start that is given up rejects with the reason', async (t) => {
	const stopping = new AbortController();
	const reason = new Error('given up');
	const started = createWorker({registry, port: 0, python, log: false, signal: stopping.signal});
	stopping.abort(reason);
	t.is(await t.throwsAsync(started), reason);
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
	kernelTest(`forktree worker up: ready in one line; ${signal} ends it with 0 and leaves no group`, async (t) => {
		const directory = await folder(t, {
			'registry/hello/f.py': "def f(event):\n\tprint('heard')\n\treturn 'hello ' + event['name']\n",
			'registry/bad/f.py': 'def f(\n',
		});
		const worker = new Command(['worker', 'up', '-p', directory, '-o', 'worker_port=0', '-o', 'mem_pool_mb=1024']);
		const [, url] = await worker.says(/^ready on (http:\/\/localhost:\d+)\n$/);
		const response = await fetch(`${url}/run/hello`, {method: 'POST', body: '{"name": "world"}'});
		t.is(await response.text(), '"hello world"');
		t.is((await fetch(`${url}/run/bad`, {method: 'POST'})).status, 500);
		const groups = cgroupsOf(path.join(directory, 'state'));
		worker.child.kill(signal);
		const {exitCode, stdout, stderr} = await worker.ended;
		t.is(exitCode, 0, stderr);
		t.is(stdout, `ready on ${url}\n`);
		const log = stderr
			.trimEnd()
			.split('\n')
			.map((line) => JSON.parse(line) as Record<string, unknown>);
		t.true(
			log.some(({msg, text}) => msg === 'output' && text === 'heard\n'),
			stderr,
		);
		t.true(
			log.some((line) => line.msg === 'deploy failed' && line.function === 'bad'),
			stderr,
		);
		const [called] = log.filter(({msg}) => msg === 'call');
		t.is(called?.function, 'hello');
		t.is(called?.requestId, response.headers.get('x-request-id'));
		t.deepEqual(
			groups.filter((group) => existsSync(group)),
			[],
		);
	});
}

/** Processes of sandboxes, not of zygotes. Groups may go while they are looked at. */
function sandboxed(stateDir: string): number[] {
	try {
		return cgroupsOf(stateDir).flatMap((group) =>
			readdirSync(group)
				.filter((name) => name.startsWith('sandbox-'))
				.flatMap((name) => processesIn([path.join(group, name)])),
		);
	} catch (error) {
		if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return sandboxed(stateDir);
		throw error;
	}
}

kernelTest('forktree worker up: its settings reach the runtime', async (t) => {
	const directory = await folder(t, {
		'registry/count/f.py': 'calls = []\ndef f(event):\n\tcalls.append(event)\n\treturn len(calls)\n',
		'tree.json': '{"children": [{"packages": ["nothing"]}]}',
		'broken.json': '{"children": 5}',
	});
	const up = (...settings: string[]) =>
		new Command(['worker', 'up', '-p', directory, ...settings.flatMap((each) => ['-o', each])]);
	const broken = await up('worker_port=0', `import_cache_tree=${directory}/broken.json`).ended;
	t.is(broken.exitCode, 125);
	t.regex(broken.stderr, /^forktree: .*children/);
	const lost = await up('worker_port=0', `shared_packages=${directory}:/nowhere`).ended;
	t.is(lost.exitCode, 125);
	t.is(lost.stderr, `forktree: expected a shared package store at ${directory}, got a folder without store.json\n`);
	const tree = `import_cache_tree=${directory}/tree.json`;
	const idle = ['instance_pause_ms=10', 'instance_idle_ms=50', 'zygote_idle_ms=50'];
	const worker = up('worker_port=0', tree, 'promote=false', 'spares=0', ...idle);
	t.teardown(() => worker.child.kill('SIGTERM'));
	const [, url] = await worker.says(/^ready on (.*)\n$/);
	const call = async () => (await fetch(`${url}/run/count`, {method: 'POST'})).text();
	t.is(await call(), '1');
	await until(() => sandboxed(path.join(directory, 'state')).length === 0, 'the end of an idle instance');
	t.is(await call(), '1');
	worker.child.kill('SIGTERM');
	t.is((await worker.ended).exitCode, 0);
});

kernelTest('forktree worker up: a second signal ends it at once', async (t) => {
	const directory = await folder(t, {'registry/endless/f.py': "def f(event):\n\tprint('begun')\n\twhile True: pass\n"});
	const worker = new Command(['worker', 'up', '-p', directory, '-o', 'worker_port=0']);
	const [, url] = await worker.says(/^ready on (.*)\n$/);
	const running = fetch(`${url}/run/endless`, {method: 'POST'});
	const broken = t.throwsAsync(running);
	await worker.says(/begun/);
	worker.child.kill('SIGTERM');
	// Once it has heard the first signal it accepts nobody.
	while (
		await fetch(`${url}/status`).then(
			(response) => response.ok,
			() => false,
		)
	);
	const asked = performance.now();
	worker.child.kill('SIGTERM');
	t.is((await worker.ended).exitCode, 143);
	t.true(performance.now() - asked < 5000, 'it did not let the call finish');
	await broken;
	// The next owner removes what it left.
	await (await createRuntime({stateDir: path.join(directory, 'state'), python})).close();
});
