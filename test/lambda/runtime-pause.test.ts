import {readdirSync, readFileSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import type {Outcome, Runtime} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, LeakCheck, processesIn} from '../helpers/leak-check.ts';
import {until} from '../helpers/pool.ts';
import {makeRuntime, patientLimits, py, value} from '../helpers/runtime.ts';

const leaks = new LeakCheck();
test.after.always('nothing is left', (t) => leaks.verify(t));

/** Leaves running whatever is asked for, and counts calls. */
const leaving = py`
	import os, signal, threading, time
	count = 0
	def spin():
		while True: pass
	def multiply():
		while True:
			try:
				if os.fork() == 0: time.sleep(0.001); os._exit(0)
				os.waitpid(-1, os.WNOHANG)
			except OSError: pass
	def f(event):
		global count
		count += 1
		if event == 'thread': threading.Thread(target=spin, daemon=True).start()
		if event == 'child' and os.fork() == 0: spin()
		if event == 'children' and os.fork() == 0: multiply()
		if event == 'session' and os.fork() == 0:
			os.setsid()
			signal.signal(signal.SIGCONT, signal.SIG_IGN)
			spin()
		return count
`;

/** Groups of sandboxes of which the kernel says that all in them is frozen. */
function frozenGroups(stateDir: string): string[] {
	const read = (file: string) => {
		try {
			return readFileSync(file, 'latin1');
		} catch {
			return ''; // another hierarchy's, or it has just gone
		}
	};
	return cgroupsOf(stateDir).flatMap((parent) =>
		readdirSync(parent)
			.filter((name) => name.startsWith('sandbox-'))
			.map((name) => path.join(parent, name))
			.filter(
				(group) =>
					read(path.join(group, 'freezer.state')).trim() === 'FROZEN' ||
					/^frozen 1$/m.test(read(path.join(group, 'cgroup.events'))),
			),
	);
}

/** A runtime with a function that leaves something running; `groups` answers which are frozen. */
async function deploy(
	t: ExecutionContext,
	instancePauseMs = 20,
): Promise<{readonly runtime: Runtime; readonly groups: () => string[]}> {
	const {runtime, stateDir} = await makeRuntime(t, {instancePauseMs});
	leaks.track(stateDir);
	await runtime.deploy('f', {'f.py': leaving}, {limits: {...patientLimits, processes: 16}});
	return {runtime, groups: () => frozenGroups(stateDir)};
}

/** Waits until so many instances are. */
async function untilParked(runtime: Runtime, wanted: number): Promise<void> {
	let parked = -1;
	const look = async () => {
		parked = (await runtime.stats()).functions.reduce((sum, each) => sum + each.parked, 0);
	};
	await until(() => {
		void look();
		return parked === wanted;
	}, `${wanted} parked instances`);
}

async function counts(runtime: Runtime) {
	return (await runtime.stats()).functions[0];
}

for (const left of ['nothing', 'thread', 'child', 'children', 'session']) {
	kernelTest(
		`an idle instance is stopped with all that is in it, and the next call goes on with it: ${left}`,
		async (t) => {
			const {runtime, groups} = await deploy(t);
			const first = await runtime.invoke('f', left);
			for (let turn = 2; turn < 5; turn += 1) {
				await until(() => groups().length === 1, 'a frozen group');
				t.like(await counts(runtime), {idle: 1, paused: 1});
				const used = cpuTicks(groups());
				await new Promise((resolve) => setTimeout(resolve, 30));
				t.is(cpuTicks(groups()), used);
				const outcome = await runtime.invoke('f', null);
				t.deepEqual([value(t, outcome), outcome.start, outcome.sandbox], [turn, 'warm', first.sandbox]);
			}
		},
	);
}

/** CPU time of all processes of groups, in ticks of the clock. */
function cpuTicks(groups: readonly string[]): number {
	return processesIn(groups).reduce((sum, pid) => {
		const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
			.replace(/^.*\) /s, '')
			.split(' ');
		return sum + Number(fields[11]) + Number(fields[12]);
	}, 0);
}

kernelTest('those that wait longest are paused first, and all in the end', async (t) => {
	const {runtime, groups} = await deploy(t);
	const code = 'import time\ndef f(event):\n\ttime.sleep(event)\n';
	await runtime.deploy('f', {'f.py': code});
	await Promise.all([0, 0.1, 0.2].map((seconds) => runtime.invoke('f', seconds)));
	await until(() => groups().length === 3, 'three frozen groups');
	t.like(await counts(runtime), {idle: 3, paused: 3});
	await Promise.all([0, 0.1].map((seconds) => runtime.invoke('f', seconds)));
	await until(() => groups().length === 3, 'three frozen groups again');
});

kernelTest('an instance that is called often enough is never paused', async (t) => {
	const {runtime, groups} = await deploy(t, 60_000);
	t.is(value(t, await runtime.invoke('f', null)), 1);
	t.like(await counts(runtime), {idle: 1, paused: 0});
	t.deepEqual(groups(), []);
});

kernelTest(
	'a paused instance ends when it is evicted, when its function is removed, and with the runtime',
	async (t) => {
		const {runtime, stateDir} = await makeRuntime(t, {instancePauseMs: 20, memoryBudgetMb: 128});
		leaks.track(stateDir);
		const ended = () => new Promise((resolve) => runtime.once('destroyed', resolve));
		for (const [name, end] of [
			['evicted', async () => runtime.invoke('other', null)],
			['removed', async () => runtime.remove('removed')],
			['left', async () => runtime.close()],
		] as const) {
			await runtime.deploy(name, {'f.py': leaving}, {limits: {memoryMb: 100}});
			t.true((await runtime.invoke(name, 'child')).ok);
			await until(() => frozenGroups(stateDir).length === 1, 'a frozen group');
			// Parked or not: beside it there is no room for that.
			const memoryMb = 127 - Math.ceil((await runtime.stats()).memory.zygotesMb);
			await runtime.deploy('other', {'f.py': 'def f(event):\n\treturn 1\n'}, {limits: {memoryMb}});
			const destroyed = ended();
			await end();
			await destroyed;
		}
	},
);

kernelTest('what kills a paused instance from outside ends it, and the next call starts another', async (t) => {
	const {runtime, groups} = await deploy(t);
	t.is(value(t, await runtime.invoke('f', 'child')), 1);
	await until(() => groups().length === 1, 'a frozen group');
	for (const pid of processesIn(groups())) process.kill(pid, 'SIGKILL');
	const outcome = await runtime.invoke('f', null);
	t.true(outcome.ok ? outcome.value === 1 : outcome.error.code === 'Killed');
	t.is(value(t, await runtime.invoke('f', null)), outcome.ok ? 2 : 1);
});

/** Writes to so many MiB, and counts calls. */
const writing = py`
	count = 0
	def f(event):
		global count
		count += 1
		bytearray(event << 20)[::4096] = b'x' * (event << 8)
		return count
`;

kernelTest('a parked instance has given back what it does not use, and has it again in its next call', async (t) => {
	const {runtime, stateDir} = await makeRuntime(t, {instancePauseMs: 20});
	leaks.track(stateDir);
	const limits = {memoryMb: 100};
	await runtime.deploy('f', {'f.py': writing}, {limits});
	for (let turn = 1; turn < 4; turn += 1) {
		t.is(value(t, await runtime.invoke('f', 70)), turn);
		await untilParked(runtime, 1);
		const {memory, functions} = await runtime.stats();
		t.true(memory.reservedMb < 20, `${memory.reservedMb} MiB`);
		t.like(functions[0], {idle: 1, paused: 1, parked: 1});
	}
	let reservedMb: Promise<number> | undefined;
	await runtime.deploy('f', {'f.py': 'def f(event):\n\tprint("here")\n'}, {limits});
	await runtime.invoke('f', null);
	await untilParked(runtime, 1);
	await runtime.invoke('f', null, {
		onStdout() {
			reservedMb = runtime.stats().then(({memory}) => memory.reservedMb);
		},
	});
	t.is(await reservedMb, 100);
});

kernelTest('a parked instance whose memory others have is called once these have gone', async (t) => {
	const {runtime, stateDir} = await makeRuntime(t, {instancePauseMs: 300, memoryBudgetMb: 240});
	leaks.track(stateDir);
	const options = {limits: {memoryMb: 100}, spares: 0};
	await runtime.deploy('often', {'f.py': writing}, options);
	for (let turn = 1; turn < 20; turn += 1) t.is(value(t, await runtime.invoke('often', 1)), turn);
	await untilParked(runtime, 1);
	for (const name of ['once', 'once-as-well']) {
		await runtime.deploy(name, {'f.py': writing}, options);
		t.is(value(t, await runtime.invoke(name, 1)), 1);
	}
	const outcome = await runtime.invoke('often', 70);
	t.deepEqual([value(t, outcome), outcome.start], [20, 'warm']);
});

kernelTest('a parked instance that goes for another one is made again', async (t) => {
	const {runtime, stateDir} = await makeRuntime(t, {instancePauseMs: 20, memoryBudgetMb: 140});
	leaks.track(stateDir);
	const options = {limits: {memoryMb: 100}, spares: 0};
	await runtime.deploy('f', {'f.py': writing}, options);
	await runtime.deploy(
		'busy',
		{'f.py': 'import time\ndef f(event):\n\tprint("here", flush=True)\n\ttime.sleep(0.3)\n'},
		options,
	);
	t.is(value(t, await runtime.invoke('f', 1)), 1);
	await untilParked(runtime, 1);
	let second: ReturnType<Runtime['invoke']> | undefined;
	const busy = await runtime.invoke('busy', null, {
		onStdout() {
			second ??= runtime.invoke('f', 70);
		},
	});
	t.true(busy.ok, 'it had room beside the parked one');
	t.is(value(t, (await second) as Outcome), 1);
});
