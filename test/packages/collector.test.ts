/** When a store is looked through for what nothing needs. */
import {execFile} from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import {promisify} from 'node:util';
import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {Collector} from '../../src/packages/collector.ts';
import type {GarbageReport} from '../../src/packages/garbage.ts';

const report: GarbageReport = {removed: [], freedBytes: 1, sizeBytes: 2};

/** A collector that is driven by hand: each promise is settled when the next collection has begun, or something was told. */
function drive() {
	const ends: Array<(end: Error | undefined) => void> = [];
	const told: unknown[] = [];
	let wake = (): void => undefined;
	const collector = new Collector({
		everyMs: 1,
		collect: () =>
			new Promise((resolve, reject) => {
				ends.push((error) => (error === undefined ? resolve(report) : reject(error)));
				wake();
			}),
		onCollected: (each) => {
			told.push(each);
			wake();
		},
		onFailed: (error) => {
			told.push(error);
			wake();
		},
	});
	const until = async (isSo: () => boolean): Promise<void> => {
		const keptAlive = setInterval(() => undefined, 1000);
		while (!isSo()) {
			await new Promise<void>((resolve) => {
				wake = resolve;
			});
		}
		clearInterval(keptAlive);
	};
	return {collector, ends, told, until};
}

test('collects again and again, and never twice at once; failures are told, and it goes on', async (t) => {
	const {collector, ends, told, until} = drive();
	await until(() => ends.length === 1);
	await new Promise((resolve) => setTimeout(resolve, 20));
	t.is(ends.length, 1);
	ends[0]?.(undefined);
	await until(() => ends.length === 2);
	t.deepEqual(told, [report]);
	ends[1]?.(new Error('no room'));
	await until(() => ends.length === 3);
	const [, error] = told as [unknown, ForktreeError];
	t.true(error instanceof ForktreeError);
	t.deepEqual([error.code, error.message], ['InstallFailed', 'could not remove packages: no room']);
	collector.close();
});

test('after it was closed nothing is begun or told', async (t) => {
	const {collector, ends, told, until} = drive();
	await until(() => ends.length === 1);
	collector.close();
	ends[0]?.(undefined);
	const idle = drive();
	idle.collector.close();
	await new Promise((resolve) => setTimeout(resolve, 20));
	t.deepEqual([ends.length, told.length, idle.ends.length], [1, 0, 0]);
});

test('it keeps no process alive', async (t) => {
	const code = `
		import {Collector} from '${path.join(import.meta.dirname, '../../src/packages/collector.ts')}';
		new Collector({everyMs: 60_000, collect: () => process.exit(1)});
	`;
	const argv = ['--import=tsx', '--input-type=module', '-e', code];
	await t.notThrowsAsync(promisify(execFile)(process.execPath, argv, {timeout: 30_000}));
});
