import test from 'ava';
import type {Leaf} from '../../src/sandbox/leaf.ts';
import {SharedWorkingSet} from '../../src/sandbox/working-set.ts';

/** A sandbox that takes so many milliseconds to have its pages ahead. */
function leafOf(costMs: number): {readonly leaf: Leaf; readonly isPrepared: () => boolean} {
	let isPrepared = false;
	const leaf = {
		workingSet: async () => ({written: [], read: []}),
		populate: async () => {
			isPrepared = true;
			return {ranges: 0, ms: costMs};
		},
	};
	return {leaf: leaf as unknown as Leaf, isPrepared: () => isPrepared};
}

/** So many that wait, of which each is called or ends without; answers how many had their pages ahead. */
async function run(
	set: SharedWorkingSet,
	count: number,
	costMs: number,
	savedMs: number,
	isCalled = true,
): Promise<number> {
	let prepared = 0;
	for (let i = 0; i < count; i += 1) {
		const {leaf, isPrepared} = leafOf(costMs);
		await set.populate(leaf);
		if (isPrepared()) prepared += 1;
		if (isCalled) set.noteFirstCall(leaf, isPrepared() ? 10 - savedMs : 10);
		else set.noteUnused(leaf);
		set.noteFirstCall(leaf, 1000); // a later one, which says nothing
	}
	return prepared;
}

test('pages are had ahead for as long as first calls are spared a quarter of that at least', async (t) => {
	const set = new SharedWorkingSet();
	t.is(await run(set, 8, 1, 3), 0, 'there is nothing yet');
	await set.look(leafOf(0).leaf);
	t.is(await run(set, 80, 1, 3), 70);
	await run(set, 80, 1, 0.125);
	t.is(await run(set, 80, 1, 0.125), 10);
	await run(set, 80, 1, 3);
	t.is(await run(set, 80, 1, 3), 70);
});

test('pages are not had ahead for what nobody calls', async (t) => {
	const set = new SharedWorkingSet();
	await set.look(leafOf(0).leaf);
	t.is(await run(set, 80, 1, 2), 70);
	await run(set, 8, 1, 2, false);
	t.is(await run(set, 8, 1, 2, false), 1);
});
