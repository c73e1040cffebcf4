import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {type ArchiveSpec, PackageIndex} from '../helpers/archives.ts';
import {serialKernelTest} from '../helpers/kernel-test.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';
import {Command, type CommandEnd, forktree} from './forktree.ts';

// What the machine is configured to would be looked at besides the index of a test.
for (const name of Object.keys(process.env)) if (/^(?:PIP|UV)_.*(?:INDEX|LINKS)/.test(name)) delete process.env[name];

const one = {name: 'one', version: '1.0', text: 'VALUE = 1\n'} as const;
const two: ArchiveSpec = {name: 'two', version: '2.0', requires: ['one'], text: 'import one\n'};

async function folder(t: ExecutionContext): Promise<string> {
	const dir = await temporaryFolder();
	t.teardown(() => rm(dir, {recursive: true, force: true}));
	return dir;
}

type Store = {
	readonly dir: string;
	run(command: string, ...args: readonly string[]): Promise<CommandEnd>;
};

/** A store in which commands work, that find packages on the index. */
async function makeStore(t: ExecutionContext, index: PackageIndex): Promise<Store> {
	const dir = await folder(t);
	const env = {UV_DEFAULT_INDEX: index.url, PIP_INDEX_URL: index.url};
	const run: Store['run'] = async (command, ...args) =>
		forktree(['packages', command, ...args, '--dir', dir, '--python', python], {env});
	return {dir, run};
}

function succeeded(t: ExecutionContext, {exitCode, stdout, stderr}: CommandEnd): string {
	t.is(exitCode, 0, stderr);
	t.is(stderr, '');
	return stdout;
}

function refused(t: ExecutionContext, {exitCode, stdout, stderr}: CommandEnd, message: RegExp): void {
	t.is(exitCode, 125);
	t.is(stdout, '');
	t.regex(stderr.split('\n').slice(-2).join('\n'), message);
}

serialKernelTest('packages: add, list, info, verify and gc, for people', async (t) => {
	t.timeout(180_000);
	await using index = await PackageIndex.start([one, two], {json: true});
	const {dir, run} = await makeStore(t, index);
	t.is(succeeded(t, await run('list')), 'package  version  size  importing  used  functions\n');

	const added = await run('add', 'two>=1');
	t.is(added.exitCode, 0, added.stderr);
	t.is(added.stdout, 'one==1.0\ntwo==2.0\n');
	const lines = added.stderr.split('\n').filter((line) => line !== '');
	t.is(lines[0], 'resolving');
	const phases = ['downloading', 'compiling', 'measuring'];
	const expected = ['one 1.0', 'two 2.0'].flatMap((each) => phases.map((phase) => `${phase} ${each}`));
	t.deepEqual([...lines].sort(), ['resolving', ...expected].sort());
	t.false(added.stderr.includes('\u001b'));

	const file = path.join(dir, 'requirements.txt');
	await writeFile(file, '# what it needs\none==1.0\n');
	const again = await run('add', '-r', file, 'two');
	t.is(again.exitCode, 0, again.stderr);
	t.is(again.stdout, 'one==1.0 (was there)\ntwo==2.0 (was there)\n');
	t.is(again.stderr, 'resolving\n');
	await rm(file);

	const listed = succeeded(t, await run('list')).split('\n');
	t.regex(listed[1] ?? '', /^one +1\.0 +0\.0 MiB +\d+\.\d ms +\d{4}-\d\d-\d\d +-$/);
	t.is(listed.length, 4);

	const info = succeeded(t, await run('info', 'Two'));
	for (const words of [
		/^package +two 2\.0$/m,
		new RegExp(`^archive +two-2\\.0-py3-none-any\\.whl \\(sha256 ${index.sha256(two)}\\)$`, 'm'),
		/^address +http:\/\/127/m,
		/^modules +two$/m,
		/^requires +one$/m,
		/^importing +.* ms by itself, .* ms with what it requires, .* MiB \(median of \d+\)$/m,
	]) {
		t.regex(info, words);
	}
	t.is(succeeded(t, await run('info', 'two==2.0')), info);
	for (const name of ['two==3.0', 'three']) {
		const none = await run('info', name);
		t.deepEqual([none.exitCode, none.stdout, none.stderr], [1, '', `forktree: ${name} is not installed\n`]);
	}

	t.is(succeeded(t, await run('verify')), '2 checked\n');
	const module = readdirSync(dir, {recursive: true, encoding: 'utf8'}).find((name) => name.endsWith('/one.py')) ?? '';
	writeFileSync(path.join(dir, module), 'VALUE = 2\n');
	t.is(succeeded(t, await run('verify', 'two')), '1 checked\n');
	t.is(succeeded(t, await run('verify', 'one')), 'one==1.0: changed: one.py; reinstalled\n1 checked\n');
	t.is(readFileSync(path.join(dir, module), 'utf8'), one.text);

	t.is(succeeded(t, await run('gc', '--keep-gb', '1')), '0.00 GiB freed\n');
	t.is(succeeded(t, await run('list')).split('\n').length, 4);
	t.is(succeeded(t, await run('gc')), '0.00 GiB freed\n');
	t.is(succeeded(t, await run('list')).split('\n').length, 2);
});

serialKernelTest('packages: the same as JSON documents, and nothing besides', async (t) => {
	t.timeout(180_000);
	await using index = await PackageIndex.start([one, two], {json: true});
	const {dir, run} = await makeStore(t, index);
	const json = async (...[command, ...args]: Parameters<Store['run']>) =>
		JSON.parse(succeeded(t, await run(command, ...args, '--json'))) as never;
	t.deepEqual(await json('list'), [] as never);
	const report = (await json('add', 'two')) as Record<string, unknown>;
	t.deepEqual(report.packages, ['one==1.0', 'two==2.0']);
	t.deepEqual(report.installed, ['one==1.0', 'two==2.0']);
	t.deepEqual(Object.keys(report).sort(), ['installMs', 'installed', 'packages', 'resolveMs', 'resolver']);
	const listed = (await json('list')) as Array<Record<string, unknown>>;
	t.deepEqual(
		listed.map(({name, version, modules}) => [name, version, modules]),
		[
			['one', '1.0', ['one']],
			['two', '2.0', ['two']],
		],
	);
	const [info] = (await json('info', 'one')) as [{files: unknown[]; cost: {runs: number}}];
	t.true(info.files.length > 0 && info.cost.runs > 0);
	const none = await run('info', 'three', '--json');
	t.deepEqual([none.exitCode, none.stdout], [1, '[]\n']);

	// Damaged, without anything to make it anew from.
	const module = readdirSync(dir, {recursive: true, encoding: 'utf8'}).find((name) => name.endsWith('/one.py')) ?? '';
	writeFileSync(path.join(dir, module), 'VALUE = 2\n');
	await rm(path.join(dir, 'archives'), {recursive: true});
	await mkdir(path.join(dir, 'archives'));
	const verified = await run('verify', '--offline', '--json');
	t.is(verified.exitCode, 1);
	t.is(verified.stderr, '');
	const {checked, damaged} = JSON.parse(verified.stdout) as {checked: number; damaged: Array<Record<string, unknown>>};
	t.is(checked, 2);
	t.like(damaged[0], {remedy: 'quarantined', damage: [{path: 'one.py', problem: 'changed'}]});
	t.deepEqual(damaged[0]?.error, {
		code: 'Offline',
		message: 'one 1.0 is not installed, and its archive is not in the store',
	});

	const collected = (await json('gc')) as {removed: Array<{name: string}>; sizeBytes: number};
	t.deepEqual(
		collected.removed.map(({name}) => name),
		['two'],
	);
	t.is(collected.sizeBytes, 0);
});

serialKernelTest('packages: --shared names stores that are used, marked, and left as they are', async (t) => {
	t.timeout(180_000);
	await using index = await PackageIndex.start([one, two], {json: true});
	const image = await makeStore(t, index);
	t.is((await image.run('add', 'one')).exitCode, 0);
	const module = readdirSync(image.dir, {recursive: true, encoding: 'utf8'}).find((name) => name.endsWith('/one.py'));
	const {run} = await makeStore(t, index);
	const shared = ['--shared', image.dir];
	const added = await run('add', 'two', ...shared);
	t.deepEqual([added.exitCode, added.stdout], [0, 'one==1.0 (was there)\ntwo==2.0\n'], added.stderr);
	const listed = succeeded(t, await run('list', ...shared)).split('\n');
	t.regex(listed[0] ?? '', /^package .* functions +shared$/);
	t.regex(listed[1] ?? '', new RegExp(`^one .* - +${image.dir}$`));
	t.regex(listed[2] ?? '', /^two .* - +-$/);
	t.regex(succeeded(t, await run('info', 'one', ...shared)), new RegExp(`^shared +${image.dir}$`, 'm'));
	t.is(succeeded(t, await run('list')).split('\n').length, 3);
	writeFileSync(path.join(image.dir, module ?? ''), 'VALUE = 2\n');
	const verified = await run('verify', ...shared);
	t.is(verified.exitCode, 1);
	t.is(verified.stdout, `one==1.0 in ${image.dir}: changed: one.py; left\n2 checked\n`);
	t.is(succeeded(t, await run('gc', ...shared)), '0.00 GiB freed\n');
	t.is(succeeded(t, await run('list', ...shared, '--shared', image.dir)).split('\n').length, 3);
	refused(t, await run('list', ...shared, '--shared', '/nowhere'), /^forktree: .* at \/nowhere, got nothing there\n$/);
});

serialKernelTest('packages: what forktree fails at is 125, in one line', async (t) => {
	await using index = await PackageIndex.start([one], {json: true});
	const {dir, run} = await makeStore(t, index);
	refused(t, await run('add', 'nowhere-at-all'), /^forktree: resolving nowhere-at-all: .*\n$/);
	refused(t, await run('add', 'one', '--offline'), /^forktree: resolving one: .*\n$/);
	refused(t, await run('add', 'one @ https://example.invalid/'), /^forktree: .*\n$/);
	refused(t, await run('add', '-r', '/nowhere/requirements.txt'), /^forktree: .*\/nowhere\/requirements\.txt.*\n$/);
	refused(t, await run('add'), /^forktree: expected requirements, or -r FILE\n$/);
	refused(
		t,
		await forktree(['packages', 'list', '--dir', '/etc/passwd/packages']),
		/^forktree: expected a package store .*ENOTDIR.*\n$/,
	);
	refused(
		t,
		await forktree(['packages', 'list', '--dir', dir, '--python', '/bin/false']),
		/^forktree: expected a CPython/,
	);
	t.deepEqual(readdirSync(path.join(dir, 'scratch')).concat(readdirSync(path.join(dir, 'archives'))), []);
	// The folder is that of `forktree run` when none is named.
	const home = await folder(t);
	const {exitCode} = await forktree(['packages', 'list'], {env: {XDG_CACHE_HOME: home}});
	t.is(exitCode, 0);
	t.deepEqual(readdirSync(path.join(home, 'forktree')), ['packages']);
});

serialKernelTest(
	'packages: export and import, by a file and by a pipe; then what is required is resolved offline',
	async (t) => {
		t.timeout(180_000);
		await using index = await PackageIndex.start([one, two], {json: true});
		const from = await makeStore(t, index);
		t.is((await from.run('add', 'two>=1')).exitCode, 0);
		const file = path.join(await folder(t), 'packages.tar');
		t.is(succeeded(t, await from.run('export', file)), '2 exported\n');
		const piped = await from.run('export');
		t.is(piped.stderr, '2 exported\n');
		t.deepEqual(readdirSync(path.dirname(file)), ['packages.tar']);

		const to = await makeStore(t, index);
		t.is(succeeded(t, await to.run('import', file)), 'one==1.0\ntwo==2.0\n');
		t.is(succeeded(t, await to.run('import', file)), 'one==1.0 (was there)\ntwo==2.0 (was there)\n');
		const requests = index.requests.length;
		const added = await to.run('add', '--offline', 'two>=1');
		t.deepEqual([added.exitCode, added.stdout], [0, 'one==1.0 (was there)\ntwo==2.0 (was there)\n'], added.stderr);
		t.is(index.requests.length, requests);
		t.regex(succeeded(t, await to.run('list')), /^two +2\.0 .* ms /m);

		const third = await folder(t);
		const argv = ['packages', 'import', '-', '--dir', third, '--python', python];
		const fromStdin = await forktree(argv, {input: Buffer.from(piped.bytes, 'latin1')});
		t.is(succeeded(t, fromStdin), 'one==1.0\ntwo==2.0\n');
		refused(t, await to.run('import', '/etc/hostname'), /^forktree: expected a tar file as it was exported: .*\n$/);
		refused(t, await to.run('import', path.join(third, 'none')), /^forktree: could not import: ENOENT.*\n$/);
		refused(t, await to.run('export', path.join(third, 'none', 'x')), /^forktree: could not export: ENOENT.*\n$/);
	},
);

serialKernelTest('packages: SIGINT ends an installation', async (t) => {
	await using index = await PackageIndex.start([one], {interrupt: () => true});
	const dir = await folder(t);
	const running = new Command(['packages', 'add', 'one', '--dir', dir, '--python', python], {
		env: {UV_DEFAULT_INDEX: index.url, PIP_INDEX_URL: index.url},
	});
	const deadline = Date.now() + 60_000;
	while (index.requests.length === 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
	running.child.kill('SIGINT');
	const {exitCode, stdout, stderr} = await running.ended;
	t.deepEqual([exitCode, stdout, stderr], [130, '', 'resolving\n']);
	t.deepEqual(readdirSync(path.join(dir, 'scratch')), []);
});

for (const [args, words] of [
	[[], ['add', 'list', 'info', 'verify', 'gc', 'export', 'import', '$ forktree packages add', '--dir']],
	[['add'], ['[requirements...]', '-r, --requirement <file>', '--offline', '--dir <dir>', '--python <path>', '--json']],
	[['list'], ['List what is installed.', '--json']],
	[['info'], ['name==version', '--json']],
	[['verify'], ['[names...]', '--offline']],
	[['gc'], ['--keep-gb <gib>']],
	[['export'], ['[file]', '--json']],
	[['import'], ['<file>', '--json']],
] as const) {
	test(`packages ${args.join(' ')} --help says what it does`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(['packages', ...args, '--help']);
		t.is(exitCode, 0);
		t.is(stderr, '');
		for (const word of words) t.true(stdout.includes(word), word);
	});
}

for (const args of [[], ['frob'], ['info'], ['list', 'one'], ['gc', '--keep-gb', '-1'], ['gc', '--keep-gb', '']]) {
	test(`packages ${args.join(' ')} is refused as bad usage`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(['packages', ...args]);
		t.is(exitCode, 125);
		t.is(stdout, '');
		t.regex(stderr, /^(forktree: |Usage: )/);
		t.notRegex(stderr, /^\s+at /m);
	});
}
