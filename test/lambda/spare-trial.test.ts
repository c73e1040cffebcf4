import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {py, useRuntime, value} from '../helpers/runtime.ts';

const fixture = useRuntime();

/** Writes to what it was forked with, and says how many pages that made the kernel copy. */
const code = py`
	import gc, json, resource, sys
	def f(event):
		before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
		kept = [getattr(module, name, None) for module in list(sys.modules.values()) for name in dir(module)]
		return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
`;

kernelTest(
	'now and then a spare goes without the pages that others have ahead, to see whether that pays',
	async (t) => {
		const name = await fixture().deploy(code, {reuse: false});
		const faults: number[] = [];
		for (let i = 0; i < 200 && faults.length < 60; i += 1) {
			const outcome = await fixture().runtime.invoke(name, null);
			// Before, there may be nothing to have ahead, and later on there are those that had it when they were compared.
			if (i >= 10 && outcome.spare === 'function') faults.push(value(t, outcome) as number);
			await new Promise(setImmediate);
		}
		t.log(faults.join(' '));
		const [least = 0, most = 0] = [Math.min(...faults), Math.max(...faults)];
		t.true(most > 2 * least, `${least}, ${most}`);
		t.true(faults.filter((each) => each < most / 2).length >= 3);
		t.true(faults.filter((each) => each > most / 2).length >= 3);
	},
);
