import {Cgroup} from '../../src/kernel/cgroup.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {useRuntime} from '../helpers/runtime.ts';

const fixture = useRuntime();

kernelTest('a zygote’s spare gets less CPU time than others until it is ready, and then as much', async (t) => {
	const weighed = new Map<Cgroup, string[]>();
	const {weigh} = Cgroup.prototype;
	t.teardown(() => {
		Cgroup.prototype.weigh = weigh;
	});
	Cgroup.prototype.weigh = function (this: Cgroup, share) {
		weighed.set(this, [...(weighed.get(this) ?? []), share]);
		weigh.call(this, share);
	};
	const name = await fixture().deploy('def f(event):\n\treturn event\n', {reuse: false, spares: 0});
	let taken = 0;
	for (let i = 0; i < 100 && taken < 3; i += 1) {
		const {spare} = await fixture().runtime.invoke(name, i);
		if (spare === 'node') taken += 1;
		await new Promise(setImmediate);
	}
	const ready = [...weighed.values()].filter(({length}) => length === 2);
	t.true(taken === 3 && ready.length >= 3);
	for (const shares of ready) t.deepEqual(shares, ['low', 'usual']);
	for (const shares of weighed.values()) t.is(shares[0], 'low');
});
