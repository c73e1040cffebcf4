import test from 'ava';
import fc from 'fast-check';
import {MemoryBudget} from '../../src/sandbox/memory-budget.ts';
import {Reserved} from '../../src/sandbox/reserved.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const noRoom = () => undefined;
const long = 60_000;

/** Lets everything run that waits for nothing. */
const turn = () => new Promise((resolve) => setImmediate(resolve));

async function isSettled(promise: Promise<unknown>): Promise<boolean> {
	let settled = false;
	const note = () => {
		settled = true;
	};
	promise.then(note, note);
	await turn();
	return settled;
}

test('taken, shrunk, grown and released: the budget knows each', async (t) => {
	const budget = new MemoryBudget(100);
	const reserved = await Reserved.take(budget, 60, long, noRoom);
	t.is(reserved.megabytes, 60);
	t.is(budget.reservedMb, 60);
	reserved.shrink(20);
	t.is(budget.reservedMb, 20);
	await reserved.grow();
	t.is(budget.reservedMb, 60);
	t.is(reserved.megabytes, 60);
	reserved.release();
	reserved.release();
	t.is(budget.reservedMb, 0);
});

test('to shrink to as much or more changes nothing, and so does to grow what is whole', async (t) => {
	const budget = new MemoryBudget(100);
	const reserved = await Reserved.take(budget, 60, long, noRoom);
	reserved.shrink(60);
	reserved.shrink(70);
	t.is(budget.reservedMb, 60);
	await reserved.grow();
	t.is(budget.reservedMb, 60);
});

test('what is given back serves those who wait; to grow again waits for them', async (t) => {
	const budget = new MemoryBudget(100);
	const one = await Reserved.take(budget, 60, long, noRoom);
	const waiting = Reserved.take(budget, 70, long, noRoom);
	t.false(await isSettled(waiting));
	one.shrink(30);
	const other = await waiting;
	t.is(budget.reservedMb, 100);
	const grown = one.grow();
	t.false(await isSettled(grown));
	other.release();
	await grown;
	t.is(budget.reservedMb, 60);
	one.release();
	t.is(budget.reservedMb, 0);
});

test('to grow asks for room, and names what is missing', async (t) => {
	const budget = new MemoryBudget(100);
	const asked: number[] = [];
	const one = await Reserved.take(budget, 60, long, (missingMb) => asked.push(missingMb));
	one.shrink(10);
	const other = await Reserved.take(budget, 80, long, noRoom);
	const grown = one.grow();
	await turn();
	t.deepEqual(asked, [40]);
	other.release();
	await grown;
	one.release();
});

test('after the deadline it is BudgetExceeded, what it has stays, and it can be tried again', async (t) => {
	const budget = new MemoryBudget(100);
	const one = await Reserved.take(budget, 60, 10, noRoom);
	one.shrink(10);
	const other = await Reserved.take(budget, 80, long, noRoom);
	await t.throwsAsync(one.grow(), {code: 'BudgetExceeded'});
	t.is(budget.reservedMb, 90);
	other.release();
	await one.grow();
	t.is(budget.reservedMb, 60);
	one.release();
	t.is(budget.reservedMb, 0);
});

test('what is released while it waits to grow leaves the queue at once, and has nothing', async (t) => {
	const budget = new MemoryBudget(100);
	const one = await Reserved.take(budget, 60, long, noRoom);
	one.shrink(10);
	const other = await Reserved.take(budget, 80, long, noRoom);
	const grown = one.grow();
	const behind = Reserved.take(budget, 20, long, noRoom);
	t.false(await isSettled(behind));
	one.release();
	await grown;
	t.is(budget.waiting, 0);
	(await behind).release();
	other.release();
	await one.grow();
	one.shrink(5);
	t.is(budget.reservedMb, 0);
});

test('an abort ends the wait to take', async (t) => {
	const budget = new MemoryBudget(100);
	const one = await Reserved.take(budget, 100, long, noRoom);
	const controller = new AbortController();
	const waiting = Reserved.take(budget, 1, long, noRoom, controller.signal);
	controller.abort();
	await t.throwsAsync(waiting, {code: 'Aborted'});
	one.release();
	t.is(budget.reservedMb, 0);
});

test('whatever is shrunk, grown and released in any order: nothing is left, and nobody waits', async (t) => {
	const step = fc.record({
		who: fc.nat({max: 3}),
		action: fc.constantFrom('shrink' as const, 'grow' as const, 'release' as const),
		megabytes: fc.integer({min: 1, max: 40}),
		yields: fc.boolean(),
	});
	await fc.assert(
		fc.asyncProperty(fc.array(step, {maxLength: 30}), async (steps) => {
			const budget = new MemoryBudget(100);
			const all = await Promise.all([20, 25, 25, 30].map(async (each) => Reserved.take(budget, each, long, noRoom)));
			const growing = new Map<Reserved, Promise<void>>();
			for (const {who, action, megabytes, yields} of steps) {
				const reserved = all[who] as Reserved;
				// As its sandbox does: changes of one come one after the other, but for its end.
				if (action === 'release') reserved.release();
				else if (growing.has(reserved)) continue;
				else if (action === 'shrink') reserved.shrink(megabytes);
				else
					growing.set(
						reserved,
						reserved.grow().finally(() => growing.delete(reserved)),
					);
				if (yields) await turn();
				t.true(budget.reservedMb >= 0 && budget.reservedMb <= 100, String(budget.reservedMb));
			}
			for (const reserved of all) reserved.release();
			await Promise.all(growing.values());
			t.is(budget.reservedMb, 0);
			t.is(budget.waiting, 0);
		}),
		{numRuns: 60, ...fuzzParameters(1)},
	);
});
