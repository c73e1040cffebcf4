import test from 'ava';
import {Stock} from '../../src/sandbox/stock.ts';

function makeStock(each = 2, kinds = 2) {
	const disposed: string[] = [];
	const stock = new Stock<string>({each, kinds, dispose: async (thing) => void disposed.push(thing)});
	let made = 0;
	const fill = (kind: string) =>
		stock.refill(kind, async () => {
			made += 1;
			return `${kind}${made}`;
		});
	const settled = () => new Promise((resolve) => setImmediate(resolve));
	return {stock, disposed, fill, settled, made: () => made};
}

test('it makes what is missing, once, and gives each thing to one taker', async (t) => {
	const {stock, fill, settled, made} = makeStock();
	t.is(stock.take('a'), undefined);
	fill('a');
	fill('a');
	await settled();
	t.is(made(), 2);
	t.deepEqual([stock.take('a'), stock.take('a'), stock.take('a')].sort(), ['a1', 'a2', undefined].sort());
	t.is(stock.take('b'), undefined);
	fill('a');
	await settled();
	t.is(stock.size, 2);
	await stock.close();
});

test('of too many kinds the one that was filled longest ago is given up', async (t) => {
	const {stock, disposed, fill, settled} = makeStock(1, 2);
	for (const kind of ['a', 'b', 'a', 'c']) {
		fill(kind);
		await settled();
	}
	t.deepEqual(disposed, ['b2']);
	t.is(stock.take('a'), 'a1');
	await stock.close();
	t.deepEqual(disposed, ['b2', 'c3']);
});

test('what is being made when its kind is given up, or everything is, is disposed of', async (t) => {
	const disposed: string[] = [];
	const stock = new Stock<string>({each: 1, kinds: 2, dispose: (thing) => disposed.push(thing)});
	const ends = new Map<string, () => void>();
	const slow = (kind: string) => async () => new Promise<string>((resolve) => ends.set(kind, () => resolve(kind)));
	stock.refill('a', slow('a'));
	stock.drop((kind) => kind === 'a');
	ends.get('a')?.();
	await new Promise((resolve) => setImmediate(resolve));
	t.deepEqual(disposed, ['a']);
	stock.refill('b', slow('b'));
	const closed = stock.close();
	ends.get('b')?.();
	await closed;
	t.deepEqual(disposed, ['a', 'b']);
	stock.refill('c', slow('c'));
	t.false(ends.has('c'));
});

test('what can’t be made is tried again at the next refill; what can’t be disposed of is told at the end', async (t) => {
	const stock = new Stock<string>({each: 1, kinds: 1, dispose: async () => Promise.reject(new Error('stuck'))});
	stock.refill('a', async () => Promise.reject(new Error('not now')));
	await new Promise((resolve) => setImmediate(resolve));
	t.is(stock.size, 0);
	stock.refill('a', async () => 'thing');
	await new Promise((resolve) => setImmediate(resolve));
	t.is(stock.size, 1);
	stock.drop(() => true);
	await t.throwsAsync(stock.close(), {message: 'stuck', any: true});
});

test('none of each: nothing is made', async (t) => {
	const {stock, fill, made} = makeStock(0);
	fill('a');
	t.is(made(), 0);
	await stock.close();
});
