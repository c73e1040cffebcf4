import test from 'ava';
import {Slots} from '../../src/packages/slots.ts';

const never = new AbortController().signal;

test('no more at once than there are slots, in the order of asking, whatever becomes of each', async (t) => {
	const slots = new Slots(2);
	const order: number[] = [];
	let busy = 0;
	let most = 0;
	const work = async (number: number): Promise<number> => {
		busy += 1;
		most = Math.max(most, busy);
		order.push(number);
		await new Promise((resolve) => setImmediate(resolve));
		busy -= 1;
		if (number % 3 === 0) throw new Error(String(number));
		return number;
	};
	const numbers = Array.from({length: 10}, (_, index) => index);
	const ends = await Promise.allSettled(numbers.map((number) => slots.run(never, () => work(number))));
	t.is(most, 2);
	t.deepEqual(order, numbers);
	t.deepEqual(
		ends.map((each) => (each.status === 'fulfilled' ? each.value : Number(each.reason.message))),
		numbers,
	);
});

test('who gives up waiting takes no slot, and is not called', async (t) => {
	const slots = new Slots(1);
	let leave = (): void => undefined;
	const first = slots.run(never, () => new Promise<void>((resolve) => (leave = resolve)));
	const controller = new AbortController();
	const second = slots.run(controller.signal, async () => t.fail());
	const third = slots.run(never, async () => 'third');
	controller.abort(new Error('enough'));
	await t.throwsAsync(second, {message: 'enough'});
	await t.throwsAsync(
		slots.run(AbortSignal.abort(new Error('before')), async () => t.fail()),
		{message: 'before'},
	);
	leave();
	t.is(await third, 'third');
	await first;
});
