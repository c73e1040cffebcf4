/** Each of the example functions, called over HTTP. */
import {readdirSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import test, {type ExecutionContext} from 'ava';
import {createWorker, type Worker} from '../../src/worker/server.ts';
import {kernelTest, refusal} from '../helpers/kernel-test.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const registry = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'examples', 'functions');
const tried = new Set<string>();
let worker: Worker | undefined;
let stateDir = '';

test.before(async () => {
	if (refusal !== undefined) return;
	stateDir = await temporaryFolder();
	worker = await createWorker({registry, stateDir, port: 0, python, log: false});
});

test.after.always(async () => {
	await worker?.close();
	await rm(stateDir, {recursive: true, force: true});
});

type Answer = {readonly status: number; readonly text: string; readonly headers: Headers};

async function call(name: string, event?: unknown, init: RequestInit & {readonly path?: string} = {}): Promise<Answer> {
	const [example = ''] = name.split('/');
	tried.add(example);
	if (worker === undefined) throw new Error('expected a worker');
	const response = await fetch(`${worker.url}/run/${name}${init.path ?? ''}`, {
		method: 'POST',
		...(event === undefined ? {} : {body: JSON.stringify(event)}),
		...init,
	});
	return {status: response.status, text: await response.text(), headers: response.headers};
}

function value(t: ExecutionContext, {status, text}: Answer): unknown {
	t.is(status, 200, text);
	return JSON.parse(text);
}

kernelTest('hello, echo', async (t) => {
	t.is(value(t, await call('hello', {name: 'you'})), 'hello, you');
	t.is(value(t, await call('hello')), 'hello, world');
	t.deepEqual(value(t, await call('echo', {a: [1]})), {a: [1]});
});

kernelTest('methods that are listed, and others', async (t) => {
	t.deepEqual(value(t, await call('post-echo', [1])), [1]);
	const refused = await call('post-echo', undefined, {method: 'GET'});
	t.deepEqual([refused.status, refused.headers.get('allow')], [405, 'POST']);
	for (const method of ['GET', 'PUT']) t.is((await call('methods', undefined, {method})).status, 200);
	t.is((await call('methods')).text, 'HTTP method not allowed. Sent: POST, Allowed: [GET PUT]\n');
});

kernelTest('the environment', async (t) => {
	t.deepEqual(value(t, await call('environment')), {GREETING: 'good morning', COLOUR: 'blue'});
});

kernelTest('two versions of one package, side by side', async (t) => {
	const [one, two] = await Promise.all([call('numpy-1', [1, 2.5]), call('numpy-2', [1, 2.5])]);
	t.deepEqual(value(t, one), {sum: 3.5, numpy: '1.26.4'});
	t.deepEqual(value(t, two), {sum: 3.5, numpy: '2.2.6'});
});

kernelTest('pandas', async (t) => {
	t.deepEqual(value(t, await call('pandas', [{a: 1}, {a: 2}, {a: 6}])), {a: {mean: 3, median: 2}});
});

kernelTest('Flask', async (t) => {
	t.is((await call('flask', undefined, {method: 'GET'})).text, '/run/flask says hello\n');
	t.deepEqual(value(t, await call('flask', undefined, {method: 'GET', path: '/square/12'})), {square: 144});
	const upper = await call('flask', undefined, {body: 'loud', path: '/upper'});
	t.deepEqual([upper.status, upper.text, upper.headers.get('x-kind')], [201, 'LOUD', 'upper']);
	t.is((await call('flask', undefined, {method: 'GET', path: '/nowhere'})).status, 404);
});

kernelTest('FastAPI', async (t) => {
	t.deepEqual(value(t, await call('fastapi', undefined, {method: 'GET'})), {greeting: 'hello'});
	const headers = {'content-type': 'application/json'};
	const order = await call('fastapi', {item: 'tea'}, {path: '/orders', headers});
	t.deepEqual([order.status, JSON.parse(order.text)], [201, {item: 'tea', count: 1}]);
	t.is((await call('fastapi', {count: 1}, {path: '/orders', headers})).status, 422);
	const ticks = await call('fastapi', undefined, {method: 'GET', path: '/ticks'});
	t.is(ticks.text, 'tick 0\ntick 1\ntick 2\n');
	t.is((await call('fastapi', undefined, {method: 'GET', path: '/docs'})).status, 200);
});

kernelTest('bare WSGI and ASGI applications', async (t) => {
	t.is((await call('wsgi', undefined, {path: '/a/b'})).text, 'POST /a/b\n');
	t.is((await call('asgi', undefined, {path: '/a/b'})).text, 'POST /run/asgi/a/b\n');
});

kernelTest('chunks arrive while the function goes on', async (t) => {
	const {text, headers} = await call('stream', {count: 3, pause: 0});
	t.is(headers.get('content-type'), 'application/x-ndjson');
	const numbers = text
		.trim()
		.split('\n')
		.map((line) => (JSON.parse(line) as {number: number}).number);
	t.deepEqual(numbers, [0, 1, 2]);
});

kernelTest('bombs harm nobody', async (t) => {
	const {started, refused} = value(t, await call('fork-bomb')) as {started: number; refused: string};
	t.true(started > 0 && started < 16, String(started));
	t.regex(refused, /temporarily unavailable/);
	const {status, headers} = await call('memory-bomb');
	t.deepEqual([status, headers.get('x-forktree-error')], [507, 'OutOfMemory']);
	t.is(value(t, await call('hello')), 'hello, world');
});

test.after((t) => {
	if (refusal === undefined) t.deepEqual([...tried].sort(), readdirSync(registry).sort());
});
