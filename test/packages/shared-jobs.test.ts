import {once} from 'node:events';
import {setTimeout} from 'node:timers/promises';
import test from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {SharedJobs} from '../../src/packages/shared-jobs.ts';

function hanging(cleanUp: () => void): (signal: AbortSignal) => Promise<string> {
	return async (signal) => {
		await once(signal, 'abort');
		await setTimeout(20);
		cleanUp();
		throw signal.reason;
	};
}

const abortedError = {instanceOf: ForktreeError, code: 'Aborted'} as const;

test('one caller that aborts leaves the job to the others', async (t) => {
	const jobs = new SharedJobs<string>();
	const controller = new AbortController();
	let end: (result: string) => void = () => t.fail();
	let starts = 0;
	const start = (): Promise<string> => {
		starts += 1;
		return new Promise((resolve) => {
			end = resolve;
		});
	};
	const leaving = jobs.run('a', start, controller.signal);
	const staying = jobs.run('a', start);
	controller.abort();
	await t.throwsAsync(leaving, abortedError);
	end('done');
	t.is(await staying, 'done');
	t.is(starts, 1);
});

test('the last caller that aborts ends the job and waits for it; the next one starts anew', async (t) => {
	const jobs = new SharedJobs<string>();
	let cleaned = 0;
	const [first, second] = [new AbortController(), new AbortController()];
	const start = hanging(() => (cleaned += 1));
	const calls = [first, second].map(({signal}) => jobs.run('a', start, signal));
	const ends = Promise.all(calls.map((call) => t.throwsAsync(call, abortedError)));
	first.abort();
	second.abort();
	const next = jobs.run('a', async () => 'anew');
	await ends;
	t.is(cleaned, 1);
	t.is(await next, 'anew');
});

test('a failure reaches every caller and is not remembered', async (t) => {
	const jobs = new SharedJobs<string>();
	const fail = async (): Promise<string> => {
		throw new Error('no');
	};
	const {signal} = new AbortController();
	await Promise.all(
		[jobs.run('a', fail), jobs.run('a', fail, signal)].map((call) => t.throwsAsync(call, {message: 'no'})),
	);
	t.is(await jobs.run('a', async () => 'yes'), 'yes');
	await t.throwsAsync(jobs.run('a', fail, AbortSignal.abort()), abortedError);
});
