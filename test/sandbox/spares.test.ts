import {availableParallelism} from 'node:os';
import {performance} from 'node:perf_hooks';
import test from 'ava';
import {countStart} from '../../src/sandbox/awaited-starts.ts';
import {Spares} from '../../src/sandbox/spares.ts';

let nowMs = 0;
performance.now = () => nowMs;

/** Spares that are numbers, each of which takes five milliseconds to make, or can't be made. */
class Numbers {
	readonly disposed: number[] = [];
	reserved = 0;
	#made = 0;
	readonly spares: Spares<number>;

	constructor(canBeMade = true) {
		this.spares = new Spares<number>({
			most: 2,
			reserve: () => {
				this.reserved += 1;
				return () => {
					this.reserved -= 1;
				};
			},
			make: async (release) => {
				nowMs += 5;
				if (!canBeMade) {
					release();
					return undefined;
				}
				this.#made += 1;
				return this.#made;
			},
			isUsable: () => true,
			dispose: async (thing) => {
				this.disposed.push(thing);
				this.reserved -= 1;
			},
		});
	}

	/** So many starts, a second apart. */
	async start(count: number): Promise<void> {
		for (let i = 0; i < count; i += 1) {
			nowMs += 1000;
			this.spares.note();
			this.spares.refill();
			await new Promise(setImmediate);
		}
	}
}

test.serial('one that was made and ended in vain has the next ones wait for more starts', async (t) => {
	const numbers = new Numbers();
	await numbers.start(2);
	t.is(numbers.spares.size, 1);
	t.true(numbers.spares.evict());
	await new Promise(setImmediate);
	t.deepEqual([numbers.disposed, numbers.reserved], [[1], 0]);
	await numbers.start(3);
	t.is(numbers.spares.size, 0);
	await numbers.start(1);
	t.is(numbers.spares.size, 1);
	t.is(numbers.spares.takeReady(), 2);
	numbers.reserved -= 1;
	nowMs += 20_000;
	await numbers.start(2);
	t.is(numbers.spares.size, 1, 'it was taken');
	await numbers.spares.close();
	t.is(numbers.reserved, 0);
});

test.serial('what can’t be made is tried less and less', async (t) => {
	const numbers = new Numbers(false);
	let tries = 0;
	for (let i = 0; i < 30; i += 1) {
		const before = nowMs;
		await numbers.start(1);
		tries += (nowMs - before - 1000) / 5;
	}
	// After 2 starts, 4 more, 8 more, 16 more.
	t.is(tries, 4);
	t.is(numbers.reserved, 0);
	await numbers.spares.close();
});

test.serial('while a start is awaited for each processor none is made', async (t) => {
	const numbers = new Numbers();
	const ends: Array<() => void> = [];
	const starts = Array.from({length: availableParallelism()}, () =>
		countStart(
			new Promise<void>((resolve) => {
				ends.push(resolve);
			}),
		),
	);
	await numbers.start(3);
	t.is(numbers.spares.size, 0);
	ends[0]?.();
	await starts[0];
	await numbers.start(1);
	t.is(numbers.spares.size, 1);
	for (const end of ends) end();
	await Promise.all(starts);
});
