import test from 'ava';
import fc from 'fast-check';
import {chooseVictim, type EvictionCandidate} from '../../src/sandbox/evictor.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';

const candidates = fc.uniqueArray(
	fc.record({
		id: fc.string({minLength: 1, maxLength: 3}),
		isIdle: fc.boolean(),
		isPaused: fc.boolean(),
		lastUsedMs: fc.integer({min: 0, max: 5}),
		reservedMb: fc.constant(1),
	}),
	{selector: ({id}) => id, maxLength: 8},
);

const candidate = (id: string, lastUsedMs: number, more: Partial<EvictionCandidate> = {}): EvictionCandidate => ({
	id,
	lastUsedMs,
	isIdle: true,
	isPaused: false,
	reservedMb: 1,
	...more,
});

test('nobody, when there is none or all are busy', (t) => {
	t.is(chooseVictim([]), undefined);
	t.is(
		chooseVictim([candidate('a', 1, {isIdle: false}), candidate('b', 2, {isIdle: false, isPaused: true})]),
		undefined,
	);
});

test('the one used longest ago', (t) => {
	t.is(chooseVictim([candidate('a', 3), candidate('b', 1), candidate('c', 2)]), 'b');
});

test('a paused one first, however recently used', (t) => {
	t.is(
		chooseVictim([candidate('a', 1), candidate('b', 9, {isPaused: true}), candidate('c', 8, {isPaused: true})]),
		'c',
	);
});

test('of any: an idle one, before which no other idle one has to go, and the input is left as it was', (t) => {
	fc.assert(
		fc.property(candidates, (all) => {
			const before = structuredClone(all);
			const victim = all.find(({id}) => id === chooseVictim(all));
			const idle = all.filter(({isIdle}) => isIdle);
			t.is(victim === undefined, idle.length === 0);
			if (victim !== undefined) {
				t.true(victim.isIdle);
				for (const other of idle) {
					const first = victim.isPaused === other.isPaused ? victim.lastUsedMs <= other.lastUsedMs : victim.isPaused;
					t.true(first, JSON.stringify({victim, other}));
				}
			}
			t.deepEqual(all, before);
		}),
		fuzzParameters(2),
	);
});

test('taken away one after the other, each idle one goes once', (t) => {
	fc.assert(
		fc.property(candidates, (all) => {
			const left = new Map(all.map((each) => [each.id, each]));
			const gone: string[] = [];
			for (let id = chooseVictim([...left.values()]); id !== undefined; id = chooseVictim([...left.values()])) {
				gone.push(id);
				left.delete(id);
			}
			t.deepEqual(
				gone.sort(),
				all
					.filter(({isIdle}) => isIdle)
					.map(({id}) => id)
					.sort(),
			);
		}),
		fuzzParameters(2),
	);
});
