import type {RuntimeEvents} from '../../src/index.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {within} from '../helpers/pool.ts';
import {py, useRuntime, value} from '../helpers/runtime.ts';
import {provideWheels} from '../helpers/wheels.ts';

function told(module: string, more = ''): Record<string, string> {
	return {[`${module}.py`]: `import os\nIMPORTED_BY = os.getpid()\n${more}`};
}

provideWheels({
	grow_low: told('grow_low'),
	grow_slow: told('grow_slow', 'import time\ntime.sleep(0.04)\n'),
	grow_more: told('grow_more'),
	grow_idle: told('grow_idle'),
	grow_last: told('grow_last'),
});

const tree = {children: [{packages: ['grow_low']}, {packages: ['grow_idle']}]};

const fixture = useRuntime({tree});

/** Which of the modules its zygote has imported. */
const code = py`
	import importlib, os
	def f(event):
		modules = [importlib.import_module(name) for name in event]
		return [module.__name__ for module in modules if module.IMPORTED_BY != os.getpid()]
`;

kernelTest('the tree follows what is called, while it is called', async (t) => {
	const {runtime} = fixture();
	const deploy = (name: string, ...requirements: string[]) =>
		runtime.deploy(name, {'f.py': code}, {requirements, reuse: false});
	await deploy('slow', 'grow_low', 'grow_slow');
	await deploy('more', 'grow_low', 'grow_more');
	await deploy('idle', 'grow_idle');
	await runtime.packages.measured();
	await runtime.prewarm();
	const created: string[][] = [];
	runtime.on('zygoteCreated', ({modules}) => created.push([...modules]));
	let change: RuntimeEvents['treeChanged'][0] | undefined;
	const changed = new Promise<void>((resolve) => {
		runtime.once('treeChanged', (event) => {
			change = event;
			resolve();
		});
	});
	const gone = new Promise<void>((resolve) => {
		runtime.on('zygoteDestroyed', () => resolve());
	});

	/** One call after the other until the tree has changed, and some more. */
	const call = async (name: string, modules: string[]) => {
		let last = 20;
		for (let i = 0; i < 3000 && last > 0; i += 1) {
			const outcome = await runtime.invoke(name, modules);
			const preloaded = outcome.preloaded.map((each) => each.replace('-', '_').replace('==1.0', ''));
			t.deepEqual(
				value(t, outcome),
				modules.filter((each) => preloaded.includes(each)),
			);
			if (change === undefined) continue;
			last -= 1;
			// Those before may be spares, which were made before.
			if (last < 10) t.deepEqual(preloaded, modules);
		}
	};
	await Promise.all([call('slow', ['grow_low', 'grow_slow']), call('more', ['grow_low', 'grow_more'])]);
	await within(changed, 'another tree');
	t.deepEqual(change, {nodes: 3, added: 2, removed: 1});
	t.deepEqual(created.sort(), [['grow_more'], ['grow_slow']], 'by the node above, which has the rest');

	await deploy('later', 'grow_low', 'grow_slow', 'grow_last');
	const later = await runtime.invoke('later', ['grow_low', 'grow_slow', 'grow_last']);
	t.deepEqual(value(t, later), ['grow_low', 'grow_slow'], 'a node for one set alone has become one for all');
	await within(gone, 'the end of a zygote that nobody called');
	const {zygotes} = await runtime.stats();
	t.false(zygotes.some(({modules}) => modules.includes('grow_idle')));
	const idle = await runtime.invoke('idle', ['grow_idle']);
	t.deepEqual([value(t, idle), idle.preloaded], [[], []]);
	await runtime.remove('later');
	await runtime.remove('slow');
	t.deepEqual(value(t, await runtime.invoke('more', ['grow_low', 'grow_more'])), ['grow_low', 'grow_more']);
});
