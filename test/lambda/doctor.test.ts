import test from 'ava';
import {doctor, doctorChecks} from '../../src/index.ts';
import {forktree} from '../cli/forktree.ts';
import {kernelTest, serialKernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {python} from '../helpers/runtime.ts';

test('every check is reported, in order, and says how to mend what is not ok', async (t) => {
	const {level, checks} = await doctor({python});
	t.deepEqual(
		checks.map(({name}) => name),
		[...doctorChecks],
	);
	for (const check of checks) {
		t.not(check.detail, '', check.name);
		t.is(check.fix === undefined, check.status === 'ok', check.name);
	}
	t.is(level, checks.find(({name}) => name === 'sandbox')?.status === 'ok' ? 'full' : 'none');
});

test('a missing interpreter is found out, not thrown', async (t) => {
	const {level, checks} = await doctor({python: '/nowhere/python'});
	t.is(level, 'none');
	const status = Object.fromEntries(checks.map((check) => [check.name, check.status]));
	t.like(status, {python: 'missing', installer: 'degraded', sandbox: 'missing'});
	t.is(checks.find(({name}) => name === 'python')?.fix, 'apt-get install python3');
});

serialKernelTest('this machine is full, and nothing is left behind', async (t) => {
	const leaks = new LeakCheck();
	const {level, checks} = await doctor({python});
	t.is(level, 'full', JSON.stringify(checks, undefined, '\t'));
	for (const name of ['kernel', 'privileges', 'addon', 'userNamespaces', 'cgroups', 'python', 'keeper', 'sandbox']) {
		t.is(checks.find((check) => check.name === name)?.status, 'ok', name);
	}
	leaks.verify(t);
});

kernelTest('forktree doctor prints a table, and with --json one document', async (t) => {
	const table = await forktree(['doctor', '--python', python]);
	t.is(table.exitCode, 0, table.stdout);
	t.is(table.stderr, '');
	t.regex(table.stdout, /^ok {8}kernel /);
	t.true(table.stdout.endsWith('\nlevel: full\n'));
	const json = await forktree(['doctor', '--json', '--python', python]);
	t.is(json.exitCode, 0);
	t.like(JSON.parse(json.stdout), {level: 'full'});
});

test('forktree doctor ends with 1 when something is missing, and says how to mend it', async (t) => {
	const {exitCode, stdout} = await forktree(['doctor', '--python', '/nowhere/python']);
	t.is(exitCode, 1);
	t.regex(stdout, /^missing {3}python .*\n +fix: apt-get install python3$/m);
	t.true(stdout.endsWith('\nlevel: none\n'));
});
