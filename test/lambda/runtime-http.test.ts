import type {ExecutionContext} from 'ava';
import {type HttpHead, type HttpRequest, MethodNotAllowedError, type Outcome} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {failure, py, useRuntime} from '../helpers/runtime.ts';

const fixture = useRuntime();

type Exchange = {readonly outcome: Outcome; readonly head: HttpHead | undefined; readonly body: Buffer};

async function ask(name: string, request: Partial<HttpRequest> = {}): Promise<Exchange> {
	const heads: HttpHead[] = [];
	const chunks: Uint8Array[] = [];
	const outcome = await fixture().runtime.request(
		name,
		{method: 'POST', root: `/run/${name}`, path: '', query: '', headers: [], body: new Uint8Array(), ...request},
		{onHead: (head) => heads.push(head), onBody: (bytes) => void chunks.push(bytes)},
	);
	if (heads.length > 1) throw new Error('expected one head');
	return {outcome, head: heads[0], body: Buffer.concat(chunks)};
}

function answered(t: ExecutionContext, {outcome, head, body}: Exchange): {head: HttpHead; text: string} {
	if (!outcome.ok) t.fail(`${outcome.error.message}\n${outcome.error.traceback}`);
	t.not(head, undefined);
	return {head: head as HttpHead, text: body.toString('latin1')};
}

const json = (value: unknown) => ({body: Buffer.from(JSON.stringify(value))});

const echo = 'def f(event):\n\treturn event\n';

kernelTest('a handler of events gets the body, and its value is the answer', async (t) => {
	const name = await fixture().deploy(echo);
	const {head, text} = answered(t, await ask(name, json({a: [1, 'ü']})));
	t.deepEqual(head, {
		status: 200,
		headers: [
			['content-type', 'application/json'],
			['content-length', '14'],
		],
	});
	t.deepEqual(JSON.parse(Buffer.from(text, 'latin1').toString()), {a: [1, 'ü']});
	t.is(answered(t, await ask(name)).text, '{}');
	t.is(answered(t, await ask(name, {body: Buffer.from(' \n[1] ')})).text, '[1]');
});

kernelTest('bytes are bytes both ways', async (t) => {
	const name = await fixture().deploy('def f(event):\n\treturn event[::-1]\n');
	const headers = ['Content-Type', 'application/octet-stream; x=y'];
	const {head, text} = answered(t, await ask(name, {headers, body: Buffer.from([1, 0, 255])}));
	t.deepEqual(head.headers[0], ['content-type', 'application/octet-stream']);
	t.is(text, '\u00ff\u0000\u0001');
});

kernelTest('a body that is no strict JSON is a bad request, and no call of the handler', async (t) => {
	const name = await fixture().deploy('calls = []\ndef f(event):\n\tcalls.append(event)\n\treturn len(calls)\n');
	const deep = '['.repeat(100_000);
	for (const body of ['{', '[1] 2', 'NaN', '[Infinity]', deep, '9'.repeat(5000), '   ', '\u00ff', '"a\nb"']) {
		const {head, text} = answered(t, await ask(name, {body: Buffer.from(body, 'latin1')}));
		t.is(head.status, 400, body.slice(0, 20));
		t.regex(text, /^expected a body that is JSON: .+\n$/s);
	}
	t.is(answered(t, await ask(name, json(1))).text, '1');
});

kernelTest('what a handler of events raises is the outcome’s error, and has no head', async (t) => {
	const name = await fixture().deploy("def f(event):\n\traise KeyError('gone')\n");
	const {outcome, head, body} = await ask(name);
	t.is(failure(t, outcome).code, 'HandlerError');
	t.is(head, undefined);
	t.is(body.length, 0);
});

kernelTest('chunks come as lines of JSON, or as bytes', async (t) => {
	const lines = await fixture().deploy("def f(event):\n\tyield {'a': 1}\n\tyield 'b\\n'\n");
	const {head, text} = answered(t, await ask(lines));
	t.deepEqual(head.headers, [['content-type', 'application/x-ndjson']]);
	t.is(text, '{"a":1}\n"b\\n"\n');
	const bytes = await fixture().deploy("async def f(event):\n\tyield b'ab'\n\tyield b'cd'\n");
	const raw = answered(t, await ask(bytes));
	t.deepEqual(raw.head.headers, [['content-type', 'application/octet-stream']]);
	t.is(raw.text, 'abcd');
	const none = await fixture().deploy('def f(event):\n\tyield from ()\n');
	t.is(answered(t, await ask(none)).text, '');
	const both = await fixture().deploy("def f(event):\n\tyield b'ab'\n\tyield 1\n");
	t.is(failure(t, (await ask(both)).outcome).code, 'ProtocolError');
});

const wsgi = py`
	from urllib.parse import quote
	import json

	def app(environ, start_response):
		body = environ['wsgi.input'].read()
		if environ['PATH_INFO'] == '/stream':
			write = start_response('200 OK', [('X-Kind', 'stream')])
			write(b'first,')
			return iter([b'', b'second,', b'third'])
		if environ['PATH_INFO'] == '/fail':
			raise ValueError('before')
		if environ['PATH_INFO'] == '/late':
			start_response('200 OK', [])
			def chunks():
				yield b'some'
				raise ValueError('after')
			return chunks()
		if environ['PATH_INFO'] == '/replace':
			import sys
			start_response('200 OK', [('X-First', '1')])
			try:
				raise ValueError()
			except ValueError:
				start_response('418 Teapot', [('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2')], sys.exc_info())
			return [b'replaced']
		if environ['PATH_INFO'] == '/none':
			return [b'x']
		if environ['PATH_INFO'] == '/split':
			start_response('200 OK', [('X-A', 'b\r\nX-C: d')])
			return []
		if environ['PATH_INFO'] == '/short':
			start_response('200 OK', [('Content-Length', '5')])
			return iter([b'abc'])
		if environ['PATH_INFO'] == '/long':
			start_response('200 OK', [('Content-Length', '2')])
			return iter([b'abc'])
		if environ['PATH_INFO'] == '/empty':
			start_response('204 No Content', [])
			return []
		if environ['PATH_INFO'] == '/hop':
			start_response('200 OK', [('Connection', 'close'), ('Transfer-Encoding', 'chunked'), ('X-Stays', '1')])
			return [b'']
		start_response('200 OK', [('Content-Type', 'application/json')])
		text = {name: value for name, value in environ.items() if isinstance(value, (str, bool))}
		return [json.dumps({**text, 'body': body.decode()}).encode()]
`;

kernelTest('a WSGI application gets the environment that PEP 3333 names', async (t) => {
	const name = await fixture().deploy(wsgi);
	const {head, text} = answered(
		t,
		await ask(name, {
			method: 'PUT',
			path: '/a%20b/%C3%BC%2F',
			query: 'x=1&y=%20',
			headers: [
				'Host',
				'here:81',
				'Content-Type',
				'text/x',
				'X-Two',
				'a',
				'x-two',
				'b',
				'Cookie',
				'a=1',
				'cookie',
				'b=2',
				'X_Two',
				'c',
			],
			body: Buffer.from('the body'),
			client: {address: '127.0.0.9', port: 7},
		}),
	);
	const environ = JSON.parse(text) as Record<string, unknown>;
	t.like(environ, {
		REQUEST_METHOD: 'PUT',
		SCRIPT_NAME: `/run/${name}`,
		PATH_INFO: '/a b/\u00c3\u00bc/',
		QUERY_STRING: 'x=1&y=%20',
		CONTENT_TYPE: 'text/x',
		CONTENT_LENGTH: '8',
		SERVER_NAME: 'here',
		SERVER_PORT: '81',
		HTTP_HOST: 'here:81',
		HTTP_X_TWO: 'a,b',
		HTTP_COOKIE: 'a=1; b=2',
		REMOTE_ADDR: '127.0.0.9',
		'wsgi.url_scheme': 'http',
		'wsgi.multithread': false,
		body: 'the body',
	});
	t.deepEqual(
		head.headers.map(([field]) => field),
		['Content-Type', 'content-length'],
	);
	t.is((JSON.parse(answered(t, await ask(name)).text) as Record<string, unknown>).PATH_INFO, '/');
});

kernelTest('a WSGI application streams, replaces its head, and fails before and after it', async (t) => {
	const name = await fixture().deploy(wsgi);
	const streamed = answered(t, await ask(name, {path: '/stream'}));
	t.deepEqual(streamed.head.headers, [['X-Kind', 'stream']]);
	t.is(streamed.text, 'first,second,third');
	const replaced = answered(t, await ask(name, {path: '/replace'}));
	t.is(replaced.head.status, 418);
	t.deepEqual(replaced.head.headers.slice(0, 2), [
		['Set-Cookie', 'a=1'],
		['Set-Cookie', 'b=2'],
	]);
	t.is(answered(t, await ask(name, {path: '/empty'})).text, '');
	t.deepEqual(answered(t, await ask(name, {path: '/hop'})).head.headers, [
		['X-Stays', '1'],
		['content-length', '0'],
	]);
	const failed = await ask(name, {path: '/fail'});
	t.is(failed.head, undefined);
	t.regex(failure(t, failed.outcome).traceback, /^Traceback.*f\.py.*ValueError: before\n$/s);
	const late = await ask(name, {path: '/late'});
	t.is(late.body.toString(), 'some');
	t.is(failure(t, late.outcome).code, 'HandlerError');
	t.is(failure(t, (await ask(name, {path: '/none'})).outcome).type, 'RuntimeError');
	t.is(failure(t, (await ask(name, {path: '/split'})).outcome).type, 'ValueError');
	t.is(failure(t, (await ask(name, {path: '/short'})).outcome).code, 'ProtocolError');
	t.is(failure(t, (await ask(name, {path: '/long'})).outcome).code, 'ProtocolError');
	t.is(answered(t, await ask(name, {path: '/long', method: 'HEAD'})).text, '');
	const event = failure(t, await fixture().runtime.invoke(name, {}));
	t.regex(event.message, /web application: it takes HTTP requests/);
});

const asgi = py`
	import asyncio, json, os

	started = []

	class App:
		async def __call__(self, scope, receive, send):
			if scope['type'] == 'lifespan':
				assert (await receive())['type'] == 'lifespan.startup'
				started.append(os.environ.get('STARTUP', 'yes'))
				if started[0] == 'fail':
					await send({'type': 'lifespan.startup.failed', 'message': 'no database'})
					return
				scope['state']['from'] = 'startup'
				await send({'type': 'lifespan.startup.complete'})
				await receive()
				return
			message = await receive()
			await asyncio.sleep(0)
			if scope['path'].endswith('/stream'):
				await send({'type': 'http.response.start', 'status': 201, 'headers': [(b'x-kind', b'stream')]})
				for chunk in (b'a', b'', b'b'):
					await send({'type': 'http.response.body', 'body': chunk, 'more_body': True})
				await send({'type': 'http.response.body'})
				return
			if scope['path'].endswith('/nothing'):
				return
			told = {name: value.decode() if isinstance(value, bytes) else value for name, value in scope.items() if name not in ('headers', 'asgi')}
			told['headers'] = [[name.decode('latin-1'), value.decode('latin-1')] for name, value in scope['headers']]
			told['body'], told['started'] = message['body'].decode(), started
			await send({'type': 'http.response.start', 'status': 200, 'headers': []})
			await send({'type': 'http.response.body', 'body': json.dumps(told).encode()})

	app = App()
`;

kernelTest('an ASGI application gets its scope, starts once, and streams', async (t) => {
	const name = await fixture().deploy(asgi);
	const request = {path: '/a%20b', query: 'q=1', headers: ['X-A', 'b\u00ff'], body: Buffer.from('the body')};
	for (let call = 0; call < 2; call += 1) {
		t.like(JSON.parse(answered(t, await ask(name, request)).text), {
			type: 'http',
			method: 'POST',
			scheme: 'http',
			path: `/run/${name}/a b`,
			raw_path: `/run/${name}/a%20b`,
			root_path: `/run/${name}`,
			query_string: 'q=1',
			headers: [['x-a', 'b\u00ff']],
			state: {from: 'startup'},
			body: 'the body',
			started: ['yes'],
		});
	}
	const {head, text} = answered(t, await ask(name, {path: '/stream'}));
	t.deepEqual(head, {status: 201, headers: [['x-kind', 'stream']]});
	t.is(text, 'ab');
	t.regex(failure(t, (await ask(name, {path: '/nothing'})).outcome).message, /not begun its answer/);
});

kernelTest('an application whose start-up fails is not loaded, and says why', async (t) => {
	const name = await fixture().deploy(asgi, {env: {STARTUP: 'fail'}});
	const {code, message} = failure(t, (await ask(name)).outcome);
	t.is(code, 'ImportFailed');
	t.regex(message, /start-up failed: no database/);
});

kernelTest('the environment names the application, else f comes before app', async (t) => {
	const both = `${wsgi}\ndef f(event):\n\treturn 'f'\nother = app\nasync def third(scope, receive, send):\n\tif scope['type'] == 'lifespan':\n\t\traise TypeError()\n\tawait send({'type': 'http.response.start', 'status': 299})\n\tawait send({'type': 'http.response.body', 'body': b'third'})\n`;
	t.is(answered(t, await ask(await fixture().deploy(both))).text, '"f"');
	const chosen = await fixture().deploy(both, {env: {OL_WSGI_ENTRY: 'other'}});
	t.is(answered(t, await ask(chosen, {path: '/stream'})).text, 'first,second,third');
	const asynchronous = await fixture().deploy(both, {env: {OL_ASGI_ENTRY: 'third'}});
	t.is(answered(t, await ask(asynchronous)).head.status, 299);
	const missing = await fixture().deploy(both, {env: {OL_ASGI_ENTRY: 'fourth'}});
	const {code, message} = failure(t, (await ask(missing)).outcome);
	t.is(code, 'ImportFailed');
	t.regex(message, /defines no 'fourth', which OL_ASGI_ENTRY names/);
});

kernelTest('a program is a function: its argument is the event, its output the value', async (t) => {
	const program = (text: string) => fixture().deploy({'f.bin': `#!/bin/sh\n${text}\n`});
	const echoing = await program('printf %s "$1" > /tmp/output');
	const {head, text} = answered(t, await ask(echoing, json({a: 'b c'})));
	t.deepEqual(head.headers[0], ['content-type', 'application/json']);
	t.is(text, '{"a":"b c"}');
	const outcome = await fixture().runtime.invoke(echoing, [1, 'ü']);
	t.deepEqual(outcome.ok && outcome.value, [1, 'ü']);
	const raw = answered(t, await ask(await program("printf '\\377' > /tmp/output")));
	t.deepEqual([raw.head.headers[0]?.[1], raw.text], ['application/octet-stream', '\u00ff']);
	const failing = failure(t, (await ask(await program('rm -f /tmp/output; exit 3'))).outcome);
	t.regex(failing.message, /f\.bin exited with status 3/);
	const killed = failure(t, (await ask(await program('kill -9 $$'))).outcome);
	t.regex(killed.message, /f\.bin was ended by signal 9/);
	const silent = await program('if [ "$1" = 1 ]; then echo 2 > /tmp/output; fi');
	t.is(answered(t, await ask(silent, json(1))).text, '2\n');
	t.regex(failure(t, (await ask(silent, json(0))).outcome).message, /left no file \/tmp\/output/);
});

kernelTest('what a sandbox sends as a head is checked', async (t) => {
	for (const head of [
		[99, []],
		[200.5, []],
		['200', []],
		[200, [['a b', 'c']]],
		[200, [['a', 'b\nc']]],
		[200, [['a', '\u0100']]],
		[200, [['a']]],
		[200, {}],
		[
			200,
			[
				['content-length', '1'],
				['Content-Length', '2'],
			],
		],
		[200, [['content-length', '-1']]],
		7,
	]) {
		const name = await fixture().deploy(py`
			import os, struct
			def f(event):
				head = ${JSON.stringify(JSON.stringify(head))}.encode()
				os.write(3, struct.pack('<IB', len(head), 140) + head)
		`);
		const {outcome, head: told} = await ask(name);
		t.is(failure(t, outcome).code, 'ProtocolError', JSON.stringify(head));
		t.is(told, undefined);
	}
});

kernelTest('methods that the triggers do not list are refused', async (t) => {
	const name = await fixture().deploy({'f.py': echo, 'ol.yaml': 'triggers: {http: [{method: get}, {method: POST}]}\n'});
	t.is(answered(t, await ask(name, {method: 'GET'})).text, '{}');
	const error = await t.throwsAsync(ask(name, {method: 'PUT'}), {instanceOf: MethodNotAllowedError});
	t.deepEqual(error?.allowed, ['GET', 'POST']);
});

kernelTest('requests that are none, or too large, are refused before anything starts', async (t) => {
	const name = await fixture().deploy(echo, {limits: {eventMb: 0.001}});
	await t.throwsAsync(ask(name, {method: 'A B'}), {instanceOf: TypeError});
	await t.throwsAsync(ask(name, {path: 'x'}), {instanceOf: TypeError});
	await t.throwsAsync(ask(name, {body: new Uint8Array(2000)}), {instanceOf: RangeError});
	await t.throwsAsync(ask(name, {headers: ['a', 'b'.repeat(600_000)]}), {instanceOf: RangeError});
	await t.throwsAsync(ask('nobody'), {code: 'UnknownFunction'});
});

kernelTest('fetch: the web’s own types', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(wsgi);
	const url = 'https://here.example/a/b?c=d';
	const response = await runtime.fetch(name, new Request(url, {method: 'POST', body: 'text', headers: {'x-a': 'b'}}));
	t.like(await response.json(), {
		SCRIPT_NAME: '',
		PATH_INFO: '/a/b',
		QUERY_STRING: 'c=d',
		HTTP_X_A: 'b',
		'wsgi.url_scheme': 'https',
		body: 'text',
	});
	const replaced = await runtime.fetch(name, new Request('http://x/replace'));
	t.is(replaced.status, 418);
	t.deepEqual(replaced.headers.getSetCookie(), ['a=1', 'b=2']);
	t.is((await runtime.fetch(name, new Request('http://x/empty'))).status, 204);
	t.is(await (await runtime.fetch(name, new Request('http://x/', {method: 'HEAD'}))).text(), '');
	const failed = await runtime.fetch(name, new Request('http://x/fail'));
	t.is(failed.status, 500);
	t.regex(await failed.text(), /ValueError: before/);
	const late = await runtime.fetch(name, new Request('http://x/late'));
	t.is(late.status, 200);
	await t.throwsAsync(late.text(), {message: /HandlerError/});
	await t.throwsAsync(runtime.fetch('nobody', new Request('http://x/')), {code: 'UnknownFunction'});
});

kernelTest('fetch: a body waits for its reader, and ends the call when nobody reads it', async (t) => {
	const {runtime} = fixture();
	const name = await fixture().deploy(py`
		import os
		written = 0
		def f(event):
			global written
			for _ in range(64):
				written += 1
				yield bytes(1 << 20)
	`);
	const response = await runtime.fetch(name, new Request('http://x/'));
	let bytes = 0;
	for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) bytes += chunk.byteLength;
	t.is(bytes, 64 << 20);
	const ended = new Promise((resolve) => runtime.once('destroyed', resolve));
	const left = await runtime.fetch(name, new Request('http://x/'));
	await left.body?.cancel();
	await ended;
	t.pass();
});
