import {once} from 'node:events';
import {existsSync} from 'node:fs';
import {readdir, readFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import {setTimeout as delay} from 'node:timers/promises';
import {createRuntime} from '../../src/index.ts';
import {isAlive, startHost} from '../helpers/host-process.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, childrenOfOurs, LeakCheck} from '../helpers/leak-check.ts';
import {makeRuntime, python, value} from '../helpers/runtime.ts';

kernelTest(
	'when its host is killed nothing of a runtime is alive a second later, and the next one clears up',
	async (t) => {
		const host = await startHost(t);
		t.true(host.pids.length >= 8, 'keeper, init, zygote, idle and four spinning');
		t.true(host.pids.every(isAlive));
		const groups = cgroupsOf(host.stateDir);
		t.true(groups.length > 0 && groups.every((group) => existsSync(group)));
		host.process.kill('SIGKILL');
		await once(host.process, 'exit');
		const deadline = performance.now() + 1000;
		// The host was not the parent of them: there is no event to wait for.
		while (host.pids.some(isAlive) && performance.now() < deadline) await delay(5);
		t.deepEqual(host.pids.filter(isAlive), []);
		const {runtime} = await makeRuntime(t, {stateDir: host.stateDir});
		for (const group of groups) t.false(existsSync(group), group);
		t.is(value(t, await runtime.invoke('idle', 'again')), 'again');
		await runtime.close();
		t.deepEqual((await readdir(host.stateDir)).sort(), ['calls.json', 'functions', 'packages']);
	},
);

kernelTest('a state folder has one live owner, whom the error names', async (t) => {
	const host = await startHost(t);
	const before = (await readdir(host.stateDir, {recursive: true})).sort();
	const groups = cgroupsOf(host.stateDir);
	await t.throwsAsync(() => createRuntime({stateDir: host.stateDir, python}), {
		code: 'StateDirInUse',
		message: new RegExp(`process ${host.process.pid} owns`),
	});
	t.deepEqual((await readdir(host.stateDir, {recursive: true})).sort(), before);
	t.is((await readFile(path.join(host.stateDir, 'lock'), 'utf8')).trim(), String(host.process.pid));
	t.true(groups.every((group) => existsSync(group)));
	t.true(host.pids.every(isAlive));
	host.process.kill('SIGKILL');
	await once(host.process, 'exit');
	const {runtime} = await makeRuntime(t, {stateDir: host.stateDir});
	t.is(value(t, await runtime.invoke('idle', 1)), 1);
});

kernelTest('making and closing runtimes again and again leaves nothing', async (t) => {
	const {runtime: first} = await makeRuntime(t);
	await first.close();
	const leaks = new LeakCheck();
	for (let turn = 0; turn < 5; turn += 1) {
		const {runtime, stateDir} = await makeRuntime(t);
		leaks.track(stateDir);
		await runtime.deploy('f', {'f.py': 'def f(event):\n\treturn event\n'});
		t.is(value(t, await runtime.invoke('f', turn)), turn);
		await runtime.close();
		leaks.verify(t);
	}
});

kernelTest('a runtime without a state folder leaves none', async (t) => {
	const runtime = await createRuntime({python});
	t.teardown(() => runtime.close());
	const parent = path.join(process.env.TMPDIR ?? '/tmp', `forktree-${process.getuid?.()}`);
	const mine = async () => (await readdir(parent)).filter((name) => name.startsWith(`${process.pid}-`));
	t.is((await mine()).length, 1);
	await runtime.deploy('f', {'f.py': 'def f(event):\n\treturn event\n'});
	t.is(value(t, await runtime.invoke('f', 1)), 1);
	await runtime.close();
	t.deepEqual(await mine(), []);
});

kernelTest('the death of the keeper is an error of later starts, and close() still leaves nothing', async (t) => {
	const leaks = new LeakCheck();
	const {runtime, stateDir} = await makeRuntime(t);
	leaks.track(stateDir);
	const code = 'count = 0\ndef f(event):\n\tglobal count\n\tcount += 1\n\treturn count\n';
	await runtime.deploy('warm', {'f.py': code});
	t.is(value(t, await runtime.invoke('warm', null)), 1);
	const child = childrenOfOurs()
		.find((each) => each.includes('keeper'))
		?.split(' ')[0];
	t.truthy(child);
	process.kill(Number(child), 'SIGKILL');
	t.is(value(t, await runtime.invoke('warm', null)), 2);
	await t.throwsAsync(() => runtime.deploy('new', {'f.py': code}), {code: 'SandboxDead'});
	await runtime.close().catch(() => undefined);
	leaks.verify(t);
});
