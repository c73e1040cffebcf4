import test from 'ava';
import fc from 'fast-check';
import {IdAllocator, type IdRange} from '../../src/sandbox/uid-range.ts';

test('slices come lowest first, and one that was released is given again', (t) => {
	const ids = new IdAllocator({start: 100, count: 10});
	const [first, second] = [ids.take(4), ids.take(4)];
	t.deepEqual(
		[first, second],
		[
			{start: 100, count: 4},
			{start: 104, count: 4},
		],
	);
	t.throws(() => ids.take(3), {instanceOf: RangeError, message: /3 free ids/});
	ids.release(first);
	t.deepEqual(ids.take(3), {start: 100, count: 3});
	t.deepEqual(ids.take(1), {start: 103, count: 1});
	t.deepEqual(ids.take(2), {start: 108, count: 2});
	t.throws(() => ids.take(1), {instanceOf: RangeError});
});

test('releasing twice gives nothing away', (t) => {
	const ids = new IdAllocator({start: 0, count: 2});
	const first = ids.take(1);
	ids.release(first);
	ids.release(first);
	ids.release({start: 0, count: 1});
	const again = ids.take(1);
	ids.release(first);
	t.deepEqual([again.start, ids.take(1).start], [0, 1]);
});

test('slices never overlap, never leave the range, and the whole of it comes back', (t) => {
	const range = {start: 1000, count: 50};
	fc.assert(
		fc.property(fc.array(fc.tuple(fc.integer({min: 1, max: 12}), fc.nat(20)), {maxLength: 60}), (steps) => {
			const ids = new IdAllocator(range);
			const taken: IdRange[] = [];
			for (const [count, victim] of steps) {
				try {
					taken.push(ids.take(count));
				} catch (error) {
					if (!(error instanceof RangeError)) throw error;
					const [released] = taken.splice(victim % taken.length, 1);
					if (released !== undefined) ids.release(released);
				}
				const used = taken.reduce((sum, {count: size}) => sum + size, 0);
				if (ids.free !== range.count - used) return false;
				const owned = taken.flatMap(({start, count: size}) =>
					Array.from({length: size}, (_each, index) => start + index),
				);
				if (new Set(owned).size !== owned.length) return false;
				if (owned.some((id) => id < range.start || id >= range.start + range.count)) return false;
			}
			for (const slice of taken) ids.release(slice);
			return ids.take(range.count).start === range.start;
		}),
	);
	t.pass();
});
