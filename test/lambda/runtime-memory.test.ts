import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {makeRuntime, value} from '../helpers/runtime.ts';
import {provideWheels} from '../helpers/wheels.ts';

/** What the zygote of the package has besides the interpreter. */
const packageMb = 40;

provideWheels({
	memory_large: {
		'memory_large.py': `import time\nKEPT = bytearray(${packageMb} << 20)\nKEPT[::4096] = b'x' * (len(KEPT) // 4096)\ntime.sleep(0.3)\n`,
	},
});
const requirements = ['memory_large'];
const importing = {'f.py': 'import memory_large\ndef f(event):\n\treturn event\n'};
const echo = {'f.py': 'def f(event):\n\treturn event\n'};
const limits = {memoryMb: 100};

kernelTest('what zygotes use takes room, and they go for those who have none', async (t) => {
	const {runtime} = await makeRuntime(t, {memoryBudgetMb: 140});
	await runtime.deploy('importing', importing, {requirements, reuse: false, spares: 0, limits: {memoryMb: 32}});
	await runtime.deploy('echo', echo, {limits});
	t.is(value(t, await runtime.invoke('importing', 1)), 1);
	t.true((await runtime.stats()).memory.zygotesMb >= packageMb);
	const destroyed: string[] = [];
	runtime.on('zygoteDestroyed', ({packages}) => destroyed.push(packages));
	t.is(value(t, await runtime.invoke('echo', 2)), 2);
	t.is(destroyed.length, 1);
	const {memory} = await runtime.stats();
	t.is(memory.reservedMb, limits.memoryMb);
	t.true(memory.zygotesMb + memory.reservedMb <= 140, JSON.stringify(memory));
});

kernelTest('a zygote that a start waits for does not go for another start that has no room', async (t) => {
	const leaks = new LeakCheck();
	const {runtime, stateDir} = await makeRuntime(t, {memoryBudgetMb: 240});
	leaks.track(stateDir);
	await runtime.deploy('importing', importing, {requirements, reuse: false, spares: 0, limits});
	await runtime.deploy('echo', echo, {limits});
	const created: string[] = [];
	runtime.on('zygoteCreated', ({packages}) => created.push(packages));
	const first = runtime.invoke('importing', 1);
	await new Promise((resolve) => runtime.once('zygoteCreated', resolve));
	const second = runtime.invoke('echo', 2);
	t.is(value(t, await first), 1);
	t.is(created.length, 1);
	t.is(value(t, await second), 2);
	await runtime.close();
	leaks.verify(t);
});
