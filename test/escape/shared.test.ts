/** What the kernel keeps once for several sandboxes, or for them and the host: one must not take or see that of others. */
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import {execa} from 'execa';
import type {JsonValue} from '../../src/index.ts';
import {isRoot, serialFailingKernelTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {python, useRuntime, value} from '../helpers/runtime.ts';

const folder = path.join(import.meta.dirname, 'shared');
const fixture = useRuntime();
const systemFile = '/usr/bin/env';
let lastPair = 0;

type Call = readonly [string, ...JsonValue[]];
type Ask = (...call: Call) => Promise<unknown>;

/** Two sandboxes of one zygote that keep what they take until the test is over. */
async function pair(t: ExecutionContext): Promise<{readonly taker: Ask; readonly sibling: Ask}> {
	const {runtime} = fixture();
	lastPair += 1;
	const [taker, sibling] = await Promise.all(
		['taker', 'sibling'].map(async (role): Promise<Ask> => {
			const name = `${role}-${lastPair}`;
			await runtime.deploy(name, folder, {limits: {openFiles: 1024, processes: 16}});
			t.teardown(() => runtime.remove(name));
			return async (...call) => value(t, await runtime.invoke(name, call));
		}),
	);
	if (taker === undefined || sibling === undefined) throw new Error('expected two');
	return {taker, sibling};
}

const program =
	'import json, sys; sys.path.insert(0, sys.argv[1]); import f; print(json.dumps(f.f(json.loads(sys.argv[2]))))';

async function onHost(...call: Call): Promise<unknown> {
	const {stdout} = await execa(python, ['-I', '-B', '-c', program, folder, JSON.stringify(call)], {timeout: 20_000});
	return JSON.parse(stdout) as unknown;
}

// Each counts for the user who made the user namespace as well.
const counted = [{title: 'pending signals', resource: 'pending_signal'}] as const;
/** An ordinary user may have too little of this to share it. */
const few = [{title: 'locked shared memory', resource: 'locked_memory'}] as const;

for (const {title, resource} of isRoot ? [...counted, ...few] : counted) {
	serialKernelTest(`${title}: a sandbox that takes all it gets leaves some for a sibling and the host`, async (t) => {
		const {taker, sibling} = await pair(t);
		t.is(await sibling('take', resource, 0), 0);
		await taker('take', resource, 1_000_000);
		t.is(await sibling('take', resource, 1), 1, 'the sibling');
		t.is(await onHost('take', resource, 1), 1, 'the host');
	});
}

for (const {title, resource} of [
	{title: 'watchers of files', resource: 'watcher'},
	// There is one number for the whole machine, fs.aio-max-nr.
	{title: 'requests of asynchronous I/O', resource: 'asynchronous_io'},
	{title: 'bytes of message queues', resource: 'message_queue'},
	...(isRoot ? [] : few),
] as const) {
	serialKernelTest(`${title}: no sandbox gets any`, async (t) => {
		const {taker} = await pair(t);
		t.is(await taker('take', resource, 1), 0);
	});
}

serialKernelTest('flags that a sandbox sets on its standard input are not those of a sibling’s', async (t) => {
	const {taker, sibling} = await pair(t);
	await taker('set_flags');
	t.false(await sibling('has_flags'));
});

// A lock belongs to the file, by whatever mount it was opened.
serialFailingKernelTest('a file of /usr that a sandbox locks is not locked for a sibling or the host', async (t) => {
	const {taker, sibling} = await pair(t);
	await taker('lock', systemFile);
	t.false(await sibling('is_locked', systemFile), 'the sibling');
	t.false(await onHost('is_locked', systemFile), 'the host');
});
