/** Who may ask a worker what. */
import {mkdir, rm} from 'node:fs/promises';
import {request as ask} from 'node:http';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import type {HttpRequest} from '../../src/index.ts';
import {isLoopback, TokenCheck} from '../../src/worker/access.ts';
import {createWorker} from '../../src/worker/server.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {answering, serve, success} from './fake-runtime.ts';

async function start(t: ExecutionContext, token?: string) {
	const requests: HttpRequest[] = [];
	const registry = await temporaryFolder();
	t.teardown(() => rm(registry, {recursive: true, force: true}));
	for (const name of ['hello', 'noting']) await mkdir(path.join(registry, name));
	const {url, server} = await serve(
		{
			hello: answering('hello'),
			noting: async (request, listener) => {
				requests.push(request);
				listener.onHead({status: 204, headers: []});
				return success();
			},
		},
		{registry, ...(token === undefined ? {} : {token})},
	);
	t.teardown(() => server.close());
	return {url, requests};
}

for (const [host, isOurs] of [
	['localhost', true],
	['127.0.0.1', true],
	['127.1.2.3', true],
	['::1', true],
	['[::1]', true],
	['a.localhost', true],
	['0.0.0.0', false],
	['::', false],
	['10.0.0.1', false],
	['localhost.example', false],
	['127.0.0.1.example', false],
	['', false],
] as const) {
	test(`${host || 'no host'} is ${isOurs ? '' : 'not '}of this machine alone`, (t) => t.is(isLoopback(host), isOurs));
}

test('a worker that other machines can reach does not start without a token', async (t) => {
	const options = {registry: '/nowhere', host: '0.0.0.0', log: false} as const;
	await t.throwsAsync(createWorker(options), {instanceOf: TypeError, message: /^token: expected one for "0\.0\.0\.0"/});
	for (const token of ['', 'a b', 'é', 5 as never]) {
		await t.throwsAsync(createWorker({...options, token}), {
			instanceOf: TypeError,
			message: /^token: expected printable/,
		});
	}
});

test('with a token all but the status wants it', async (t) => {
	const {url} = await start(t, 'secret');
	const paths = [
		'/run/hello',
		'/run/nothing',
		'/registry/',
		'/registry/x',
		'/stats',
		'/metrics',
		'/debug',
		'/logs/x',
		'/pprof/mem',
		'/openapi.json',
	];
	for (const path of paths) {
		for (const authorization of [
			undefined,
			'secret',
			'Bearer',
			'Bearer wrong',
			'Basic c2VjcmV0',
			'Bearer secretsecret',
		]) {
			const response = await fetch(url + path, authorization === undefined ? {} : {headers: {authorization}});
			t.is(response.status, 401, `${path} with ${authorization}`);
			t.is(response.headers.get('www-authenticate'), 'Bearer');
			t.is(response.headers.get('x-forktree-error'), 'Unauthorized');
		}
	}
	t.is((await fetch(`${url}/status`)).status, 200);
	const headers = {authorization: 'bearer secret'};
	t.is(await (await fetch(`${url}/run/hello`, {headers})).text(), 'hello');
	t.is((await fetch(`${url}/stats`, {headers})).status, 200);
});

test('functions are not told the worker’s token, but are told what else authorizes', async (t) => {
	const {url, requests} = await start(t, 'secret');
	await fetch(`${url}/run/noting`, {headers: {authorization: 'Bearer secret'}});
	t.false(requests[0]?.headers.some((each) => each.includes('secret')));
	const open = await start(t);
	await fetch(`${open.url}/run/noting`, {headers: {authorization: 'Bearer its-own'}});
	t.true(open.requests[0]?.headers.includes('Bearer its-own'));
});

test('tokens are compared whole', (t) => {
	const check = new TokenCheck('abc');
	t.true(check.accepts('Bearer abc'));
	for (const header of [undefined, '', 'abc', 'Bearer ab', 'Bearer abcd', 'Bearer ABC', 'Bearer abc x'])
		t.false(check.accepts(header));
});

/** The status of a request with exactly these headers. */
function statusOf(url: string, method: string, headers: Readonly<Record<string, string>>): Promise<number | undefined> {
	return new Promise((resolve, reject) => {
		const sending = ask(url, {method, headers}, (response) => {
			response.resume();
			resolve(response.statusCode);
		});
		sending.on('error', reject);
		sending.end();
	});
}

test('without a token, what changes or tells something is not for pages of other sites', async (t) => {
	const {url} = await start(t);
	const {host} = new URL(url);
	for (const [method, path] of [
		['GET', '/stats'],
		['GET', '/registry/'],
		['POST', '/registry/x'],
		['DELETE', '/registry/x'],
		['POST', '/pprof/cpu-start'],
	] as const) {
		t.is(await statusOf(url + path, method, {host: 'evil.example'}), 403, `${path}: another name for this machine`);
		t.is(await statusOf(url + path, method, {host, origin: 'http://evil.example'}), 403, `${path}: another site`);
		t.is(await statusOf(url + path, method, {host, origin: 'null'}), 403, path);
	}
	t.is(await statusOf(`${url}/stats`, 'GET', {host, origin: `http://${host}`}), 200);
	t.is(await statusOf(`${url}/stats`, 'GET', {host: 'localhost:1'}), 200);
	t.is(
		await statusOf(`${url}/run/hello`, 'GET', {host: 'functions.example'}),
		200,
		'a proxy may name functions as it likes',
	);
});
