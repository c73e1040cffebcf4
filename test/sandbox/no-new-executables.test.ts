/** What a sandbox has written runs only where it may; each attempt is seen to work without the option. */
import {chmod, mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import type {SandboxOptions} from '../../src/index.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {newExecutables, waysOfSandbox} from '../helpers/new-executables.ts';
import {usePool} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const fixture = usePool();

const attempts = `${newExecutables}
import sys
print('\\n'.join(try_all(sys.argv[1])))
`;
const ways = [...waysOfSandbox];

async function tryAll(t: ExecutionContext, options: SandboxOptions, folder = '/tmp/work'): Promise<string[]> {
	const sandbox = await fixture().pool.create(options);
	try {
		const {stdout, stderr, exitCode} = await sandbox.exec([python, '-c', attempts, folder]);
		t.deepEqual({exitCode, stderr}, {exitCode: 0, stderr: ''});
		return stdout.split('\n').filter(Boolean);
	} finally {
		await sandbox.destroy();
	}
}

kernelTest(
	'nothing that was written to /tmp or to memory is executed; without the option all of it can be',
	async (t) => {
		t.deepEqual(await tryAll(t, {}), ways);
		// The second one is a spare, if any waits; the next one is not taken for one with the option.
		for (let made = 0; made < 2; made += 1) t.deepEqual(await tryAll(t, {noNewExecutables: true}), []);
		t.deepEqual(await tryAll(t, {}), ways);
	},
);

kernelTest('whatever the filter is', async (t) => {
	t.deepEqual(await tryAll(t, {noNewExecutables: true, seccomp: 'off'}), []);
	const profile = {defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{names: ['uname'], action: 'SCMP_ACT_ERRNO'}]};
	t.deepEqual(await tryAll(t, {seccomp: profile}), ways);
	t.deepEqual(await tryAll(t, {noNewExecutables: true, seccomp: profile}), []);
	const {exitCode} = await fixture().run(['uname'], {noNewExecutables: true, seccomp: profile});
	t.is(exitCode, 1, 'the profile does not hold any more');
});

kernelTest('a mount is written to, and nothing in it is executed', async (t) => {
	const source = path.join(await temporaryFolder(), 'data');
	t.teardown(() => rm(path.dirname(source), {recursive: true, force: true}));
	for (const noNewExecutables of [false, true, false]) {
		await rm(source, {recursive: true, force: true});
		await mkdir(source);
		await chmod(source, 0o777);
		const mounts = [{source, target: '/data', readonly: false}];
		t.deepEqual(await tryAll(t, {noNewExecutables, mounts}, '/data'), noNewExecutables ? [] : ways);
		await fixture().pool.forgetMount(source);
	}
});

kernelTest('what is no such option is an error that says so', async (t) => {
	const {pool} = fixture();
	const overlay = {noNewExecutables: true, writable: 'overlay'} as const;
	await t.throwsAsync(pool.create(overlay), {instanceOf: RangeError, message: /noNewExecutables: .*overlay/});
	const wrong = {noNewExecutables: 'yes'} as unknown as SandboxOptions;
	await t.throwsAsync(pool.create(wrong), {instanceOf: TypeError, message: /noNewExecutables: .*'yes'|"yes"/});
});
