import {existsSync, readdirSync} from 'node:fs';
import {mkdir, rename, rm} from 'node:fs/promises';
import {request} from 'node:http';
import {connect, createServer} from 'node:net';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
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
	'chunks/f.py': "def f(event):\n\tyield b'ab'\n\tyield b'cd'\n",
	'one/f.py': "def f(event):\n\tprint('begun')\n\twhile event.get('loop'): pass\n\treturn 'done'\n",
	'one/ol.yaml': 'concurrency: 1\n',
	'bad/f.py': 'def f(\n',
	'twice/f.py': functionThatAnswers('folder'),
	'bad name/f.py': functionThatAnswers('never'),
	'README.md': 'This is no function.\n',
	'.hidden/f.py': functionThatAnswers('never'),
};

function functionThatAnswers(text: string): string {
	return `def f(event):\n\treturn ${JSON.stringify(text)}\n`;
}

async function folder(t: ExecutionContext, files: Readonly<Record<string, string>>): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	await writeFiles(directory, files);
	return directory;
}

async function pack(directory: string, archive: string): Promise<void> {
	await execa('tar', ['-czf', archive, '-C', directory, '.']);
}

async function startWorker(
	t: ExecutionContext,
	files: Readonly<Record<string, string>>,
	options: Partial<WorkerOptions> = {},
) {
	const worker = await createWorker({registry: await folder(t, files), port: 0, python, ...options});
	t.teardown(() => worker.close());
	return worker;
}

/** One worker serves most tests. */
const failures = new Map<string, string>();
const outputs: string[] = [];
const outputWaiters = new Set<() => void>();
let shared: Worker | undefined;
let registry = '';

test.before(async () => {
	if (refusal !== undefined) return;
	registry = await temporaryFolder();
	await writeFiles(registry, functions);
	await pack(path.join(registry, 'echo'), path.join(registry, 'packed.tar.gz'));
	await pack(path.join(registry, 'twice'), path.join(registry, 'twice.tar.gz'));
	shared = await createWorker({
		registry,
		port: 0,
		python,
		onDeployFailed: (name, error) => failures.set(name, error.message),
		onOutput: (name, text) => {
			outputs.push(`${name}: ${text}`);
			for (const waiter of outputWaiters) waiter();
		},
	});
});

test.after.always(async () => {
	await shared?.close();
	await rm(registry, {recursive: true, force: true});
});

function call(name: string, init: RequestInit = {}): Promise<Response> {
	return fetch(`${shared?.url}/run/${name}`, {method: 'POST', ...init});
}

/** Waits until a handler of the shared worker has printed something more. */
function printsMore(): Promise<void> {
	return new Promise((resolve) => {
		const waiter = () => {
			outputWaiters.delete(waiter);
			resolve();
		};
		outputWaiters.add(waiter);
	});
}

kernelTest('GET /status says ready', async (t) => {
	const response = await fetch(`${shared?.url}/status`);
	t.is(response.status, 200);
	t.is(await response.text(), 'ready\n');
});

for (const [title, name, body, answer] of [
	['JSON is answered with JSON', 'echo', '{"ä": [1, null]}', '{"ä":[1,null]}'],
	['no body is an empty object', 'echo', undefined, '{}'],
	['an archive is a function', 'packed', '"packed"', '"packed"'],
	['a name may be encoded', '%65cho', '1', '1'],
	['a query is not part of the name', 'echo?a=b', '1', '1'],
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

for (const [title, method, where, body, status, answer] of [
	['a function that is not there', 'POST', '/run/nowhere', '{}', 404, /^no function "nowhere" is deployed\n$/],
	['a name of an object’s own', 'POST', '/run/__proto__', '{}', 404, /"__proto__"/],
	['a method’s name', 'POST', '/run/constructor', '{}', 404, /"constructor"/],
	['a name with a slash', 'POST', '/run/..%2fecho', '{}', 404, /"\.\.\/echo"/],
	['a name that is no URL component', 'POST', '/run/%zz', '{}', 400, /URL component/],
	['a longer path', 'POST', '/run/echo/more', '{}', 404, /^expected POST \/run\/NAME/],
	['another path', 'GET', '/', undefined, 404, /^expected POST \/run\/NAME/],
	['a hidden folder', 'POST', '/run/.hidden', '{}', 404, /^no function/],
	['a plain file', 'POST', '/run/README.md', '{}', 404, /^no function/],
	['another method', 'GET', '/run/echo', undefined, 405, /^expected POST\n$/],
	['another method of the status', 'POST', '/status', '', 405, /^expected GET or HEAD\n$/],
	['a body that is no JSON', 'POST', '/run/echo', '{', 400, /^expected a body that is JSON/],
	[
		'a body that is not UTF-8',
		'POST',
		'/run/echo',
		new Uint8Array([0x22, 0xff, 0x22]),
		400,
		/^expected a body that is JSON/,
	],
	['an exception', 'POST', '/run/raising', '{}', 500, /^Traceback [\s\S]*f\.py[\s\S]*KeyError: 'gone'\n$/],
	['a timeout', 'POST', '/run/slow', '{}', 500, /^Timeout: the call took longer than 300 ms/],
	[
		'a function that does not compile',
		'POST',
		'/run/bad',
		'{}',
		500,
		/^the function could not be deployed: InvalidSyntax: f\.py:1/,
	],
	['a function that is there twice', 'POST', '/run/twice', '{}', 500, /twice and .*twice\.tar\.gz/],
	['a function whose name is not usable', 'POST', '/run/bad%20name', '{}', 500, /InvalidName: "bad name"/],
] as const) {
	kernelTest(`${title} is answered with ${status}`, async (t) => {
		const response = await fetch(`${shared?.url}${where}`, {method, ...(body === undefined ? {} : {body})});
		t.is(response.status, status);
		t.is(response.headers.get('content-type'), 'text/plain; charset=utf-8');
		t.regex(await response.text(), answer);
		if (status === 405) t.is(response.headers.get('allow'), where === '/status' ? 'GET, HEAD' : 'POST');
	});
}

kernelTest('the code of a failed call is in a header', async (t) => {
	t.is((await call('raising')).headers.get('x-forktree-error'), 'HandlerError');
	t.is((await call('slow')).headers.get('x-forktree-error'), 'Timeout');
});

kernelTest('failed deploys were reported, and only those', (t) => {
	t.deepEqual([...failures.keys()].sort(), ['bad', 'bad name', 'twice']);
});

/** Sends the head of a request, and of its body no more than this; answers the status. */
function sendPart(headers: Readonly<Record<string, string>>, part: string): Promise<number | undefined> {
	return new Promise((resolve, reject) => {
		const sending = request(`${shared?.url}/run/small`, {method: 'POST', headers}, (response) => {
			response.resume();
			resolve(response.statusCode);
			sending.destroy();
		});
		sending.on('error', reject);
		sending.write(part);
	});
}

kernelTest('a body that is too large is refused before all of it has come', async (t) => {
	t.is((await call('small', {body: `"${'x'.repeat(1000)}"`})).status, 200);
	t.is(await sendPart({'content-length': '1000000'}, ' '), 413, 'announced');
	t.is(await sendPart({'transfer-encoding': 'chunked'}, ' '.repeat(2000)), 413, 'sent');
	t.is((await call('small', {body: `[${'1e20,'.repeat(100)}1]`})).status, 413, 'larger as the runtime sends it');
});

kernelTest('a client that leaves ends its call', async (t) => {
	const printed = printsMore();
	const leaving = new AbortController();
	const first = call('one', {body: '{"loop": true}', signal: leaving.signal}).catch((error: unknown) => error);
	await printed;
	leaving.abort();
	t.is(await first, leaving.signal.reason);
	// It takes one call at a time: this one's turn comes when the first has ended.
	t.is(await (await call('one')).text(), '"done"');
	t.true(outputs.includes('one: begun\n'));
});

kernelTest('a call beyond those that may wait is answered with 429', async (t) => {
	let onBegun = () => {};
	const begun = new Promise<void>((resolve) => {
		onBegun = resolve;
	});
	const files = {
		'full/f.py': "def f(event):\n\tprint('begun')\n\twhile True: pass\n",
		'full/ol.yaml': 'concurrency: 1\nmax-queue: 0\n',
	};
	const worker = await startWorker(t, files, {onOutput: () => onBegun()});
	const leaving = new AbortController();
	const url = `${worker.url}/run/full`;
	const first = fetch(url, {method: 'POST', signal: leaving.signal}).catch((error: unknown) => error);
	await begun;
	const refused = await fetch(url, {method: 'POST'});
	t.is(refused.status, 429);
	t.is(refused.headers.get('x-forktree-error'), 'QueueFull');
	t.regex(await refused.text(), /^QueueFull: expected at most 0 calls to wait/);
	leaving.abort();
	t.is(await first, leaving.signal.reason);
});

kernelTest('closing lets running calls finish and takes no more', async (t) => {
	let onBegun = () => {};
	const begun = new Promise<void>((resolve) => {
		onBegun = resolve;
	});
	const code = "import time\ndef f(event):\n\tprint('begun')\n\ttime.sleep(0.5)\n\treturn 'done'\n";
	const worker = await startWorker(t, {'lasting/f.py': code}, {onOutput: () => onBegun()});
	const running = fetch(`${worker.url}/run/lasting`, {method: 'POST'});
	await begun;
	const closing = worker.close();
	const refused = fetch(`${worker.url}/status`);
	const response = await running;
	t.is(response.headers.get('connection'), 'close');
	t.is(await response.text(), '"done"');
	await t.throwsAsync(refused);
	await closing;
	await worker.close();
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

kernelTest(
	'a state folder keeps no function that left the registry, nor serves the version before a broken one',
	async (t) => {
		const directory = await folder(t, {
			'registry/leaving/f.py': functionThatAnswers('a'),
			'registry/staying/f.py': functionThatAnswers('b'),
		});
		const options = {registry: path.join(directory, 'registry'), stateDir: path.join(directory, 'state')};
		await (await startWorker(t, {}, options)).close();
		await rename(path.join(directory, 'registry', 'leaving'), path.join(directory, 'left'));
		await writeFiles(directory, {'registry/staying/f.py': 'def f(\n'});
		const worker = await startWorker(t, {}, options);
		t.is((await fetch(`${worker.url}/run/leaving`, {method: 'POST'})).status, 404);
		t.is((await fetch(`${worker.url}/run/staying`, {method: 'POST'})).status, 500);
		t.false(existsSync(path.join(directory, 'state', 'functions', 'leaving')));
	},
);

kernelTest('a port that is taken is an error, and nothing is left running', async (t) => {
	const other = createServer();
	await new Promise<void>((resolve) => other.listen(0, 'localhost', resolve));
	t.teardown(() => other.close());
	const address = other.address();
	if (address === null || typeof address === 'string') throw new Error('expected a port');
	const directory = await folder(t, {});
	await mkdir(path.join(directory, 'registry'));
	const stateDir = path.join(directory, 'state');
	const options = {registry: path.join(directory, 'registry'), stateDir, python, port: address.port};
	await t.throwsAsync(createWorker(options), {code: 'EADDRINUSE'});
	await (await createRuntime({stateDir, python})).close(); // nobody owns the folder
});

kernelTest('a start that is given up rejects with the reason', async (t) => {
	const stopping = new AbortController();
	const reason = new Error('given up');
	const options = {
		registry,
		port: 0,
		python,
		signal: stopping.signal,
		onDeployFailed: () => stopping.abort(reason),
	};
	t.is(await t.throwsAsync(createWorker(options)), reason);
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
		const groups = cgroupsOf(path.join(directory, 'state'));
		worker.child.kill(signal);
		const {exitCode, stdout, stderr} = await worker.ended;
		t.is(exitCode, 0, stderr);
		t.is(stdout, `ready on ${url}\n`);
		t.regex(stderr, /^forktree: deploy of bad failed: f\.py:1: .*\nheard\n$/);
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
