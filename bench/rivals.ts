/** The same program in what others make: bubblewrap and runc, each by a fresh process. */
import {randomBytes} from 'node:crypto';
import {constants} from 'node:fs';
import {access, mkdir, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {execa} from 'execa';
import {dir as temporaryDirectory} from 'tmp-promise';
import {defaultSandboxLimits} from '../src/sandbox/sandbox-options.ts';
import {type LineServer, serveLines} from './lines.ts';
import {benchProgram} from './programs.ts';

const program = '/bench/program';
const programEnd = 42;

/** Something that runs a program in a sandbox. */
export type Rival = {
	readonly name: 'bwrap' | 'runc';
	/** As it says itself. */
	readonly version: string;
	/** One run, from posix_spawn(3) by a small program of ours until its end, in milliseconds. */
	runMs(): Promise<number>;
};

/** Those that are installed. */
export type Rivals = {
	readonly installed: readonly Rival[];
	/** Of the others: how to get them. */
	readonly notInstalled: readonly string[];
	close(): Promise<void>;
};

const packages = {bwrap: 'bubblewrap', runc: 'runc'} as const;

/** A program's path; undefined when it is not installed. */
export async function findProgram(name: string): Promise<string | undefined> {
	for (const folder of (process.env.PATH ?? '').split(':')) {
		const file = path.join(folder, name);
		const works = await access(file, constants.X_OK).then(
			() => true,
			() => false,
		);
		if (works) return file;
	}
	return undefined;
}

/** What bubblewrap gets for our root's folders, our /tmp, proc and devices; everything unshared. */
export function bwrapRoot(): string[] {
	const links = ['bin', 'sbin', 'lib', 'lib64'].flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]);
	return [
		...['--unshare-all', '--hostname', 'sandbox', '--ro-bind', '/usr', '/usr', ...links],
		...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp'],
	];
}

/** The least that OCI's specification asks for, with our namespaces and limits; no seccomp, which would only take longer. */
function ociConfig(folder: string, group: string): object {
	const {memoryMb, cpuPercent, processes, openFiles} = defaultSandboxLimits;
	const bind = (source: string, destination: string) => ({
		destination,
		type: 'bind',
		source,
		options: ['bind', 'ro', 'nosuid', 'nodev'],
	});
	return {
		ociVersion: '1.0.2',
		process: {
			terminal: false,
			user: {uid: 1000, gid: 1000},
			args: [program],
			cwd: '/',
			noNewPrivileges: true,
			rlimits: [{type: 'RLIMIT_NOFILE', hard: openFiles, soft: openFiles}],
		},
		root: {path: 'rootfs', readonly: true},
		hostname: 'sandbox',
		mounts: [
			{destination: '/proc', type: 'proc', source: 'proc'},
			{destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=64k']},
			{destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev', 'mode=1777', 'size=64m']},
			bind('/usr', '/usr'),
			bind(folder, '/bench'),
		],
		linux: {
			cgroupsPath: `/${group}`,
			resources: {
				memory: {limit: memoryMb * 1024 * 1024},
				cpu: {quota: cpuPercent * 1000, period: 100_000},
				pids: {limit: processes},
			},
			namespaces: ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup'].map((type) => ({type})),
		},
	};
}

/** @param folder holds the program; sandboxes see it as /bench */
export async function openRivals(folder: string): Promise<Rivals> {
	const scratch = await temporaryDirectory({unsafeCleanup: true});
	const name = `forktree-bench-${randomBytes(6).toString('hex')}`;
	const spawner = serveLines(await benchProgram('spawn'), []);
	const installed: Rival[] = [];
	const notInstalled: string[] = [];
	for (const each of ['bwrap', 'runc'] as const) {
		const file = await findProgram(each);
		if (file === undefined) {
			notInstalled.push(`NotInstalled: ${each}; on Debian and Ubuntu: apt-get install ${packages[each]}`);
			continue;
		}
		const {stdout} = await execa(file, ['--version']);
		const command =
			each === 'bwrap' ? () => [file, ...bwrapRoot(), '--ro-bind', folder, '/bench', program] : await prepareRunc(file);
		installed.push({name: each, version: stdout.split('\n')[0] ?? '', runMs: async () => runMs(spawner, command())});
	}

	async function prepareRunc(file: string): Promise<() => string[]> {
		const bundle = path.join(scratch.path, 'bundle');
		for (const target of ['usr', 'bench', 'proc', 'dev', 'tmp']) {
			await mkdir(path.join(bundle, 'rootfs', target), {recursive: true});
		}
		await writeFile(path.join(bundle, 'config.json'), JSON.stringify(ociConfig(folder, name)));
		let last = 0;
		return () => {
			last += 1;
			return [file, '--root', path.join(scratch.path, 'runc'), 'run', '--bundle', bundle, `${name}-${last}`];
		};
	}

	return {
		installed,
		notInstalled,
		async close() {
			await spawner.close();
			await scratch.cleanup();
		},
	};
}

async function runMs(spawner: LineServer, command: readonly string[]): Promise<number> {
	const {ns, code} = (await spawner.ask(command.join('\t'))) as {ns: number; code: number};
	if (code !== programEnd) throw new Error(`${command.join(' ')} ended with ${code}`);
	return ns / 1e6;
}
