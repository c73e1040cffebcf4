import {chmod, mkdir, rm, symlink, writeFile} from 'node:fs/promises';
import {createServer, type IncomingMessage} from 'node:http';
import path from 'node:path';
import {buffer} from 'node:stream/consumers';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {Parser} from 'tar';
import {temporaryFolder} from '../helpers/runtime.ts';
import {listen} from '../helpers/servers.ts';
import {type CommandEnd, forktree, writeFiles} from './forktree.ts';

/** What a worker was given. */
type Upload = {
	readonly where: string;
	readonly type: string | undefined;
	readonly files: Readonly<Record<string, string>>;
};

/** Names, modes and contents of an archive's entries. */
async function unpack(archive: Buffer): Promise<Record<string, string>> {
	const files: Record<string, string> = {};
	const parser = new Parser({strict: true});
	parser.on('entry', (entry) => {
		const chunks: Buffer[] = [];
		entry.on('data', (chunk: Buffer) => chunks.push(chunk));
		entry.on('end', () => {
			const mode = (entry.mode ?? 0) & 0o100 ? ' executable' : '';
			files[`${entry.type}${mode} ${entry.path.replace(/^\.\//, '')}`] = Buffer.concat(chunks).toString();
		});
	});
	const ended = new Promise((resolve, reject) => parser.once('end', resolve).once('error', reject));
	parser.end(archive);
	await ended;
	return files;
}

/** A worker's folder whose worker is a stub. */
class Stub {
	readonly directory: string;
	readonly url: string;
	readonly uploads: Upload[];

	constructor(directory: string, url: string, uploads: Upload[]) {
		this.directory = directory;
		this.url = url;
		this.uploads = uploads;
	}

	install(args: readonly string[], options: Parameters<typeof forktree>[1] = {}): Promise<CommandEnd> {
		return forktree(['admin', 'install', '-p', this.directory, ...args], options);
	}

	async write(files: Readonly<Record<string, string>>): Promise<void> {
		await writeFiles(this.directory, files);
	}

	path(...parts: readonly string[]): string {
		return path.join(this.directory, ...parts);
	}
}

/** @param status of the answer to an upload */
async function start(t: ExecutionContext, files: Readonly<Record<string, string>>, status = 201): Promise<Stub> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	const uploads: Upload[] = [];
	const take = async (request: IncomingMessage) => {
		const files = await unpack(await buffer(request));
		uploads.push({where: `${request.method} ${request.url}`, type: request.headers['content-type'], files});
	};
	const server = createServer(async (request, response) => {
		if (request.url === '/status') return response.end('ready\n');
		await take(request);
		response.writeHead(status).end(status === 201 ? 'Lambda uploaded successfully' : 'no such\nthing\u001b[2J');
	});
	const port = await listen(t, server);
	await writeFiles(directory, {
		...files,
		'config.json': JSON.stringify({worker_url: '127.0.0.1', worker_port: String(port)}),
	});
	return new Stub(directory, `http://127.0.0.1:${port}`, uploads);
}

const entry = 'def f(event):\n    return event\n';

test.serial('a folder is packed, and the address to call is printed', async (t) => {
	const stub = await start(t, {'hello/f.py': entry, 'hello/@odd.py': 'ODD = 1\n', 'hello/.git/config': 'private'});
	const {exitCode, stdout, stderr} = await stub.install([`${stub.path('hello')}/`]);
	t.is(exitCode, 0, stderr);
	t.is(stdout, `${stub.url}/run/hello\n`);
	t.is(stderr, '');
	t.deepEqual(stub.uploads, [
		{
			where: 'POST /registry/hello',
			type: 'application/gzip',
			files: {'File f.py': entry, 'File @odd.py': 'ODD = 1\n'},
		},
	]);
});

test.serial('a program is installed as well, and stays executable', async (t) => {
	const stub = await start(t, {'native/f.bin': '#!/bin/sh\n'});
	await chmod(stub.path('native', 'f.bin'), 0o755);
	const {exitCode, stdout, stderr} = await stub.install([stub.path('native'), '--json', '-n', 'other.name']);
	t.is(exitCode, 0, stderr);
	t.deepEqual(JSON.parse(stdout), {name: 'other.name', url: `${stub.url}/run/other.name`});
	t.deepEqual(stub.uploads[0]?.files, {'File executable f.bin': '#!/bin/sh\n'});
});

test.serial('-c and -r take the place of the function’s own files, and that is said when it has some', async (t) => {
	const stub = await start(t, {
		'hello/main.py': entry,
		'hello/ol.yaml': 'environment: {OL_ENTRY_FILE: nowhere.py}\n',
		'other.yaml': 'environment: {OL_ENTRY_FILE: main.py}\n',
		'pins.txt': 'numpy==2.2.1\n',
	});
	const args = [stub.path('hello'), '-c', stub.path('other.yaml'), '-r', stub.path('pins.txt')];
	const {exitCode, stderr} = await stub.install(args);
	t.is(exitCode, 0, stderr);
	t.is(stderr, `forktree: ${stub.path('other.yaml')} takes the place of the function’s ol.yaml\n`);
	t.deepEqual(stub.uploads[0]?.files, {
		'File main.py': entry,
		'File ol.yaml': 'environment: {OL_ENTRY_FILE: main.py}\n',
		'File requirements.txt': 'numpy==2.2.1\n',
	});
});

test.serial('an archive is taken as it is', async (t) => {
	const stub = await start(t, {'code/f.py': entry, 'code/lib/a.py': ''});
	await execa('tar', ['-czf', stub.path('packed.tar.gz'), '-C', stub.path('code'), '.']);
	const {exitCode, stdout, stderr} = await stub.install([stub.path('packed.tar.gz')]);
	t.is(exitCode, 0, stderr);
	t.is(stdout, `${stub.url}/run/packed\n`);
	t.deepEqual(stub.uploads[0]?.files, {'File f.py': entry, 'File lib/a.py': ''});
});

/** A repository that git finds at a public address. */
async function makeRepository(stub: Stub): Promise<Record<string, string>> {
	const repository = stub.path('repositories', 'team', 'prices.git');
	await mkdir(repository, {recursive: true});
	await writeFiles(repository, {'f.py': entry});
	const git = (...args: string[]) =>
		execa('git', ['-C', repository, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args]);
	await git('init', '--quiet');
	await git('add', '.');
	await git('commit', '--quiet', '-m', 'first');
	return {
		GIT_CONFIG_COUNT: '2',
		GIT_CONFIG_KEY_0: `url.file://${stub.path('repositories')}/.insteadOf`,
		GIT_CONFIG_VALUE_0: 'https://git.example/',
		GIT_CONFIG_KEY_1: `url.file://${stub.path('repositories')}/.insteadOf`,
		GIT_CONFIG_VALUE_1: 'git@git.example:',
	};
}

test.serial('a repository is cloned, without its history', async (t) => {
	const stub = await start(t, {});
	const env = await makeRepository(stub);
	for (const url of ['https://git.example/team/prices.git', 'git@git.example:team/prices.git']) {
		const {exitCode, stdout, stderr} = await stub.install([url], {env});
		t.is(exitCode, 0, stderr);
		t.is(stdout, `${stub.url}/run/prices\n`);
		t.deepEqual(stub.uploads.at(-1)?.files, {'File f.py': entry});
	}
	const {exitCode, stderr} = await stub.install(['https://git.example/team/none.git'], {env});
	t.is(exitCode, 125);
	t.regex(stderr, /^forktree: cannot clone https:\/\/git\.example\/team\/none\.git: .*\n$/);
});

for (const source of [
	'--upload-pack=touch /tmp/x.git',
	'-oProxyCommand=x.git',
	'ext::sh -c touch% x.git',
	'https://-x/a.git',
	'git@-oProxyCommand=x:a.git',
	'ssh://git@host/a.git',
	'https://host/a b.git',
]) {
	test.serial(`${source} is no address of a repository`, async (t) => {
		const stub = await start(t, {});
		const {exitCode, stderr} = await stub.install(['-n', 'name', '--', source]);
		t.is(exitCode, 125);
		t.regex(stderr, /^forktree: cannot read ".*": ENOENT/);
		t.deepEqual(stub.uploads, []);
	});
}

for (const [title, files, message] of [
	['has no entry', {'hello/g.py': ''}, /^forktree: expected the function to have f\.py, or f\.bin\n$/],
	[
		'lacks the entry that it names',
		{'hello/f.py': '', 'hello/ol.yaml': 'environment: {OL_ENTRY_FILE: main.py}'},
		/^forktree: expected the function to have main\.py, or f\.bin\n$/,
	],
	['has settings that are no YAML', {'hello/ol.yaml': '{'}, /^forktree: ol\.yaml: .*\n$/],
] as const) {
	test.serial(`a folder that ${title} is refused`, async (t) => {
		const stub = await start(t, files);
		const {exitCode, stdout, stderr} = await stub.install([stub.path('hello')]);
		t.deepEqual([exitCode, stdout], [125, '']);
		t.regex(stderr, message);
		t.deepEqual(stub.uploads, []);
	});
}

test.serial('links and devices are refused, in folders and in archives', async (t) => {
	const stub = await start(t, {'linked/f.py': entry, 'piped/f.py': entry, secret: 'secret'});
	await symlink(stub.path('secret'), stub.path('linked', 'data'));
	await execa('mkfifo', [stub.path('piped', 'pipe')]);
	await execa('tar', ['-czf', stub.path('linked.tar.gz'), '-C', stub.path('linked'), '.']);
	for (const source of ['linked', 'piped', 'linked.tar.gz']) {
		const {exitCode, stderr} = await stub.install([stub.path(source)]);
		t.is(exitCode, 125, source);
		t.regex(stderr, source === 'piped' ? /pipe/i : /got a link or device: ".*data"\n$/);
	}
	t.deepEqual(stub.uploads, []);
	// A link in the place of a file that is replaced is not written through.
	await rm(stub.path('linked', 'data'));
	await symlink(stub.path('secret'), stub.path('linked', 'ol.yaml'));
	await writeFile(stub.path('own.yaml'), 'reuse-sandbox: false\n');
	t.is((await stub.install([stub.path('linked'), '-c', stub.path('own.yaml')])).exitCode, 0);
	t.is(stub.uploads[0]?.files['File ol.yaml'], 'reuse-sandbox: false\n');
});

for (const name of ['..', 'a/b', '', 'a b']) {
	test.serial(`${JSON.stringify(name)} is no name`, async (t) => {
		const stub = await start(t, {'hello/f.py': entry});
		const {exitCode, stderr} = await stub.install([stub.path('hello'), '--name', name]);
		t.is(exitCode, 125);
		t.regex(stderr, /^forktree: expected a name of letters, digits, '\.', '_' and '-', got /);
		t.deepEqual(stub.uploads, []);
	});
}

test.serial('what the worker says against it is told, without what a terminal would obey', async (t) => {
	const stub = await start(t, {'hello/f.py': entry}, 400);
	const {exitCode, stdout, stderr} = await stub.install([stub.path('hello')]);
	t.deepEqual([exitCode, stdout], [1, '']);
	t.is(stderr, 'forktree: the worker answered 400: no such | thing\\u001b[2J\n');
});

test.serial('without a worker there is nothing to give it to', async (t) => {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	const none = await forktree(['admin', 'install', '-p', directory, directory]);
	t.is(none.exitCode, 125);
	t.regex(none.stderr, /^forktree: expected a worker’s folder, got .*, which has no config\.json\n$/);
	await writeFiles(directory, {
		'config.json': '{"worker_port": "6000", "worker_url": "127.0.0.1"}',
		'hello/f.py': entry,
	});
	const silent = await forktree(['admin', 'install', '-p', directory, path.join(directory, 'hello')]);
	t.is(silent.exitCode, 125);
	t.regex(silent.stderr, /^forktree: expected a worker at http:\/\/127\.0\.0\.1:6000: .*ECONNREFUSED.*\n$/);
});
