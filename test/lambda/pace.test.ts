import test from 'ava';
import fc from 'fast-check';
import {Pace} from '../../src/lambda/pace.ts';

/** Of a function whose calls and starts took so long, once each. */
function measured(callMs: number, startMs: number): Pace {
	const pace = new Pace();
	pace.noteStart(startMs);
	pace.end(pace.begin(0), callMs);
	return pace;
}

test('what was not measured yet is not waited for', (t) => {
	const pace = new Pace();
	t.is(pace.patienceMs(0, 0), 0);
	pace.begin(0);
	t.is(pace.patienceMs(0, 0), 0);
	pace.noteStart(100);
	t.is(pace.patienceMs(0, 0), 0);
});

for (const [words, works, ahead, nowMs, patienceMs] of [
	['nothing is at work: start', [], 0, 0, 0],
	['free sooner than a start takes: wait, as long as one takes', [0], 0, 5, 20],
	['not free sooner: start', [0], 0, -10, 0],
	['late by less than a start: wait', [0], 0, 29, 20],
	['late by more than a start: start', [0], 0, 31, 0],
	['the first of several that is free counts', [9, 0, 9], 0, 9, 20],
	['the next one is that of the call ahead: start', [0], 1, 0, 0],
	['there are enough for those ahead', [0, 0, 0], 2, 0, 20],
] as const) {
	test(words, (t) => {
		const pace = measured(10, 20);
		for (const sinceMs of works) pace.begin(sinceMs);
		t.is(pace.patienceMs(ahead, nowMs), patienceMs);
	});
}

test('one that is being started is at work only then', (t) => {
	const pace = measured(10, 20);
	pace.beginStart(0);
	t.is(pace.patienceMs(0, 0), 0);
	t.is(pace.patienceMs(0, 11), 20);
});

test('what has ended is not waited for', (t) => {
	const pace = measured(10, 20);
	pace.end(pace.begin(0), 10);
	pace.abandon(pace.begin(10));
	t.is(pace.patienceMs(0, 10), 0);
});

test('the newest times count the most', (t) => {
	const pace = measured(1000, 20);
	for (let i = 0; i < 20; i += 1) pace.end(pace.begin(0), 10);
	pace.begin(0);
	t.is(pace.patienceMs(0, 5), 20);
	for (let i = 0; i < 20; i += 1) pace.noteStart(1);
	t.is(pace.patienceMs(0, 5), 0);
	t.true((pace.startMs as number) < 2);
});

/** The rule, said plainly: everyone in line takes whatever is free first, and has it for as long as a call takes. */
function shouldWait(freeMs: readonly number[], callMs: number, startMs: number, ahead: number): boolean {
	const free = [...freeMs];
	for (let i = 0; i < ahead; i += 1) {
		free.sort((a, b) => a - b);
		free.push((free.shift() ?? Number.POSITIVE_INFINITY) + callMs);
	}
	return free.some((each) => each < startMs);
}

test('it waits when the rule says so', (t) => {
	const times = fc.integer({min: 1, max: 50});
	const works = fc.array(fc.integer({min: 0, max: 100}), {maxLength: 6});
	fc.assert(
		fc.property(times, times, works, fc.integer({min: 0, max: 12}), (callMs, startMs, sinceMs, ahead) => {
			const pace = measured(callMs, startMs);
			for (const each of sinceMs) pace.begin(each);
			const freeMs = sinceMs.map((each) => Math.abs(each + callMs - 100));
			t.is(pace.patienceMs(ahead, 100), shouldWait(freeMs, callMs, startMs, ahead) ? startMs : 0);
		}),
		{numRuns: 2000},
	);
});
