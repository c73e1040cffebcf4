import test from 'ava';
import fc from 'fast-check';
import {Trial} from '../../src/sandbox/trial.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

/** So many spares, each of which is called; answers whether each was prepared. */
function run(trial: Trial, count: number, plainMs: number, preparedMs: number, costMs: number): boolean[] {
	return Array.from({length: count}, () => {
		const isPrepared = trial.choose();
		if (isPrepared) trial.noteCost(costMs);
		trial.noteCall(isPrepared, isPrepared ? preparedMs : plainMs);
		return isPrepared;
	});
}

const shareOf = (choices: readonly boolean[]) => choices.filter(Boolean).length / choices.length;

test('while it pays all are prepared but each eighth', (t) => {
	t.is(shareOf(run(new Trial(), 160, 5, 2, 1)), 7 / 8);
});

test('it stops when it does not pay, is tried now and then, and is back when it does', (t) => {
	const trial = new Trial();
	t.is(shareOf(run(trial, 24, 5, 4.5, 3)), 21 / 24, 'three have to go without before anybody knows');
	t.is(shareOf(run(trial, 160, 5, 4.5, 3)), 1 / 8);
	run(trial, 80, 5, 2, 1);
	t.is(shareOf(run(trial, 160, 5, 2, 1)), 7 / 8);
});

test('what is hardly ever called does not pay for all', (t) => {
	const trial = new Trial();
	run(trial, 40, 5, 2, 2);
	t.true(trial.pays);
	for (let i = 0; i < 7; i += 1) trial.noteUnused();
	t.true(trial.pays, 'two of nine were used');
	trial.noteUnused();
	t.false(trial.pays);
});

test('where nobody says how calls went all are prepared', (t) => {
	const trial = new Trial();
	t.is(shareOf(Array.from({length: 100}, () => trial.choose())), 1);
});

const milliseconds = fc.integer({min: 0, max: 6});
const steps = fc.array(
	fc.oneof(
		fc.record({kind: fc.constant('choose' as const)}),
		fc.record({kind: fc.constant('cost' as const), ms: milliseconds}),
		fc.record({kind: fc.constant('call' as const), isPrepared: fc.boolean(), ms: milliseconds}),
		fc.record({kind: fc.constant('unused' as const)}),
	),
	{maxLength: 120},
);

test('as by looking at all that ever happened', (t) => {
	const middle = (list: readonly number[]) => {
		const last = list.slice(-9);
		return last.find((value) => {
			const below = last.filter((each) => each < value).length;
			const rank = Math.floor((last.length - 1) / 2);
			return below <= rank && rank < below + last.filter((each) => each === value).length;
		});
	};
	fc.assert(
		fc.property(steps, (all) => {
			const trial = new Trial();
			for (const [index, step] of all.entries()) {
				const before = all.slice(0, index);
				const calls = before.filter((each) => each.kind === 'call');
				const msOf = (isPrepared: boolean) => calls.filter((each) => each.isPrepared === isPrepared).map(({ms}) => ms);
				if (step.kind === 'cost') trial.noteCost(step.ms);
				if (step.kind === 'call') trial.noteCall(step.isPrepared, step.ms);
				if (step.kind === 'unused') trial.noteUnused();
				if (step.kind !== 'choose') continue;
				const [prepared, plain] = [msOf(true), msOf(false)];
				const cost = middle(before.flatMap((each) => (each.kind === 'cost' ? [each.ms] : []))) ?? 0;
				const fates = before.filter(({kind}) => kind === 'call' || kind === 'unused').slice(-9);
				const share = fates.filter(({kind}) => kind === 'call').length / fates.length;
				const isKnown = prepared.length >= 3 && plain.length >= 3;
				const pays = !isKnown || ((middle(plain) ?? 0) - (middle(prepared) ?? 0)) * share * 4 >= cost;
				const turn = before.filter(({kind}) => kind === 'choose').length + 1;
				const isOther = turn % 8 === 0 && prepared.length >= 3;
				t.is(trial.choose(), isOther ? !pays : pays);
			}
		}),
		fuzzParameters(1),
	);
});
