import test from 'ava';
import {coolMs, Demand} from '../../src/sandbox/demand.ts';

/** With a start each so many milliseconds, of which each takes so long to make another for. */
function after(count: number, eachMs: number, makingMs: number, most = 8): Demand {
	const demand = new Demand(most);
	for (let i = 0; i < count; i += 1) demand.noteStart(i * eachMs);
	demand.noteMaking(makingMs);
	return demand;
}

for (const [words, demand, nowMs, wanted] of [
	['nothing was started', new Demand(8), 0, 0],
	['one start is no demand', after(1, 0, 5), 1, 0],
	['now and then: one', after(3, 2000, 5), 5000, 1],
	['as many as are taken while two are made', after(8, 10, 20), 70, 4],
	['no more than are allowed', after(8, 1, 100, 3), 8, 3],
	['all at once', after(8, 0, 5), 0, 8],
	['it is a while ago', after(8, 10, 20), 70 + coolMs, 0],
	['none are allowed', after(8, 10, 20, 0), 70, 0],
] as const) {
	test(words, (t) => {
		t.is(demand.wanted(nowMs), wanted);
	});
}

test('the newest durations count the most', (t) => {
	const demand = after(8, 10, 5, 100);
	t.is(demand.wanted(70), 1);
	for (let i = 0; i < 20; i += 1) demand.noteMaking(50);
	t.is(demand.wanted(70), 10);
});

/** Starts, each a second after the one before, until spares are wanted; answers how many it took. */
class Clock {
	nowMs = 0;
	readonly demand: Demand;

	constructor(most: number) {
		this.demand = new Demand(most);
	}

	row(): number {
		for (let starts = 1; starts < 1000; starts += 1) {
			this.nowMs += 1000;
			this.demand.noteStart(this.nowMs);
			if (this.demand.wanted(this.nowMs) > 0) return starts;
		}
		return Number.POSITIVE_INFINITY;
	}

	/** Those that are there are made in vain, and nothing is started for a while. */
	waste(count: number, makingMs = 5): void {
		const begunMs = this.nowMs;
		this.nowMs += coolMs;
		for (let i = 0; i < count; i += 1) this.demand.noteWasted(makingMs, begunMs, this.nowMs);
	}
}

test('while spares are made in vain they are made after more and more starts in a row, up to a bound', (t) => {
	const clock = new Clock(4);
	const rows = Array.from({length: 8}, () => {
		const row = clock.row();
		clock.waste(1);
		return row;
	});
	t.deepEqual(rows, [2, 4, 8, 16, 32, 64, 64, 64]);
});

test('spares that were made together are judged together', (t) => {
	const clock = new Clock(4);
	clock.row();
	clock.waste(4);
	t.is(clock.row(), 4);
});

test('a pause ends a row', (t) => {
	const clock = new Clock(4);
	clock.row();
	clock.waste(1);
	clock.demand.noteStart(clock.nowMs);
	clock.demand.noteStart(clock.nowMs);
	clock.demand.noteStart(clock.nowMs);
	clock.nowMs += coolMs;
	t.is(clock.row(), 4);
});

test('what is taken again has spares as soon as it had', (t) => {
	const clock = new Clock(4);
	for (let i = 0; i < 4; i += 1) {
		clock.row();
		clock.waste(1);
	}
	t.is(clock.row(), 32);
	for (let i = 0; i < 3; i += 1) clock.demand.noteTaken(5);
	clock.nowMs += coolMs;
	t.is(clock.row(), 4);
	clock.demand.noteTaken(5);
	clock.nowMs += coolMs;
	t.is(clock.row(), 2);
});

test('the last spares of a busy time are no waste, whatever there may be at once', (t) => {
	for (const most of [1, 4, 64]) {
		const clock = new Clock(most);
		clock.row();
		for (let i = 0; i < 10 * most; i += 1) clock.demand.noteTaken(5);
		clock.waste(most);
		t.is(clock.row(), 2, `${most}`);
	}
});

test('what counts is the time that making them took, not how many they are', (t) => {
	const clock = new Clock(4);
	clock.row();
	for (let i = 0; i < 4; i += 1) clock.demand.noteTaken(1);
	clock.waste(1, 50);
	t.is(clock.row(), 4);
});
