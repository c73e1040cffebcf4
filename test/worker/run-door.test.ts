/** What the door makes of requests and answers, whatever functions do. */
import {once} from 'node:events';
import {request as ask} from 'node:http';
import {connect} from 'node:net';
import test, {type ExecutionContext} from 'ava';
import {ForktreeError, type HttpRequest, MethodNotAllowedError, type OutcomeError} from '../../src/index.ts';
import type {WorkerPluginOptions} from '../../src/worker/plugin.ts';
import {answering, failure, type Handler, serve, success} from './fake-runtime.ts';

async function start(
	t: ExecutionContext,
	functions: Readonly<Record<string, Handler>>,
	options: WorkerPluginOptions & {readonly maxEventMb?: number} = {},
) {
	const served = await serve(functions, options);
	t.teardown(async () => {
		served.server.server.closeAllConnections();
		await served.server.close();
	});
	return served;
}

/** Notes the request, and answers with nothing. */
function noting(requests: HttpRequest[]): Handler {
	return async (request, listener) => {
		requests.push(request);
		listener.onHead({status: 204, headers: []});
		return success();
	};
}

/** Sends bytes as they are; answers all that comes until the other side ends. */
async function exchange(url: string, bytes: string): Promise<string> {
	const {hostname, port} = new URL(url);
	const socket = connect(Number(port), hostname);
	const chunks: Buffer[] = [];
	socket.on('data', (chunk) => chunks.push(chunk));
	socket.on('error', () => undefined);
	socket.write(bytes);
	await once(socket, 'close');
	return Buffer.concat(chunks).toString('latin1');
}

test('the request reaches the function as it came', async (t) => {
	const requests: HttpRequest[] = [];
	const {url} = await start(t, {echo: noting(requests)});
	const head =
		'PUT /run/%65cho/a%2Fb//c;d?q=1&q=%zz?x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Two: 1\r\nx-two: 2\r\n';
	await exchange(url, `${head}Content-Length: 3\r\n\r\nabc`);
	const [request] = requests;
	t.is(request?.method, 'PUT');
	t.is(request?.root, '/run/echo');
	t.is(request?.path, '/a%2Fb//c;d');
	t.is(request?.query, 'q=1&q=%zz?x');
	t.is(Buffer.from(request?.body ?? []).toString(), 'abc');
	t.is(request?.client?.address, '127.0.0.1');
	const headers = request?.headers ?? [];
	t.deepEqual(headers.slice(headers.indexOf('X-Two'), headers.indexOf('X-Two') + 4), ['X-Two', '1', 'x-two', '2']);
});

for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
	test(`${method} is passed on`, async (t) => {
		const requests: HttpRequest[] = [];
		const {url} = await start(t, {echo: noting(requests)});
		t.is((await fetch(`${url}/run/echo/`, {method})).status, 204);
		t.is(requests[0]?.method, method);
		t.is(requests[0]?.path, '/');
	});
}

test('a body of any type is passed on, whole and as it is, also in chunks and with GET', async (t) => {
	const requests: HttpRequest[] = [];
	const {url} = await start(t, {echo: noting(requests)});
	const chunked = 'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n2\r\n":\r\n0\r\n\r\n';
	for (const type of ['application/json', 'text/json', 'a b', 'multipart/form-data']) {
		const head = `POST /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: ${type}\r\n`;
		t.regex(await exchange(url, head + chunked), /^HTTP\/1\.1 204 /, type);
	}
	await exchange(url, `GET /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n${chunked}`);
	t.is(requests.length, 5);
	for (const {body} of requests) t.is(Buffer.from(body).toString(), '{"a":');
});

test('status, headers and body of the function are the answer, repeated headers too', async (t) => {
	const {url} = await start(t, {
		teapot: async (_request, listener) => {
			listener.onHead({
				status: 418,
				headers: [
					['Set-Cookie', 'a=1'],
					['Set-Cookie', 'b=2'],
					['X-Request-Id', 'its own'],
				],
			});
			await listener.onBody(Buffer.from('short '));
			await listener.onBody(Buffer.from('and stout'));
			return success();
		},
	});
	const response = await fetch(`${url}/run/teapot`, {headers: {'x-request-id': 'mine:1'}});
	t.is(response.status, 418);
	t.deepEqual(response.headers.getSetCookie(), ['a=1', 'b=2']);
	t.is(response.headers.get('x-request-id'), 'mine:1');
	t.is(await response.text(), 'short and stout');
});

test('the head, and each part of a body, arrive when they were sent', async (t) => {
	const steps: Array<() => void> = [];
	const step = () => new Promise<void>((resolve) => steps.push(resolve));
	const {url} = await start(t, {
		slow: async (_request, listener) => {
			listener.onHead({status: 200, headers: []});
			await step();
			await listener.onBody(Buffer.from('one'));
			await step();
			await listener.onBody(Buffer.from('two'));
			return success();
		},
	});
	const response = await fetch(`${url}/run/slow`);
	t.is(response.status, 200);
	const reader = response.body?.getReader();
	steps.shift()?.();
	t.is(Buffer.from((await reader?.read())?.value ?? []).toString(), 'one');
	steps.shift()?.();
	t.is(Buffer.from((await reader?.read())?.value ?? []).toString(), 'two');
	t.true((await reader?.read())?.done);
});

test('a function waits for a client that reads slowly', async (t) => {
	let sent = 0;
	const chunk = Buffer.alloc(64 * 1024, 1);
	const {url} = await start(t, {
		many: async (_request, listener) => {
			listener.onHead({status: 200, headers: []});
			for (let count = 0; count < 1000; count++) {
				await listener.onBody(chunk);
				sent += 1;
			}
			return success();
		},
	});
	const sending = ask(`${url}/run/many`);
	sending.end();
	const [response] = await once(sending, 'response');
	await once(response, 'readable');
	// What fits into sockets and buffers, and no more: 64 MB would not.
	await new Promise((resolve) => setTimeout(resolve, 200));
	t.true(sent < 900, `${sent} of 1000`);
	let bytes = 0;
	for await (const part of response) bytes += part.length;
	t.is(bytes, 1000 * chunk.length);
	t.is(sent, 1000);
});

test('a client that leaves ends its call', async (t) => {
	let onBegun = () => {};
	const started = new Promise<void>((resolve) => {
		onBegun = resolve;
	});
	let onAborted = () => {};
	const aborted = new Promise<void>((resolve) => {
		onAborted = resolve;
	});
	const {url} = await start(t, {
		endless: (_request, _listener, {signal}) =>
			new Promise((_resolve, reject) => {
				signal?.addEventListener('abort', () => {
					onAborted();
					reject(new ForktreeError('Aborted', 'the call was aborted'));
				});
				onBegun();
			}),
	});
	const leaving = new AbortController();
	const asked = fetch(`${url}/run/endless`, {signal: leaving.signal}).catch((error: unknown) => error);
	await started;
	leaving.abort();
	await aborted;
	t.is(await asked, leaving.signal.reason);
});

test('a failure in the middle of an answer breaks the connection', async (t) => {
	const {url} = await start(t, {
		breaking: async (_request, listener) => {
			listener.onHead({status: 200, headers: []});
			await listener.onBody(Buffer.from('so far'));
			return failure('HandlerError', {traceback: 'Traceback\n'});
		},
		short: async (_request, listener) => {
			listener.onHead({status: 200, headers: [['content-length', '10']]});
			await listener.onBody(Buffer.from('so far'));
			return success();
		},
		long: async (_request, listener) => {
			listener.onHead({status: 200, headers: [['content-length', '2']]});
			await listener.onBody(Buffer.from('too far'));
			return success();
		},
	});
	for (const name of ['breaking', 'short', 'long']) {
		const answer = fetch(`${url}/run/${name}`).then((response) => response.text());
		await t.throwsAsync(answer, undefined, name);
	}
	const wire = await exchange(
		url,
		'GET /run/long HTTP/1.1\r\nHost: h\r\n\r\nGET /run/long HTTP/1.1\r\nHost: h\r\n\r\n',
	);
	t.false(wire.includes('too far'), 'nothing of it becomes a part of the next answer');
});

const failures: ReadonlyArray<
	readonly [code: OutcomeError['code'], error: Partial<OutcomeError>, status: number, text: string]
> = [
	[
		'HandlerError',
		{type: 'KeyError', message: "'x'", traceback: "Traceback…\nKeyError: 'x'\n"},
		500,
		"Traceback…\nKeyError: 'x'\n",
	],
	['ImportFailed', {traceback: 'Traceback of an import\n'}, 500, 'Traceback of an import\n'],
	['ResultNotSerializable', {message: 'value.a is a set'}, 500, 'value.a is a set\n'],
	['ResultTooLarge', {message: 'the answer exceeds 6 MiB'}, 500, 'the answer exceeds 6 MiB\n'],
	['Timeout', {message: 'the call took longer than 5 ms'}, 504, 'Timeout: the call took longer than 5 ms\n'],
	['OutOfMemory', {message: 'it used more than 64 MiB'}, 507, 'OutOfMemory: it used more than 64 MiB\n'],
	['Exited', {message: '/var/lib 123', exitStatus: 3}, 502, 'Exited: the handler ended its process, with status 3\n'],
	[
		'Killed',
		{message: '/var/lib 123', signal: 'SIGSEGV'},
		502,
		'Killed: a signal ended the handler’s process (SIGSEGV)\n',
	],
	[
		'Evicted',
		{message: '/var/lib 123'},
		502,
		'Evicted: the instance was taken away: its function was removed or the runtime closed\n',
	],
	[
		'ProtocolError',
		{message: '/var/lib 123'},
		502,
		'ProtocolError: the sandbox sent something that is not a valid frame\n',
	],
	[
		'StartFailed',
		{message: '/var/lib 123'},
		502,
		'StartFailed: the sandbox could not be set up; the message names the step\n',
	],
];

for (const [code, error, status, text] of failures) {
	test(`${code} is answered with ${status}`, async (t) => {
		const {url} = await start(t, {failing: async () => failure(code, error)});
		const response = await fetch(`${url}/run/failing`);
		t.is(response.status, status);
		t.is(response.headers.get('content-type'), 'text/plain; charset=utf-8');
		t.is(response.headers.get('x-forktree-error'), code);
		t.is(await response.text(), text);
	});
}

const refusals: ReadonlyArray<
	readonly [title: string, error: Error, status: number, code: string, text: string, headers?: Record<string, string>]
> = [
	[
		'a full queue',
		new ForktreeError('QueueFull', 'expected at most 5'),
		429,
		'QueueFull',
		'lambda function queue is full\n',
		{'retry-after': '1'},
	],
	[
		'a method that is not listed',
		new MethodNotAllowedError('refusing', 'GET', ['POST', 'PUT']),
		405,
		'MethodNotAllowed',
		'HTTP method not allowed. Sent: GET, Allowed: [POST PUT]\n',
		{allow: 'POST, PUT'},
	],
	[
		'no memory',
		new ForktreeError('BudgetExceeded', '/x'),
		503,
		'BudgetExceeded',
		'the memory budget stayed taken until the deadline\n',
		{'retry-after': '1'},
	],
	[
		'a closing runtime',
		new ForktreeError('RuntimeClosed', '/x'),
		503,
		'RuntimeClosed',
		'the runtime or the pool was closed\n',
		{'retry-after': '1'},
	],
	[
		'a large event',
		new RangeError('expected a body of at most 1 MiB'),
		413,
		'EventTooLarge',
		'expected a body of at most 1 MiB\n',
	],
	[
		'a fault of the machine',
		new ForktreeError('Syscall', 'open /var/lib/x'),
		500,
		'Syscall',
		'the kernel refused a step\n',
	],
	[
		'a fault of ours',
		new Error('at /usr/lib/x pid 12'),
		500,
		'Internal',
		'the worker failed; its log says more of this request\n',
	],
];

for (const [title, error, status, code, text, headers = {}] of refusals) {
	test(`${title} is answered with ${status}, and without a host’s path`, async (t) => {
		const {url} = await start(t, {refusing: () => Promise.reject(error)});
		const response = await fetch(`${url}/run/refusing`);
		t.is(response.status, status);
		t.is(response.headers.get('x-forktree-error'), code);
		for (const [name, value] of Object.entries(headers)) t.is(response.headers.get(name), value);
		t.is(await response.text(), text);
	});
}

test('who prefers JSON is told of failures in JSON', async (t) => {
	const error = {type: 'KeyError', message: "'x'", traceback: 'Traceback\n'};
	const {url} = await start(t, {failing: async () => failure('HandlerError', error)});
	const headers = {accept: 'application/json, */*;q=0.1', 'x-request-id': 'abc'};
	const response = await fetch(`${url}/run/failing`, {headers});
	t.is(response.status, 500);
	t.is(response.headers.get('content-type'), 'application/json');
	t.deepEqual(await response.json(), {code: 'HandlerError', ...error, requestId: 'abc'});
	t.is(((await (await fetch(`${url}/run/nothing`, {headers})).json()) as {code: string}).code, 'UnknownFunction');
});

test('one id names a request to the client and to the function', async (t) => {
	const requests: HttpRequest[] = [];
	const {url} = await start(t, {echo: noting(requests)});
	const ids = async (given?: string) => {
		const response = await fetch(`${url}/run/echo`, given === undefined ? {} : {headers: {'x-request-id': given}});
		const headers = requests.pop()?.headers ?? [];
		const passed = headers.filter(
			(_value, index) => index % 2 === 1 && headers[index - 1]?.toLowerCase() === 'x-request-id',
		);
		t.is(passed.length, 1);
		t.is(passed[0], response.headers.get('x-request-id') ?? '');
		return passed[0];
	};
	t.is(await ids('abc-1_2.3'), 'abc-1_2.3');
	for (const odd of [undefined, 'x'.repeat(129), 'a b', '"', '{}', 'é'])
		t.regex((await ids(odd)) ?? '', /^req-\w+$/, 'the server’s own');
});

for (const path of ['/run', '/run/', '/run?x', '/run//echo']) {
	test(`no name in ${path}: 500, an explanation, and any origin may read it`, async (t) => {
		const {url} = await start(t, {});
		const response = await fetch(url + path);
		t.is(response.status, 500);
		t.is(response.headers.get('access-control-allow-origin'), '*');
		t.is(await response.text(), 'expected invocation format: /run/<lambda-name>\n');
	});
}

for (const path of ['/run/nowhere', '/run/__proto__', '/run/constructor', '/run/..%2fecho', '/run/...', '/run/%00']) {
	test(`nothing is called ${path}: 404, without the names of others`, async (t) => {
		const {url} = await start(t, {a: answering('never')});
		const response = await fetch(url + path);
		t.is(response.status, 404);
		t.is(await response.text(), 'no function of that name is deployed\n');
	});
}

/** Sends the head of a request, and of its body no more than this; answers the status. */
async function sendPart(url: string, headers: Readonly<Record<string, string>>, part: string): Promise<number> {
	const sending = ask(`${url}/run/small`, {method: 'POST', headers});
	sending.on('error', () => undefined);
	sending.write(part);
	const [response] = await once(sending, 'response');
	response.resume();
	sending.destroy();
	return response.statusCode;
}

test('a body that is too large is refused before all of it has come', async (t) => {
	const {url} = await start(t, {small: answering('x')}, {maxEventMb: 0.001});
	t.is(await sendPart(url, {'content-length': '1000000'}, ' '), 413, 'announced');
	t.is(await sendPart(url, {'transfer-encoding': 'chunked'}, ' '.repeat(2000)), 413, 'sent');
	t.is((await fetch(`${url}/run/small`, {method: 'POST', body: ' '.repeat(1000)})).status, 200);
});

test('a connection serves one request after another', async (t) => {
	const {url} = await start(t, {a: answering('1'), failing: async () => failure('HandlerError', {traceback: 'T\n'})});
	const get = (name: string, rest = '') => `GET /run/${name} HTTP/1.1\r\nHost: h\r\n${rest}\r\n`;
	const wire = await exchange(url, get('a') + get('failing') + get('nothing') + get('a', 'Connection: close\r\n'));
	t.deepEqual(
		[...wire.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
		['200', '500', '404', '200'],
	);
});

test('below a prefix, functions are told so', async (t) => {
	const {default: fastify} = await import('fastify');
	const {FakeRuntime} = await import('./fake-runtime.ts');
	const {workerPlugin} = await import('../../src/worker/plugin.ts');
	const requests: HttpRequest[] = [];
	const server = fastify();
	t.teardown(() => server.close());
	server.get('/', async () => 'mine');
	server.post('/json', async ({body}) => body);
	await server.register(workerPlugin(new FakeRuntime({echo: noting(requests)}) as never), {prefix: '/functions'});
	t.is((await server.inject('/functions/run/echo/a?b')).statusCode, 204);
	t.is(requests[0]?.root, '/functions/run/echo');
	t.is(requests[0]?.path, '/a');
	t.is((await server.inject('/')).body, 'mine');
	t.deepEqual(
		(await server.inject({method: 'POST', url: '/json', payload: {a: 1}})).json(),
		{a: 1},
		'the owner’s parsers are left alone',
	);
});
