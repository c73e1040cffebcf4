/** What a function has written does not run in it, however its sandbox was started; each attempt is seen to work without the option. */
import type {ExecutionContext} from 'ava';
import type {DeployOptions, Outcome, Runtime} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {newExecutables, waysOfSandbox, waysOfZygote} from '../helpers/new-executables.ts';
import {waitMs, within} from '../helpers/pool.ts';
import {failure, makeRuntime, py, useRuntime, value} from '../helpers/runtime.ts';

const fixture = useRuntime();
const handler = {
	'ways.py': newExecutables,
	'f.py': 'from ways import try_all\ndef f(folder):\n\treturn try_all(folder)\n',
};

/** Calls it until its sandbox was started in that way; those before are made from what is there. */
async function callUntil(
	t: ExecutionContext,
	runtime: Runtime,
	name: string,
	isMeant: (outcome: Outcome) => boolean,
	folder = '/tmp',
): Promise<unknown> {
	const deadline = performance.now() + waitMs;
	while (performance.now() < deadline) {
		const outcome = await runtime.invoke(name, folder, {timeoutMs: waitMs});
		const found = value(t, outcome);
		if (isMeant(outcome)) return found;
		await new Promise(setImmediate);
	}
	throw t.fail('expected a sandbox that was started in that way');
}

const starts: ReadonlyArray<readonly [string, DeployOptions, (outcome: Outcome) => boolean]> = [
	['cold', {zygote: false, spares: 0}, ({start}) => start === 'cold'],
	['forked', {ownZygote: false, spares: 0}, ({start, spare}) => start === 'forked' && spare === undefined],
	['made of its zygote’s spare', {ownZygote: false, spares: 0}, ({spare}) => spare === 'node'],
	['started ahead', {ownZygote: false}, ({spare}) => spare === 'function'],
];

for (const [title, options, isMeant] of starts) {
	kernelTest(`nothing that it wrote is executed in a sandbox that was ${title}`, async (t) => {
		const {runtime} = fixture();
		const results = [];
		// The spares of a zygote serve functions with it and without.
		for (const noNewExecutables of [false, true, false]) {
			const name = await fixture().deploy(handler, {...options, reuse: false, noNewExecutables});
			results.push(await callUntil(t, runtime, name, isMeant, '/dev/shm'));
			await runtime.remove(name);
		}
		t.deepEqual(results, [waysOfSandbox, [], waysOfSandbox]);
	});
}

/** Its module takes so long that it gets a zygote, in which it tries all as well; answers what worked there. */
const ownModule = {
	'ways.py': newExecutables,
	'f.py': py`
		import os, time
		from ways import try_all
		time.sleep(1)
		LOADED_BY = os.getpid()
		THERE = try_all('/tmp')
		def f(folder):
			return {'zygote': THERE if LOADED_BY != os.getpid() else None, 'sandbox': try_all(folder)}
	`,
};

kernelTest('nor in its own zygote, in a sandbox of that, or in a spare of that', async (t) => {
	for (const noNewExecutables of [false, true]) {
		const {runtime} = await makeRuntime(t);
		const created = new Promise<void>((resolve) => {
			runtime.on('zygoteCreated', ({modules}) => modules[0] === 'f.py' && resolve());
		});
		runtime.on('importFailed', ({traceback}) => void t.log(traceback));
		await runtime.deploy('own', ownModule, {reuse: false, spares: 0, noNewExecutables});
		value(t, await runtime.invoke('own', '/tmp'));
		await within(created, 'a zygote of its own');
		const expected = noNewExecutables ? {zygote: [], sandbox: []} : {zygote: waysOfZygote, sandbox: waysOfSandbox};
		const outcome = await runtime.invoke('own', '/tmp');
		t.true(outcome.ownZygote);
		t.deepEqual(value(t, outcome), expected);
		const ofSpare = await callUntil(t, runtime, 'own', ({ownZygote, spare}) => ownZygote && spare === 'node');
		t.deepEqual(ofSpare, expected);
	}
});

kernelTest('ol.yaml asks for it, the option has the last word, and it is remembered', async (t) => {
	const {runtime, stateDir} = await makeRuntime(t);
	const files = {...handler, 'ol.yaml': 'no-new-executables: true\n'};
	await runtime.deploy('refused', files);
	await runtime.deploy('allowed', files, {noNewExecutables: false});
	const settingsOf = (described: Runtime) =>
		Object.fromEntries(described.list().map(({name, noNewExecutables}) => [name, noNewExecutables]));
	const expected = {refused: true, allowed: false};
	t.deepEqual(settingsOf(runtime), expected);
	t.deepEqual(value(t, await runtime.invoke('refused', '/tmp')), []);
	t.deepEqual(value(t, await runtime.invoke('allowed', '/tmp')), [...waysOfSandbox]);
	await runtime.close();
	const again = await makeRuntime(t, {stateDir});
	t.deepEqual(settingsOf(again.runtime), expected);
	t.deepEqual(value(t, await again.runtime.invoke('refused', '/tmp')), []);
});

kernelTest('code that is made in memory runs, and what has no files in memory is told', async (t) => {
	const code = py`
		import ctypes, mmap, os
		RETURN = {'x86_64': b'\xc3', 'aarch64': b'\xc0\x03\x5f\xd6'}[os.uname().machine]
		def f(event):
			if event is not None:
				os.memfd_create('anything')
			memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
			memory.write(RETURN)
			ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
			return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(6)
	`;
	const name = await fixture().deploy(code, {noNewExecutables: true});
	t.is(value(t, await fixture().runtime.invoke(name, null)), 7);
	t.regex(failure(t, await fixture().runtime.invoke(name, 1)).message, /Operation not permitted/);
});
