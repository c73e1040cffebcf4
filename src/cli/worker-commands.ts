/** The commands of a worker: their arguments and help. What a command does is loaded once it is known. */
import {type Command, InvalidArgumentError, Option} from 'commander';
import type {FolderFlags, InitFlags, UpFlags} from './worker.ts';
import type {Override} from './worker-config.ts';

const workerHelp = `
A worker lives in a folder: config.json, the functions in registry/ (folders and NAME.tar.gz files), packages and deployed functions in
state/, and, while it runs, worker/worker.pid and worker/ol.sock. docs/migration.md has every verb and every key of config.json.

Examples:
  $ forktree worker init -p w            # optional; w/config.json can then be edited
  $ forktree worker up -p w -d           # in the background, its output in w/worker.out
  $ curl -X POST http://localhost:5000/run/hello -d '{"name": "world"}'
  $ forktree worker down -p w`;

const initHelp = `
In a folder that has a worker already, config.json gets its defaults again; functions and packages stay.

Example:
  $ forktree worker init -p w`;

const upHelp = `
Makes what is missing of the folder. It serves until SIGINT or SIGTERM, which lets running calls finish for ten seconds; with --detach it
returns when the worker is ready.

Keys of -o are those of config.json, which stays as it is; what is in effect is in config.json.overrides. Among them:
  worker_port         5000 by default
  worker_url          the address to listen on; localhost by default, and others need a token
  token               what requests must bring, as authorization: Bearer TOKEN; better in config.json, which others can't read
  registry            the folder of functions, or its file:// URL
  mem_pool_mb         memory that all sandboxes share; three quarters of the machine's by default
  limits.mem_mb       of functions that set no limits: 256 by default; likewise limits.cpu_percent, limits.procs, limits.runtime_sec
  import_cache_tree   a tree of zygotes, see forktree tree: a file, or JSON; by default each set of packages has a zygote
  features.import_cache  "" for no zygotes
  pip_mirror          the index that packages are installed from
  log_output          true or false: whether what handlers print is in the log; true by default
  best_effort         true or false: whether limits that this machine can't hold for you are no error; false by default
  promote             true or false: whether sets that the tree has too little for get zygotes as well; true by default
  spares              the most children that each zygote forks ahead; 4 by default
  instance_pause_ms   after which idle instances are paused; 1000 by default
  instance_idle_ms    after which idle instances are ended; 600000 by default
  zygote_idle_ms      after which zygotes are ended that nothing was forked from; 3600000 by default
  shared_packages     folders of packages that are used rather than installed, with colons between them
  packages_gb         GiB that packages may take; beyond, those that nothing needs are removed. By default none is
  packages_idle_ms    after which packages are removed that nothing needs and nobody used

Exit codes: 0 it was ended by a signal, or serves (--detach); 1 one runs there already; 125 it could not start.

Examples:
  $ forktree worker up
  $ forktree worker up -p w -o worker_port=8080,limits.mem_mb=512 -o import_cache_tree=tree.json
  $ forktree worker up -p w --detach`;

const downHelp = `
Sends SIGINT to the worker and waits for its end; what one that was killed has left is removed.

Exit codes: 0 none runs any more; 1 it did not end within a minute, or DIR is no worker's folder.

Example:
  $ forktree worker down -p w`;

const statusHelp = `
Prints Uninitialized, Running, StoppedClean, StoppedDirty or Unknown; of a running one also its pid, its address and what GET /status answers.

Exit codes: 0 it runs and is ready; 1 otherwise.

Example:
  $ forktree worker status -p w`;

const cleanupHelp = `
Kills processes, and removes cgroups, scratch folders, locks, pid file and socket, that a worker left which was killed. The next up or down
does that as well.

Exit codes: 0 nothing of it is left; 1 the worker of DIR lives, and nothing was touched.

Example:
  $ forktree worker force-cleanup -p w`;

function pathOption(): Option {
	return new Option('-p, --path <dir>', 'the worker’s folder; by default default-ol');
}

function imageOption(): Option {
	return new Option('-i, --image <name>', 'no effect: sandboxes need no image');
}

/** `key=value`, and more of them with commas between. A comma that no key follows belongs to the value. */
function parseOverrides(text: string, before: readonly Override[]): readonly Override[] {
	const pairs = text.split(/,(?=[A-Za-z_][\w.]*=)/).map((pair): Override => {
		const equals = pair.indexOf('=');
		if (equals < 1) throw new InvalidArgumentError('Expected KEY=VALUE, with commas between several.');
		return [pair.slice(0, equals), pair.slice(equals + 1)];
	});
	return [...before, ...pairs];
}

/** Adds `worker`. */
export function addWorker(program: Command, finish: (code: number) => void): void {
	const worker = program.command('worker').description('Serve functions over HTTP.').addHelpText('after', workerHelp);
	const verb = (name: string, description: string, help: string) =>
		worker.command(name).description(description).addOption(pathOption()).addHelpText('after', help);
	verb('init', 'Make a worker’s folder, or give it its default configuration again.', initHelp)
		.addOption(imageOption())
		.option('-b, --newbase', 'no effect: sandboxes need no image')
		.action(async (flags: InitFlags) => {
			const {init} = await import('./worker.ts');
			finish(await init(flags));
		});
	verb('up', 'Serve the functions of a registry over HTTP.', upHelp)
		.addOption(imageOption())
		.addOption(
			new Option('-o, --options <key=value,…>', 'settings that win over config.json; repeatable')
				.argParser(parseOverrides)
				.default([]),
		)
		.option('-d, --detach', 'in the background; returns when it is ready')
		.addOption(new Option('--ready-fd <fd>').argParser(Number).hideHelp())
		.action(async (flags: UpFlags) => {
			const {up} = await import('./worker.ts');
			finish(await up(flags));
		});
	verb('down', 'End the worker.', downHelp).action(async (flags: FolderFlags) => {
		const {down} = await import('./worker.ts');
		finish(await down(flags));
	});
	verb('status', 'Say whether the worker runs.', statusHelp).action(async (flags: FolderFlags) => {
		const {status} = await import('./worker.ts');
		finish(await status(flags));
	});
	verb('force-cleanup', 'Remove what a killed worker left.', cleanupHelp).action(async (flags: FolderFlags) => {
		const {forceCleanup} = await import('./worker.ts');
		finish(await forceCleanup(flags));
	});
}
