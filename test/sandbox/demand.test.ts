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
