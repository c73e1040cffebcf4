import test from 'ava';
import {ForkQueue} from '../../src/zygote/fork-queue.ts';

test('forks queue when most of them find others ahead', (t) => {
	const queue = new ForkQueue();
	for (let i = 0; i < 100; i += 1) queue.note(i % 2, i);
	t.false(queue.isBusy, 'one in two waits for one');
	for (let i = 0; i < 5; i += 1) queue.note(3, i);
	t.true(queue.isBusy);
	queue.reset();
	t.false(queue.isBusy);
	queue.note(8, 0);
	t.false(queue.isBusy, 'one burst is none');
});

test('it is calm when none has waited for ten seconds', (t) => {
	const queue = new ForkQueue();
	t.true(queue.isCalm(0));
	queue.note(1, 1000);
	queue.note(0, 5000);
	t.false(queue.isCalm(11_000));
	t.true(queue.isCalm(11_001));
});
