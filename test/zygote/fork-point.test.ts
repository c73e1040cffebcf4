import {readFileSync} from 'node:fs';
import type {ExecutionContext} from 'ava';
import type {Cgroup} from '../../src/kernel/cgroup.ts';
import {ForkPoint} from '../../src/zygote/fork-point.ts';
import {pythonSpare} from '../../src/zygote/python-leaf.ts';
import type {Zygote} from '../../src/zygote/zygote.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {until, within} from '../helpers/pool.ts';
import {useZygote} from '../helpers/zygote.ts';

const fixture = useZygote();
const aMinuteMs = 60_000;

async function makePoint(t: ExecutionContext): Promise<{readonly point: ForkPoint; readonly seconds: Zygote[]}> {
	const {budget, cgroups} = fixture().host;
	const seconds: Zygote[] = [];
	const zygote = await (await fixture().root()).forkZygote({modules: []}, [], 8192);
	const point = new ForkPoint(zygote, {
		most: 0,
		budget,
		cgroups,
		origin: {preloaded: [], isLoaded: false},
		makeSecond: async (first) => {
			const second = await first.forkZygote({modules: []}, [], 2048);
			seconds.push(second);
			return second;
		},
	});
	t.teardown(async () => {
		await point.kill();
		for (const each of [zygote, ...seconds]) await within(each.ended(), 'the end of a zygote');
	});
	return {point, seconds};
}

function stateOf(pid: number | undefined): string {
	return /\) (\w)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1] ?? '';
}

/** Asks for so many children at once; answers which process each is of, when all are there. */
async function fork(t: ExecutionContext, point: ForkPoint, count: number): Promise<Zygote[]> {
	const groups: Cgroup[] = [];
	for (let i = 0; i < count; i += 1) groups.push(await fixture().takeCgroup());
	const places = groups.map((group) => {
		const place = point.place(undefined);
		// Nothing but the fork is waited for.
		const made = place.zygote.forkSpare({...pythonSpare, warmUps: false, takeCgroup: () => group});
		return {place, made};
	});
	for (const {place, made} of places) {
		const {leaf} = await within(made, 'a child');
		t.teardown(async () => leaf.destroy());
		place.refill();
	}
	return places.map(({place}) => place.zygote);
}

const code = 'def f(event):\n\treturn event\n';

kernelTest('an idle zygote is stopped until it is asked again', async (t) => {
	const {point} = await makePoint(t);
	const folder = await fixture().code(t, code);
	const pid = point.zygote.pid();
	point.calmDown(performance.now(), aMinuteMs);
	t.not(stateOf(pid), 'T', 'it was used of late');
	point.calmDown(performance.now() + 2 * aMinuteMs, aMinuteMs);
	await until(() => stateOf(pid) === 'T', 'a stopped zygote');
	const place = point.place(undefined);
	const talk = await fixture().talk(t, await place.zygote.forkLeaf(fixture().spec(folder)));
	t.is(await talk.call('there'), 'there');
	point.calmDown(performance.now() + 2 * aMinuteMs, aMinuteMs);
	t.not(stateOf(pid), 'T', 'it has to tell how its child ends');
	await talk.leaf.destroy();
	point.calmDown(performance.now() + 2 * aMinuteMs, aMinuteMs);
	await until(() => stateOf(pid) === 'T', 'a stopped zygote');
	point.release();
	await within(point.zygote.ended(), 'the end of a zygote that was stopped');
});

kernelTest('a second process comes while forks queue, and goes when they do not', async (t) => {
	const {point, seconds} = await makePoint(t);
	await fork(t, point, 1);
	t.is(point.zygotes.length, 1);
	const first = await fork(t, point, 12);
	t.deepEqual(new Set(first), new Set([point.zygote]));
	await until(() => point.zygotes.length === 2, 'a second process');
	const both = await fork(t, point, 12);
	t.deepEqual(new Set(both), new Set([point.zygote, ...seconds]));
	const each = seconds.map((second) => both.filter((zygote) => zygote === second).length);
	t.deepEqual(each, [6], 'they take turns');
	point.calmDown(performance.now(), aMinuteMs);
	t.is(point.zygotes.length, 2);
	point.calmDown(performance.now() + aMinuteMs, 2 * aMinuteMs);
	t.is(point.zygotes.length, 1);
	await within((seconds[0] as Zygote).ended(), 'the end of the second process');
});

kernelTest('what a second process forked lives on without it, and another one comes when it died', async (t) => {
	const {point, seconds} = await makePoint(t);
	const folder = await fixture().code(t, code);
	await fork(t, point, 12);
	await until(() => point.zygotes.length === 2, 'a second process');
	const [second] = seconds as [Zygote];
	const talk = await fixture().talk(t, await second.forkLeaf(fixture().spec(folder)));
	second.kill();
	await until(() => point.zygotes.length === 1, 'one process');
	t.is(await talk.call('there'), 'there');
	await fork(t, point, 12);
	await until(() => point.zygotes.length === 2, 'another second process');
});
