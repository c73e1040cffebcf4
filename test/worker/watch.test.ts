/** What a worker tells of itself. */
import {once} from 'node:events';
import test, {type ExecutionContext} from 'ava';
import {OutputLog} from '../../src/worker/output.ts';
import {formatStats, Stats} from '../../src/worker/stats.ts';
import {answering, failure, type Handler, serve, success} from './fake-runtime.ts';

const printing: Handler = async (_request, listener, {onStdout, onStderr}) => {
	onStdout?.('to stdout\n');
	onStderr?.('to stderr\n');
	listener.onHead({status: 201, headers: []});
	return success();
};

async function start(
	t: ExecutionContext,
	functions: Readonly<Record<string, Handler>> = {hello: answering('hello'), printing},
) {
	const served = await serve(functions);
	t.teardown(async () => {
		served.server.server.closeAllConnections();
		await served.server.close();
	});
	return served;
}

test('/status says ready', async (t) => {
	const {url} = await start(t);
	const response = await fetch(`${url}/status`);
	t.is(response.status, 200);
	t.is(await response.text(), 'ready\n');
});

test('/stats has counts and means as whole numbers, indented by tabs', async (t) => {
	const {url, runtime} = await start(t);
	for (let count = 0; count < 3; count++) await fetch(`${url}/run/hello`);
	await fetch(`${url}/run/nothing`);
	runtime.emit('installed', {packages: ['a==1', 'b==2'], durationMs: 100});
	const response = await fetch(`${url}/stats`);
	t.is(response.headers.get('content-type'), 'application/json; charset=utf-8');
	const text = await response.text();
	t.regex(text, /^\{\n\t"Create\(\)\.cnt": 3,\n\t"Create\(\)\.ms-avg": 20,\n/);
	const stats = JSON.parse(text) as Record<string, number>;
	t.is(stats['web-request.cnt'], 4);
	t.is(stats['LambdaFunc.Invoke.cnt'], 3);
	t.is(stats['LambdaFunc.Invoke.ms-avg'], 30);
	t.is(stats['ImportCache.Create.ms-avg'], 2);
	t.is(stats['pull-package.cnt'], 2);
	t.is(stats['pull-package.ms-avg'], 50);
	for (const value of Object.values(stats)) t.true(Number.isInteger(value));
});

test('statistics of nothing are an empty object', (t) => {
	t.is(formatStats(new Stats().snapshot()), '{}\n');
});

test('/metrics has OpenTelemetry’s names, phases of starts, and no series for each call', async (t) => {
	const {url, runtime} = await start(t, {
		hello: answering('hello'),
		late: async () => failure('Timeout', {message: 'late'}),
	});
	for (let count = 0; count < 2; count++) await fetch(`${url}/run/hello`);
	await fetch(`${url}/run/late`);
	for (let count = 0; count < 20; count++) await fetch(`${url}/run/nothing-${count}`);
	runtime.emit('created', {function: 'hello', sandbox: '1', start: 'forked'});
	const response = await fetch(`${url}/metrics`);
	t.regex(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
	const text = await response.text();
	for (const line of [
		'faas_invocations_total{faas_name="hello",faas_trigger="http"} 2',
		'faas_timeouts_total{faas_name="late",faas_trigger="http"} 1',
		'faas_errors_total{faas_name="late",faas_trigger="http",error_type="Timeout"} 1',
		'faas_coldstarts_total{faas_name="hello",faas_trigger="http"} 2',
		'faas_invoke_duration_seconds_count{faas_trigger="http"} 3',
		'faas_init_duration_seconds_sum{faas_trigger="http"} 0.063',
		'forktree_start_phase_seconds_bucket{le="0.005",phase="fork"} 3',
		'forktree_start_phase_seconds_bucket{le="0.0025",phase="fork"} 0',
		'forktree_starts_total{start="forked",spare="none"} 3',
		'forktree_zygote_hits_total{zygote="root"} 3',
		'forktree_sandboxes_created_total 1',
		'forktree_http_responses_total{status="200"} 2',
		'forktree_http_responses_total{status="404"} 20',
		'forktree_http_responses_total{status="504"} 1',
		'forktree_instances{state="idle"} 4',
		'forktree_memory_bytes{kind="reserved"} 52428800',
	]) {
		t.true(text.includes(`${line}\n`), line);
	}
	t.false(text.includes('nothing-'));
	runtime.emit('removed', {function: 'late'});
	t.false((await (await fetch(`${url}/metrics`)).text()).includes('"late"'), 'a name that is gone');
});

test('/debug names functions and zygotes', async (t) => {
	const {url} = await start(t);
	const text = await (await fetch(`${url}/debug`)).text();
	t.regex(text, /^python 3\.11\.2, isolation full\nmemory: 50 MiB reserved .* of 100 MiB\n/);
	t.regex(text, /\n {2}hello: 1 running, 2 idle, 3 paused, 4 parked, 5 spares, 6 waiting\n/);
	t.regex(text, /\n {2}root: pid 1, imports json\n/);
});

test('/logs has what a function printed, its streams apart, with the time and the request’s id', async (t) => {
	const {url} = await start(t);
	await fetch(`${url}/run/printing`, {headers: {'x-request-id': 'one'}});
	const response = await fetch(`${url}/logs/printing`);
	t.regex(response.headers.get('content-type') ?? '', /^application\/x-ndjson/);
	const text = await response.text();
	const lines = text
		.trimEnd()
		.split('\n')
		.map((line) => JSON.parse(line) as Record<string, unknown>);
	for (const {time} of lines) t.regex(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
	t.deepEqual(
		lines.map(({time: _time, durationMs: _durationMs, ...rest}) => rest),
		[
			{requestId: 'one', stream: 'stdout', text: 'to stdout\n'},
			{requestId: 'one', stream: 'stderr', text: 'to stderr\n'},
			{requestId: 'one', stream: 'end', status: 201},
		],
	);
	t.is(await (await fetch(`${url}/logs/hello`)).text(), '');
	t.is((await fetch(`${url}/logs/hello?follow=x`)).status, 400);
});

test('whoever follows hears what is printed from then on, until it leaves', async (t) => {
	const {url} = await start(t);
	await fetch(`${url}/run/printing`, {headers: {'x-request-id': 'before'}});
	const leaving = new AbortController();
	const following = await fetch(`${url}/logs/printing?follow=1`, {signal: leaving.signal});
	await fetch(`${url}/run/printing`, {headers: {'x-request-id': 'after'}});
	let text = '';
	const decoder = new TextDecoder();
	for await (const part of following.body ?? []) {
		text += decoder.decode(part as Uint8Array, {stream: true});
		if ((text.match(/"end"/g) ?? []).length === 2) break;
	}
	t.deepEqual(
		[...text.matchAll(/"requestId":"(\w+)"/g)].map(([, id]) => id),
		['before', 'before', 'before', 'after', 'after', 'after'],
	);
	leaving.abort();
});

test('what is kept of a function is bounded, the oldest goes first, and long texts are cut', (t) => {
	const output = new OutputLog();
	const note = (name: string, text: string) => output.note(name, {requestId: 'r', stream: 'stdout', text});
	for (let count = 0; count < 2000; count++) note('a', `line ${count} ${'x'.repeat(100)}`);
	const kept = output.read('a');
	t.true(kept.length <= 64 * 1024 && kept.length > 60 * 1024, `${kept.length}`);
	t.true(kept.includes('line 1999 '));
	t.false(kept.includes('line 100 '));
	note('b', 'y'.repeat(1024 * 1024));
	t.true(output.read('b').length < 17 * 1024);
	t.true(output.read('b').includes('"cut":true'));
	for (let count = 0; count < 400; count++) for (let line = 0; line < 4; line++) note(`f${count}`, 'z'.repeat(16_000));
	t.is(output.read('a'), '', 'of all together as well');
	t.not(output.read('f399'), '');
});

test('a follower that reads nothing is cut off', async (t) => {
	const output = new OutputLog();
	const follower = output.follow('a');
	const closed = once(follower, 'close');
	for (let count = 0; count < 200; count++)
		output.note('a', {requestId: 'r', stream: 'stdout', text: 'x'.repeat(16_000)});
	await closed;
	t.true(follower.destroyed);
});

test.serial('/pprof gives profiles of the worker', async (t) => {
	const {url} = await start(t);
	const stop = () => fetch(`${url}/pprof/cpu-stop`, {method: 'POST'});
	t.is((await stop()).status, 400);
	const started = await fetch(`${url}/pprof/cpu-start`, {method: 'POST'});
	t.is(started.status, 200);
	t.is(await started.text(), '');
	t.is((await fetch(`${url}/pprof/cpu-start`, {method: 'POST'})).status, 400);
	const stopped = await stop();
	t.is(stopped.headers.get('content-type'), 'application/octet-stream');
	t.true(((await stopped.json()) as {nodes: unknown[]}).nodes.length > 0);
	t.is((await stop()).status, 400);
	const heap = await fetch(`${url}/pprof/mem`);
	t.is(heap.headers.get('content-type'), 'application/octet-stream');
	t.regex(Buffer.from((await heap.body?.getReader().read())?.value ?? []).toString(), /^\{"snapshot":/);
});

test('/openapi.json describes the routes', async (t) => {
	const {url} = await start(t);
	const {openapi, paths} = (await (await fetch(`${url}/openapi.json`)).json()) as {
		openapi: string;
		paths: Record<string, object>;
	};
	t.regex(openapi, /^3\./);
	for (const path of ['/run/{*}', '/status', '/stats', '/metrics', '/debug', '/logs/{name}', '/pprof/mem'])
		t.true(path in paths, `${path} of ${Object.keys(paths)}`);
});

test('Kafka is said not to be there', async (t) => {
	const {url} = await start(t);
	for (const method of ['POST', 'DELETE']) t.is((await fetch(`${url}/kafka/register/a`, {method})).status, 501);
});
