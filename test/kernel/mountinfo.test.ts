import {readFileSync} from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import {type Mount, parseMountinfo} from '../../src/kernel/mountinfo.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {escapeName} from '../helpers/mountinfo.ts';

const parameters = fuzzParameters(3);

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

test('a device that is named like the separator is no separator', (t) => {
	t.deepEqual(parseMountinfo('36 35 0:30 / /cg rw - cgroup - rw,memory'), [
		{root: '/', mountPoint: '/cg', type: 'cgroup', superOptions: ['rw', 'memory']},
	]);
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
	const isMount = ({root, mountPoint, type, superOptions}: Mount) =>
		[root, mountPoint, type, ...superOptions].every((each) => typeof each === 'string') && superOptions.length > 0;
	fc.assert(
		fc.property(fc.string({unit: 'binary'}), (text) => parseMountinfo(text).every(isMount)),
		parameters,
	);
	const parts = fc.array(fc.constantFrom('36', ' ', '-', '/', '\n', ' - ', '\\04', '\\777', 'rw', ','), {
		maxLength: 60,
	});
	fc.assert(
		fc.property(parts, (each) => parseMountinfo(each.join('')).every(isMount)),
		parameters,
	);
	t.pass();
});

const anyName = fc.oneof(
	fc.string({unit: 'binary'}),
	fc.array(fc.constantFrom(' ', '-', '\t', '\n', '\\', '#', '040', 'a', '/', '\u2028')).map((parts) => parts.join('')),
);
const anyWord = fc.stringMatching(/^[a-z0-9.=_-]+$/);
const anyMount = fc.record({
	root: anyName.map((name) => `/${name}`),
	mountPoint: anyName.map((name) => `/${name}`),
	type: anyWord,
	superOptions: fc.array(anyWord, {minLength: 1, maxLength: 4}),
});

test('reads the mounts that were written', (t) => {
	const optional = fc.subarray(['shared:1', 'master:2', 'propagate_from:3', 'unbindable']);
	fc.assert(
		fc.property(fc.array(fc.tuple(anyMount, optional, fc.oneof(fc.constant('-'), anyName))), (mounts) => {
			const lines = mounts.map(([{root, mountPoint, type, superOptions}, fields, source]) =>
				[
					...['36', '35', '98:0', escapeName(root), escapeName(mountPoint), 'rw,noatime', ...fields, '-'],
					...[type, escapeName(source), superOptions.join(',')],
				].join(' '),
			);
			t.deepEqual(
				parseMountinfo(`${lines.join('\n')}\n`),
				mounts.map(([mount]) => mount),
			);
		}),
		parameters,
	);
});

test('finds the root of the running system', (t) => {
	t.true(parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')).some(({mountPoint}) => mountPoint === '/'));
});
