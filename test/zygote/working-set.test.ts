import {readFileSync} from 'node:fs';
import type {PageRange, WorkingSet} from '../../src/native.ts';
import type {Leaf} from '../../src/sandbox/leaf.ts';
import {frameType} from '../../src/zygote/protocol.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {py} from '../helpers/runtime.ts';
import {useZygote} from '../helpers/zygote.ts';

const fixture = useZygote();
const mebibyte = 1024 * 1024;

/** Writes to what it was forked with, and says how many pages that made the kernel copy or give. */
const writer = py`
	import json, resource, sys, traceback
	def f(event):
		before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
		kept = []
		for i in range(event):
			kept.extend(json.loads(json.dumps([{'a': [1, 2.5, 'text', None]}] * 10)))
		for module in list(sys.modules.values()):
			for name in dir(module):
				kept.append((name, getattr(module, name, None)))
		return [resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, len(kept) > 0]
`;

const nothing: WorkingSet = {written: [], read: []};

function pagesOf(ranges: readonly PageRange[]): Set<number> {
	return new Set(ranges.flatMap(([start, size]) => Array.from({length: size / 4096}, (_each, i) => start + i * 4096)));
}

async function usedBy({leaf}: {readonly leaf: Leaf}): Promise<WorkingSet> {
	return (await leaf.workingSet()) ?? nothing;
}

kernelTest('pages that a call wrote to are its sandbox’s own afterwards, and a sibling has them ahead', async (t) => {
	const code = await fixture().code(t, writer);
	const root = await fixture().root();
	const first = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	const before = pagesOf((await usedBy(first)).written);
	const [faults] = (await first.call(50)) as [number];
	const used = await usedBy(first);
	const pages = pagesOf(used.written);
	t.true(pages.size > before.size && before.size > 0, `${before.size}, ${pages.size}`);
	t.true(faults > 100, `${faults}`);

	const spare = await fixture().spare(t, undefined, {warmUps: false});
	const {ranges} = await spare.leaf.populate(used);
	const all = used.written.length + used.read.length;
	t.true(ranges > all / 2 && ranges <= all, `${ranges} of ${all}`);
	const own = pagesOf((await usedBy(spare)).written);
	const there = [...pages].filter((page) => own.has(page));
	t.true(there.length > pages.size / 2, `${there.length} of ${pages.size}`);
	const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
	const [left] = (await talk.call(50)) as [number];
	t.true(left < faults / 2, `${left} of ${faults}`);
});

kernelTest('a sandbox whose handler is loaded populates pages as well, and answers as before', async (t) => {
	const code = await fixture().code(t, writer);
	const root = await fixture().root();
	const first = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	const [faults] = (await first.call(50)) as [number];
	const used = await usedBy(first);
	const second = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	const {ranges: count, ms} = await second.leaf.populate(used);
	t.true(count > 0 && ms > 0);
	const [left] = (await second.call(50)) as [number];
	t.true(left < faults / 2, `${left} of ${faults}`);
});

kernelTest('ranges that are not there, can’t be written to, or are no pages are passed over', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	const maps = readFileSync(`/proc/${spare.leaf.pids()[0]}/maps`, 'latin1').split('\n');
	const constant = Number.parseInt(maps.find((line) => / r--p /.test(line)) ?? '', 16);
	const nowhere = [
		[0, 4096],
		[2 ** 46, 4096],
		[constant + 1, 4096],
		[2 ** 52, 2 ** 52],
	] as const;
	const wrong = {written: [...nowhere, [constant, 4096]], read: nowhere} as const;
	t.is((await spare.leaf.populate(wrong)).ranges, 0);
	t.is((await spare.leaf.populate(nothing)).ranges, 0);
	t.is((await spare.leaf.populate({written: [], read: [[constant, 4096]]})).ranges, 1);
	const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
	t.is((await talk.leaf.populate(wrong)).ranges, 0);
	t.is(await talk.call(3), 3);
});

kernelTest(
	'what is populated while it is handed over is done before, and nobody else hears of the answer',
	async (t) => {
		const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
		const spare = await fixture().spare(t);
		const populated = spare.leaf.populate(await usedBy(spare));
		const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
		t.true((await populated).ranges > 0);
		t.is(await talk.call(4), 4);
	},
);

kernelTest('no more is listed than was asked for, and nothing of a sandbox that has ended', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn len(bytearray(event << 20))\n');
	const talk = await fixture().talk(t, await (await fixture().root()).forkLeaf(fixture().spec(code)));
	const few = (await talk.leaf.workingSet(3)) ?? nothing;
	t.deepEqual([pagesOf(few.written).size, pagesOf(few.read).size], [3, 3]);
	t.is(await talk.call(1), mebibyte);
	await talk.leaf.destroy();
	t.is(await talk.leaf.workingSet(), undefined);
});

kernelTest('who is populated and has ended, or answers something else, is no sandbox that answers', async (t) => {
	const code = await fixture().code(
		t,
		'import os\ndef f(event):\n\tos.write(3, bytes([1, 0, 0, 0, 26, 0]))\n\treturn event\n',
	);
	const root = await fixture().root();
	const liar = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	liar.leaf.send(frameType.eventJson, '1');
	await t.throwsAsync(async () => liar.leaf.populate(nothing), {code: 'ZygoteFailed'});
	const dead = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	const populated = dead.leaf.populate(nothing);
	void dead.leaf.destroy();
	await t.throwsAsync(async () => {
		await populated;
		await dead.leaf.populate(nothing);
	});
});
