import test from 'ava';
import {Ageing} from '../../src/sandbox/ageing.ts';

test('what is dear to make again, small and often used stays longest', (t) => {
	const ageing = new Ageing();
	const usual = ageing.priority(2, 100, 10);
	t.true(ageing.priority(2, 200, 10) > usual);
	t.true(ageing.priority(3, 100, 10) > usual);
	t.true(ageing.priority(2, 100, 5) > usual);
	t.is(ageing.priority(2, 100, 0.1), ageing.priority(2, 100, 1), 'what takes nearly nothing counts as one MiB');
});

test('what was not used for long falls behind what is used later', (t) => {
	const ageing = new Ageing();
	const once = ageing.priority(9, 100, 10);
	for (let i = 0; i < 4; i += 1) {
		const cheap = ageing.priority(3, 100, 10);
		t.true(i === 3 ? cheap > once : cheap < once || i > 1);
		ageing.noteEvicted(cheap);
	}
	t.is(ageing.priority(9, 100, 5, 0), 180, 'what has become smaller is as old as it was');
	t.is(ageing.priority(9, 100, 5, ageing.age), ageing.priority(9, 100, 5));
	ageing.noteEvicted(1);
	t.true(ageing.priority(1, 1, 1) > 1, 'age does not go back');
});
