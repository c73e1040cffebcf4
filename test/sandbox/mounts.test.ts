import {mkdir, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import {dir as temporaryDirectory} from 'tmp-promise';
import {closeFd} from '../../src/native.ts';
import {findIdentity} from '../../src/sandbox/identity.ts';
import {Keeper} from '../../src/sandbox/keeper.ts';
import {LockedFolder} from '../../src/sandbox/mounts.ts';
import {kernelTest} from '../helpers/kernel-test.ts';

/** A keeper, and a place for folders; both go with the test. */
async function start(t: {teardown(action: () => unknown): void}): Promise<{keeper: Keeper; work: string}> {
	const {path: work} = await temporaryDirectory({unsafeCleanup: true});
	t.teardown(() => rm(work, {recursive: true, force: true}));
	await mkdir(path.join(work, 'mnt'));
	const keeper = await Keeper.start(path.join(work, 'mnt'), findIdentity(), []);
	t.teardown(() => keeper.close());
	return {keeper, work};
}

async function makeFolder(folder: string, files: Readonly<Record<string, string>>): Promise<string> {
	for (const [name, text] of Object.entries(files)) {
		await mkdir(path.dirname(path.join(folder, name)), {recursive: true});
		await writeFile(path.join(folder, name), text);
	}
	return folder;
}

async function seen(folder: LockedFolder, look: (root: string) => Promise<unknown>): Promise<unknown> {
	const fd = await folder.take();
	try {
		return await look(`/proc/self/fd/${fd}`);
	} finally {
		closeFd(fd);
	}
}

kernelTest(
	'layers are seen as one folder: the first one’s of what several have, folders merged, nothing writable',
	async (t) => {
		const {keeper, work} = await start(t);
		const first = await makeFolder(path.join(work, 'a:b,c\\d'), {'same/one': '1', file: 'first'});
		const second = await makeFolder(path.join(work, 'second'), {'same/two': '2', file: 'second', other: 'other'});
		const folder = await LockedFolder.createLayers(keeper, 'both', [first, second]);
		t.deepEqual(await seen(folder, async (root) => (await readdir(root)).sort()), ['file', 'other', 'same']);
		t.deepEqual(await seen(folder, async (root) => (await readdir(`${root}/same`)).sort()), ['one', 'two']);
		t.is(await seen(folder, (root) => readFile(`${root}/file`, 'utf8')), 'first');
		const write = (root: string) => writeFile(`${root}/file`, 'x').catch((error: NodeJS.ErrnoException) => error.code);
		t.is(await seen(folder, write), 'EROFS');
		await folder.close();
	},
);

kernelTest('one layer, and as many as a large program has packages', async (t) => {
	const {keeper, work} = await start(t);
	const names = Array.from({length: 200}, (_, index) => `a-rather-long-name-of-a-package==${index}`);
	const folders = await Promise.all(names.map((name) => makeFolder(path.join(work, name), {[name]: name})));
	const many = await LockedFolder.createLayers(keeper, 'many', folders);
	t.is(await seen(many, async (root) => (await readdir(root)).length), 200);
	const one = await LockedFolder.createLayers(keeper, 'one', folders.slice(0, 1));
	t.deepEqual(await seen(one, (root) => readdir(root)), [names[0]]);
	await Promise.all([many.close(), one.close()]);
});

kernelTest('a layer that is not there is an error that names it, and nothing is left of the place', async (t) => {
	const {keeper, work} = await start(t);
	const there = await makeFolder(path.join(work, 'there'), {file: 'there'});
	const missing = path.join(work, 'missing');
	await t.throwsAsync(LockedFolder.createLayers(keeper, 'x', [there, missing]), {
		code: 'Syscall',
		message: `open '${missing}': ENOENT`,
	});
	const folder = await LockedFolder.createLayers(keeper, 'x', [there, there]).catch(() => undefined);
	t.is(folder, undefined, 'the kernel takes no folder twice');
	await (await LockedFolder.createLayers(keeper, 'x', [there])).close();
});
