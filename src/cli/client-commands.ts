/** The commands that talk to a running worker: their arguments and help. What a command does is loaded once it is known. */
import {type Command, InvalidArgumentError, Option} from 'commander';
import type {BenchFlags, PlayFlags} from './bench.ts';
import type {InstallFlags} from './install.ts';
import type {LogsFlags} from './logs.ts';
import type {ProfileFlags} from './pprof.ts';

type Finish = (code: number) => void;

const installHelp = `
SOURCE is a folder, a .tar.gz file, or the URL of a git repository (https://….git or git@….git), whose last commit is taken. It has f.py, or
what OL_ENTRY_FILE in its ol.yaml names, or f.bin; regular files and folders alone. .git is left out. Prints the address to call.

Exit codes: 0 it is installed; 1 the worker refused it; 125 the source is not usable, or there is no worker.

Examples:
  $ forktree admin install -p w ./temperatures
  $ forktree admin install -p w -n prices -r pinned.txt https://git.example/functions/prices.git`;

const benchHelp = `
py… call functions that do nothing, pd… functions that compute with pandas; 64, 1k or 64k of them, chosen at random; …-seq one call at a
time, …-par 32. Functions that are missing are written into the worker's registry first. Prints a line of JSON with benchmark, seconds,
successes, errors and ops/s; other words go to stderr.

Exit codes: 0 it was measured; 1 more than 1 % of the calls failed (play: 5 %); 125 there is no worker, or a warm-up call failed.

Examples:
  $ forktree bench init -p w && forktree worker up -p w -d
  $ forktree bench py64-seq -p w -s 10
  $ forktree bench play -p w -f trace.txt -t 8`;

const pprofHelp = `
The profiles are those of the worker's own process: a snapshot of its heap, and where its CPU time goes. The developer tools of Chrome open
them.

Examples:
  $ forktree pprof mem -p w -o w.heapsnapshot
  $ forktree pprof cpu-start -p w && sleep 10 && forktree pprof cpu-stop -p w`;

const logsHelp = `
A worker keeps the newest lines of each function. With --follow it goes on until SIGINT or the worker's end.

Example:
  $ forktree logs -f -p w hello`;

function pathOption(): Option {
	return new Option('-p, --path <dir>', 'the worker’s folder; by default default-ol, or else the worker on port 5000');
}

function parseSeconds(text: string): number {
	const seconds = Number(text);
	if (text.trim() === '' || !(seconds > 0 && seconds < 2 ** 31))
		throw new InvalidArgumentError('Expected a number of seconds above 0.');
	return seconds;
}

function parseTasks(text: string): number {
	const tasks = Number(text);
	if (!/^\d+$/.test(text) || tasks < 1 || tasks > 10_000)
		throw new InvalidArgumentError('Expected a whole number from 1 to 10000.');
	return tasks;
}

/** As Go's flags: a short one may come as -w=false. */
function parseFlag(text: string): boolean {
	const word = text.replace(/^=/, '').toLowerCase();
	if (word === 'true' || word === 'false') return word === 'true';
	throw new InvalidArgumentError('Expected true or false.');
}

/** Adds `admin`. */
export function addAdmin(program: Command, finish: Finish): void {
	program
		.command('admin')
		.description('Manage the functions of a worker.')
		.command('install')
		.description('Give a function to a worker, or replace it.')
		.argument('<source>', 'a folder, a .tar.gz file, or the URL of a git repository')
		.option('-c, --config <file>', 'in place of the function’s ol.yaml')
		.option('-r, --requirements <file>', 'in place of the function’s requirements.txt')
		.option('-n, --name <name>', 'by default the name of the folder, file or repository')
		.addOption(pathOption())
		.option('--json', 'print {"name": …, "url": …}')
		.addHelpText('after', installHelp)
		.action(async (source: string, flags: InstallFlags) => {
			const {install} = await import('./install.ts');
			finish(await install(source, flags));
		});
}

/** The benchmarks by name, without what they do. */
const benchmarkNames = ['py', 'pd'].flatMap((kind) =>
	['64', '1k', '64k'].flatMap((size) => ['seq', 'par'].map((order) => `${kind}${size}-${order}`)),
);

/** Adds `bench`. */
export function addBench(program: Command, finish: Finish): void {
	const bench = program.command('bench').description('Measure a running worker.').addHelpText('after', benchHelp);
	const verb = (name: string, description: string) =>
		bench.command(name).description(description).addOption(pathOption());
	const timed = (name: string, description: string) =>
		verb(name, description)
			.option('-s, --seconds <seconds>', 'how long', parseSeconds, 60)
			.option('-t, --tasks <count>', 'calls at once', parseTasks);
	verb('init', 'Write functions to measure into the registry.').action(async (flags: {path?: string}) => {
		const {initBench} = await import('./bench.ts');
		finish(await initBench(flags));
	});
	for (const name of benchmarkNames) {
		timed(name, describe(name))
			.option('-w, --warmup [bool]', 'whether each function is called once before; true by default', parseFlag)
			.option('-o, --output <file>', 'where the result is written as well')
			.action(async (flags: BenchFlags) => {
				const {bench: run} = await import('./bench.ts');
				finish(await run(name, flags));
			});
	}
	timed('play', 'Call the functions of a trace, in its order and over again.')
		.requiredOption('-f, --trace <file>', 'a name in each line')
		.action(async (flags: PlayFlags) => {
			const {play} = await import('./bench.ts');
			finish(await play(flags));
		});
}

function describe(name: string): string {
	const [, kind, size, order] = /^(p[yd])(.*)-(.*)$/.exec(name) ?? [];
	const what = kind === 'pd' ? 'functions that use pandas' : 'functions that do nothing';
	return `Call ${size} ${what}, ${order === 'seq' ? 'one after the other' : 'several at once'}.`;
}

/** Adds `pprof`. */
export function addPprof(program: Command, finish: Finish): void {
	const pprof = program.command('pprof').description('Profile a running worker.').addHelpText('after', pprofHelp);
	const verb = (name: string, description: string) =>
		pprof.command(name).description(description).addOption(pathOption());
	verb('mem', 'Save a snapshot of its heap.')
		.option('-o, --out <file>', 'where; mem.heapsnapshot by default')
		.action(async (flags: ProfileFlags) => {
			const {saveHeap} = await import('./pprof.ts');
			finish(await saveHeap(flags));
		});
	verb('cpu-start', 'Begin to record where its CPU time goes.').action(async (flags: ProfileFlags) => {
		const {startProfile} = await import('./pprof.ts');
		finish(await startProfile(flags));
	});
	verb('cpu-stop', 'End that, and save it.')
		.option('-o, --out <file>', 'where; cpu.cpuprofile by default')
		.action(async (flags: ProfileFlags) => {
			const {stopProfile} = await import('./pprof.ts');
			finish(await stopProfile(flags));
		});
}

/** Adds `logs`. */
export function addLogs(program: Command, finish: Finish): void {
	program
		.command('logs')
		.description('Print what a function has printed.')
		.argument('<name>', 'the function')
		.option('-f, --follow', 'and whatever it prints from now on')
		.addOption(pathOption())
		.option('--json', 'print a JSON document a line, with times, requests, and the ends of calls')
		.addHelpText('after', logsHelp)
		.action(async (name: string, flags: LogsFlags) => {
			const {logs} = await import('./logs.ts');
			finish(await logs(name, flags));
		});
}
