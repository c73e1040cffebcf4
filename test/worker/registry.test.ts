/** The registry over HTTP and behind the worker's back, with a runtime that deploys and calls. */
import {readdirSync} from 'node:fs';
import {cp, link, mkdir, readFile, rename, rm, symlink, utimes, writeFile} from 'node:fs/promises';
import {request as ask} from 'node:http';
import path from 'node:path';
import process from 'node:process';
import {gzipSync} from 'node:zlib';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import fastify from 'fastify';
import {createRuntime} from '../../src/index.ts';
import {workerPlugin} from '../../src/worker/plugin.ts';
import {createWorker, type Worker, type WorkerOptions} from '../../src/worker/server.ts';
import {writeFiles} from '../cli/forktree.ts';
import {kernelTest, refusal, serialKernelTest} from '../helpers/kernel-test.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const gzip = {'content-type': 'application/gzip'};

function answering(text: string): string {
	return `def f(event):\n\treturn ${JSON.stringify(text)}\n`;
}

/** A gzip tar archive of these files. */
async function pack(files: Readonly<Record<string, string>>): Promise<Buffer<ArrayBuffer>> {
	const folder = await temporaryFolder();
	try {
		await writeFiles(folder, files);
		const {stdout} = await execa('tar', ['-cz', '-C', folder, '.'], {encoding: 'buffer'});
		return Buffer.from(stdout);
	} finally {
		await rm(folder, {recursive: true, force: true});
	}
}

async function start(
	t: ExecutionContext,
	files: Readonly<Record<string, string>>,
	options: Partial<WorkerOptions> = {},
) {
	const registry = await temporaryFolder();
	t.teardown(() => rm(registry, {recursive: true, force: true}));
	await writeFiles(registry, files);
	const worker = await createWorker({registry, port: 0, python, log: false, ...options});
	t.teardown(() => worker.close());
	return {registry, worker, ...client(worker)};
}

function client({url}: Worker) {
	const at = (name: string) => `${url}/registry/${name}`;
	return {
		call: (name: string, body = '{}') => fetch(`${url}/run/${name}`, {method: 'POST', body}),
		put: (name: string, body: Uint8Array<ArrayBuffer>, headers: Record<string, string> = gzip) =>
			fetch(at(name), {method: 'POST', body, headers}),
		take: (name: string) => fetch(at(name), {method: 'DELETE'}),
		get: (name: string) => fetch(at(name), {redirect: 'manual'}),
	};
}

/** One worker serves most tests; each has names of its own. */
let shared: Worker | undefined;
let registry = '';

test.before(async () => {
	if (refusal !== undefined) return;
	registry = await temporaryFolder();
	await writeFiles(registry, {
		'README.md': 'no function',
		'.hidden/f.py': answering('never'),
		'bad name/f.py': answering('never'),
		'folder/f.py': answering('folder'),
		'twice/f.py': answering('folder'),
		'bad-syntax/f.py': 'def f(\n',
	});
	await writeFile(path.join(registry, 'twice.tar.gz'), await pack({'f.py': answering('archive')}));
	shared = await createWorker({registry, port: 0, python, log: false, registryCacheMs: 0});
});

test.after.always('no upload is left', async (t) => {
	await shared?.close();
	if (registry === '') return;
	t.false(readdirSync(registry).some((entry) => entry.startsWith('.upload')));
	await rm(registry, {recursive: true, force: true});
});

function use() {
	if (shared === undefined) throw new Error('expected a worker: it is made before the first test');
	return {url: shared.url, ...client(shared)};
}

kernelTest('names are listed as JSON, sorted; other files and hidden folders are none', async (t) => {
	const {get, put} = use();
	t.is((await put('listed', await pack({'f.py': answering('1')}))).status, 201);
	const response = await get('');
	t.is(response.headers.get('content-type'), 'application/json; charset=utf-8');
	const names = (await response.json()) as string[];
	t.deepEqual(names, [...names].sort());
	for (const name of ['listed', 'folder', 'twice']) t.true(names.includes(name), name);
	t.false(names.some((name) => /README|hidden|bad name|^\./.test(name)));
});

kernelTest('/registry leads to /registry/', async (t) => {
	const response = await fetch(`${use().url}/registry`, {redirect: 'manual'});
	t.is(response.status, 301);
	t.is(response.headers.get('location'), '/registry/');
});

for (const [method, where, allow] of [
	['POST', '/registry/', 'GET'],
	['DELETE', '/registry/', 'GET'],
	['PUT', '/registry/some', 'GET, POST, DELETE'],
	['POST', '/registry/some/config', 'GET'],
] as const) {
	kernelTest(`${method} ${where} is answered with 405`, async (t) => {
		const response = await fetch(use().url + where, {method});
		t.is(response.status, 405);
		t.is(response.headers.get('allow'), allow);
	});
}

kernelTest('an upload is a function at once, whatever its content type; the next one replaces it', async (t) => {
	const {put, call} = use();
	for (const [text, type] of [
		['one', 'application/gzip'],
		['two', 'application/json'],
		['three', 'x'],
	] as const) {
		const response = await put('uploaded', await pack({'f.py': answering(text)}), {'content-type': type});
		t.is(response.status, 201);
		t.is(await response.text(), 'Lambda uploaded uploaded successfully');
		t.is(await (await call('uploaded')).text(), JSON.stringify(text));
	}
});

kernelTest('a call that runs finishes on the old code', async (t) => {
	const {worker, put, call} = await start(t, {});
	const slow = "import time\ndef f(event):\n\tprint('begun')\n\ttime.sleep(0.4)\n\treturn 'old'\n";
	await put('slow', await pack({'f.py': slow}));
	const running = call('slow');
	const logs = await fetch(`${worker.url}/logs/slow?follow=1`);
	await logs.body?.getReader().read(); // it has begun
	await put('slow', await pack({'f.py': answering('new')}));
	t.is(await (await call('slow')).text(), '"new"');
	t.is(await (await running).text(), '"old"');
});

/** As tar(1) would not pack it. */
async function withLink(): Promise<Buffer<ArrayBuffer>> {
	const folder = await temporaryFolder();
	await writeFiles(folder, {'f.py': answering('never')});
	await symlink('/etc/passwd', path.join(folder, 'link'));
	const {stdout} = await execa('tar', ['-cz', '-C', folder, '.'], {encoding: 'buffer'});
	await rm(folder, {recursive: true, force: true});
	return Buffer.from(stdout);
}

async function climbing(): Promise<Buffer<ArrayBuffer>> {
	const folder = await temporaryFolder();
	await writeFiles(folder, {'a/f.py': answering('never'), 'b/x': ''});
	const {stdout} = await execa('tar', ['-czP', '-C', path.join(folder, 'b'), '../a/f.py'], {encoding: 'buffer'});
	await rm(folder, {recursive: true, force: true});
	return Buffer.from(stdout);
}

for (const [title, archive, code, words] of [
	['no gzip', async () => Buffer.from('hello'), 'InvalidSource', /^expected a sound gzip tar archive\n$/],
	['nothing', async () => Buffer.alloc(0), 'InvalidSource', /^expected a sound gzip tar archive\n$/],
	['no tar', async () => gzipSync('hello'), 'InvalidSource', /^expected a sound gzip tar archive\n$/],
	[
		'half an archive',
		async () => (await pack({'f.py': 'x = 1\n'.repeat(9999)})).subarray(0, 90),
		'InvalidSource',
		/sound gzip/,
	],
	['a link', withLink, 'UnsafeArchive', /SymbolicLink to "\/etc\/passwd"/],
	['a path that leads out', climbing, 'UnsafeArchive', /"\.\.\/a\/f\.py" has the part "\.\."/],
	['no f.py', async () => pack({'g.py': ''}), 'EntryFileMissing', /no file "f\.py"/],
	[
		'a bad ol.yaml',
		async () => pack({'f.py': answering(''), 'ol.yaml': 'limits: {memoryMb: -1}'}),
		'InvalidConfig',
		/memoryMb/,
	],
	[
		'ol.yaml that is no YAML',
		async () => pack({'f.py': answering(''), 'ol.yaml': 'a: [b'}),
		'InvalidConfig',
		/^ol\.yaml/,
	],
] as const) {
	kernelTest(`${title} is answered with 400, and the function stays as it was`, async (t) => {
		const {put, call} = use();
		const name = title.replaceAll(/\W/g, '-');
		await put(name, await pack({'f.py': answering('before')}));
		const response = await put(name, await archive());
		t.is(response.status, 400);
		t.is(response.headers.get('x-forktree-error'), code);
		const text = await response.text();
		t.regex(text, words);
		t.false(text.includes(registry), 'no path of the host');
		t.is(await (await call(name)).text(), '"before"');
	});
}

for (const name of ['.hidden', '-x', 'a..b', 'a b', '%2e%2e%2fx', 'x'.repeat(129)]) {
	kernelTest(`the name ${name.slice(0, 20)} is answered with 400`, async (t) => {
		const {put, take, get} = use();
		t.is((await put(name, Buffer.from('x'))).status, 400);
		t.is((await take(name)).status, 400);
		t.is((await get(name)).status, 400);
		t.is((await get(`${name}/config`)).status, 400);
	});
}

kernelTest('an upload that is too large is refused before it comes', async (t) => {
	const status = await new Promise((resolve, reject) => {
		const headers = {'content-length': String(2 ** 30)};
		const sending = ask(`${use().url}/registry/large`, {method: 'POST', headers}, (response) => {
			response.resume();
			resolve(response.statusCode);
			sending.destroy();
		});
		sending.on('error', reject);
		sending.flushHeaders();
	});
	t.is(status, 413);
});

kernelTest('an upload that is broken off leaves nothing', async (t) => {
	const {put, call} = use();
	await put('broken-off', await pack({'f.py': answering('before')}));
	const whole = await pack({'f.py': answering('after')});
	const sending = ask(`${use().url}/registry/broken-off`, {method: 'POST', headers: {'content-length': whole.length}});
	sending.on('error', () => undefined);
	await new Promise<void>((resolve) => sending.write(whole.subarray(0, 20), () => resolve()));
	sending.destroy();
	t.is(await (await call('broken-off')).text(), '"before"');
});

kernelTest('what is removed is unknown at once', async (t) => {
	const {worker, put, call, take, get} = await start(t, {'a-folder/f.py': answering('1')});
	await put('gone', await pack({'f.py': answering('1')}));
	for (const name of ['gone', 'a-folder']) {
		t.is((await call(name)).status, 200);
		const response = await take(name);
		t.is(response.status, 200);
		t.is(await response.text(), `Lambda ${name} deleted successfully`);
		t.is((await call(name)).status, 404);
		t.is((await take(name)).status, 404);
		t.is((await get(name)).status, 404);
	}
	t.deepEqual(await (await get('')).json(), []);
	t.is((await fetch(`${worker.url}/registry/never`, {method: 'DELETE'})).status, 404);
});

kernelTest('a link is removed, not the folder that it leads to', async (t) => {
	const outside = await temporaryFolder();
	t.teardown(() => rm(outside, {recursive: true, force: true}));
	await writeFiles(outside, {'f.py': answering('linked')});
	const {registry: folder, call, take} = await start(t, {'x/f.py': answering('x')});
	await symlink(outside, path.join(folder, 'linked'));
	t.is(await (await call('linked')).text(), '"linked"');
	t.is((await take('linked')).status, 200);
	t.is((await call('linked')).status, 404);
	t.deepEqual(readdirSync(outside), ['f.py']);
});

kernelTest('a folder is not replaced by an archive', async (t) => {
	const {put, call} = use();
	const response = await put('folder', await pack({'f.py': answering('archive')}));
	t.is(response.status, 409);
	t.is(await (await call('folder')).text(), '"folder"');
});

kernelTest('a function that is there twice is not called', async (t) => {
	const response = await use().call('twice');
	t.is(response.status, 500);
	t.regex(await response.text(), /a folder and an archive of "twice"/);
});

kernelTest('code comes back as an archive', async (t) => {
	const {put, get} = use();
	const archive = await pack({'f.py': answering('1')});
	await put('given', archive);
	const given = await get('given');
	t.is(given.headers.get('content-type'), 'application/gzip');
	t.deepEqual(Buffer.from(await given.arrayBuffer()), archive);
	const packed = Buffer.from(await (await get('folder')).arrayBuffer());
	t.is((await put('copied', packed)).status, 201);
	t.is(await (await use().call('copied')).text(), '"folder"');
});

kernelTest('the configuration has the reference’s spelling', async (t) => {
	const {put, get} = use();
	const yaml = `
triggers:
  http: [{method: GET}, {method: post}]
  cron: [{schedule: '*/5 * * * *'}]
  kafka: [{bootstrap_servers: ['k:9092'], topics: [a, b]}]
environment: {A: 1.10}
reuse-sandbox: false
`;
	await put('configured', await pack({'f.py': answering(''), 'ol.yaml': yaml}));
	t.deepEqual(await (await get('configured/config')).json(), {
		Triggers: {
			HTTP: [{Method: 'GET'}, {Method: 'POST'}],
			Cron: [{Schedule: '*/5 * * * *'}],
			Kafka: [{bootstrap_servers: ['k:9092'], topics: ['a', 'b'], auto_offset_reset: 'latest'}],
		},
		Environment: {A: '1.10'},
		ReuseSandbox: false,
	});
	t.deepEqual(await (await get('folder/config')).json(), {
		Triggers: {HTTP: [{Method: '*'}], Cron: null, Kafka: null},
		Environment: null,
		ReuseSandbox: true,
	});
});

kernelTest('asking for the configuration of an unknown function is 404, and it is not listed then', async (t) => {
	const {get} = use();
	t.is((await get('phantom/config')).status, 404);
	t.false(((await (await get('')).json()) as string[]).includes('phantom'));
});

kernelTest('methods that are not listed are refused in the reference’s words', async (t) => {
	const {url, put} = use();
	await put(
		'only-post',
		await pack({'f.py': answering('1'), 'ol.yaml': 'triggers: {http: [{method: GET}, {method: POST}]}'}),
	);
	const response = await fetch(`${url}/run/only-post`, {method: 'PUT'});
	t.is(response.status, 405);
	t.is(response.headers.get('allow'), 'GET, POST');
	t.is(await response.text(), 'HTTP method not allowed. Sent: PUT, Allowed: [GET POST]\n');
});

kernelTest(
	'what changes behind the worker’s back is seen: archives, files of folders, names that come and go',
	async (t) => {
		const {call} = use();
		const place = (name: string) => path.join(registry, name);
		await writeFile(place('.new'), await pack({'f.py': answering('one')}));
		await rename(place('.new'), place('behind.tar.gz'));
		t.is(await (await call('behind')).text(), '"one"');
		await writeFile(place('behind.tar.gz'), await pack({'f.py': answering('two')}));
		t.is(await (await call('behind')).text(), '"two"');
		await rm(place('behind.tar.gz'));
		t.is((await call('behind')).status, 404);

		await writeFiles(registry, {'inside/f.py': 'from deep.er import f\n', 'inside/deep/er.py': answering('one')});
		t.is(await (await call('inside')).text(), '"one"');
		const file = place('inside/deep/er.py');
		await writeFile(file, answering('two'));
		await utimes(file, 1, 1);
		t.is(await (await call('inside')).text(), '"two"');
	},
);

kernelTest('within registryCacheMs the registry is not looked at', async (t) => {
	const {registry: folder, call, take} = await start(t, {'kept/f.py': answering('one')}, {registryCacheMs: 60_000});
	t.is(await (await call('kept')).text(), '"one"');
	await writeFiles(folder, {'kept/f.py': answering('two')});
	t.is(await (await call('kept')).text(), '"one"');
	t.is((await take('kept')).status, 200);
	t.is((await call('kept')).status, 404, 'but what is removed through the API is gone');
});

/** A runtime whose events can be heard, behind a server. */
async function startHeard(t: ExecutionContext, files: Readonly<Record<string, string>>) {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	await writeFiles(folder, files);
	const runtime = await createRuntime({python});
	t.teardown(() => runtime.close());
	const server = fastify();
	t.teardown(() => server.close());
	await server.register(workerPlugin(runtime, {registry: `file://${folder}`, registryCacheMs: 0}));
	return {folder, runtime, call: (name: string) => server.inject({method: 'POST', url: `/run/${name}`, payload: '{}'})};
}

kernelTest('an import that fails starts no sandbox again until the code changes', async (t) => {
	const {folder, runtime, call} = await startHeard(t, {'failing/f.py': "raise KeyError('gone')\n"});
	const first = await call('failing');
	t.is(first.statusCode, 500);
	t.regex(first.body, /^Traceback [\s\S]*KeyError: 'gone'\n$/);
	let starts = 0;
	runtime.on('created', () => {
		starts += 1;
	});
	for (let count = 0; count < 3; count++) t.is((await call('failing')).body, first.body);
	t.is(starts, 0);
	await writeFiles(folder, {'failing/f.py': answering('mended')});
	t.is((await call('failing')).body, '"mended"');
});

kernelTest('functions are deployed when they are called, once for all that call', async (t) => {
	const {runtime, call} = await startHeard(t, {
		'a/f.py': answering('a'),
		'b/f.py': answering('b'),
		'bad/f.py': 'def f(\n',
	});
	const deployed: string[] = [];
	runtime.on('deployed', ({function: name}) => deployed.push(name));
	t.deepEqual(runtime.list(), []);
	const answers = await Promise.all([call('a'), call('a'), call('b'), call('a')]);
	t.deepEqual(
		answers.map(({body}) => body),
		['"a"', '"a"', '"b"', '"a"'],
	);
	t.deepEqual(deployed.sort(), ['a', 'b']);
	const bad = await call('bad');
	t.is(bad.statusCode, 500);
	t.is(bad.headers['x-forktree-error'], 'InvalidSyntax');
	t.regex(bad.body, /^f\.py:1: /);
});

kernelTest(
	'a state folder keeps no function that left the registry, nor serves the version before a broken one',
	async (t) => {
		const stateDir = await temporaryFolder();
		t.teardown(() => rm(stateDir, {recursive: true, force: true}));
		const files = {'leaving/f.py': answering('a'), 'staying/f.py': answering('b')};
		const first = await start(t, files, {stateDir});
		for (const name of Object.keys(files)) t.is((await first.call(path.dirname(name))).status, 200);
		await first.worker.close();
		await cp(path.join(first.registry, 'staying'), path.join(first.registry, 'new'), {recursive: true});
		const second = await start(t, {'staying/f.py': 'def f(\n'}, {stateDir});
		t.is((await second.call('leaving')).status, 404);
		t.is((await second.call('staying')).status, 500);
		t.deepEqual(readdirSync(path.join(stateDir, 'functions')), ['staying']);
	},
);

serialKernelTest('ten thousand functions: ready at once, and little memory', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	const one = path.join(folder, 'one.tar.gz');
	await writeFile(one, await pack({'f.py': answering('one of many')}));
	for (let count = 1; count < 10_000; count++) await link(one, path.join(folder, `function-${count}.tar.gz`));
	const before = process.memoryUsage.rss();
	const began = process.cpuUsage();
	const worker = await createWorker({registry: folder, port: 0, python, log: false});
	t.teardown(() => worker.close());
	t.is((await fetch(`${worker.url}/status`)).status, 200);
	// Of this process: how long it takes depends on what else the machine does.
	const {user, system} = process.cpuUsage(began);
	const ms = (user + system) / 1000;
	const {call, get} = client(worker);
	t.is(await (await call('function-9999')).text(), '"one of many"');
	t.is(((await (await get('')).json()) as string[]).length, 10_000);
	const mb = (process.memoryUsage.rss() - before) / 2 ** 20;
	t.log(`${Math.round(ms)} ms, ${Math.round(mb)} MiB more`);
	t.true(ms < 2000, `${ms} ms`);
	t.true(mb < 300, `${mb} MiB`);
});

kernelTest('functions that were called before take no time at the start', async (t) => {
	const stateDir = await temporaryFolder();
	t.teardown(() => rm(stateDir, {recursive: true, force: true}));
	const names = Array.from({length: 40}, (_each, index) => `function-${index}`);
	const files = Object.fromEntries(names.map((name) => [`${name}/f.py`, answering(name)]));
	const first = await start(t, files, {stateDir});
	await Promise.all(names.map(async (name) => t.is((await first.call(name)).status, 200)));
	await first.worker.close();
	const again = await createWorker({registry: first.registry, stateDir, port: 0, python, log: false});
	t.teardown(() => again.close());
	t.regex(await (await fetch(`${again.url}/debug`)).text(), /\nfunctions: 0\n/);
	t.is(await (await client(again).call('function-7')).text(), '"function-7"');
});

kernelTest('a registry that is none, or is not on this machine, is refused', async (t) => {
	await t.throwsAsync(createWorker({registry: '/nowhere', python, log: false}), {code: 'InvalidSource'});
	await t.throwsAsync(createWorker({registry: 's3://bucket', python, log: false}), {
		message: /path or a file:\/\/ URL, got one of s3/,
	});
	await t.throwsAsync(createWorker({registry: '', python, log: false}), {instanceOf: TypeError});
});

kernelTest('what a killed worker was about to take is removed, when it is old', async (t) => {
	const {registry: folder, worker} = await start(t, {'.upload-old.tar.gz': 'x', '.upload-new.tar.gz': 'x'});
	await worker.close();
	await utimes(path.join(folder, '.upload-old.tar.gz'), 1, 1);
	await mkdir(path.join(folder, '.kept'));
	const again = await createWorker({registry: folder, port: 0, python, log: false});
	t.teardown(() => again.close());
	t.deepEqual(readdirSync(folder).sort(), ['.kept', '.upload-new.tar.gz']);
	t.is(await readFile(path.join(folder, '.upload-new.tar.gz'), 'utf8'), 'x');
});
