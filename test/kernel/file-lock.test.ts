import {readdirSync} from 'node:fs';
import {mkdir, rename, rm, rmdir, stat, symlink} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import {FileLock} from '../../src/kernel/file-lock.ts';
import {childrenOfOurs} from '../helpers/leak-check.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

const soon = {timeoutMs: 30_000};

async function folder(t: ExecutionContext): Promise<string> {
	const made = await temporaryFolder();
	t.teardown(() => rm(made, {recursive: true, force: true}));
	return made;
}

/** A lock that must be free. */
function taken(t: ExecutionContext, ...args: Parameters<typeof FileLock.try>): FileLock {
	const lock = FileLock.try(...args);
	if (lock === undefined) throw t.fail('expected a free lock');
	return lock;
}

/** Resolves when a child of ours waits for a lock. */
async function someoneWaits(): Promise<void> {
	while (!childrenOfOurs().some((each) => each.endsWith(' flock'))) {
		await new Promise((resolve) => setImmediate(resolve));
	}
}

for (const what of ['file', 'folder'] as const) {
	test.serial(`a ${what}: several share it, one has it alone; waiting ends when it is free`, async (t) => {
		const place = path.join(await folder(t), 'x');
		if (what === 'folder') {
			t.throws(() => FileLock.try(place, what, 'shared'), {code: 'ENOENT'});
			await mkdir(place);
		}
		const [one, two] = [taken(t, place, what, 'shared'), taken(t, place, what, 'shared')];
		t.is(FileLock.try(place, what, 'exclusive'), undefined);
		const waiting = FileLock.take(place, what, 'exclusive', soon);
		await someoneWaits();
		one.release();
		one.release();
		t.is(FileLock.try(place, what, 'exclusive'), undefined);
		two.release();
		const alone = await waiting;
		t.is(FileLock.try(place, what, 'shared'), undefined);
		alone?.release();
		taken(t, place, what, 'shared').release();
	});
}

test.serial('a lock that is not freed: undefined at the deadline, an error when waiting is aborted', async (t) => {
	const place = path.join(await folder(t), 'x');
	const lock = taken(t, place, 'file', 'exclusive');
	t.is(await FileLock.take(place, 'file', 'shared', {timeoutMs: 50}), undefined);
	const controller = new AbortController();
	const waiting = FileLock.take(place, 'file', 'shared', {...soon, signal: controller.signal});
	const aborted = t.throwsAsync(waiting, {code: 'Aborted'});
	await someoneWaits();
	controller.abort();
	await aborted;
	await t.throwsAsync(FileLock.take(place, 'file', 'shared', {...soon, signal: AbortSignal.abort()}), {
		code: 'Aborted',
	});
	t.false(childrenOfOurs().some((each) => each.endsWith(' flock')));
	lock.release();
	taken(t, place, 'file', 'exclusive').release();
});

test.serial('who waits for a lock whose file is removed gets that of the new one', async (t) => {
	const home = await folder(t);
	const place = path.join(home, 'x');
	const lock = taken(t, place, 'file', 'exclusive');
	const before = (await stat(place)).ino;
	const waiting = FileLock.take(place, 'file', 'exclusive', soon);
	await someoneWaits();
	lock.remove();
	const next = await waiting;
	t.true((await stat(place)).isFile());
	t.is(FileLock.try(place, 'file', 'exclusive'), undefined, `inode ${before}`);
	next?.remove();
	t.deepEqual(readdirSync(home), []);

	await mkdir(place);
	const held = taken(t, place, 'folder', 'exclusive');
	const other = FileLock.take(place, 'folder', 'shared', soon);
	await someoneWaits();
	await rename(place, path.join(home, 'moved'));
	held.release();
	await t.throwsAsync(other, {code: 'ENOENT'});
	await rmdir(path.join(home, 'moved'));
});

test.serial('a link is not followed; no file stays open', async (t) => {
	const home = await folder(t);
	await symlink('/tmp', path.join(home, 'folder'));
	await symlink(path.join(home, 'nothing'), path.join(home, 'file'));
	const before = readdirSync('/proc/self/fd').length;
	t.throws(() => FileLock.try(path.join(home, 'folder'), 'folder', 'shared'), {code: 'ENOTDIR'});
	t.throws(() => FileLock.try(path.join(home, 'file'), 'file', 'shared'), {code: 'ELOOP'});
	await t.throwsAsync(FileLock.take(path.join(home, 'file'), 'file', 'shared', soon), {code: 'ELOOP'});
	t.is(readdirSync('/proc/self/fd').length, before);
});

test.serial('without flock of util-linux waiting is not supported', async (t) => {
	const place = path.join(await folder(t), 'x');
	const lock = taken(t, place, 'file', 'exclusive');
	const before = process.env.PATH;
	process.env.PATH = '/nonexistent';
	try {
		await t.throwsAsync(FileLock.take(place, 'file', 'shared', soon), {code: 'NotSupported', message: /util-linux/});
	} finally {
		process.env.PATH = before;
	}
	lock.release();
});
