import {readFileSync} from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import {parseMountinfo} from '../../src/kernel/mountinfo.ts';

test('reads root, mount point, type and super options, with and without optional fields', (t) => {
	t.deepEqual(
		parseMountinfo(
			[
				'36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue',
				'37 35 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct',
				'38 35 0:31 / /sys rw shared:1 master:2 propagate_from:3 - sysfs sysfs rw',
			].join('\n'),
		),
		[
			{root: '/mnt1', mountPoint: '/mnt2', type: 'ext3', superOptions: ['rw', 'errors=continue']},
			{root: '/', mountPoint: '/sys/fs/cgroup/cpu', type: 'cgroup', superOptions: ['rw', 'cpu', 'cpuacct']},
			{root: '/', mountPoint: '/sys', type: 'sysfs', superOptions: ['rw']},
		],
	);
});

test('undoes the escapes of blanks, tabs, line breaks and backslashes', (t) => {
	const [mount] = parseMountinfo('36 35 98:0 /a\\040b /c\\011d\\012e\\134f rw - tmpfs tmpfs rw');
	t.is(mount?.root, '/a b');
	t.is(mount?.mountPoint, '/c\td\ne\\f');
});

for (const line of [
	'',
	' - ',
	'a b c',
	'36 35 98:0 / /x rw',
	'36 35 98:0 / /x rw - tmpfs',
	'36 35 98:0 / /x rw - tmpfs tmpfs',
]) {
	test(`leaves out the line ${JSON.stringify(line)}`, (t) => t.deepEqual(parseMountinfo(`${line}\n`), []));
}

test('takes any text', (t) => {
	fc.assert(fc.property(fc.string(), (text) => Array.isArray(parseMountinfo(text))));
	fc.assert(
		fc.property(fc.array(fc.constantFrom('36', ' ', '-', '/', '\n', ' - ', '\\04', 'rw', ',')), (parts) =>
			Array.isArray(parseMountinfo(parts.join(''))),
		),
	);
	t.pass();
});

test('finds the root of the running system', (t) => {
	t.true(parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).some(({mountPoint}) => mountPoint === '/'));
});
