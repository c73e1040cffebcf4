/** Commands that ask a running worker: pprof and logs. */
import {existsSync, readFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {temporaryFolder} from '../helpers/runtime.ts';
import {listen} from '../helpers/servers.ts';
import {Command, forktree, writeFiles} from './forktree.ts';

/** A worker's folder, whose worker is a stub. */
async function start(
	t: ExecutionContext,
	answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	const port = await listen(t, createServer(answer));
	await writeFiles(directory, {'config.json': JSON.stringify({worker_url: '127.0.0.1', worker_port: String(port)})});
	return directory;
}

for (const [verb, route, name] of [
	['mem', '/pprof/mem', 'mem.heapsnapshot'],
	['cpu-stop', '/pprof/cpu-stop', 'cpu.cpuprofile'],
] as const) {
	test.serial(`pprof ${verb} saves what the worker answers`, async (t) => {
		const directory = await start(t, ({method, url}, response) => void response.end(`${method} ${url}`));
		const plain = await forktree(['pprof', verb, '-p', directory], {cwd: directory});
		t.is(plain.exitCode, 0, plain.stderr);
		t.regex(plain.stdout, new RegExp(`^saved to ${name};`));
		t.is(readFileSync(path.join(directory, name), 'utf8'), `GET ${route}`);
		const named = await forktree(['pprof', verb, '-p', directory, '-o', 'other'], {cwd: directory});
		t.is(named.exitCode, 0, named.stderr);
		t.is(readFileSync(path.join(directory, 'other'), 'utf8'), `GET ${route}`);
	});
}

test.serial('a profile that breaks off leaves no file', async (t) => {
	const directory = await start(t, (_request, response) => {
		response.writeHead(200, {'content-length': 10}).write('half', () => response.destroy());
	});
	const {exitCode, stdout} = await forktree(['pprof', 'mem', '-p', directory], {cwd: directory});
	t.deepEqual([exitCode, stdout], [125, '']);
	t.false(existsSync(path.join(directory, 'mem.heapsnapshot')));
});

test.serial('pprof cpu-start tells what the worker says against it', async (t) => {
	let status = 200;
	const directory = await start(t, ({url}, response) => {
		response.writeHead(url === '/pprof/cpu-start' ? status : 404).end('already started\n');
	});
	const first = await forktree(['pprof', 'cpu-start', '-p', directory]);
	t.is(first.exitCode, 0, first.stderr);
	t.regex(first.stdout, /cpu-stop ends and saves it\n$/);
	status = 400;
	const second = await forktree(['pprof', 'cpu-start', '-p', directory]);
	t.deepEqual([second.exitCode, second.stdout], [1, '']);
	t.is(second.stderr, 'forktree: the worker answered 400: already started\n');
});

const lines = [
	{time: 't', requestId: 'a', stream: 'stdout', text: 'heard\n'},
	{time: 't', requestId: 'a', stream: 'end', status: 200, durationMs: 1},
	{time: 't', requestId: 'b', stream: 'stderr', text: '\u001b[2Jodd ä\n'},
].map((line) => JSON.stringify(line));

test.serial('logs prints what a function printed, or all that is kept of it', async (t) => {
	const directory = await start(t, ({url}, response) => {
		response.writeHead(url === '/logs/hello' ? 200 : 404).end(url === '/logs/hello' ? `${lines.join('\n')}\n` : 'none');
	});
	const plain = await forktree(['logs', '-p', directory, 'hello']);
	t.is(plain.exitCode, 0, plain.stderr);
	t.is(plain.stdout, 'heard\n\\u001b[2Jodd ä\n');
	const json = await forktree(['logs', '-p', directory, '--json', 'hello']);
	t.is(json.stdout, `${lines.join('\n')}\n`);
	const none = await forktree(['logs', '-p', directory, 'a/b']);
	t.deepEqual([none.exitCode, none.stderr], [1, 'forktree: the worker answered 404: none\n']);
});

test.serial('logs --follow prints lines as they come, until a signal', async (t) => {
	let onPrinted = () => {};
	const directory = await start(t, ({url}, response) => {
		if (url !== '/logs/hello?follow=1') return void response.writeHead(404).end();
		const bytes = Buffer.from(`${lines.join('\n')}\n`);
		const middle = bytes.indexOf('ä') + 1; // in the middle of a character
		response.write(bytes.subarray(0, middle));
		onPrinted = () => response.write(bytes.subarray(middle));
	});
	const command = new Command(['logs', '-f', '-p', directory, 'hello']);
	await command.says(/heard\n/);
	onPrinted();
	await command.says(/odd ä\n/);
	command.child.kill('SIGINT');
	t.is((await command.ended).exitCode, 130);
});
