/** What holds an ordinary user's sandboxes where no cgroups are given to the user: run by `test/as-user.sh --no-groups`. */
import {readFileSync} from 'node:fs';
import process from 'node:process';
import {PassThrough} from 'node:stream';
import test, {type ExecutionContext} from 'ava';
import {createRuntime, createSandboxPool} from '../../src/index.ts';
import {findHostCgroups} from '../../src/kernel/cgroup-host.ts';
import {findIdentity} from '../../src/sandbox/identity.ts';
import {refusal} from '../helpers/kernel-test.ts';
import {checkLeaks, makePool, type PoolFixture, startReady} from '../helpers/pool.ts';
import {failure, python, value} from '../helpers/runtime.ts';

const hasGroups = refusal !== undefined || findHostCgroups('managed').hierarchies.length > 0;

function groupless(title: string, run: (t: ExecutionContext) => Promise<void>): void {
	if (hasGroups) test.serial.skip(`${title} [skipped: needs a user without cgroups]`, run);
	else test.serial(title, run);
}

checkLeaks();

async function open(t: ExecutionContext): Promise<PoolFixture> {
	return makePool(t, {bestEffort: true});
}

/** Starts as many children as it is given, as far as it gets them, says so, and keeps them. */
const forking = `
import os, sys, time
count = 0
try:
	while count < int(sys.argv[1]):
		if os.fork() == 0:
			time.sleep(60)
			os._exit(0)
		count += 1
except BlockingIOError:
	pass
print(count, 'ready', sep='\\\\n', flush=True)
sys.stdin.readline()
`;

groupless('without bestEffort nothing is made, and the words say what is missing and how to get it', async (t) => {
	const error = {
		code: 'NotPermitted',
		message: /memory, cpu.* without which nothing holds memoryMb, swapMb, cpuPercent; .*systemd-run/,
	};
	await t.throwsAsync(createSandboxPool(), error);
	await t.throwsAsync(createRuntime({python}), error);
});

groupless('with it, what is not held is named, and what nothing counts is undefined', async (t) => {
	const {pool} = await open(t);
	const sandbox = await pool.create();
	const {isolation, currentMiB, peakMiB} = sandbox.stats();
	t.deepEqual(isolation, {level: 'rootless', cgroup: 'none', notEnforced: ['memoryMb', 'swapMb', 'cpuPercent']});
	t.deepEqual([currentMiB, peakMiB], [undefined, undefined]);
	await t.throwsAsync(sandbox.pause(), {code: 'NotSupported', message: /freezer/});
	t.is((await sandbox.exec(['echo', 'lives'])).stdout, 'lives\n');
});

groupless('processes are held to their number, whatever other sandboxes have', async (t) => {
	const {pool} = await open(t);
	const counts: number[] = [];
	for (let made = 0; made < 3; made += 1) {
		const sandbox = await pool.create({limits: {processes: 12}});
		const {result} = await startReady(sandbox, `exec ${python} -c "$PROGRAM" 100`, {
			env: {PROGRAM: forking},
			stdin: new PassThrough(), // it is not to end meanwhile
		});
		t.teardown(async () => {
			await sandbox.destroy();
			await result;
		});
		counts.push(sandbox.stats().processes);
	}
	t.deepEqual(counts, [11, 11, 11]); // without its first process, which is ours
});

groupless('memoryMb holds each process, also one that a zygote has forked', async (t) => {
	const {pool} = await open(t);
	const limits = {memoryMb: 64};
	const take = (megabytes: number) => [python, '-c', `len(bytearray(${megabytes} << 20))`];
	t.is((await pool.run(take(32), {sandbox: {limits}})).exitCode, 0);
	const {exitCode, stderr} = await pool.run(take(100), {sandbox: {limits}});
	t.is(exitCode, 1);
	t.regex(stderr, /MemoryError/);
	await using runtime = await createRuntime({bestEffort: true, python});
	await runtime.deploy(
		'take',
		{'f.py': 'def f(megabytes):\n\treturn len(bytearray(megabytes << 20))\n'},
		{limits, reuse: false},
	);
	for (let call = 0; call < 6; call += 1) {
		t.is(value(t, await runtime.invoke('take', 32)), 32 << 20);
		t.is(failure(t, await runtime.invoke('take', 100)).type, 'MemoryError');
	}
});

groupless('where ids were given each sandbox has one of its own, else the user’s', async (t) => {
	const {pool} = await open(t);
	const owners = new Set<number>();
	for (let made = 0; made < 3; made += 1) {
		const sandbox = await pool.create();
		const {stdout} = await sandbox.exec(['cat', '/proc/self/uid_map']);
		t.regex(stdout, /^ *\d+ +\d+ +\d+\n$/);
		for (const pid of childrenOf(process.pid)) owners.add(uidOf(pid));
	}
	owners.delete(process.getuid?.() ?? 0);
	if (findIdentity().kind === 'own') t.is(owners.size, 0);
	else t.true(owners.size > 0 && [...owners].every((uid) => uid >= 100_000), `${[...owners]}`);
});

/** Everything below a process, as far as we see. */
function childrenOf(pid: number): number[] {
	const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean).map(Number);
	return children.flatMap((each) => [each, ...childrenOf(each)]);
}

function uidOf(pid: number): number {
	return Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]);
}
