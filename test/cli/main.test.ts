import {readFile, rm, symlink, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {execa} from 'execa';
import {temporaryFolder} from '../helpers/runtime.ts';
import {forktree} from './forktree.ts';

const root = path.join(import.meta.dirname, '..', '..');

async function folder(t: ExecutionContext): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	return directory;
}

/** Prints the address of every module that is loaded to stderr. */
const tracing = `import {register} from 'node:module';
register('data:text/javascript,' + encodeURIComponent(\`
	import {writeSync} from 'node:fs';
	export async function load(url, context, next) {
		writeSync(2, url + '\\\\n');
		return next(url, context);
	}
\`));`;

for (const [args, words] of [
	[['--help'], ['run', 'doctor', 'force-cleanup', 'packages', 'tree', 'worker', 'admin', 'bench', 'pprof', 'logs']],
	[
		['run', '--help'],
		['Exit codes:', '$ forktree run hello.py --event'],
	],
	[['doctor', '--help'], ['$ sudo forktree doctor']],
	[
		['force-cleanup', '--help'],
		['$ sudo forktree force-cleanup', '--state <dir>', 'Exit codes:'],
	],
	[
		['worker', '--help'],
		['init', 'up', 'down', 'status', 'force-cleanup', '$ forktree worker init -p w'],
	],
	[['worker', 'init', '--help'], ['$ forktree worker init -p w']],
	[
		['worker', 'up', '--help'],
		[
			'$ forktree worker up -p w',
			...['--path <dir>', '--image <name>', '--options <key=value', '--detach', 'Exit codes:'],
			...['worker_port', 'worker_url', 'mem_pool_mb', 'import_cache_tree', 'best_effort', 'promote', 'spares'],
			...['instance_pause_ms', 'instance_idle_ms', 'zygote_idle_ms', 'shared_packages', 'packages_gb'],
			...['packages_idle_ms', 'limits.mem_mb', 'pip_mirror', 'log_output', 'registry', 'features.import_cache'],
		],
	],
	[
		['worker', 'down', '--help'],
		['$ forktree worker down -p w', 'Exit codes:'],
	],
	[
		['worker', 'status', '--help'],
		['$ forktree worker status -p w', 'Exit codes:', 'Uninitialized, Running, StoppedClean, StoppedDirty or Unknown'],
	],
	[
		['worker', 'force-cleanup', '--help'],
		['$ forktree worker force-cleanup -p w', 'Exit codes:'],
	],
	[
		['admin', 'install', '--help'],
		['$ forktree admin install -p w', '--config <file>', '--requirements <file>', '--name <name>', 'Exit codes:'],
	],
	[
		['bench', '--help'],
		['$ forktree bench py64-seq -p w -s 10', 'Exit codes:'],
	],
	[
		['bench', 'py64-seq', '--help'],
		['--seconds <seconds>', '--tasks <count>', '--warmup [bool]', '--output <file>'],
	],
	[
		['pprof', '--help'],
		['mem', 'cpu-start', 'cpu-stop', '$ forktree pprof mem -p w'],
	],
	[['logs', '--help'], ['$ forktree logs -f -p w hello']],
] as const) {
	test(`${args.join(' ')} says what it does`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(args);
		t.is(exitCode, 0);
		t.is(stderr, '');
		for (const word of words) t.true(stdout.includes(word), word);
	});
}

test('help loads no more than the arguments take', async (t) => {
	const env = {NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(tracing)}`};
	const help = await forktree(['--help'], {env});
	t.true(help.stderr.includes('/dist/cli/terminal.js'));
	t.false(help.stderr.includes('/dist/index.js'));
	const run = await forktree(['run', 'x', '--event', '{'], {env});
	t.true(run.stderr.includes('/dist/index.js'), 'the trace would show it');
});

test('--version prints that of the package', async (t) => {
	const {version} = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')) as {version: string};
	const {exitCode, stdout} = await forktree(['--version']);
	t.is(exitCode, 0);
	t.is(stdout, `${version}\n`);
});

for (const args of [
	[],
	['frob'],
	['--what'],
	['run'],
	['run', 'x', '--timeout', '0'],
	['run', 'x', '--timeout', 'soon'],
	['run', 'x', '--env', 'NAME'],
	['run', 'x', '--env', '=value'],
	['force-cleanup', 'folder'],
	['worker'],
	['worker', 'up', '-o', 'worker_port'],
	['worker', 'up', '-o', '=5'],
	['admin', 'install'],
	['admin', 'install', 'boss', 'folder'],
	['bench', 'py2-seq'],
	['bench', 'py64-seq', '-s', '0'],
	['bench', 'py64-seq', '-t', '1.5'],
	['bench', 'py64-seq', '-w', 'maybe'],
	['bench', 'play'],
	['logs'],
]) {
	test(`forktree ${args.join(' ')} is refused as bad usage`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(args);
		t.is(exitCode, 125);
		t.is(stdout, '');
		t.regex(stderr, /^(forktree: |Usage: )/);
		t.notRegex(stderr, /^\s+at /m);
	});
}

for (const [event, message] of [
	['{', /^forktree: --event: expected JSON: .+\n$/],
	['@/nowhere/event.json', /^forktree: .*'\/nowhere\/event\.json'\n$/],
	['-', /^forktree: stdin: expected JSON: .+\n$/],
] as const) {
	test(`the event ${event} is refused in one line`, async (t) => {
		const {exitCode, stdout, stderr} = await forktree(['run', 'x.py', '--event', event]);
		t.is(exitCode, 125);
		t.is(stdout, '');
		t.regex(stderr, message);
	});
}

test('an event that is not UTF-8 is refused', async (t) => {
	const file = path.join(await folder(t), 'event.json');
	await writeFile(file, Buffer.from([0x22, 0xff, 0x22]));
	const {exitCode, stderr} = await forktree(['run', 'x.py', '--event', `@${file}`]);
	t.is(exitCode, 125);
	t.is(stderr, `forktree: ${file}: expected UTF-8\n`);
});

test('the built program runs through a link, as npm makes one', async (t) => {
	const program = path.join(root, 'dist', 'cli', 'main.js');
	t.is((await readFile(program, 'utf8')).split('\n', 1)[0], '#!/usr/bin/env node');
	const {bin} = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')) as {bin: Record<string, string>};
	t.deepEqual(Object.keys(bin), ['forktree', 'ol']);
	for (const [name, file] of Object.entries(bin)) {
		t.is(path.join(root, file), program);
		const link = path.join(await folder(t), name);
		await symlink(program, link);
		const {exitCode, stdout} = await execa(process.execPath, [link, 'run', '--help'], {reject: false});
		t.is(exitCode, 0);
		t.true(stdout.startsWith('Usage: forktree run'));
	}
});
