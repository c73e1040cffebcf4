import {executionAsyncResource} from 'node:async_hooks';
import {setTimeout as sleep} from 'node:timers/promises';
import test from 'ava';
import {Scope} from '../../src/packages/scope.ts';

test('work has its value, also later and beside other work; afterwards there is none', async (t) => {
	const scope = new Scope<number>();
	const seen = await Promise.all(
		[1, 2, 3].map((value) =>
			scope.run(value, async () => {
				await sleep(value);
				return scope.run(value * 10, async () => [scope.value, await sleep(1).then(() => scope.value)]);
			}),
		),
	);
	t.deepEqual(seen, [
		[10, 10],
		[20, 20],
		[30, 30],
	]);
	t.is(scope.value, undefined);
	await t.throwsAsync(
		scope.run(4, async () => Promise.reject(new Error(String(scope.value)))),
		{message: '4'},
	);
	t.is(await scope.run(5, async () => scope.value), 5);
});

test('nothing is noted of promises while no work is done', async (t) => {
	const scope = new Scope<number>();
	const stores = () => Object.getOwnPropertySymbols(executionAsyncResource()).length;
	const during = await scope.run(1, async () => sleep(1).then(stores));
	t.true(during > (await sleep(1).then(stores)));
});
