import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readFileSync, writeFileSync} from 'node:fs';
import {rm} from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import test from 'ava';
import fc from 'fast-check';
import {SyscallError} from '../../src/errors.ts';
import {enableControllers, findCgroups, findHostCgroups} from '../../src/kernel/cgroup-host.ts';
import {CgroupTree} from '../../src/kernel/cgroup-tree.ts';
import {tryController} from '../../src/kernel/cgroup-trial.ts';
import {CgroupPool} from '../../src/sandbox/cgroup-pool.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {LeakCheck} from '../helpers/leak-check.ts';
import {escapeName} from '../helpers/mountinfo.ts';
import {within} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const leaks = new LeakCheck();
test.after.always('nothing is left', (t) => leaks.verify(t));

const find = (mounts: string, groups: string, v2Controllers: (directory: string) => string) =>
	findCgroups({mountinfo: mounts, groups, v2Controllers, isRoot: true, isUsable: () => true});

/** A line of mountinfo for each [root, mount point, type, super options]. */
function mountinfo(...mounts: ReadonlyArray<readonly [string, string, string, string]>): string {
	return mounts
		.map(
			([root, point, type, options], index) =>
				`${index} 1 0:${index} ${root} ${point} rw shared:1 - ${type} ${type} rw,${options}`,
		)
		.join('\n');
}

const v1 = (root: (name: string) => string) =>
	['memory', 'pids', 'cpu,cpuacct'].map((name) => [root(name), `/sys/fs/cgroup/${name}`, 'cgroup', name] as const);
const v2 = ['/', '/sys/fs/cgroup/unified', 'cgroup2', 'nsdelegate'] as const;
const groups = (memory: string, pids: string, cpu: string) =>
	`4:memory:${memory}\n8:pids:${pids}\n1:cpu,cpuacct:${cpu}\n0::/\n`;

test('v1: a group beside our own in each hierarchy', (t) => {
	t.deepEqual(
		find(mountinfo(...v1(() => '/')), groups('/a/b', '/', '/c'), () => t.fail() as never),
		{
			mode: 'v1',
			hierarchies: [
				{version: 1, directory: '/sys/fs/cgroup/memory/a/b', controllers: ['memory']},
				{version: 1, directory: '/sys/fs/cgroup/pids', controllers: ['pids']},
				{version: 1, directory: '/sys/fs/cgroup/cpu,cpuacct/c', controllers: ['cpu']},
			],
			missing: [],
		} as never,
	);
});

test('hybrid: v1 is taken, and the v2 tree beside it left alone', (t) => {
	const host = find(mountinfo(v2, ...v1(() => '/')), groups('/', '/', '/'), () => '\n');
	t.is(host.mode, 'hybrid');
	t.deepEqual(
		host.hierarchies.map(({version, directory}) => [version, directory]),
		[
			[1, '/sys/fs/cgroup/memory'],
			[1, '/sys/fs/cgroup/pids'],
			[1, '/sys/fs/cgroup/cpu,cpuacct'],
		],
	);
});

test('a controller that only v2 has comes from there', (t) => {
	const host = find(mountinfo(v2, ...v1(() => '/').slice(0, 2)), groups('/', '/', '/'), () => 'cpu io\n');
	t.is(host.mode, 'hybrid');
	t.deepEqual(host.hierarchies.at(-1), {version: 2, directory: '/sys/fs/cgroup/unified', controllers: ['cpu']});
});

test('v2: one tree with every controller', (t) => {
	t.deepEqual(
		find(
			mountinfo(['/', '/sys/fs/cgroup', 'cgroup2', 'nsdelegate']),
			'0::/user.slice\n',
			() => 'cpuset cpu io memory pids\n',
		),
		{
			mode: 'v2',
			hierarchies: [{version: 2, directory: '/sys/fs/cgroup', controllers: ['memory', 'pids', 'cpu']}],
			missing: [],
		} as never,
	);
});

test('in a container the mount’s root is not part of the folder', (t) => {
	const docker = '/docker/0123456789abcdef';
	const inside = find(mountinfo(...v1(() => docker)), groups(docker, docker, `${docker}/nested`), () => '');
	t.deepEqual(
		inside.hierarchies.map(({directory}) => directory),
		['/sys/fs/cgroup/memory', '/sys/fs/cgroup/pids', '/sys/fs/cgroup/cpu,cpuacct/nested'],
	);
	// With a cgroup namespace roots look like /../..; nothing above the mount point may be made of that.
	const namespaced = find(mountinfo(...v1(() => '/..')), groups('/', '/', '/'), () => '');
	t.deepEqual(
		namespaced.hierarchies.map(({directory}) => directory),
		['/sys/fs/cgroup/memory', '/sys/fs/cgroup/pids', '/sys/fs/cgroup/cpu,cpuacct'],
	);
});

test('a group outside the mount’s root, or one whose name only starts like it, is not followed', (t) => {
	for (const [root, group] of [
		['/docker/abc', '/docker/abcdef'],
		['/docker/abc', '/elsewhere'],
		['/docker/abc', '/docker'],
	] as const) {
		const host = find(mountinfo(...v1(() => root)), groups(group, group, group), () => '');
		t.is(host.hierarchies[0]?.directory, '/sys/fs/cgroup/memory', group);
	}
});

test('one v1 hierarchy with several controllers is one', (t) => {
	const host = find(mountinfo(['/', '/cg', 'cgroup', 'memory,pids,cpu']), '1:memory,pids,cpu:/x\n', () => '');
	t.deepEqual(host.hierarchies, [{version: 1, directory: '/cg/x', controllers: ['memory', 'pids', 'cpu']}]);
});

test('what is missing is named', (t) => {
	const missing = (mounts: string, lines: string, v2Controllers: string) =>
		find(mounts, lines, () => v2Controllers).missing;
	t.deepEqual(missing('', '', ''), ['memory', 'pids', 'cpu']);
	t.deepEqual(missing(mountinfo(v2), '0::/\n', 'memory cpu\n'), ['pids']);
	// Not controllers of these names, but of similar ones.
	t.deepEqual(missing(mountinfo(['/', '/cg', 'cgroup', 'cpuacct,cpuset']), '', ''), ['memory', 'pids', 'cpu']);
	t.is(find('', '', () => '').mode, 'none');
});

const scope = '/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope';

test('v2: an ordinary user’s groups are made below their own one, or beside the leaf that their process is in', (t) => {
	const mounts = mountinfo(['/', '/sys/fs/cgroup', 'cgroup2', 'nsdelegate']);
	for (const own of [scope, `${scope}/forktree-host`]) {
		const asked: string[] = [];
		const host = findCgroups({
			mountinfo: mounts,
			groups: `0::${own}\n`,
			v2Controllers: (directory) => {
				asked.push(directory);
				return 'cpu memory pids\n';
			},
			isRoot: false,
			isUsable: () => true,
		});
		t.deepEqual(
			host.hierarchies.map(({directory}) => directory),
			[`/sys/fs/cgroup${scope}`],
		);
		t.true(asked.every((directory) => directory === `/sys/fs/cgroup${scope}`));
	}
});

test('what is there and not ours to use is missing', (t) => {
	const facts = {v2Controllers: () => '', isRoot: false, groups: groups('/a', '/b', '/c')};
	const host = findCgroups({
		...facts,
		mountinfo: mountinfo(...v1(() => '/')),
		isUsable: ({directory}) => directory.startsWith('/sys/fs/cgroup/pids'),
	});
	t.deepEqual(host, {
		mode: 'v1',
		hierarchies: [{version: 1, directory: '/sys/fs/cgroup/pids/b', controllers: ['pids']}],
		missing: ['memory', 'cpu'],
	} as never);
});

test('of two mounts on one folder the later one is seen', (t) => {
	const host = find(
		mountinfo(...v1(() => '/'), ['/', '/sys/fs/cgroup/memory', 'cgroup2', 'nsdelegate']),
		groups('/', '/', '/'),
		() => 'memory\n',
	);
	t.deepEqual(host.hierarchies[0], {version: 2, directory: '/sys/fs/cgroup/memory', controllers: ['memory']});
});

test('any mounts and groups are folders below those mounts, or missing', (t) => {
	const wanted = ['memory', 'pids', 'cpu'];
	const names = [...wanted, 'cpuacct', 'freezer', 'name=systemd'];
	const anyPath = fc
		.array(fc.oneof(fc.constantFrom('a', 'b', '..', '.', '..c', 'd e', ''), fc.string()), {maxLength: 4})
		.map((parts) => `/${parts.join('/')}`);
	const anyMount = fc.record({
		root: anyPath,
		// The kernel has resolved it, and no hierarchy is mounted in another.
		mountPoint: fc.constantFrom('/cg', '/cgroup 2', '/..x', '/memory', '/pids', '/cpu'),
		type: fc.constantFrom('cgroup', 'cgroup', 'cgroup', 'cgroup2', 'tmpfs'),
		options: fc.subarray(names),
	});
	const anyGroup = fc.oneof(
		fc
			.tuple(fc.subarray(names), fc.oneof(anyPath, fc.string()))
			.map(([controllers, group]) => `1:${controllers.join(',')}:${group}`),
		fc.string(),
	);
	fc.assert(
		fc.property(fc.array(anyMount, {maxLength: 6}), fc.array(anyGroup), fc.subarray(names), (mounts, lines, inV2) => {
			const text = mountinfo(
				...mounts.map(
					(each) => [escapeName(each.root), escapeName(each.mountPoint), each.type, each.options.join(',')] as const,
				),
			);
			const seen = mounts.filter(({mountPoint}, index) =>
				mounts.slice(index + 1).every((later) => later.mountPoint !== mountPoint),
			);
			const offers = ({type, options}: {type: string; options: string[]}, version: number, controller: string) =>
				type === (version === 1 ? 'cgroup' : 'cgroup2') && (version === 1 ? options : inV2).includes(controller);
			const host = find(text, lines.join('\n'), () => `${inV2.join(' ')}\n`);
			const there = wanted.filter((name) => seen.some((each) => offers(each, 1, name) || offers(each, 2, name)));
			for (const name of there) t.false((host.missing as readonly string[]).includes(name));
			const found = host.hierarchies.flatMap((each) => each.controllers);
			t.deepEqual([...found, ...host.missing].sort(), [...wanted].sort() as never);
			if (found.length === 0) return t.is(host.mode, 'none');
			const versions = host.hierarchies.map((each) => each.version);
			const v2Seen = seen.some((each) => each.type === 'cgroup2');
			t.is(host.mode, versions.includes(1) ? (v2Seen ? 'hybrid' : 'v1') : 'v2');
			for (const {version, directory, controllers} of host.hierarchies) {
				const mount = seen.find(({mountPoint}) => !path.relative(mountPoint, directory).split('/').includes('..'));
				t.true(mount !== undefined && controllers.every((name) => offers(mount, version, name)), directory);
			}
		}),
		fuzzParameters(1),
	);
});

const limits = {memoryMb: 10, swapMb: 0, cpuPercent: 50, processes: 7};

kernelTest('a group has its limits, joins, counts and goes', async (t) => {
	const host = findHostCgroups();
	const tree = new CgroupTree(host, `forktree-test-${process.pid}`);
	t.true(tree.directories.every((directory) => existsSync(directory)));
	const group = await tree.create(limits);
	const [memory] = tree.directories;
	const limit = host.mode === 'v2' ? 'memory.max' : 'memory.limit_in_bytes';
	t.is(readFileSync(path.join(memory ?? '', 'sandbox-1', limit), 'utf8').trim(), String(10 << 20));
	t.is(group.joins.length, host.hierarchies.length);
	t.is(group.oomKills(), 0);
	t.true((group.memory().current ?? -1) >= 0);
	await group.remove();
	await group.remove();
	await tree.close();
	t.false(tree.directories.some((directory) => existsSync(directory)));
});

kernelTest('a group gets less CPU time than others for as long as it is to', async (t) => {
	const tree = new CgroupTree(findHostCgroups(), `forktree-test-${process.pid}-weight`);
	const pool = new CgroupPool(tree);
	const group = await pool.takeLow(limits);
	const weight = () => {
		const files = tree.directories.flatMap((directory) =>
			['cpu.shares', 'cpu.weight'].map((file) => path.join(directory, 'sandbox-1', file)),
		);
		return readFileSync(files.find((file) => existsSync(file)) ?? '', 'utf8').trim();
	};
	const low = weight();
	group.weigh('usual');
	t.true([`102 1024`, `10 100`].includes(`${low} ${weight()}`), `${low} ${weight()}`);
	await group.remove();
	await pool.close();
	await tree.close();
	t.false(tree.directories.some((directory) => existsSync(directory)));
});

kernelTest('a limit that the kernel refuses is a SyscallError naming the file, and leaves no group', async (t) => {
	const tree = new CgroupTree(findHostCgroups(), `forktree-test-${process.pid}-refused`);
	const error = (await t.throwsAsync(tree.create({...limits, cpuPercent: 1e-6}), {
		instanceOf: SyscallError,
	})) as SyscallError;
	t.is(error.errnoName, 'EINVAL');
	t.regex(error.message, /cpu\.(cfs_quota_us|max)/);
	await tree.close();
	t.false(tree.directories.some((directory) => existsSync(directory)));
});

kernelTest('a limit of memory below what is used is refused, and nobody is killed for it', async (t) => {
	const tree = new CgroupTree(findHostCgroups(), `forktree-test-${process.pid}-lower`);
	const group = await tree.create({...limits, memoryMb: 100});
	const program = `
import os, sys
for fd in range(3, 3 + ${group.joins.length}): os.write(fd, b'0')
pages = b'x' * (30 << 20)
print('ready', flush=True)
sys.stdin.read()
`;
	const child = spawn(python, ['-I', '-c', program], {stdio: ['pipe', 'pipe', 'inherit', ...group.joins]});
	t.teardown(() => child.kill('SIGKILL'));
	const ended = once(child, 'exit');
	await within(once(child.stdout as NonNullable<typeof child.stdout>, 'data'), 'that it uses memory');
	const error = t.throws(() => group.setLimits({...limits, memoryMb: 8}), {instanceOf: SyscallError}) as SyscallError;
	t.is(error.errnoName, 'EBUSY');
	t.is(group.oomKills(), 0);
	child.stdin?.end();
	t.deepEqual(await within(ended, 'its end'), [0, null]);
	await group.remove();
	await tree.close();
});

test('v2: no controller is enabled without memory, which a group that holds processes refuses', async (t) => {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true}));
	const file = path.join(folder, 'cgroup.subtree_control');
	for (const [there, before, wanted] of [
		['cpu memory pids', '', '+memory +pids'],
		['cpu memory pids', 'memory', '+pids'],
		['cpu memory pids', 'memory pids', 'memory pids'],
		['cpu pids', '', '+pids'],
	] as const) {
		writeFileSync(path.join(folder, 'cgroup.controllers'), `${there}\n`);
		writeFileSync(file, before);
		enableControllers(folder, ['pids']);
		t.is(readFileSync(file, 'utf8'), wanted);
	}
});

kernelTest('a tree where none can be made is NotPermitted and leaves nothing', (t) => {
	const host = findHostCgroups();
	const hierarchies = host.hierarchies.map((each, index) =>
		index === host.hierarchies.length - 1 ? {...each, directory: '/proc'} : each,
	);
	const name = `forktree-test-${process.pid}-none`;
	t.throws(
		() => {
			const v1Only = hierarchies.map((each) => ({...each, version: 1 as const}));
			return new CgroupTree({mode: 'v1', hierarchies: v1Only, missing: []}, name);
		},
		{code: 'NotPermitted'},
	);
	t.false(host.hierarchies.some(({directory}) => existsSync(path.join(directory, name))));
});

kernelTest('each controller is tried in a group of its own, which is gone afterwards', (t) => {
	for (const controller of ['memory', 'pids', 'cpu', 'freezer'] as const) {
		let group = '';
		const where = tryController(controller, `forktree-tried-${process.pid}`, (directory) => {
			group = directory;
			t.false(existsSync(group), 'it is told before it is made');
		});
		t.is(where.replace(/^v[12] at /, ''), path.dirname(group));
		t.false(existsSync(group));
	}
});

kernelTest('a controller whose group can’t be made fails, and leaves nothing', (t) => {
	let group = '';
	const failing = () =>
		tryController('pids', `none-${process.pid}/forktree-tried`, (directory) => {
			group = directory;
		});
	t.throws(failing, {code: 'ENOENT'});
	t.false(existsSync(path.dirname(group)));
});
