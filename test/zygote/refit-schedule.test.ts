import test from 'ava';
import {RefitSchedule} from '../../src/zygote/refit-schedule.ts';

const minuteMs = 60_000;

/** How many starts it takes until it is time, each of which has something to import. */
function startsUntilDue(schedule: RefitSchedule, nowMs: number, missedMs = 1): number {
	for (let starts = 1; starts <= 100_000; starts += 1) if (schedule.noteStart(missedMs, nowMs)) return starts;
	return Number.POSITIVE_INFINITY;
}

test('it is time after some hundred starts that had something to import, and never for those that had not', (t) => {
	t.is(startsUntilDue(new RefitSchedule(), 0), 500);
	t.is(startsUntilDue(new RefitSchedule(), 0, 0.125), 800);
	t.is(startsUntilDue(new RefitSchedule(), 0, 0), Number.POSITIVE_INFINITY);
});

test('not again within ten minutes', (t) => {
	const schedule = new RefitSchedule();
	startsUntilDue(schedule, 0);
	schedule.noteChange();
	t.is(startsUntilDue(schedule, 10 * minuteMs - 1), Number.POSITIVE_INFINITY);
	t.true(schedule.noteStart(0, 10 * minuteMs), 'what came meanwhile counts');
});

test('a fit that changed nothing has the next one wait for twice as many starts, up to a bound', (t) => {
	const schedule = new RefitSchedule();
	const waits = Array.from({length: 9}, (_, index) => startsUntilDue(schedule, index * 10 * minuteMs));
	t.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000, 32_000]);
	schedule.noteChange();
	t.is(startsUntilDue(schedule, 90 * minuteMs), 500);
});
