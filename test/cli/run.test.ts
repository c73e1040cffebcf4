import {existsSync} from 'node:fs';
import {open, readdir, rm, stat} from 'node:fs/promises';
import {createServer} from 'node:net';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {serialKernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf} from '../helpers/leak-check.ts';
import {py, python, temporaryFolder} from '../helpers/runtime.ts';
import {Command, forktree, writeFiles} from './forktree.ts';

const fixtures = path.join(import.meta.dirname, '..', 'packages', 'fixtures');
const offline = {PIP_NO_INDEX: '1', PIP_FIND_LINKS: fixtures, UV_OFFLINE: '1', UV_FIND_LINKS: fixtures};

/** A folder with these files. */
async function folder(t: ExecutionContext, files: Readonly<Record<string, string>>): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	await writeFiles(directory, files);
	return directory;
}

/** The path of a script, in a folder that serves as the cache as well. */
async function script(t: ExecutionContext, code: string): Promise<{file: string; env: Record<string, string>}> {
	const directory = await folder(t, {'hello.py': code});
	return {file: path.join(directory, 'hello.py'), env: {XDG_CACHE_HOME: path.join(directory, 'cache')}};
}

const echo = py`
	import sys

	def f(event):
		print('on stdout')
		print('on stderr', file=sys.stderr)
		return event
`;

for (const [title, event, options, value] of [
	['no event is an empty object', [], {}, '{}\n'],
	['an event is JSON', ['--event', '{"ä": [1, null, "b"]}'], {}, '{"ä":[1,null,"b"]}\n'],
	['an event comes from stdin', ['--event', '-'], {input: '"from stdin"'}, '"from stdin"\n'],
] as const) {
	serialKernelTest(`run: ${title}; only the value is on stdout`, async (t) => {
		const {file, env} = await script(t, echo);
		const {exitCode, stdout, stderr} = await forktree(['run', file, '--python', python, ...event], {env, ...options});
		t.is(exitCode, 0, stderr);
		t.is(stdout, value);
		t.deepEqual(stderr.split('\n').sort(), ['', 'on stderr', 'on stdout']);
	});
}

serialKernelTest(
	'run: an event comes from a file, a function from a folder with its settings, and from an archive',
	async (t) => {
		const directory = await folder(t, {
			'event.json': '"from a file"',
			'code/main.py': py`
			import os

			def f(event):
				return [event, os.environ['GREETING'], os.environ['ADDED']]
		`,
			'code/ol.yaml': 'environment:\n  OL_ENTRY_FILE: main.py\n  GREETING: hello\n',
		});
		const archive = path.join(directory, 'code.tar.gz');
		await execa('tar', ['-czf', archive, '-C', path.join(directory, 'code'), '.']);
		for (const source of [path.join(directory, 'code'), archive]) {
			const event = `@${path.join(directory, 'event.json')}`;
			const {exitCode, stdout, stderr} = await forktree(['run', source, '--event', event, '--env', 'ADDED=a=b'], {
				env: {XDG_CACHE_HOME: directory},
			});
			t.is(exitCode, 0, stderr);
			t.is(stdout, '["from a file","hello","a=b"]\n');
		}
	},
);

serialKernelTest('run: a file states its packages in a comment', async (t) => {
	const {file, env} = await script(
		t,
		py`
		# /// script
		# dependencies = ["forktree_fixture"]
		# ///
		import forktree_fixture

		def f(event):
			return forktree_fixture.__name__
		`,
	);
	const result = await forktree(['run', file, '--python', python], {env: {...env, ...offline}});
	t.is(result.stdout, '"forktree_fixture"\n', result.stderr);
	t.is(result.exitCode, 0);
});

serialKernelTest('run: a folder states its packages in a pyproject.toml', async (t) => {
	const directory = await folder(t, {
		'code/f.py': 'import forktree_fixture\n\ndef f(event):\n\treturn forktree_fixture.__name__\n',
		'code/pyproject.toml': '[project]\nname = "f"\ndependencies = ["forktree_fixture"]\n',
	});
	const env = {XDG_CACHE_HOME: path.join(directory, 'cache'), ...offline};
	const result = await forktree(['run', path.join(directory, 'code'), '--python', python], {env});
	t.is(result.stdout, '"forktree_fixture"\n', result.stderr);
	t.deepEqual([result.exitCode, result.stderr], [0, '']);
	await writeFiles(path.join(directory, 'code'), {'requirements.txt': 'forktree_fixture'});
	const both = await forktree(['run', path.join(directory, 'code'), '--python', python], {env});
	t.is(both.stdout, '"forktree_fixture"\n', both.stderr);
	t.is(both.stderr, 'forktree: packages are those of requirements.txt, not of pyproject.toml\n');
});

serialKernelTest('run: bytes are printed as they are, and marked within JSON', async (t) => {
	const {file, env} = await script(
		t,
		py`
		def f(event):
			return chunks() if event == 'mixed' else b'\x00\xff\n'

		def chunks():
			yield 1
			yield b'\xff'
		`,
	);
	const raw = await forktree(['run', file], {env});
	t.is(raw.bytes, '\x00\xff\n');
	const mixed = await forktree(['run', file, '--event', '"mixed"'], {env});
	t.is(mixed.stdout, '[1,{"$base64":"/w=="}]\n');
	const json = await forktree(['run', file, '--json'], {env});
	t.deepEqual((JSON.parse(json.stdout) as {value: unknown}).value, {$base64: 'AP8K'});
});

for (const [title, code, exitCode, said] of [
	['raises', "def f(event):\n\traise ValueError('no')\n", 1, /^Traceback [\s\S]*ValueError: no\n$/],
	['exits', 'import sys\ndef f(event):\n\tsys.exit(0)\n', 1, /^Exited: SystemExit\(0\), status 0\n$/],
	['ends its process', 'import os\ndef f(event):\n\tos._exit(0)\n', 1, /^Exited: .*status 0\n$/],
	[
		'can’t be imported',
		'import nowhere\ndef f(event):\n\tpass\n',
		1,
		/^Traceback [\s\S]*ModuleNotFoundError: [^\n]*nowhere[^\n]*\n$/,
	],
	['answers a set', 'def f(event):\n\treturn {1}\n', 1, /^ResultNotSerializable: \$ is of type set/],
	['answers too much', "def f(event):\n\treturn 'x' * 2**23\n", 1, /^ResultTooLarge: /],
	['takes too long', 'def f(event):\n\twhile True: pass\n', 124, /^Timeout: /],
	['takes too much memory', 'def f(event):\n\treturn len(bytearray(2**29))\n', 137, /^OutOfMemory: /],
	['is killed', 'import ctypes\ndef f(event):\n\tctypes.string_at(0)\n', 137, /^Killed: .*SIGSEGV\n$/],
	['does not compile', 'def f(\n', 125, /^forktree: f\.py:1: .*\n$/],
] as const) {
	serialKernelTest(`run: a handler that ${title} ends with ${exitCode}`, async (t) => {
		const {file, env} = await script(t, code);
		const timeout = exitCode === 124 ? ['--timeout', '500'] : [];
		const result = await forktree(['run', file, ...timeout], {env});
		t.is(result.exitCode, exitCode, result.stderr);
		t.is(result.stdout, '');
		t.regex(result.stderr, said);
	});
}

for (const [title, args, said] of [
	['the path is not there', ['run', '/nowhere/f.py'], /^forktree: cannot read "\/nowhere\/f\.py": ENOENT.*\n$/],
	[
		'there is no such interpreter',
		['run', '/nowhere/f.py', '--python', '/nowhere/python'],
		/^forktree: expected a CPython.*\n$/,
	],
] as const) {
	serialKernelTest(`run: 125 and one line when ${title}`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(args, {env: {XDG_CACHE_HOME: await folder(t, {})}});
		t.is(exitCode, 125);
		t.is(stdout, '');
		t.regex(stderr, said);
	});
}

serialKernelTest('run --json: the whole outcome of a success and of a failure', async (t) => {
	const {file, env} = await script(t, "def f(event):\n\tprint('heard')\n\treturn 1 / event\n");
	const success = await forktree(['run', file, '--event', '2', '--json'], {env});
	t.is(success.exitCode, 0);
	t.like(JSON.parse(success.stdout), {ok: true, value: 0.5, logs: {stdout: 'heard\n', stderr: ''}, start: 'forked'});
	t.is(success.stderr, 'heard\n');
	const failure = await forktree(['run', file, '--event', '0', '--json'], {env});
	t.is(failure.exitCode, 1);
	t.like(JSON.parse(failure.stdout), {ok: false, error: {code: 'HandlerError', type: 'ZeroDivisionError'}});
	t.regex(failure.stderr, /ZeroDivisionError/);
});

serialKernelTest('run: requirements are installed once, into the shared cache', async (t) => {
	const {file, env} = await script(t, 'import forktree_fixture\ndef f(event):\n\treturn forktree_fixture.VALUE\n');
	const requirement = 'forktree_fixture==1.0';
	const args = ['run', file, '--python', python, '--requirement', requirement];
	const first = await forktree(args, {env: {...env, ...offline}});
	t.is(first.exitCode, 0, first.stderr);
	t.is(first.stdout, '42\n');
	const store = path.join(env.XDG_CACHE_HOME ?? '', 'forktree', 'packages');
	const all = async () => {
		const names = await readdir(store, {recursive: true});
		const installed = names.filter((name) => name.endsWith('metadata.json')).sort();
		return Promise.all(installed.map(async (name) => `${name} ${(await stat(path.join(store, name))).ino}`));
	};
	const before = await all();
	t.is(before.length, 1);
	const again = await forktree(args, {env: {...env, ...offline}});
	t.is(again.stdout, '42\n', again.stderr);
	t.deepEqual(await all(), before);
	// With its hash it needs no resolving, which would fail now.
	const [hash] = await readdir(path.join(store, 'archives'));
	const exact = [...args.slice(0, -1), `${requirement} --hash=sha256:${hash}`];
	const nowhere = {PIP_FIND_LINKS: '/nowhere', UV_FIND_LINKS: '/nowhere'};
	const known = await forktree(exact, {env: {...env, ...offline, ...nowhere}});
	t.is(known.stdout, '42\n', known.stderr);
	t.deepEqual(await all(), before);
	// As a shared store of another cache, in which nothing is installed then.
	const other = await temporaryFolder();
	t.teardown(() => rm(other, {recursive: true, force: true}));
	const shared = ['run', '--shared', store, ...exact.slice(1)];
	const elsewhere = await forktree(shared, {env: {...env, ...offline, ...nowhere, XDG_CACHE_HOME: other}});
	t.is(elsewhere.stdout, '42\n', elsewhere.stderr);
	t.deepEqual(
		(await readdir(other, {recursive: true})).filter((name) => name.endsWith('metadata.json')),
		[],
	);
	t.deepEqual(await all(), before);
});

serialKernelTest('run: a requirement that can’t be installed is 125, in one line', async (t) => {
	const {file, env} = await script(t, echo);
	const result = await forktree(['run', file, '--requirement', 'forktree_fixture==9'], {env: {...env, ...offline}});
	t.is(result.exitCode, 125);
	t.is(result.stdout, '');
	t.regex(result.stderr, /^forktree: resolving forktree-fixture: .*\n$/);
});

for (const [name, code] of [
	['SIGINT', 130],
	['SIGTERM', 143],
] as const) {
	serialKernelTest(`run: ${name} ends the call and leaves nothing behind`, async (t) => {
		const {file, env} = await script(t, "def f(event):\n\tprint('begun')\n\twhile True: pass\n");
		const running = new Command(['run', file], {env});
		await running.says(/begun/); // while the handler runs: logs are live
		const stateDir = path.join(tmpdir(), `forktree-${process.getuid?.()}`, `${running.child.pid}-0`);
		const groups = cgroupsOf(stateDir);
		running.child.kill(name);
		const {exitCode, stdout} = await running.ended;
		t.is(exitCode, code);
		t.is(stdout, '');
		t.false(existsSync(stateDir));
		t.deepEqual(
			groups.filter((group) => existsSync(group)),
			[],
		);
	});
}

serialKernelTest('run: SIGTERM ends an installation', async (t) => {
	const index = createServer((socket) => socket.on('error', () => undefined));
	const connected = new Promise((resolve) => index.once('connection', resolve));
	await new Promise<void>((resolve) => index.listen(0, '127.0.0.1', resolve));
	t.teardown(() => index.close());
	const address = index.address();
	if (address === null || typeof address === 'string') return t.fail('expected a port');
	const url = `http://127.0.0.1:${address.port}/simple`;
	const {file, env} = await script(t, echo);
	const running = new Command(['run', file, '--requirement', 'forktree_fixture==1.0'], {
		env: {...env, PIP_INDEX_URL: url, UV_DEFAULT_INDEX: url, UV_OFFLINE: '0', PIP_NO_INDEX: '0', NO_PROXY: '127.0.0.1'},
	});
	await connected;
	running.child.kill('SIGTERM');
	const {exitCode, stderr} = await running.ended;
	t.is(exitCode, 143);
	t.is(stderr, '');
	const store = path.join(env.XDG_CACHE_HOME ?? '', 'forktree', 'packages');
	const left = (await readdir(store, {recursive: true})).filter((name) =>
		/^(?:archives|cpython-[^/]*|scratch)\//.test(name),
	);
	t.deepEqual(left, []);
});

serialKernelTest('run: a reader that left is no crash', async (t) => {
	const {file, env} = await script(t, "def f(event):\n\treturn 'x' * 2**20\n");
	const running = new Command(['run', file], {env});
	running.child.stdout?.destroy();
	const {exitCode, stderr} = await running.ended;
	t.is(stderr, '');
	t.is(exitCode, 0);
});

serialKernelTest('run: a full disk is reported', async (t) => {
	const {file, env} = await script(t, 'def f(event):\n\treturn 1\n');
	const full = await open('/dev/full', 'w');
	t.teardown(() => full.close());
	const {exitCode, stderr} = await forktree(['run', file], {env, stdout: full.fd});
	t.is(exitCode, 125);
	t.regex(stderr, /^forktree: .*ENOSPC.*\n$/);
});

if (process.geteuid?.() !== 0) {
	test('run: where no cgroups are given it says so, and does without if it is told to', async (t) => {
		const {exitCode, stderr} = await forktree(['run', 'x.py'], {env: {XDG_CACHE_HOME: await folder(t, {})}});
		t.is(exitCode, 125);
		t.regex(stderr, /^forktree: expected cgroups with the controllers .*; or do without, by bestEffort: true\n$/);
	});
}
