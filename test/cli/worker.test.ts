import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs';
import {chmod, open, readFile, rm, writeFile} from 'node:fs/promises';
import {createServer as createHttpServer, request} from 'node:http';
import {createServer} from 'node:net';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {isAlive} from '../helpers/host-process.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {until} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';
import {Command, type CommandEnd, forktree, main, writeFiles} from './forktree.ts';

const hello = {'registry/hello/f.py': "def f(event):\n\tprint('heard')\n\treturn 'hello ' + event['name']\n"};

/** An empty folder, or one with these files. Whatever worker runs there in the end is killed. */
async function folder(t: ExecutionContext, files: Readonly<Record<string, string>> = {}): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(async () => {
		await worker(['down', '-p', directory]);
		await rm(directory, {recursive: true, force: true});
	});
	await writeFiles(directory, files);
	return directory;
}

function worker(args: readonly string[], options: ConstructorParameters<typeof Command>[1] = {}): Promise<CommandEnd> {
	return forktree(['worker', ...args], options);
}

type Started = {readonly command: Command; readonly url: string; readonly pid: number};

/** One in the foreground, on a free port, that is ready. */
async function up(t: ExecutionContext, directory: string, ...settings: readonly string[]): Promise<Started> {
	const options = ['worker_port=0', ...settings].flatMap((each) => ['-o', each]);
	const command = new Command(['worker', 'up', '-p', directory, ...options]);
	t.teardown(() => command.child.kill('SIGKILL'));
	const [, url = ''] = await command.says(/^ready on (http:\/\/localhost:\d+)\n/);
	return {command, url, pid: command.child.pid as number};
}

async function call(url: string, name = 'hello'): Promise<string> {
	return (await fetch(`${url}/run/${name}`, {method: 'POST', body: '{"name": "world"}'})).text();
}

function inWorker(directory: string, name: string): string {
	return path.join(directory, 'worker', name);
}

/** What the socket answers: status and body. */
function askSocket(directory: string, where: string, method = 'GET'): Promise<readonly [number | undefined, string]> {
	return new Promise((resolve, reject) => {
		const asking = request(
			{socketPath: inWorker(directory, 'ol.sock'), path: where, method, agent: false},
			(response) => {
				let text = '';
				response.setEncoding('utf8').on('data', (chunk: string) => {
					text += chunk;
				});
				response.once('end', () => resolve([response.statusCode, text]));
			},
		);
		asking.once('error', reject);
		asking.end();
	});
}

async function stateOf(directory: string): Promise<string> {
	return (await worker(['status', '-p', directory])).stdout.split('\n')[0] ?? '';
}

/** A process that is none of ours. */
function startBystander(t: ExecutionContext): number {
	const bystander = spawn('sleep', ['600'], {stdio: 'ignore'});
	t.teardown(() => bystander.kill('SIGKILL'));
	return bystander.pid as number;
}

test('init makes the folder, for its owner alone; again it resets the configuration, and functions stay', async (t) => {
	const parent = await folder(t);
	const first = await worker(['init', '-p', 'w'], {cwd: parent});
	const directory = path.join(parent, 'w');
	t.is(first.exitCode, 0, first.stderr);
	t.is(first.stderr, '');
	t.true(first.stdout.startsWith(`initialised ${directory}\n`));
	t.deepEqual(readdirSync(directory).sort(), ['config.json', 'ol.init', 'registry', 'worker']);
	t.is(statSync(directory).mode & 0o777, 0o700);
	const config = await readFile(path.join(directory, 'config.json'), 'utf8');
	t.is((JSON.parse(config) as {worker_dir: string}).worker_dir, path.join(directory, 'worker'));
	await writeFiles(directory, {...hello, 'config.json': '{"worker_port": "1"}', 'config.json.overrides': '{}'});
	const again = await worker(['init', '-p', directory]);
	t.is(again.exitCode, 0, again.stderr);
	t.is(await readFile(path.join(directory, 'config.json'), 'utf8'), config);
	t.false(existsSync(path.join(directory, 'config.json.overrides')));
	t.true(existsSync(path.join(directory, 'registry', 'hello', 'f.py')));
	t.is(await stateOf(directory), 'StoppedClean');
});

test('init takes no folder with somebody else’s config.json', async (t) => {
	const directory = await folder(t, {'config.json': '{"of": "others"}'});
	const {exitCode, stderr} = await worker(['init', '-p', directory]);
	t.is(exitCode, 125);
	t.is(
		stderr,
		`forktree: expected a worker’s folder or an empty one, got ${directory}, which has a config.json but no ol.init\n`,
	);
	t.deepEqual(readdirSync(directory), ['config.json']);
	t.is(await readFile(path.join(directory, 'config.json'), 'utf8'), '{"of": "others"}');
});

test('an image is not needed, and who names one is told so', async (t) => {
	const directory = await folder(t);
	const {exitCode, stderr} = await worker(['init', '-p', directory, '-i', 'ol-min', '-b']);
	t.is(exitCode, 0);
	t.regex(stderr, /^forktree: --image and --newbase have no effect: .*\n$/);
});

test('without a worker: status says Uninitialized, down and force-cleanup refuse, and nothing is made', async (t) => {
	const directory = await folder(t);
	const where = path.join(directory, 'none');
	const status = await worker(['status', '-p', where]);
	t.deepEqual([status.exitCode, status.stdout], [1, 'Uninitialized\n']);
	for (const verb of ['down', 'force-cleanup']) {
		const {exitCode, stdout, stderr} = await worker([verb, '-p', where]);
		t.deepEqual([exitCode, stdout], [1, '']);
		t.regex(stderr, /^forktree: expected .*\/none to have a worker that is stopped: it is no worker’s folder; .*\n$/);
	}
	t.false(existsSync(where));
});

test('down of one that does not run is no fault', async (t) => {
	const directory = await folder(t);
	await worker(['init', '-p', directory]);
	const {exitCode, stdout} = await worker(['down', '-p', directory]);
	t.deepEqual([exitCode, stdout], [0, `no worker runs in ${directory}\n`]);
});

test('up that is refused for its settings makes nothing', async (t) => {
	const directory = await folder(t);
	for (const detach of [[], ['-d']]) {
		const {exitCode, stderr} = await worker(['up', '-o', 'log_output=true,port=1', ...detach], {cwd: directory});
		t.is(exitCode, 125);
		t.regex(stderr, /^forktree: -o: expected worker_dir, .*, got "port"\n$/);
	}
	t.deepEqual(readdirSync(directory), []);
});

test('a number in worker.pid that another process has by now is not touched', async (t) => {
	const directory = await folder(t);
	await worker(['init', '-p', directory]);
	const bystander = startBystander(t);
	await writeFile(inWorker(directory, 'worker.pid'), String(bystander));
	t.is(await stateOf(directory), 'StoppedDirty');
	const {exitCode, stdout} = await worker(['down', '-p', directory]);
	t.deepEqual([exitCode, stdout], [0, `stopped the worker of ${directory}\n`]);
	t.true(isAlive(bystander));
	t.false(existsSync(inWorker(directory, 'worker.pid')));
});

test('who answers at the socket with another’s number is not believed', async (t) => {
	const directory = await folder(t);
	await worker(['init', '-p', directory]);
	const bystander = startBystander(t);
	await writeFile(inWorker(directory, 'worker.pid'), String(bystander));
	const liar = createHttpServer((_asked, response) => void response.end(`${bystander}\n`));
	await new Promise<void>((resolve) => liar.listen(inWorker(directory, 'ol.sock'), resolve));
	t.teardown(() => liar.close().closeAllConnections());
	t.regex(await stateOf(directory), /^Unknown: process \d+ is not the worker that listens on /);
	for (const verb of ['up', 'down', 'force-cleanup', 'init']) {
		const {exitCode, stderr} = await worker([verb, '-p', directory]);
		t.is(exitCode, 1, verb);
		t.regex(stderr, /^forktree: expected .* to have a worker that is stopped: process \d+ is not the worker/);
	}
	t.true(isAlive(bystander));
});

test('who holds the socket and does not answer is not waited for for long', async (t) => {
	const directory = await folder(t);
	await worker(['init', '-p', directory]);
	const silent = createServer((socket) => void socket.on('error', () => undefined));
	await new Promise<void>((resolve) => silent.listen(inWorker(directory, 'ol.sock'), resolve));
	t.teardown(() => silent.close());
	const asked = performance.now();
	t.regex(await stateOf(directory), /^Unknown: whoever listens on .*\/ol\.sock does not answer$/);
	t.true(performance.now() - asked < 30_000);
});

test('a socket’s path that is too long is refused by name', async (t) => {
	const directory = await folder(t);
	const {exitCode, stderr} = await worker(['up', '-p', directory, '-o', `worker_dir=${directory}/${'x'.repeat(100)}`]);
	t.is(exitCode, 125);
	t.regex(stderr, /^forktree: worker_dir: expected a folder whose ol\.sock has a path of less than 108 bytes, got /);
	t.is(await stateOf(directory), 'StoppedClean');
});

kernelTest('up alone makes default-ol and serves; status, down and what is in the folder meanwhile', async (t) => {
	const parent = await folder(t);
	const directory = path.join(parent, 'default-ol');
	const command = new Command(['worker', 'up', '--options', 'worker_port=0,promote=false'], {cwd: parent});
	t.teardown(() => command.child.kill('SIGKILL'));
	const [, url] = await command.says(/^ready on (http:\/\/localhost:\d+)\n/);
	const {pid} = command.child;
	t.is(await readFile(inWorker(directory, 'worker.pid'), 'utf8'), String(pid));
	t.is(statSync(inWorker(directory, 'worker.pid')).mode & 0o777, 0o644);
	t.is(statSync(inWorker(directory, 'ol.sock')).mode & 0o777, 0o600);
	t.deepEqual(await askSocket(directory, '/pid'), [200, `${pid}\n`]);
	t.deepEqual(await askSocket(directory, '/status'), [404, 'expected GET /pid\n']);
	t.deepEqual(await askSocket(directory, '/pid', 'POST'), [404, 'expected GET /pid\n']);
	t.like(JSON.parse(await readFile(path.join(directory, 'config.json.overrides'), 'utf8')), {
		worker_port: '0',
		promote: false,
		limits: {mem_mb: 256},
	});
	t.like(JSON.parse(await readFile(path.join(directory, 'config.json'), 'utf8')), {worker_port: '5000', promote: true});
	const status = await worker(['status'], {cwd: parent});
	t.is(status.stdout, `Running\n\tPID: ${pid}\n\tURL: ${url}\n\tStatus: ready\n`);
	t.is(status.exitCode, 0);
	const down = await worker(['down'], {cwd: parent});
	t.deepEqual([down.exitCode, down.stdout], [0, `stopped the worker of ${directory}\n`], down.stderr);
	const {exitCode, stderr} = await command.ended;
	t.is(exitCode, 0);
	t.true(stderr.startsWith(`forktree: made the worker’s folder ${directory}\n`), stderr);
	t.deepEqual(readdirSync(path.join(directory, 'worker')), ['stats.json']);
	t.is(await stateOf(directory), 'StoppedClean');
});

kernelTest('up refuses while one runs, and so do init and force-cleanup; the running one is as it was', async (t) => {
	const directory = await folder(t, hello);
	const {command, url, pid} = await up(t, directory);
	for (const args of [
		['up'],
		['up', '-d'],
		['up', '-o', `worker_dir=${directory}/other`],
		['init'],
		['force-cleanup'],
	]) {
		const {exitCode, stdout, stderr} = await worker([...args, '-p', directory]);
		t.is(exitCode, 1, args.join(' '));
		t.is(stdout, '');
		t.regex(stderr, new RegExp(`^forktree: expected ${directory} to have a worker that is stopped: `));
		if (args.length < 3) t.true(stderr.includes(`process ${pid} is its worker, and runs`), stderr);
	}
	t.is(await call(url), '"hello world"');
	t.is(await stateOf(directory), 'Running');
	command.child.kill('SIGTERM');
	t.is((await command.ended).exitCode, 0);
});

kernelTest('up --detach returns when it is ready, and tells pid, port and log', async (t) => {
	const directory = await folder(t, hello);
	const {exitCode, stdout, stderr} = await worker([
		'up',
		'-d',
		'-p',
		directory,
		'-o',
		'worker_port=0',
		'-o',
		'trace.memory=true',
	]);
	t.is(exitCode, 0, stderr);
	t.regex(stderr, /^forktree: trace\.memory is true, which has no effect: .*\n$/);
	const log = path.join(directory, 'worker.out');
	const said =
		/^Starting worker in (.*) and waiting until it's ready\.\n\tPID: (\d+)\n\tPort: (\d+)\n\tLog File: (.*)\nReady!\n$/.exec(
			stdout,
		);
	if (said === null) return t.fail(stdout);
	const [, where, pid = '', port, logFile] = said;
	t.deepEqual([where, logFile], [directory, log]);
	t.is(await readFile(inWorker(directory, 'worker.pid'), 'utf8'), pid);
	t.is(await call(`http://localhost:${port}`), '"hello world"');
	const logged = /^ready on http:\/\/localhost:\d+\n(?:\{.*\}\n)*\{.*"text":"heard\\n".*\}\n/m;
	await until(() => logged.test(readFileSync(log, 'utf8')), 'a log with what was printed');
	const groups = cgroupsOf(path.join(directory, 'state'));
	t.is((await worker(['down', '-p', directory])).exitCode, 0);
	t.false(isAlive(Number(pid)), 'down has waited for its end');
	t.deepEqual(
		groups.filter((group) => existsSync(group)),
		[],
	);
});

kernelTest('up --detach of a worker that can’t start says why, and leaves none', async (t) => {
	const directory = await folder(t, {'broken.json': '{"children": 5}'});
	const tree = `import_cache_tree=${directory}/broken.json`;
	const {exitCode, stdout, stderr} = await worker([
		'up',
		'--detach',
		'-p',
		directory,
		'-o',
		'worker_port=0',
		'-o',
		tree,
	]);
	t.is(exitCode, 125);
	t.notRegex(stdout, /Ready!/);
	t.regex(
		stderr,
		/^forktree: .*children.*\nforktree: the worker ended before it was ready; .*\/worker\.out has what it said\n$/,
	);
	t.is(await stateOf(directory), 'StoppedClean');
});

kernelTest('up --detach that is interrupted ends the worker that it has started', async (t) => {
	const directory = await folder(t, {'bin/python3': '#!/bin/sh\nread -r _ <"$GATE"\nexec "$PYTHON" "$@"\n'});
	await chmod(path.join(directory, 'bin', 'python3'), 0o755);
	const gate = path.join(directory, 'gate');
	await execa('mkfifo', [gate]);
	const env = {PATH: `${directory}/bin:${process.env.PATH}`, GATE: gate, PYTHON: python};
	const command = new Command(['worker', 'up', '-d', '-p', directory, '-o', 'worker_port=0'], {env});
	const opened = await open(gate, 'w'); // once the worker looks for its interpreter
	command.child.kill('SIGTERM');
	await opened.write('\n'.repeat(100));
	const {exitCode, stdout, stderr} = await command.ended;
	await opened.close();
	t.is(exitCode, 143, stderr);
	t.notRegex(stdout, /Ready!/);
	t.is(await stateOf(directory), 'StoppedClean');
});

kernelTest('packages are installed from the mirror of config.json', async (t) => {
	const index = createServer((socket) => socket.on('error', () => undefined));
	const asked = new Promise<string>((resolve) => {
		index.once('connection', (socket) => socket.once('data', (bytes: Buffer) => resolve(bytes.toString())));
	});
	await new Promise<void>((resolve) => index.listen(0, '127.0.0.1', resolve));
	t.teardown(() => index.close());
	const directory = await folder(t, {...hello, 'registry/hello/requirements.txt': 'forktree_fixture==1.0\n'});
	await worker(['init', '-p', directory]);
	const file = path.join(directory, 'config.json');
	const mirror = `http://127.0.0.1:${(index.address() as {port: number}).port}/mirror`;
	await writeFile(file, JSON.stringify({...JSON.parse(await readFile(file, 'utf8')), pip_mirror: mirror}));
	const {command, url} = await up(t, directory);
	const calling = call(url).catch(() => undefined);
	t.regex(await asked, /^GET \/mirror\/forktree-fixture\//);
	command.child.kill('SIGTERM');
	t.is((await command.ended).exitCode, 0);
	await calling;
});

/** The processes and groups of a worker that runs. */
async function possessions(directory: string, url: string) {
	if ((await call(url)) !== '"hello world"') throw new Error('expected hello to answer');
	const groups = cgroupsOf(path.join(directory, 'state'));
	return {groups, pids: processesIn(groups)};
}

kernelTest('after kill -9 the first up works, and nothing of the killed one is left', async (t) => {
	const directory = await folder(t, hello);
	const first = await up(t, directory);
	const {groups, pids} = await possessions(directory, first.url);
	t.true(groups.length > 0 && pids.length > 0);
	first.command.child.kill('SIGKILL');
	const second = await up(t, directory); // at once, also while the first one is still ending
	t.deepEqual(
		groups.filter((group) => existsSync(group)),
		[],
	);
	t.deepEqual(pids.filter(isAlive), []);
	t.is(await call(second.url), '"hello world"');
	t.is(await stateOf(directory), 'Running');
	second.command.child.kill('SIGKILL');
	await second.command.ended;
	t.is(await stateOf(directory), 'StoppedDirty');
	const {exitCode, stdout} = await worker(['force-cleanup', '-p', directory]);
	t.is(exitCode, 0);
	for (const left of ['worker/worker.pid', 'worker/ol.sock', 'state/lock']) {
		t.true(stdout.includes(`removed ${path.join(directory, left)}\n`), stdout);
		t.false(existsSync(path.join(directory, left)));
	}
	t.is(await stateOf(directory), 'StoppedClean');
});

/** Starts a worker, kills it at the first line of stdin, and waits for it without reaping it. */
const neglectfulParent = `
import os, signal, subprocess, sys
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.readline()
worker.send_signal(signal.SIGKILL)
os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
print(worker.pid, flush=True)
sys.stdin.read()
`;

kernelTest('a dead worker that nobody has reaped does not run', async (t) => {
	const directory = await folder(t, hello);
	const command = [process.execPath, main, 'worker', 'up', '-p', directory, '-o', 'worker_port=0'];
	const parent = spawn(python, ['-c', neglectfulParent, ...command], {stdio: ['pipe', 'pipe', 'inherit']});
	t.teardown(() => parent.kill('SIGKILL'));
	const lines = createInterface(parent.stdout);
	const [ready] = (await once(lines, 'line', {signal: AbortSignal.timeout(60_000)})) as [string];
	t.regex(ready, /^ready on /);
	parent.stdin.write('\n');
	const [pid] = (await once(lines, 'line', {signal: AbortSignal.timeout(60_000)})) as [string];
	t.regex(readFileSync(`/proc/${pid}/stat`, 'utf8'), /^\d+ \(.*\) Z /);
	t.is(await readFile(inWorker(directory, 'worker.pid'), 'utf8'), pid);
	t.is(await stateOf(directory), 'StoppedDirty');
	const {url} = await up(t, directory);
	t.is(await call(url), '"hello world"');
	t.regex(readFileSync(`/proc/${pid}/stat`, 'utf8'), /^\d+ \(.*\) Z /, 'it was a zombie all the time');
});

kernelTest('down is quick with many idle sandboxes', async (t) => {
	const count = 24;
	const code = `import time\ndef f(event):\n\ttime.sleep(1)\n\treturn 'hello ' + event['name']\n`;
	const directory = await folder(t, {'registry/hello/f.py': code});
	const {command, url} = await up(t, directory);
	t.deepEqual(await Promise.all(Array.from({length: count}, () => call(url))), Array(count).fill('"hello world"'));
	const sandboxes = cgroupsOf(path.join(directory, 'state')).flatMap((group) =>
		readdirSync(group).filter((name) => name.startsWith('sandbox-')),
	);
	t.true(sandboxes.length >= count, `${sandboxes.length} sandboxes`);
	const asked = performance.now();
	t.is((await worker(['down', '-p', directory])).exitCode, 0);
	t.true(performance.now() - asked < 8000, `${performance.now() - asked} ms`);
	t.is((await command.ended).exitCode, 0);
});

kernelTest(
	'limits of config.json hold for functions that have none, and what handlers print can be kept from the log',
	async (t) => {
		const code = 'def f(event):\n\tprint("heard")\n\treturn len(bytearray(100 * 2**20))\n';
		const directory = await folder(t, {
			'registry/plain/f.py': code,
			'registry/own/f.py': code,
			'registry/own/ol.yaml': 'limits: {memoryMb: 200}\n',
		});
		const {command, url} = await up(t, directory, 'limits.mem_mb=64,log_output=false');
		t.is(await call(url, 'own'), String(100 * 2 ** 20));
		const refused = await fetch(`${url}/run/plain`, {method: 'POST', body: '{}'});
		t.true(refused.status >= 500);
		t.is(refused.headers.get('x-forktree-error'), 'OutOfMemory');
		command.child.kill('SIGINT');
		const {exitCode, stderr} = await command.ended;
		t.is(exitCode, 0);
		t.regex(stderr, /"function":"own"/);
		t.notRegex(stderr, /heard/);
	},
);

/** As OpenLambda's own `init` writes it, for a folder of that name. */
function configOfOpenLambda(directory: string): Record<string, unknown> {
	return {
		worker_dir: path.join(directory, 'worker'),
		worker_url: 'localhost',
		worker_port: '5000',
		log_output: true,
		sandbox: 'sock',
		server_mode: 'lambda',
		registry: `file://${directory}/registry`,
		registry_cache_ms: 5000,
		Pkgs_dir: path.join(directory, 'lambda', 'packages'),
		pip_mirror: '',
		mem_pool_mb: 1500,
		import_cache_tree: path.join(directory, 'default-zygotes-40.json'),
		sock_base_path: path.join(directory, 'lambda'),
		sandbox_config: {},
		docker: {runtime: '', base_image: 'ol-min'},
		limits: {procs: 10, mem_mb: 50, cpu_percent: 100, swappiness: 0, runtime_sec: 30},
		installer_limits: {procs: 0, mem_mb: 250, cpu_percent: 0, swappiness: 0, runtime_sec: 300},
		features: {reuse_cgroups: false, import_cache: 'tree', downsize_paused_mem: true, enable_seccomp: true},
		trace: {cgroups: false, memory: false, evictor: false, package: false, latency: false},
		storage: {root: 'private', scratch: '', code: ''},
	};
}

kernelTest('a folder that OpenLambda made is used as it is', async (t) => {
	const directory = await folder(t, {
		...hello,
		'default-zygotes-40.json': '{"packages": [], "children": [{"packages": ["six"]}]}',
	});
	await writeFiles(directory, {'ol.init': 'some day\n', 'config.json': JSON.stringify(configOfOpenLambda(directory))});
	const registry = path.join(directory, 'registry');
	await execa('tar', ['-czf', path.join(registry, 'packed.tar.gz'), '-C', path.join(registry, 'hello'), '.']);
	await rm(path.join(registry, 'hello'), {recursive: true});
	const {command, url} = await up(t, directory);
	t.is(await call(url, 'packed'), '"hello world"');
	t.is((await worker(['down', '-p', directory])).exitCode, 0);
	const {stderr} = await command.ended;
	const remarks = stderr.split('\n').filter((line) => line.startsWith('forktree: '));
	t.deepEqual(remarks, []);
});

kernelTest('a function is given to a worker with a token, called, heard and measured', async (t) => {
	const directory = await folder(t, {
		'code/f.py': "def f(event):\n\tprint('heard')\n\treturn event\n",
		'code/ol.yaml': 'environment: {A: b}\n',
		'trace.txt': 'echo\n',
	});
	const {command, url} = await up(t, directory, 'token=secret');
	const installed = await forktree(['admin', 'install', '-p', directory, '-n', 'echo', path.join(directory, 'code')]);
	t.is(installed.exitCode, 0, installed.stderr);
	const where = installed.stdout.trim();
	t.is(where, `${url}/run/echo`);
	t.is((await fetch(where, {method: 'POST'})).status, 401);
	const headers = {authorization: 'Bearer secret'};
	t.is(await (await fetch(where, {method: 'POST', body: '[1]', headers})).text(), '[1]');
	const unusable = ['admin', 'install', '-p', directory, '-n', '.x', path.join(directory, 'code')];
	const refused = await forktree(unusable);
	t.is(refused.exitCode, 1);
	t.regex(refused.stderr, /^forktree: the worker answered 400: .*\n$/);
	t.is((await forktree(['logs', '-p', directory, 'echo'])).stdout, 'heard\n');
	t.is((await forktree(['pprof', 'cpu-start', '-p', directory])).exitCode, 0);
	const play = ['bench', 'play', '-p', directory, '-f', path.join(directory, 'trace.txt'), '-s', '0.5', '-t', '2'];
	const played = await forktree(play);
	t.is(played.exitCode, 0, played.stderr);
	t.like(JSON.parse(played.stdout), {benchmark: 'play', errors: 0});
	t.is((await forktree(['pprof', 'cpu-stop', '-p', directory], {cwd: directory})).exitCode, 0);
	t.like(JSON.parse(await readFile(path.join(directory, 'cpu.cpuprofile'), 'utf8')), {nodes: [{id: 1}]});
	t.is((await forktree(['pprof', 'mem', '-p', directory], {cwd: directory})).exitCode, 0);
	t.true('snapshot' in (JSON.parse(await readFile(path.join(directory, 'mem.heapsnapshot'), 'utf8')) as object));
	command.child.kill('SIGTERM');
	t.is((await command.ended).exitCode, 0);
	t.like(JSON.parse(await readFile(inWorker(directory, 'stats.json'), 'utf8')), {
		'LambdaFunc.Invoke.cnt': JSON.parse(played.stdout).successes + 1,
	});
});
