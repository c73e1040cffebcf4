import {chmod, copyFile, mkdir, mkdtemp, rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test from 'ava';
import {execa} from 'execa';
import {type DoctorCheck, type DoctorCheckName, type DoctorReport, doctor, doctorChecks} from '../../src/index.ts';
import {forktree, main} from '../cli/forktree.ts';
import {isRoot, kernelTest, rootTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

/** With cgroups, which the tests are given. */
const bestLevel = isRoot ? 'full' : 'rootless';

function find({checks}: DoctorReport, name: DoctorCheckName): DoctorCheck {
	return checks.find((check) => check.name === name) as DoctorCheck;
}

test('every check is reported, in order, and says how to mend what is not ok', async (t) => {
	const {level, checks} = await doctor({python});
	t.deepEqual(
		checks.map(({name}) => name),
		[...doctorChecks],
	);
	for (const check of checks) {
		t.not(check.detail, '', check.name);
		t.is(check.fix === undefined, check.status === 'ok', check.name);
		t.true(['ok', check.need === 'required' ? 'missing' : 'degraded'].includes(check.status), check.name);
	}
	t.is(level, checks.find(({name}) => name === 'sandbox')?.status === 'ok' ? bestLevel : 'none');
});

test('a missing interpreter is found out, not thrown', async (t) => {
	const {level, checks} = await doctor({python: '/nowhere/python'});
	t.is(level, 'none');
	const status = Object.fromEntries(checks.map((check) => [check.name, check.status]));
	t.like(status, {python: 'missing', pythonReachable: 'missing', installer: 'degraded', sandbox: 'missing'});
	t.is(checks.find(({name}) => name === 'python')?.fix, 'apt-get install python3');
});

serialKernelTest('sandboxes work on this machine, fully for root, and nothing is left behind', async (t) => {
	const leaks = new LeakCheck();
	const {level, notEnforced, checks} = await doctor({python});
	t.is(level, bestLevel, JSON.stringify(checks, undefined, '\t'));
	t.deepEqual(notEnforced, []);
	const required = checks.filter(({need}) => need === 'required');
	t.true(required.length >= (isRoot ? 14 : 8));
	for (const {name, status, detail} of required) t.is(status, 'ok', `${name}: ${detail}`);
	leaks.verify(t);
});

kernelTest('forktree doctor prints a table, and with --json one document', async (t) => {
	const table = await forktree(['doctor', '--python', python]);
	t.is(table.exitCode, 0, table.stdout);
	t.is(table.stderr, '');
	t.regex(table.stdout, /^ok {8}kernel /);
	t.true(table.stdout.endsWith(`\nlevel: ${bestLevel}\n`));
	const json = await forktree(['doctor', '--json', '--python', python]);
	t.is(json.exitCode, 0);
	t.like(JSON.parse(json.stdout), {level: bestLevel, notEnforced: []});
});

test('forktree doctor ends with 1 when something is missing, and says how to mend it', async (t) => {
	const {exitCode, stdout} = await forktree(['doctor', '--python', '/nowhere/python']);
	t.is(exitCode, 1);
	t.regex(stdout, /^missing {3}python .*\n +fix: apt-get install python3$/m);
	t.true(stdout.endsWith('\nlevel: none\n'));
});

kernelTest('what is optional is found missing by trying it, and sandboxes work all the same', async (t) => {
	// PR_SET_THP_DISABLE, which programs inherit: no huge page can be made.
	const program =
		'import ctypes, os, sys; assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0; os.execv(sys.argv[1], sys.argv[1:])';
	const command = [process.execPath, main, 'doctor', '--json', '--python', python];
	const {stdout} = await execa(python, ['-c', program, ...command]);
	const report = JSON.parse(stdout) as DoctorReport;
	t.is(report.level, bestLevel);
	t.like(find(report, 'hugePages'), {
		need: 'optional',
		status: 'degraded',
		detail: 'collapse memory: EINVAL; without it zygotes can’t gather their memory in huge pages',
	});
});

rootTest('what only pools of sandboxes need is optional, and its lack says what they can’t do', async (t) => {
	// A file system without idmapped mounts, of this command's own.
	const script = 'mount -t ramfs ramfs "$TMPDIR" && exec "$@"';
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	const command = [process.execPath, main, 'doctor', '--json', '--python', python];
	const {stdout} = await execa('unshare', ['--mount', 'sh', '-c', script, 'sh', ...command], {
		env: {TMPDIR: folder},
		reject: false,
	});
	const found = find(JSON.parse(stdout) as DoctorReport, 'idmappedMounts');
	t.like(found, {need: 'optional', status: 'degraded'});
	t.regex(found?.detail ?? '', /EINVAL; without it no sandbox of a pool can have a writable root/);
});

rootTest('where user namespaces are used up or ids not mapped, that is what it says', async (t) => {
	// The limit is one of each user namespace: this one's own, in which only root is mapped.
	const script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"';
	const command = [process.execPath, main, 'doctor', '--json', '--python', python];
	const {stdout, exitCode} = await execa(
		'unshare',
		['--map-root-user', '--mount', 'sh', '-c', script, 'sh', ...command],
		{
			reject: false,
		},
	);
	t.is(exitCode, 1);
	const report = JSON.parse(stdout) as DoctorReport;
	t.is(report.level, 'none');
	t.like(find(report, 'userNamespaces'), {
		need: 'required',
		status: 'missing',
		detail: 'unshare user namespace: ENOSPC; user.max_user_namespaces is 0',
		fix: 'sysctl -w user.max_user_namespaces=10000',
	});
	t.is(find(report, 'ids').status, 'missing');
	t.is(find(report, 'seccomp').status, 'ok', 'what does not need them is not missing');
});

rootTest('an interpreter that only root can reach is found out, and the fix mends it', async (t) => {
	const folder = await mkdtemp('/var/tmp/forktree-test-'); // not in /tmp, which is a sandbox's own
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	const bin = path.join(folder, 'bin');
	await mkdir(bin);
	const hidden = path.join(bin, 'python3');
	await copyFile('/usr/bin/python3', hidden);
	await chmod(bin, 0o700);
	const before = await doctor({python: hidden});
	t.is(before.level, 'none');
	t.is(find(before, 'python').status, 'ok');
	const {status, fix = ''} = find(before, 'pythonReachable');
	t.is(status, 'missing');
	t.is(fix, `chmod -R o+rX ${bin}`);
	await execa(fix, {shell: true});
	const after = await doctor({python: hidden});
	t.is(find(after, 'pythonReachable').status, 'ok');
	t.is(after.level, 'full', JSON.stringify(after.checks, undefined, '\t'));
});

const command = [process.execPath, main, 'doctor', '--json', '--python', python];

rootTest('root without the capability gets what an ordinary user does', async (t) => {
	const {stdout} = await execa('setpriv', ['--bounding-set=-sys_admin', ...command]);
	const report = JSON.parse(stdout) as DoctorReport;
	t.is(report.level, 'rootless');
	t.like(find(report, 'privileges'), {
		need: 'optional',
		status: 'degraded',
		fix: 'start the container with --cap-add=SYS_ADMIN',
	});
});

rootTest('where nothing can be tried, every check says that and not what it would be about', async (t) => {
	const script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"';
	const words = ['--map-root-user', 'sh', '-c', script, 'sh', 'setpriv', '--bounding-set=-sys_admin', ...command];
	const {stdout, exitCode} = await execa('unshare', words, {reject: false});
	t.is(exitCode, 1);
	const report = JSON.parse(stdout) as DoctorReport;
	t.is(report.level, 'none');
	for (const name of ['userNamespaces', 'seccomp', 'keeper', 'overlay', 'landlock'] as const) {
		t.regex(find(report, name).detail, /^unshare user namespace: ENOSPC/, name);
	}
});
