import {existsSync} from 'node:fs';
import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test from 'ava';
import {dir as temporaryDirectory} from 'tmp-promise';
import {createSandboxPool, type SandboxPool} from '../../src/sandbox/sandbox-pool.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {launchersOf, supervisorsOf} from '../helpers/leak-check.ts';
import {checkLeaks, makePool, type PoolFixture, until, within} from '../helpers/pool.ts';

checkLeaks();

async function spared({pool}: PoolFixture, options = {}): Promise<void> {
	await (await pool.create(options)).destroy();
	await until(() => pool.stats().spares > 0, 'a spare');
}

async function numberOf(pool: SandboxPool): Promise<string> {
	return (await pool.run(['sh', '-c', 'cat /proc/sys/kernel/random/boot_id > /tmp/mine; ls /tmp; uname -n'])).stdout;
}

kernelTest('the next start takes a spare, and each spare serves one sandbox', async (t) => {
	const fixture = await makePool(t);
	const {pool, stateDir} = fixture;
	t.is(pool.stats().spares, 0);
	await spared(fixture);
	await until(() => supervisorsOf(stateDir).length === 1, 'the spare alone');
	const [spare] = supervisorsOf(stateDir);
	const [one, two] = await Promise.all([pool.create(), pool.create()]);
	t.not(one.id, two.id);
	t.true(supervisorsOf(stateDir).includes(spare as number));
	await one.exec(['sh', '-c', 'echo secret > /tmp/mine']);
	t.is((await two.exec(['ls', '/tmp'])).stdout, 'work\n');
	t.deepEqual([...pool.list().keys()].sort(), [one.id, two.id].sort());
	await Promise.all([one.destroy(), two.destroy()]);
	for (let i = 0; i < 5; i += 1) t.is(await numberOf(pool), 'mine\nwork\nsandbox\n');
});

kernelTest('a spare is no sandbox: it is in no list, no event and no budget', async (t) => {
	const fixture = await makePool(t, {memoryBudgetMb: 64, defaults: {limits: {memoryMb: 64}}});
	const {pool} = fixture;
	const events: string[] = [];
	pool.on('created', () => events.push('created'));
	pool.on('destroyed', () => events.push('destroyed'));
	await spared(fixture);
	t.deepEqual(events, ['created', 'destroyed']);
	t.is(pool.list().size, 0);
	t.like(pool.stats(), {sandboxes: 0, memory: {reservedMb: 0}});
	await (await within(pool.create(), 'a sandbox that needs all of the budget')).destroy();
});

kernelTest('who asks for something else gets no spare of others', async (t) => {
	const fixture = await makePool(t, {defaults: {hostname: 'first'}});
	const {pool} = fixture;
	await spared(fixture);
	const seen = async (sandbox: object) =>
		(await pool.run(['sh', '-c', 'uname -n; ulimit -n; ls / | wc -w; df -m /tmp | tail -n 1'], {sandbox})).stdout
			.split(/\s+/)
			.slice(0, 5);
	const [name, files, , , mebibytes] = await seen({});
	t.deepEqual([name, files, mebibytes], ['first', '1024', '64']);
	const other = await seen({hostname: 'second', limits: {openFiles: 512, scratchMb: 16}});
	t.deepEqual([other[0], other[1], other[4]], ['second', '512', '16']);
	const memory = async (sandbox: object) => (await pool.run(['tail', '/dev/zero'], {sandbox})).error?.code;
	t.is(await memory({limits: {memoryMb: 32}}), 'OutOfMemory');
});

kernelTest('a spare outlives its launcher; one that has ended itself is passed over', async (t) => {
	const fixture = await makePool(t);
	const {pool, stateDir} = fixture;
	await spared(fixture);
	await until(() => supervisorsOf(stateDir).length === 1, 'the spare alone');
	for (const pid of launchersOf(stateDir)) process.kill(pid, 'SIGKILL');
	t.is((await pool.run(['echo', 'there'])).stdout, 'there\n');
	await until(() => pool.list().size === 0 && pool.stats().spares > 0, 'another spare');
	await until(() => supervisorsOf(stateDir).length === 1, 'it alone');
	for (const pid of supervisorsOf(stateDir)) process.kill(pid, 'SIGKILL');
	await until(() => supervisorsOf(stateDir).length === 0, 'its end');
	for (let i = 0; i < 2; i += 1) await new Promise((resolve) => setImmediate(resolve)); // its channel's end is heard of
	t.is((await pool.run(['echo', 'there'])).stdout, 'there\n');
});

kernelTest('a forgotten mount takes its spares with it', async (t) => {
	const fixture = await makePool(t);
	const {pool} = fixture;
	const {path: work} = await temporaryDirectory({unsafeCleanup: true});
	t.teardown(() => rm(work, {recursive: true, force: true}));
	const source = path.join(work, 'folder');
	const options = {mounts: [{source, target: '/data'}]};
	for (const text of ['one', 'two']) {
		await mkdir(source);
		await writeFile(path.join(source, 'file'), text);
		await spared(fixture, options);
		t.is((await pool.run(['cat', '/data/file'], {sandbox: options})).stdout, text);
		await rm(source, {recursive: true});
		await pool.forgetMount(source);
	}
});

kernelTest('spares: as many as asked for, none for a user of one’s own, and gone with the pool', async (t) => {
	const many = await makePool(t, {spares: 3});
	await (await many.pool.create()).destroy();
	await until(() => many.pool.stats().spares === 3, 'three spares');
	const none = await makePool(t, {spares: 0});
	for (const options of [{}, {uid: 0}]) await (await none.pool.create(options)).destroy();
	t.is(none.pool.stats().spares, 0);
	const waiting = supervisorsOf(many.stateDir);
	t.is(waiting.length, 3);
	await within(many.pool.close(), 'its end');
	for (const pid of waiting) t.false(existsSync(`/proc/${pid}`));
});

for (const spares of [-1, 1.5, 65, Number.NaN]) {
	test(`spares: expected a whole number, got ${spares}`, async (t) => {
		await t.throwsAsync(createSandboxPool({spares}), {
			instanceOf: RangeError,
			message: /^spares: expected a whole number/,
		});
	});
}
