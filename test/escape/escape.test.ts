import {readdirSync, readlinkSync, statSync} from 'node:fs';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {serialFailingKernelTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {useRuntime} from '../helpers/runtime.ts';
import {alone, defects, together} from './attempts.ts';
import {Host, type HostFacts} from './host.ts';
import {type Kind, kinds, lookUp, makeSecret, packageName} from './kinds.ts';

process.env.FORKTREE_TEST_SECRET = makeSecret();
let host: Host;
let facts: HostFacts;

// Before the fixture looks for what is left.
test.serial.after.always(async () => {
	for (const kind of kinds) await kind.close();
	await host?.close();
});

const fixture = useRuntime({lookup: lookUp});

/** Of files of the host that attempts try to change. */
function timesOfChange(): string[] {
	const files = ['/usr/bin/env', '/etc/passwd', '/', '/etc', '/usr', '/usr/bin'];
	return files.map((file) => `${file} ${statSync(file).ctimeMs}`);
}

const before = timesOfChange();

/** Names of files that this process has open. */
function openFiles(): string[] {
	return readdirSync('/proc/self/fd').flatMap((fd) => {
		try {
			return [readlinkSync(`/proc/self/fd/${fd}`)];
		} catch {
			return []; // the folder that was just listed
		}
	});
}

serialKernelTest('sandboxes of every kind can be made, beside a sibling of each', async (t) => {
	host = await Host.create();
	for (const kind of kinds) await kind.prepare(fixture());
	const {stateDir, runtime} = fixture();
	const {zygotes} = await runtime.stats();
	t.true(
		zygotes.some(({modules}) => modules.includes(packageName)),
		'there is a node',
	);
	facts = await host.facts(stateDir, processesIn(cgroupsOf(stateDir)));
	t.true(facts.pids.length >= 2 * zygotes.length, `${facts.pids}`); // of each its own, and an instance
});

/** An attempt may end its own sandbox and nothing else. */
function escapeTest(kind: Kind, title: string, run: Parameters<typeof serialKernelTest>[1], isDefect = false): void {
	const declare = isDefect ? serialFailingKernelTest : serialKernelTest;
	declare(`${kind.title}: ${title}`, async (t) => {
		await run(t);
		t.true(await kind.siblingIsWell(), 'the sibling was disturbed');
		t.is(host.connections, 0, 'somebody reached the host');
		t.deepEqual(
			openFiles().filter((name) => name.includes('forktree-escape')),
			[],
			'a descriptor reached the host',
		);
	});
}

for (const kind of kinds) {
	escapeTest(kind, 'the table has every attempt', async (t) => {
		const tables = [...Object.values(together), alone, defects];
		const expected = [...tables.flatMap((table) => Object.keys(table)), 'say which attempts there are'];
		const answers = (await kind.runTogether(['say which attempts there are'], facts)) as Record<string, string[]>;
		t.deepEqual(answers['say which attempts there are']?.sort(), expected.sort());
	});

	for (const [subject, all] of Object.entries(together)) {
		const answers = kind.adapt(all);
		escapeTest(kind, `attempts on ${subject}`, async (t) => {
			t.deepEqual(await kind.runTogether(Object.keys(answers), facts), answers);
		});
	}

	for (const [attempt, answer] of Object.entries(kind.adapt(alone))) {
		escapeTest(kind, attempt, async (t) => {
			t.is(await kind.runAlone(attempt, facts), answer);
		});
	}

	for (const [attempt, {answer, mendedIn}] of Object.entries(defects)) {
		const isDefect = !mendedIn.includes(kind.title);
		const run = async (t: ExecutionContext) => void t.is(await kind.runAlone(attempt, facts), answer);
		escapeTest(kind, attempt, run, isDefect);
	}
}

serialKernelTest('files of the host are as they were', (t) => {
	t.deepEqual(timesOfChange(), before);
});
