import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync} from 'node:fs';
import {mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {createInterface} from 'node:readline';
import test, {type ExecutionContext} from 'ava';
import {type CleanupReport, forceCleanup} from '../../src/index.ts';
import {type Host, hostScript, isAlive, startHost} from '../helpers/host-process.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf} from '../helpers/leak-check.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';
import {forktree, writeFiles} from './forktree.ts';

async function folder(t: ExecutionContext): Promise<string> {
	const directory = await temporaryFolder();
	t.teardown(() => rm(directory, {recursive: true, force: true}));
	return directory;
}

async function kill(host: Host): Promise<void> {
	const exit = once(host.process, 'exit');
	host.process.kill('SIGKILL');
	await exit;
}

function everything(directory: string): string[] {
	return readdirSync(directory, {recursive: true, encoding: 'utf8'}).sort();
}

kernelTest('what a killed owner left is removed, also a process that outlived it, and said', async (t) => {
	const host = await startHost(t);
	const groups = cgroupsOf(host.stateDir);
	const outliving = spawn('sleep', ['600'], {stdio: 'ignore'});
	t.teardown(() => outliving.kill('SIGKILL'));
	const outlivingExit = once(outliving, 'exit');
	for (const group of groups) writeFileSync(path.join(group, 'zygotes', 'cgroup.procs'), String(outliving.pid));
	await kill(host);
	t.true(groups.length > 0 && groups.every((group) => existsSync(group)));

	const {exitCode, stdout, stderr} = await forktree(['force-cleanup', '--state', host.stateDir, '--json']);
	t.is(exitCode, 0, stderr);
	t.deepEqual(
		groups.filter((group) => existsSync(group)),
		[],
	);
	t.deepEqual(host.pids.filter(isAlive), []);
	t.deepEqual((await outlivingExit)[1], 'SIGKILL');
	t.deepEqual(readdirSync(host.stateDir).sort(), ['functions', 'packages']);
	const report = JSON.parse(stdout) as CleanupReport;
	t.true(report.processes.includes(outliving.pid as number));
	t.like(report, {
		cgroups: groups,
		paths: ['cgroups.json', 'staging', 'mnt', 'lock'].map((name) => path.join(host.stateDir, name)),
		inUse: [],
	});

	const again = await forktree(['force-cleanup', '--state', host.stateDir]);
	t.is(again.exitCode, 0);
	t.is(again.stdout, 'nothing to remove\n');
});

kernelTest('a live owner is refused and named, and nothing is touched', async (t) => {
	const host = await startHost(t);
	const groups = cgroupsOf(host.stateDir);
	const before = everything(host.stateDir);
	const {exitCode, stdout, stderr} = await forktree(['force-cleanup', '--state', host.stateDir]);
	t.is(exitCode, 1);
	t.is(stdout, '');
	t.is(
		stderr,
		`forktree: expected a free state folder, got ${host.stateDir}, which process ${host.process.pid} owns\n`,
	);
	t.deepEqual(everything(host.stateDir), before);
	t.true(groups.every((group) => existsSync(group)));
	t.true(host.pids.every(isAlive));
	await kill(host);
	await forceCleanup({stateDir: host.stateDir});
	t.false(groups.some((group) => existsSync(group)));
});

/** Starts a host, kills it at the first line of stdin, and waits for it without reaping it. */
const neglectfulParent = `
import os, signal, subprocess, sys
host = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.readline()
host.send_signal(signal.SIGKILL)
os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOWAIT)
print(host.pid, flush=True)
sys.stdin.read()
`;

kernelTest('an owner that is dead but not reaped is dead', async (t) => {
	const stateDir = await folder(t);
	const command = [process.execPath, '--import=tsx', hostScript, stateDir, python];
	const parent = spawn(python, ['-c', neglectfulParent, ...command], {stdio: ['pipe', 'pipe', 'inherit']});
	t.teardown(() => parent.kill('SIGKILL'));
	const lines = createInterface(parent.stdout);
	await once(lines, 'line', {signal: AbortSignal.timeout(60_000)});
	const groups = cgroupsOf(stateDir);
	parent.stdin.write('\n');
	const [pid] = (await once(lines, 'line', {signal: AbortSignal.timeout(60_000)})) as [string];
	t.regex(readFileSync(`/proc/${pid}/stat`, 'utf8'), /^\d+ \(.*\) Z /);
	const report = await forceCleanup({stateDir});
	t.deepEqual(report.cgroups, groups);
	t.false(groups.some((group) => existsSync(group)));
	t.deepEqual(readdirSync(stateDir).sort(), ['functions', 'packages']);
	t.regex(readFileSync(`/proc/${pid}/stat`, 'utf8'), /^\d+ \(.*\) Z /, 'it was a zombie all the time');
});

kernelTest('without a folder all temporary ones of dead owners go, and those of live ones stay', async (t) => {
	const temporary = await folder(t);
	const parent = path.join(temporary, `forktree-${process.getuid?.()}`);
	const dead = await startHost(t, path.join(parent, 'dead'));
	const live = await startHost(t, path.join(parent, 'live'));
	const groups = {dead: cgroupsOf(dead.stateDir), live: cgroupsOf(live.stateDir)};
	await kill(dead);
	const {exitCode, stdout, stderr} = await forktree(['force-cleanup'], {env: {TMPDIR: temporary}});
	t.is(exitCode, 0, stderr);
	t.deepEqual(readdirSync(parent), ['live']);
	t.false(groups.dead.some((group) => existsSync(group)));
	t.true(groups.live.every((group) => existsSync(group)));
	t.true(live.pids.every(isAlive));
	const lines = stdout.trimEnd().split('\n');
	for (const removed of [...groups.dead.map((group) => `cgroup ${group}`), dead.stateDir])
		t.true(lines.includes(`removed ${removed}`), stdout);
	t.is(lines.at(-1), `left ${live.stateDir}, which process ${live.process.pid} owns`);
	await kill(live);
	await forktree(['force-cleanup'], {env: {TMPDIR: temporary}});
	t.deepEqual(readdirSync(parent), []);
	t.false(groups.live.some((group) => existsSync(group)));
});

kernelTest('a group that is noted but not named as ours is left alone', async (t) => {
	const host = await startHost(t);
	const groups = cgroupsOf(host.stateDir);
	const foreign = path.join(path.dirname(groups[0] as string), `of-others-${process.pid}`);
	mkdirSync(foreign);
	t.teardown(() => rmdirSync(foreign));
	writeFileSync(path.join(host.stateDir, 'cgroups.json'), JSON.stringify([foreign, ...groups]));
	await kill(host);
	const report = await forceCleanup({stateDir: host.stateDir});
	t.deepEqual(report.cgroups, groups);
	t.true(existsSync(foreign));
});

test('a folder that nobody owns is left as it is, and one that is not there is not made', async (t) => {
	const directory = await folder(t);
	await mkdir(path.join(directory, 'mnt'));
	await writeFiles(directory, {'staging/file': 'text'});
	const before = everything(directory);
	const nothing = {processes: [], cgroups: [], paths: [], inUse: []};
	t.deepEqual(await forceCleanup({stateDir: directory}), nothing);
	t.deepEqual(everything(directory), before);
	t.deepEqual(await forceCleanup({stateDir: path.join(directory, 'none')}), nothing);
	t.deepEqual(everything(directory), before);
});
