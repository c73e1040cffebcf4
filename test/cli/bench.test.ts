import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import {createServer} from 'node:http';
import path from 'node:path';
import {text} from 'node:stream/consumers';
import test, {type ExecutionContext} from 'ava';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {temporaryFolder} from '../helpers/runtime.ts';
import {listen} from '../helpers/servers.ts';
import {Command, forktree, writeFiles} from './forktree.ts';

async function folder(t: ExecutionContext, files: Readonly<Record<string, string>> = {}): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	await writeFiles(directory, files);
	return directory;
}

type Stub = {
	readonly directory: string;
	readonly calls: string[];
	readonly most: () => number;
	/** The first call has come. */
	readonly called: Promise<void>;
};

/**
 * A worker's folder, and a stub that answers for its worker.
 * @param fails says of the so-many-th call whether it fails
 * @param isStuck whether it answers no call
 */
async function start(
	t: ExecutionContext,
	fails: (index: number) => boolean = () => false,
	isStuck = false,
): Promise<Stub> {
	const calls: string[] = [];
	let onCalled = () => {};
	const called = new Promise<void>((resolve) => {
		onCalled = resolve;
	});
	let [running, most] = [0, 0];
	const server = createServer(async (request, response) => {
		if (request.url === '/status') return response.end('ready\n');
		running += 1;
		most = Math.max(most, running);
		const {method, url, headers} = request;
		calls.push(`${method} ${url} ${headers['content-type']} ${await text(request)}`);
		onCalled();
		if (isStuck) return undefined;
		await new Promise(setImmediate);
		running -= 1;
		if (fails(calls.length - 1)) response.writeHead(500);
		return response.end('7');
	});
	const port = await listen(t, server);
	const config = JSON.stringify({worker_url: '127.0.0.1', worker_port: String(port)});
	return {directory: await folder(t, {'config.json': config}), calls, most: () => most, called};
}

type Line = {benchmark: string; seconds: number; successes: number; errors: number; 'ops/s': number};

test.serial('init writes functions that the registry reads', async (t) => {
	const directory = await folder(t);
	await forktree(['worker', 'init', '-p', directory]);
	const {exitCode, stdout, stderr} = await forktree(['bench', 'init', '-p', directory]);
	t.is(exitCode, 0, stderr);
	t.is(stdout, '');
	const registry = path.join(directory, 'registry');
	t.is(readdirSync(registry).length, 2048);
	t.is(readFileSync(path.join(registry, 'bench-py-1023', 'f.py'), 'utf8'), 'def f(event):\n    return 1023\n');
	t.is(readFileSync(path.join(registry, 'bench-pd-0', 'requirements.txt'), 'utf8'), 'numpy\npandas\n');
	t.regex(readFileSync(path.join(registry, 'bench-pd-0', 'f.py'), 'utf8'), /return df\[col0\]\.corr\(df\[col1\]\)/);
});

test.serial('a benchmark warms up in order, then calls at random, and prints one line of JSON', async (t) => {
	const stub = await start(t);
	const output = path.join(stub.directory, 'result.json');
	const args = ['bench', 'py64-par', '-p', stub.directory, '-s', '0.2', '-t', '12', '-o', output];
	const {exitCode, stdout, stderr} = await forktree(args);
	t.is(exitCode, 0, stderr);
	const line = JSON.parse(stdout) as Line;
	t.deepEqual(Object.keys(line), ['benchmark', 'seconds', 'successes', 'errors', 'ops/s']);
	t.is(readFileSync(output, 'utf8'), stdout);
	t.is(line.benchmark, 'py64-par');
	t.is(line.errors, 0);
	t.true(line.seconds >= 0.2, stdout);
	t.true(Math.abs(line['ops/s'] - line.successes / line.seconds) <= 0.01 * line['ops/s']);
	t.is(line.successes, stub.calls.length - 64);
	t.deepEqual(
		stub.calls.slice(0, 64),
		Array.from({length: 64}, (_none, index) => `POST /run/bench-py-${index} text/json null`),
	);
	t.true(new Set(stub.calls.slice(64)).size > 1);
	t.true(stub.most() > 1 && stub.most() <= 12, `${stub.most()} at once`);
	t.notRegex(stderr, /Warning/);
	t.true(existsSync(path.join(stub.directory, 'registry', 'bench-py-63', 'f.py')), 'what it calls is there');
});

for (const flag of [['--warmup=false'], ['-w=false'], ['-w', 'false']]) {
	test.serial(`${flag.join(' ')}: no warm-up, and one call at a time`, async (t) => {
		const stub = await start(t);
		const {exitCode, stdout, stderr} = await forktree([
			'bench',
			'py64-seq',
			'-p',
			stub.directory,
			'-s',
			'0.1',
			...flag,
		]);
		t.is(exitCode, 0, stderr);
		t.is((JSON.parse(stdout) as Line).successes, stub.calls.length);
		t.is(stub.most(), 1);
	});
}

test.serial('a benchmark that fails too often has no result', async (t) => {
	const stub = await start(t, (index) => index >= 64 && index % 20 === 4);
	const {exitCode, stdout, stderr} = await forktree(['bench', 'py64-seq', '-p', stub.directory, '-s', '0.2']);
	t.deepEqual([exitCode, stdout], [1, '']);
	t.regex(stderr, /POST http:\/\/127\.0\.0\.1:\d+\/run\/bench-py-\d+: 500: 7\n/);
	t.regex(stderr, /forktree: more than 1 % of the requests failed: \d+ of \d+\n$/);
});

test.serial('a warm-up call that fails ends the benchmark', async (t) => {
	const stub = await start(t, (index) => index === 3);
	const {exitCode, stdout, stderr} = await forktree(['bench', 'py64-seq', '-p', stub.directory, '-s', '0.2']);
	t.deepEqual([exitCode, stdout], [125, '']);
	t.regex(stderr, /forktree: warming up: POST http:.*\/run\/bench-py-3: 500: 7\n$/);
	t.is(stub.calls.length, 4);
});

test.serial('play calls what a trace names, in its order and over again', async (t) => {
	const stub = await start(t, (index) => index % 25 === 24);
	await writeFiles(stub.directory, {'trace.txt': 'b\na\n\nb\n'});
	const trace = path.join(stub.directory, 'trace.txt');
	const {exitCode, stdout, stderr} = await forktree(['bench', 'play', '-p', stub.directory, '-f', trace, '-s', '1.2']);
	t.is(exitCode, 0, stderr);
	const line = JSON.parse(stdout) as Line;
	t.is(line.benchmark, 'play');
	t.is(line.successes + line.errors, stub.calls.length);
	t.deepEqual(
		stub.calls.slice(0, 4).map((call) => call.split(' ')[1]),
		['/run/b', '/run/a', '/run/b', '/run/b'],
	);
	t.regex(stderr, /forktree: throughput: \d+\/second\n/);
	await writeFiles(stub.directory, {'trace.txt': '\n'});
	const empty = await forktree(['bench', 'play', '-p', stub.directory, '-f', trace]);
	t.is(empty.exitCode, 125);
	t.regex(empty.stderr, /trace\.txt: expected a name in each line, got none\n$/);
});

test.serial('a benchmark can be interrupted', async (t) => {
	const stub = await start(t);
	const command = new Command(['bench', 'py64-seq', '-p', stub.directory]);
	await command.says(/calling for 60 seconds/);
	command.child.kill('SIGINT');
	const {exitCode, stdout} = await command.ended;
	t.deepEqual([exitCode, stdout], [130, '']);
	const stuck = await start(t, () => false, true);
	const waiting = new Command(['bench', 'py64-seq', '-p', stuck.directory, '-w', 'false']);
	await waiting.says(/calling for 60 seconds/);
	await stuck.called;
	waiting.child.kill('SIGTERM');
	t.is((await waiting.ended).exitCode, 143);
});

test.serial('every benchmark of OpenLambda is there', async (t) => {
	const {stdout} = await forktree(['bench', '--help']);
	const names = ['py', 'pd'].flatMap((kind) =>
		['64', '1k', '64k'].flatMap((size) => [`${kind}${size}-seq`, `${kind}${size}-par`]),
	);
	for (const name of ['init', 'play', ...names]) t.regex(stdout, new RegExp(`^ {2}${name}(?: |$)`, 'm'));
});

kernelTest('a benchmark measures a real worker', async (t) => {
	const directory = await folder(t);
	await forktree(['worker', 'init', '-p', directory]);
	await writeFiles(
		directory,
		Object.fromEntries(
			Array.from({length: 64}, (_none, index) => [
				`registry/bench-py-${index}/f.py`,
				`def f(event):\n    return ${index}\n`,
			]),
		),
	);
	const worker = new Command(['worker', 'up', '-p', directory, '-o', 'worker_port=0']);
	t.teardown(() => worker.child.kill('SIGTERM'));
	await worker.says(/^ready on /);
	const {exitCode, stdout, stderr} = await forktree(['bench', 'py64-par', '-p', directory, '-s', '1', '-t', '4']);
	t.is(exitCode, 0, stderr);
	const {errors, successes} = JSON.parse(stdout) as Line;
	t.is(errors, 0);
	t.true(successes > 10);
	worker.child.kill('SIGTERM');
	t.is((await worker.ended).exitCode, 0);
});
