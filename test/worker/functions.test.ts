/** When the registry is looked at, what is deployed then, and what is remembered of it. */
import {setTimeout as sleep} from 'node:timers/promises';
import test, {type ExecutionContext} from 'ava';
import {ForktreeError, type Runtime} from '../../src/index.ts';
import {PulledFunctions} from '../../src/worker/functions.ts';
import type {Refusal} from '../../src/worker/refusal.ts';
import type {FunctionRegistry} from '../../src/worker/registry.ts';

/** A registry and a runtime that count what they are asked. */
function setUp({cacheMs = 60_000, network = 'none' as unknown} = {}) {
	const versions = new Map([['a', '1']]);
	const deploys: string[] = [];
	const removed: string[] = [];
	const failures: unknown[] = [];
	let looks = 0;
	let failing: Error | undefined;
	let held: Promise<void> | undefined;
	const registry = {
		find: async (name: string) => {
			looks += 1;
			const version = versions.get(name);
			const waiting = held;
			held = undefined;
			await waiting;
			return version === undefined ? undefined : {path: `/registry/${name}`, kind: 'archive', version};
		},
		names: async () => [...versions.keys()],
	};
	const runtime = {
		deploy: async (name: string) => {
			deploys.push(`${name} ${versions.get(name)}`);
			if (failing !== undefined) throw failing;
		},
		describe: () => ({limits: {eventMb: 1}, network}),
		remove: async (name: string) => void removed.push(name),
		list: () => [{name: 'a'}, {name: 'stranger'}],
		dormant: () => ['sleeping stranger'],
	};
	const functions = new PulledFunctions(runtime as unknown as Runtime, registry as unknown as FunctionRegistry, {
		cacheMs,
		onPulled: () => undefined,
		onFailed: (_name, error) => failures.push(error),
	});
	return {
		functions,
		versions,
		deploys,
		removed,
		failures,
		looks: () => looks,
		/** The next look ends when what it answers is called. */
		hold: () => {
			let letGo = () => {};
			held = new Promise((resolve) => {
				letGo = resolve;
			});
			return letGo;
		},
		fail: (error: Error | undefined) => {
			failing = error;
		},
	};
}

async function refusalOf(t: ExecutionContext, functions: PulledFunctions, name = 'a'): Promise<Refusal> {
	return (await t.throwsAsync(async () => functions.find(name))) as Refusal;
}

test('first calls that come together share one deploy', async (t) => {
	const {functions, deploys} = setUp();
	const [first, ...others] = await Promise.all([functions.find('a'), functions.find('a'), functions.find('a')]);
	t.deepEqual(deploys, ['a 1']);
	for (const other of others) t.is(other, first);
	t.is(functions.find('a'), first, 'at once from then on');
});

test('the registry is looked at again when the time has passed since the last look, not the last change', async (t) => {
	const {functions, deploys, looks} = setUp({cacheMs: 300});
	await functions.find('a');
	for (let round = 2; round <= 4; round++) {
		await sleep(320);
		await functions.find('a');
		for (let count = 0; count < 5; count++) functions.find('a');
		t.is(looks(), round);
	}
	t.deepEqual(deploys, ['a 1']);
});

test('changed code is deployed, and a function that has left is unknown', async (t) => {
	const {functions, versions, deploys, removed} = setUp({cacheMs: 0});
	await functions.find('a');
	versions.set('a', '2');
	await functions.find('a');
	t.deepEqual(deploys, ['a 1', 'a 2']);
	versions.delete('a');
	t.is((await refusalOf(t, functions)).status, 404);
	t.deepEqual(removed, ['a']);
	t.is((await refusalOf(t, functions)).status, 404);
	t.deepEqual(removed, ['a'], 'once');
});

test('names that nobody has deployed are looked for each time, and leave nothing', async (t) => {
	const {functions, looks, removed} = setUp();
	for (let count = 0; count < 3; count++) t.is((await refusalOf(t, functions, 'nowhere')).code, 'UnknownFunction');
	t.is(looks(), 3);
	t.deepEqual(removed, []);
});

test('code that can’t be deployed is tried again when it has changed', async (t) => {
	const {functions, versions, deploys, failures, fail} = setUp({cacheMs: 0});
	fail(new ForktreeError('InvalidSyntax', 'f.py:1: no'));
	for (let count = 0; count < 3; count++) {
		const {status, code, message} = await refusalOf(t, functions);
		t.deepEqual([status, code, message], [500, 'InvalidSyntax', 'f.py:1: no']);
	}
	t.deepEqual(deploys, ['a 1']);
	t.is(failures.length, 1);
	fail(undefined);
	versions.set('a', '2');
	t.is((await functions.find('a')).name, 'a');
});

test('a deploy that failed for another reason is tried again at the next look', async (t) => {
	const {functions, deploys, fail} = setUp({cacheMs: 300});
	fail(new ForktreeError('InstallTimeout', '/var/lib/x'));
	const {code, message} = await refusalOf(t, functions);
	t.deepEqual([code, message], ['InstallTimeout', 'a step of an installation exceeded its deadline']);
	await refusalOf(t, functions);
	t.is(deploys.length, 1);
	fail(undefined);
	await sleep(320);
	t.is((await functions.find('a')).name, 'a');
	t.is(deploys.length, 2);
});

const importError = {code: 'ImportFailed', type: 'KeyError', message: "'x'", traceback: 'Traceback\n'} as const;

test('an import that failed is remembered until the code changes', async (t) => {
	const {functions, versions, deploys} = setUp({cacheMs: 0});
	functions.noteImportFailed(await functions.find('a'), importError);
	for (let count = 0; count < 3; count++) {
		const {status, code, traceback} = await refusalOf(t, functions);
		t.deepEqual([status, code, traceback], [500, 'ImportFailed', 'Traceback\n']);
	}
	versions.set('a', '2');
	const lambda = await functions.find('a');
	t.deepEqual(deploys, ['a 1', 'a 2']);
	versions.set('a', '3');
	await functions.find('a');
	functions.noteImportFailed(lambda, importError);
	t.is((await functions.find('a')).name, 'a', 'that was another version');
});

test('the import of a function that reaches hosts is tried again at the next look, without a deploy', async (t) => {
	const {functions, deploys} = setUp({cacheMs: 300, network: {allow: []}});
	functions.noteImportFailed(await functions.find('a'), importError);
	t.is((await refusalOf(t, functions)).code, 'ImportFailed');
	await sleep(320);
	t.is((await functions.find('a')).name, 'a');
	t.deepEqual(deploys, ['a 1']);
});

test('what was changed by hand is seen at the next call', async (t) => {
	const {functions, versions, deploys, removed} = setUp();
	await functions.find('a');
	versions.set('a', '2');
	functions.forget('a');
	await functions.find('a');
	t.deepEqual(deploys, ['a 1', 'a 2']);
	versions.delete('a');
	functions.remove('a');
	t.is((await refusalOf(t, functions)).status, 404);
	t.deepEqual(removed, ['a']);
});

test('a look that began before a change is not what counts', async (t) => {
	const {functions, versions, hold} = setUp();
	const letGo = hold();
	const before = functions.find('a');
	versions.set('a', '2');
	functions.forget('a');
	const after = await functions.find('a');
	letGo();
	t.not(await before, after);
	t.is(functions.find('a'), after);
});

test('functions of an earlier run that have left the registry go', async (t) => {
	const {functions, removed} = setUp();
	await functions.removeStrangers();
	t.deepEqual(removed, ['sleeping stranger', 'stranger']);
});
