import test from 'ava';
import fc from 'fast-check';
import {MemoryBudget} from '../../src/sandbox/memory-budget.ts';

const noRoom = () => undefined;
const long = 60_000;

/** Whether a promise has settled, once everything that waits for nothing has run. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
	let settled = false;
	const note = () => {
		settled = true;
	};
	promise.then(note, note);
	await new Promise((resolve) => setImmediate(resolve));
	return settled;
}

test('what fits is reserved at once, and given back once', async (t) => {
	const budget = new MemoryBudget(100);
	const release = await budget.reserve(60, long, () => t.fail());
	t.is(budget.reservedMb, 60);
	release();
	release();
	t.is(budget.reservedMb, 0);
});

test('more than the whole budget is a RangeError', async (t) => {
	await t.throwsAsync(() => new MemoryBudget(100).reserve(100.5, long, noRoom), {
		instanceOf: RangeError,
		message: /memoryBudgetMb/,
	});
});

test('what does not fit waits, asks for room, and comes in fair order', async (t) => {
	const budget = new MemoryBudget(100);
	const first = await budget.reserve(100, long, noRoom);
	let asked = 0;
	const order: string[] = [];
	const note = (name: string) => (release: () => void) => {
		order.push(name);
		return release;
	};
	const large = budget
		.reserve(80, long, () => {
			asked += 1;
		})
		.then(note('large'));
	const small = budget.reserve(10, long, noRoom).then(note('small'));
	t.is(asked, 1);
	t.false(await isSettled(small));
	first();
	const releases = await Promise.all([large, small]);
	t.deepEqual(order, ['large', 'small']);
	for (const release of releases) release();
	t.is(budget.reservedMb, 0);
});

test('a small one does not overtake a large one that waits', async (t) => {
	const budget = new MemoryBudget(100);
	const first = await budget.reserve(50, long, noRoom);
	const large = budget.reserve(80, long, noRoom);
	const small = budget.reserve(10, long, noRoom);
	t.false(await isSettled(small));
	first();
	(await large)();
	(await small)();
	t.is(budget.reservedMb, 0);
});

test('room that is made while asked for is taken at once', async (t) => {
	const budget = new MemoryBudget(100);
	const first = await budget.reserve(100, long, noRoom);
	const second = await budget.reserve(100, long, first);
	t.is(budget.reservedMb, 100);
	second();
});

test('after the deadline it is BudgetExceeded, and those behind get their turn', async (t) => {
	const budget = new MemoryBudget(100);
	const first = await budget.reserve(50, long, noRoom);
	const large = budget.reserve(80, 20, noRoom);
	const small = budget.reserve(10, long, noRoom);
	await t.throwsAsync(large, {code: 'BudgetExceeded', message: /80 MiB of the budget of 100 MiB/});
	(await small)();
	first();
	t.is(budget.reservedMb, 0);
});

test('an abort is Aborted with its reason, and those behind get their turn', async (t) => {
	const budget = new MemoryBudget(100);
	const first = await budget.reserve(50, long, noRoom);
	const controller = new AbortController();
	const large = budget.reserve(80, long, noRoom, controller.signal);
	const small = budget.reserve(10, long, noRoom);
	const reason = new Error('enough');
	controller.abort(reason);
	t.is((await t.throwsAsync(large, {code: 'Aborted'})).cause, reason);
	(await small)();
	first();
	t.is(budget.reservedMb, 0);
});

test('what is in use besides takes room, and when it is told to have become less who waits is served', async (t) => {
	let besidesMb = 30;
	const budget = new MemoryBudget(100, () => besidesMb);
	const first = await budget.reserve(60, long, noRoom);
	t.true(budget.hasRoom(10));
	t.false(budget.hasRoom(11));
	const second = budget.reserve(20, long, noRoom);
	const third = budget.reserve(40, long, noRoom);
	t.is(budget.missingMb, 50);
	besidesMb = 21;
	budget.recheck();
	t.false(await isSettled(second));
	besidesMb = 20;
	t.false(await isSettled(second));
	budget.recheck();
	(await second)();
	first();
	(await third)();
	t.deepEqual([budget.reservedMb, budget.missingMb], [0, 0]);
});

test('whatever is reserved, released and aborted: never too much, and in the end nothing', async (t) => {
	const step = fc.record({megabytes: fc.integer({min: 1, max: 100}), abort: fc.boolean(), releaseFirst: fc.boolean()});
	await fc.assert(
		fc.asyncProperty(fc.array(step, {maxLength: 30}), async (steps) => {
			const budget = new MemoryBudget(100);
			const held: Array<() => void> = [];
			const waits: Array<Promise<unknown>> = [];
			for (const {megabytes, abort, releaseFirst} of steps) {
				if (releaseFirst) held.shift()?.();
				const controller = new AbortController();
				const reserved = budget.reserve(megabytes, long, noRoom, controller.signal).then(
					(release) => held.push(release),
					() => undefined,
				);
				waits.push(reserved);
				await new Promise((resolve) => setImmediate(resolve));
				if (abort) controller.abort();
				t.true(budget.reservedMb >= 0 && budget.reservedMb <= 100);
			}
			const all = Promise.all(waits);
			while (!(await isSettled(all))) held.shift()?.();
			for (const release of held) release();
			t.is(budget.reservedMb, 0);
		}),
		{numRuns: 60},
	);
});
