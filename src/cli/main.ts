#!/usr/bin/env node
/** The command line: reads arguments, and loads what a command needs only once it is known. */
import {readFileSync} from 'node:fs';
import process from 'node:process';
import {Command, CommanderError, InvalidArgumentError, Option} from 'commander';
import {addAdmin, addBench, addLogs, addPprof} from './client-commands.ts';
import type {PackagesFlags} from './packages.ts';
import type {RunOptions} from './run.ts';
import {exitCodes, failed, ignoreBrokenPipes} from './terminal.ts';
import type {CheckFlags, FitFlags, PlotFlags, ShowFlags} from './tree.ts';
import {addWorker} from './worker-commands.ts';

type DoctorFlags = {readonly json?: boolean; readonly python?: string};
type CleanupFlags = {readonly json?: boolean; readonly state?: string};

function collect<T>(parse: (text: string) => T): (text: string, before: readonly T[]) => readonly T[] {
	return (text, before) => [...before, parse(text)];
}

function sharedOption(): Option {
	return new Option('--shared <dir>', 'packages that are used rather than installed, see docs/packages.md; repeatable')
		.argParser(collect(String))
		.default([]);
}

function parsePair(text: string): readonly [string, string] {
	const equals = text.indexOf('=');
	if (equals < 1) throw new InvalidArgumentError('Expected NAME=VALUE.');
	return [text.slice(0, equals), text.slice(equals + 1)];
}

function parseTimeout(text: string): number {
	const milliseconds = Number(text);
	if (!(milliseconds > 0 && milliseconds < 2 ** 31))
		throw new InvalidArgumentError('Expected milliseconds above 0 and below 2^31.');
	return milliseconds;
}

function readVersion(): string {
	const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
	return (JSON.parse(text) as {version: string}).version;
}

const runHelp = `
Prints the value as JSON (bytes as they are) on stdout, and what the handler prints on stderr.

Exit codes: 0 the handler answered; 1 it failed, the traceback is on stderr; 124 it exceeded its deadline;
137 it exceeded its memory or was killed; 125 forktree itself failed; 130 and 143 interrupted.

Examples:
  $ forktree run hello.py --event '{"name": "world"}'
  $ forktree run statistics/ --event @event.json --requirement numpy==2.2.1 --json`;

const doctorHelp = `
Tries what sandboxes are made of, and a whole one, as whoever runs it. Exit codes: 0 a sandbox works, and the level that is named
last says how strong it is; 1 none does.

Examples:
  $ sudo forktree doctor
  $ systemd-run --user --scope -p Delegate=yes forktree doctor`;

const cleanupHelp = `
Kills processes, and removes cgroups, scratch folders and locks, of owners that have ended without doing so (the next
start with the same folder does that as well). Packages and deployed functions of DIR stay; what others own is left alone.

Exit codes: 0 nothing of them is left; 1 the owner of DIR lives, and nothing was touched; 125 forktree itself failed.

Example:
  $ sudo forktree force-cleanup --state /var/lib/forktree`;

const packagesHelp = `
Packages are kept in $XDG_CACHE_HOME/forktree/packages (or ~/.cache/forktree/packages), where forktree run looks as well,
or in the folder that --dir names, such as the packagesDir of a runtime.

Examples:
  $ forktree packages add 'pandas>=2' pyarrow
  $ forktree packages add -r requirements.txt
  $ forktree packages list
  $ forktree packages gc --keep-gb 5
  $ forktree packages export packages.tar && scp packages.tar other: && ssh other forktree packages import packages.tar`;

const treeHelp = `
A tree says which zygotes there are: what each has imported beyond that which it is forked from. createRuntime({tree}) takes it.

CALLS is a file, or - for stdin, plain or gzip: what a worker recorded, {"calls": [{"packages": ["numpy==1.26.4"], "count": 3}],
"costs": {"numpy==1.26.4": {"ms": 88, "mib": 12}}}; a benchmark in the form of ReqBench; or a trace, a line a call: ["numpy==1.26.4"].

Examples:
  $ forktree tree fit --state ./state --memory 1500 -o tree.json
  $ forktree tree fit trace.jsonl --nodes 40 --weights uniform | forktree tree show -
  $ forktree tree check tree.json requirements.txt
  $ forktree tree plot tree.json --calls reqbench311.json.gz --half test -o tree.svg`;

function buildProgram(finish: (code: number) => void): Command {
	const program = new Command('forktree')
		.description('Runs Python functions in fresh, isolated sandboxes forked from zygotes.')
		.version(readVersion())
		.exitOverride()
		.configureOutput({outputError: (text, write) => write(text.replace(/^error: /, 'forktree: '))});
	program
		.command('run')
		.description('Call a function once.')
		.argument('<path>', 'a folder with f.py, a single .py file, or a .tar.gz file')
		.option('--event <json>', 'the event: JSON, @FILE, or - for stdin', '{}')
		.option(
			'--requirement <name==version>',
			'a package to install, in place of requirements.txt; repeatable',
			collect(String),
			[],
		)
		.option('--env <name=value>', 'a variable of the handler’s environment; repeatable', collect(parsePair), [])
		.option('--timeout <ms>', 'the call’s deadline', parseTimeout)
		.addOption(sharedOption())
		.option('--python <path>', 'the interpreter, CPython 3.9 or later')
		.option('--best-effort', 'run without the limits that this machine can’t hold for you; forktree doctor says which')
		.option('--json', 'print the whole outcome as one JSON document; bytes as {"$base64": "…"}')
		.addHelpText('after', runHelp)
		.action(async (path: string, flags: RunOptions) => {
			const {run} = await import('./run.ts');
			finish(await run(path, flags));
		});
	program
		.command('doctor')
		.description('Check whether this machine can run sandboxes, and say how to mend what is missing.')
		.option('--json', 'print one JSON document')
		.option('--python <path>', 'the interpreter to look for')
		.addHelpText('after', doctorHelp)
		.action(async (flags: DoctorFlags) => {
			const {printDoctor} = await import('./doctor.ts');
			finish(await printDoctor(flags));
		});
	program
		.command('force-cleanup')
		.description('Remove what killed owners of state folders left on the machine.')
		.option('--state <dir>', 'one state folder; by default all temporary ones of this user')
		.option('--json', 'print one JSON document')
		.addHelpText('after', cleanupHelp)
		.action(async (flags: CleanupFlags) => {
			const {printCleanup} = await import('./force-cleanup.ts');
			finish(await printCleanup(flags));
		});
	addPackages(program, finish);
	addTree(program, finish);
	addWorker(program, finish);
	addAdmin(program, finish);
	addBench(program, finish);
	addPprof(program, finish);
	addLogs(program, finish);
	return program;
}

function parseGigabytes(text: string): number {
	const gigabytes = Number(text);
	if (text.trim() === '' || !(gigabytes >= 0)) throw new InvalidArgumentError('Expected a number of GiB from 0.');
	return gigabytes;
}

function parseDays(text: string): number {
	const days = Number(text);
	if (text.trim() === '' || !(days >= 0)) throw new InvalidArgumentError('Expected a number of days from 0.');
	return days;
}

function addPackages(program: Command, finish: (code: number) => void): void {
	const packages = program
		.command('packages')
		.description('Install packages, and look after those that are installed.')
		.addHelpText('after', packagesHelp);
	const command = (usage: string, description: string) =>
		packages
			.command(usage)
			.description(description)
			.option('--dir <dir>', 'where packages are kept')
			.addOption(sharedOption())
			.option('--python <path>', 'the interpreter, CPython 3.9 or later')
			.option(
				'--best-effort',
				'run without the limits that this machine can’t hold for you; forktree doctor says which',
			)
			.option('--json', 'print one JSON document');
	command('add [requirements...]', 'Install what requirements ask for.')
		.option('-r, --requirement <file>', 'a requirements file; repeatable', collect(String), [])
		.option('--offline', 'use what is there alone')
		.action(async (requirements: string[], flags: PackagesFlags & {requirement: string[]}) => {
			const {add} = await import('./packages.ts');
			finish(await add(requirements, flags.requirement, flags));
		});
	command('list', 'List what is installed.').action(async (flags: PackagesFlags) => {
		const {list} = await import('./packages.ts');
		finish(await list(flags));
	});
	command('info <name>', 'Tell all that is known of a package, or of one version: name==version.').action(
		async (name: string, flags: PackagesFlags) => {
			const {info} = await import('./packages.ts');
			finish(await info(name, flags));
		},
	);
	command('verify [names...]', 'Hash every file again; what is damaged is installed anew.')
		.option('--offline', 'from kept archives alone')
		.action(async (names: string[], flags: PackagesFlags) => {
			const {verify} = await import('./packages.ts');
			finish(await verify(names, flags));
		});
	command('gc', 'Remove what no function needs, oldest use first.')
		.option('--keep-gb <gib>', 'until the folder has at most this size; 0 by default', parseGigabytes)
		.option('--keep-days <days>', 'what was not used for so long; and else nothing, without --keep-gb', parseDays)
		.action(async (flags: PackagesFlags & {keepGb?: number; keepDays?: number}) => {
			const {gc} = await import('./packages.ts');
			finish(await gc(flags.keepGb, flags.keepDays, flags));
		});
	command(
		'export [file]',
		'Write all that is installed to a tar file, or to stdout, for a machine without a network.',
	).action(async (file: string | undefined, flags: PackagesFlags) => {
		const {exportTo} = await import('./packages.ts');
		finish(await exportTo(file, flags));
	});
	command('import <file>', 'Take over what another machine has exported; - is stdin.').action(
		async (file: string, flags: PackagesFlags) => {
			const {importFrom} = await import('./packages.ts');
			finish(await importFrom(file, flags));
		},
	);
}

function parseCount(text: string): number {
	const count = Number(text);
	if (!/^\d+$/.test(text) || count < 1 || count > 1_000_000) {
		throw new InvalidArgumentError('Expected a whole number from 1 to 1000000.');
	}
	return count;
}

function addTree(program: Command, finish: (code: number) => void): void {
	const tree = program
		.command('tree')
		.description('Fit a tree of zygotes to calls, draw it, and look up which node a function gets.')
		.addHelpText('after', treeHelp);
	const half = () =>
		new Option('--half <half>', 'which calls of a benchmark; by default all').choices(['train', 'test', 'all']);
	tree
		.command('fit [calls]')
		.description('Fit a tree to calls: nodes for the packages that these import most.')
		.option('--state <dir>', 'in place of CALLS, what the worker of that state folder recorded')
		.addOption(half())
		.option('--nodes <count>', 'how many nodes, the root included; by default 40 unless --memory is given', parseCount)
		.option('--memory <mib>', 'as many nodes as fit into this', parseCount)
		.addOption(
			new Option('--weights <kind>', 'what to save: milliseconds, or packages of whichever kind')
				.choices(['time', 'uniform'])
				.default('time'),
		)
		.option('--single-package', 'a node adds one package; by default also what that depends on')
		.option('--max-depth <levels>', 'how many levels below the root', parseCount, 28)
		.option('-o, --output <file>', 'where to write it; by default stdout')
		.action(async (calls: string | undefined, flags: FitFlags) => {
			const {fitToCalls} = await import('./tree.ts');
			finish(await fitToCalls(calls, flags));
		});
	const drawing = (usage: string, description: string) =>
		tree
			.command(usage)
			.description(description)
			.option('--calls <file>', 'calls that figures are taken from, in place of those in the tree')
			.addOption(half());
	drawing('show <tree>', 'Draw a tree in the terminal, with calls, time saved and memory of each node.')
		.option('--json', 'print one JSON document')
		.action(async (file: string, flags: ShowFlags) => {
			const {show} = await import('./tree.ts');
			finish(await show(file, flags));
		});
	drawing('check <tree> <requirements>', 'Say which node a locked requirements file gets, and why.')
		.option('--json', 'print one JSON document')
		.action(async (file: string, requirements: string, flags: CheckFlags) => {
			const {check} = await import('./tree.ts');
			finish(await check(file, requirements, flags));
		});
	drawing('plot <tree>', 'Draw a tree as a picture.')
		.requiredOption('-o, --output <file>', 'a file that ends in .svg or .png')
		.action(async (file: string, flags: PlotFlags) => {
			const {plot} = await import('./tree.ts');
			finish(await plot(file, flags));
		});
}

async function main(): Promise<number> {
	let code: number = exitCodes.ok;
	try {
		await buildProgram((result) => {
			code = result;
		}).parseAsync();
		return code;
	} catch (error) {
		// It has printed its message, or what was asked for, already.
		if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.forktree;
		return failed(error);
	}
}

ignoreBrokenPipes();
process.exitCode = await main();
