/** What a sandbox sees as `/`: the host's system and interpreter folders read-only, everything else made for it. */
import {existsSync, lstatSync, readlinkSync} from 'node:fs';
import path from 'node:path';
import {guestFiles, nativeDirectory} from '../native.ts';
import type {Interpreter} from './interpreter.ts';
import {defaultDevices, planDevices, type RootPlan} from './keeper.ts';

/** Where things are inside. */
export const inside = {handler: '/handler', packages: '/packages', scratch: '/scratch'} as const;

/** With merged-/usr these are links on the host, and then inside as well; else they are folders. */
const systemFolders = ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'];

const ownBin = '/forktree/bin';
/** site.py looks below for packages, after the standard library's folders; see `site.getusersitepackages()`. */
const userBase = '/forktree/user';

const passwd = 'root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n';
const group = 'root:x:0:\nnogroup:x:65534:\n';
const hosts = '127.0.0.1 localhost sandbox\n::1 localhost\n';
const nsswitch = 'passwd: files\ngroup: files\nhosts: files dns\n';

/** What every sandbox's environment starts from: nothing of the host's. Thread pools are capped because a process with threads can't be forked. */
export const baseEnvironment: Readonly<Record<string, string>> = {
	PATH: '/usr/local/bin:/usr/bin:/bin',
	HOME: inside.scratch,
	USER: 'sandbox',
	LOGNAME: 'sandbox', // whoever asks for the name of the user by its id is told that there is none
	TMPDIR: '/tmp',
	LANG: 'C.UTF-8',
	OPENBLAS_NUM_THREADS: '1',
	OMP_NUM_THREADS: '1',
	MKL_NUM_THREADS: '1',
	NUMEXPR_NUM_THREADS: '1',
	VECLIB_MAXIMUM_THREADS: '1',
	JE_ARROW_MALLOC_CONF: 'background_thread:false', // of jemalloc in pyarrow, which gives memory back as it allocates, then
};

/** Of zygotes, and of what handlers start: programs of packages are found, and an interpreter finds modules as the handler does. */
const packagesEnvironment: Readonly<Record<string, string>> = {
	...baseEnvironment,
	PATH: `${inside.packages}/bin:${ownBin}:${baseEnvironment.PATH}`,
	PYTHONUSERBASE: userBase,
};

function isBelow(folder: string, parent: string): boolean {
	return folder === parent || folder.startsWith(`${parent}/`);
}

/** The interpreter's folders that are not visible by /usr anyway, outermost only. */
export function interpreterFolders(interpreter: Interpreter): string[] {
	const folders = [...interpreter.directories, path.dirname(interpreter.executable)];
	const outside = [...new Set(folders)].filter((folder) => !isBelow(folder, '/usr'));
	return outside.filter((folder) => !outside.some((other) => other !== folder && isBelow(folder, other)));
}

/**
 * What the users of sandboxes must be able to read and execute, or enter, of an interpreter: the folder as it is bound
 * in a sandbox, and a path in it. Folders above those are the sandbox's own.
 */
export function neededPaths(interpreter: Interpreter): Array<readonly [folder: string, file: string]> {
	const folders = ['/usr', ...interpreterFolders(interpreter)];
	return [...interpreter.directories, interpreter.executable].map((needed) => {
		const folder = folders.find((each) => isBelow(needed, each)) ?? needed;
		return [folder, path.relative(folder, needed) || '.'];
	});
}

/** The program of a root zygote. */
function zygoteArgv(interpreter: Interpreter, spec: unknown): string[] {
	const program =
		"import sys; sys.path.insert(0, '/forktree'); from forktree_guest import zygote; del sys.path[0]; zygote.main()";
	return [interpreter.executable, '-I', '-S', '-B', '-c', program, JSON.stringify(spec)];
}

/**
 * The plan of a root zygote.
 * @param spec what it imports, see protocol.ts
 * @param packagesDirectory bound at /packages, if any
 */
export function planRoot(interpreter: Interpreter, spec: unknown, packagesDirectory: string | undefined): RootPlan {
	const operations: Array<RootPlan['operations'][number]> = [['bind', '/usr', '/usr']];
	for (const name of systemFolders) {
		const folder = `/${name}`;
		if (!existsSync(folder)) continue;
		if (lstatSync(folder).isSymbolicLink()) operations.push(['link', readlinkSync(folder), folder]);
		else operations.push(['bind', folder, folder]);
	}
	for (const folder of interpreterFolders(interpreter)) operations.push(['bind', folder, folder]);
	// Copies: the package may be installed with modes that let only its owner read it.
	operations.push(['program', path.join(nativeDirectory(), 'init'), '/forktree/native/init']);
	operations.push(['copy', path.join(nativeDirectory(), 'guest.node'), '/forktree/native/guest.node']);
	for (const file of guestFiles()) operations.push(['copy', file, `/forktree/forktree_guest/${path.basename(file)}`]);
	if (existsSync('/etc/ld.so.cache')) operations.push(['copy', '/etc/ld.so.cache', '/etc/ld.so.cache']);
	operations.push(['file', passwd, '/etc/passwd'], ['file', group, '/etc/group']);
	operations.push(['file', hosts, '/etc/hosts'], ['file', nsswitch, '/etc/nsswitch.conf']);
	operations.push(
		['dir', '', '/tmp'],
		['dir', '', '/proc'],
		['dir', '', inside.handler],
		['link', '/tmp', inside.scratch],
		...planDevices(defaultDevices),
	);
	for (const name of ['python', 'python3']) operations.push(['link', interpreter.executable, `${ownBin}/${name}`]);
	const [major, minor] = interpreter.version.split('.');
	operations.push(['link', inside.packages, `${userBase}/lib/python${major}.${minor}/site-packages`]);
	if (packagesDirectory === undefined) operations.push(['dir', '', inside.packages]);
	else operations.push(['bind', packagesDirectory, inside.packages]);
	return {
		operations,
		argv: zygoteArgv(interpreter, spec),
		environment: packagesEnvironment,
		sharedNetwork: false,
		writable: undefined,
	};
}
