import {existsSync, readFileSync} from 'node:fs';
import {constants, release} from 'node:os';
import process from 'node:process';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {ForktreeError, type SandboxOptions, type SeccompProfile, type SeccompRule} from '../../src/index.ts';
import {readSeccompProfile} from '../../src/sandbox/seccomp-profile.ts';
import {fuzzParameters} from '../helpers/fuzz.ts';
import {serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {usePool} from '../helpers/pool.ts';
import {python} from '../helpers/runtime.ts';

const fixture = usePool({defaults: {limits: {memoryMb: 64}}});
const goArch = process.arch === 'x64' ? 'amd64' : process.arch;
/** No call answers this by itself here. */
const mark = constants.errno.EXDEV;

/** A profile that allows what these rules do not decide. */
const except = (...rules: readonly SeccompRule[]): SeccompProfile => ({
	defaultAction: 'SCMP_ACT_ALLOW',
	syscalls: rules,
});
const marked = (names: readonly string[], more: Partial<SeccompRule> = {}): SeccompRule => ({
	names,
	action: 'SCMP_ACT_ERRNO',
	errnoRet: mark,
	...more,
});

/** Asks for priorities, whose two arguments do no harm: each answers whether the rule held. */
const program = `
import json, os, sys
answers = []
for which, who in json.loads(sys.argv[1]):
	try:
		os.getpriority(which, who)
		answers.append(0)
	except OSError as error:
		answers.append(error.errno)
print(json.dumps(answers))
`;
const calls = [
	[0, 0],
	[0, 40_000],
	[1, 0],
	[2, 0],
];

/** Which of the calls the profile's rules hold for. */
async function held(t: ExecutionContext, profile: SeccompProfile): Promise<number[]> {
	const {stdout, stderr} = await fixture().run([python, '-I', '-c', program, JSON.stringify(calls)], {
		seccomp: profile,
	});
	t.is(stderr, '');
	return (JSON.parse(stdout) as number[]).flatMap((errno, index) => (errno === mark ? [index] : []));
}

const statusOf = async (seccomp: NonNullable<SandboxOptions['seccomp']>, field: string) => {
	const {stdout} = await fixture().run(['cat', '/proc/self/status'], {seccomp});
	return new RegExp(`^${field}:\\s*(\\d+)`, 'm').exec(stdout)?.[1];
};

kernelTest('default and a profile: a filter besides the launcher’s; off: that one alone', async (t) => {
	t.is(await statusOf('default', 'Seccomp_filters'), '2');
	t.is(await statusOf('off', 'Seccomp_filters'), '1');
	t.is(await statusOf(except(), 'Seccomp_filters'), '2');
	for (const seccomp of ['default', 'off', except()] as const) {
		t.is(await statusOf(seccomp, 'Seccomp'), '2');
		t.is(await statusOf(seccomp, 'NoNewPrivs'), '1');
		t.is(await statusOf(seccomp, 'CapBnd'), '0000000000000000');
	}
});

kernelTest('what the launcher is refused is refused without a filter as well', async (t) => {
	const code = 'import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.ptrace(0, 0, 0, 0), ctypes.get_errno())';
	for (const seccomp of ['off', except()] as const) {
		t.is((await fixture().run([python, '-I', '-c', code], {seccomp})).stdout, '-1 1\n');
	}
});

kernelTest('default refuses namespaces, off and a profile leave them to the kernel', async (t) => {
	const {stderr} = await fixture().run(['unshare', '-U', 'true'], {seccomp: 'default'});
	t.regex(stderr, /unshare failed: Operation not permitted/);
	const refused = except(marked(['unshare']));
	t.regex((await fixture().run(['unshare', '-U', 'true'], {seccomp: refused})).stderr, /Invalid cross-device link/);
	t.notRegex((await fixture().run(['unshare', '-U', 'true'], {seccomp: 'off'})).stderr, /cross-device/);
});

kernelTest('a rule by name, its number of an error, and EPERM by default', async (t) => {
	t.deepEqual(await held(t, except(marked(['getpriority']))), [0, 1, 2, 3]);
	t.deepEqual(await held(t, except({...marked([]), name: 'getpriority', names: undefined as never})), [0, 1, 2, 3]);
	t.deepEqual(await held(t, except(marked(['setpriority']))), []);
	const {stderr} = await fixture().run(['mkdir', '/tmp/work/new'], {
		seccomp: except({names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO'}),
	});
	t.regex(stderr, /Operation not permitted/);
});

for (const [title, args, expected] of [
	['EQ', [{index: 0, value: 1, op: 'SCMP_CMP_EQ'}], [2]],
	['NE', [{index: 0, value: 1, op: 'SCMP_CMP_NE'}], [0, 1, 3]],
	['LT', [{index: 0, value: 1, op: 'SCMP_CMP_LT'}], [0, 1]],
	['LE', [{index: 0, value: 1, op: 'SCMP_CMP_LE'}], [0, 1, 2]],
	['GE', [{index: 0, value: 1, op: 'SCMP_CMP_GE'}], [2, 3]],
	['GT', [{index: 0, value: 1, op: 'SCMP_CMP_GT'}], [3]],
	['MASKED_EQ', [{index: 1, value: 0x8000, valueTwo: 0x8000, op: 'SCMP_CMP_MASKED_EQ'}], [1]],
	['none', null, [0, 1, 2, 3]],
	[
		'two arguments: both have to hold',
		[
			{index: 0, value: 0, op: 'SCMP_CMP_EQ'},
			{index: 1, value: 0, op: 'SCMP_CMP_EQ'},
		],
		[0],
	],
	[
		'one argument twice: either is enough',
		[
			{index: 0, value: 1, op: 'SCMP_CMP_EQ'},
			{index: 0, value: 2, op: 'SCMP_CMP_EQ'},
		],
		[2, 3],
	],
] as const) {
	kernelTest(`conditions on arguments: ${title}`, async (t) => {
		t.deepEqual(await held(t, except(marked(['getpriority'], {args}))), [...expected]);
	});
}

const [major = 0, minor = 0] = release().split('.').map(Number);
for (const [title, more, expected] of [
	['of this architecture', {includes: {arches: [goArch]}}, true],
	['of another architecture', {includes: {arches: ['s390x']}}, false],
	['not of this architecture', {excludes: {arches: [goArch]}}, false],
	['not of another architecture', {excludes: {arches: ['s390x']}}, true],
	['with a capability', {includes: {caps: ['CAP_SYS_ADMIN']}}, false],
	['without a capability', {excludes: {caps: ['CAP_SYS_ADMIN']}}, true],
	['from this kernel on', {includes: {minKernel: `${major}.${minor}`}}, true],
	['from the next kernel on', {includes: {minKernel: `${major}.${minor + 1}`}}, false],
	['before this kernel', {excludes: {minKernel: `${major}.${minor}`}}, false],
	['before the next kernel', {excludes: {minKernel: `${major}.${minor + 1}`}}, true],
	['with nothing', {includes: {}, excludes: {}}, true],
] as const) {
	test(`rules ${title} ${expected ? 'hold' : 'do not hold'}`, (t) => {
		const filter = (rule: SeccompRule) => Buffer.from(readSeccompProfile(except(rule))).toString('hex');
		const [none, all] = [filter(marked([])), filter(marked(['getpriority']))];
		t.not(none, all);
		t.is(filter(marked(['getpriority'], more)), expected ? all : none);
	});
}

test('calls that are not known here are passed over', (t) => {
	const known = readSeccompProfile(except(marked(['getpriority'])));
	t.deepEqual(readSeccompProfile(except(marked(['no_such_call', 'getpriority', 'breakpoint']))), known);
});

for (const action of ['SCMP_ACT_KILL_PROCESS', 'SCMP_ACT_TRAP']) {
	kernelTest(`${action} ends a program as Killed by SIGSYS`, async (t) => {
		const {error, signal} = await fixture().run(['mkdir', '/tmp/work/new'], {
			seccomp: except({names: ['mkdir', 'mkdirat'], action}),
		});
		t.deepEqual([error?.code, signal], ['Killed', 'SIGSYS']);
	});
}

/** As container engines write them: what is not named is refused. */
const allowList: SeccompProfile & Readonly<Record<string, unknown>> = {
	defaultAction: 'SCMP_ACT_ERRNO',
	defaultErrnoRet: constants.errno.ENOSYS,
	architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_AARCH64'],
	archMap: [{architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32']}],
	syscalls: [
		{
			names: [
				...['access', 'brk', 'close', 'dup', 'dup2', 'dup3', 'execve', 'exit', 'exit_group', 'faccessat', 'faccessat2'],
				...['fcntl', 'fstat', 'futex', 'getcwd', 'getdents64', 'getegid', 'geteuid', 'getgid', 'getpid', 'getppid'],
				...[
					'getrandom',
					'gettid',
					'getuid',
					'ioctl',
					'lseek',
					'lstat',
					'madvise',
					'mmap',
					'mprotect',
					'mremap',
					'munmap',
				],
				...[
					'newfstatat',
					'open',
					'openat',
					'pipe',
					'pipe2',
					'poll',
					'ppoll',
					'pread64',
					'prlimit64',
					'read',
					'readlink',
				],
				...[
					'readlinkat',
					'rseq',
					'rt_sigaction',
					'rt_sigprocmask',
					'rt_sigreturn',
					'sched_getaffinity',
					'set_robust_list',
				],
				...['set_tid_address', 'sigaltstack', 'stat', 'statx', 'sysinfo', 'uname', 'vfork', 'wait4', 'waitid', 'write'],
			],
			action: 'SCMP_ACT_ALLOW',
			args: null,
			comment: '',
			includes: {},
			excludes: {},
		},
		{names: ['arch_prctl'], action: 'SCMP_ACT_ALLOW', args: [], includes: {arches: ['amd64', 'x32']}},
		{names: ['mount', 'umount2', 'unshare'], action: 'SCMP_ACT_ALLOW', includes: {caps: ['CAP_SYS_ADMIN']}},
		{
			names: ['clone'],
			action: 'SCMP_ACT_ALLOW',
			args: [{index: 0, value: 0x7e02_0000, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ'}],
			excludes: {caps: ['CAP_SYS_ADMIN'], arches: ['s390', 's390x']},
		},
		{names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38, excludes: {caps: ['CAP_SYS_ADMIN']}},
		{names: ['socket'], action: 'SCMP_ACT_ALLOW', args: [{index: 0, value: 1, op: 'SCMP_CMP_EQ'}]},
	],
};

/** One that is installed on this machine, if any, and the one that the environment names. */
const engines = ['/usr/share/containers/seccomp.json', process.env.FORKTREE_TEST_SECCOMP_PROFILE ?? ''];
const profiles: Array<readonly [string, SeccompProfile]> = [
	['an allow list in the engines’ format', allowList],
	...engines
		.filter((file) => file !== '' && existsSync(file))
		.map((file) => [file, JSON.parse(readFileSync(file, 'utf8')) as SeccompProfile] as const),
];

for (const [title, profile] of profiles) {
	kernelTest(`python3 runs under ${title}, and mounts are refused`, async (t) => {
		const sandbox = await fixture().create(t, {seccomp: profile});
		const code = 'import json, os, subprocess; print(json.dumps(subprocess.check_output(["echo", "child"]).decode()))';
		const result = await sandbox.exec([python, '-I', '-c', code]);
		t.like(result, {exitCode: 0, stdout: '"child\\n"\n', stderr: ''});
		const mount =
			'import ctypes, os; c = ctypes.CDLL(None, use_errno=True); print(c.mount(b"x", b"/tmp", b"tmpfs", 0, None))';
		t.is((await sandbox.exec([python, '-I', '-c', mount])).stdout, '-1\n');
	});
}

kernelTest('under an allow list no namespace can be made, by no call', async (t) => {
	const sandbox = await fixture().create(t, {seccomp: allowList});
	for (const [flag, errno] of [
		['-U', 'Function not implemented'],
		['-m', 'Function not implemented'],
	] as const) {
		t.regex((await sandbox.exec(['unshare', flag, 'true'])).stderr, new RegExp(errno));
	}
	const code = `
import ctypes, platform
c = ctypes.CDLL(None, use_errno=True)
clone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
print(c.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno())
print(c.syscall(435, None, 0), ctypes.get_errno())
import socket
socket.socket(socket.AF_UNIX).close()
try:
	socket.socket(socket.AF_INET)
except OSError as error:
	print(error.errno)
`;
	const {stdout, stderr} = await sandbox.exec([python, '-I', '-c', code]);
	t.is(stdout, '-1 38\n-1 38\n38\n', stderr);
});

for (const [title, profile, message] of [
	['a path', '/profile.json', /^seccomp: profile: expected an object, got "\/profile\.json"$/],
	['nothing', null, /^seccomp: profile: expected an object, got null$/],
	['no default', {}, /^seccomp: expected an action such as SCMP_ACT_ERRNO, got undefined$/],
	['an action that needs a tracer', {defaultAction: 'SCMP_ACT_TRACE'}, /expected an action such as .*SCMP_ACT_TRACE/],
	['an action of every object', {defaultAction: 'constructor'}, /expected an action/],
	[
		'a large error number',
		{defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 5000},
		/expected an error number, got 5000/,
	],
	['an error’s name', except(marked(['read'], {errnoRet: 'EPERM' as never})), /expected an error number, got "EPERM"/],
	[
		'no list of rules',
		{defaultAction: 'SCMP_ACT_ALLOW', syscalls: {}},
		/^seccomp: syscalls: expected an array, got {}$/,
	],
	['a rule that is none', except(null as never), /^seccomp: syscalls: expected an object, got null$/],
	['names that are none', except(marked('read' as never)), /^seccomp: names: expected an array, got "read"$/],
	['a name that is none', except(marked([5 as never])), /^seccomp: names: expected names of calls, got 5$/],
	['arguments that are none', except(marked(['read'], {args: {} as never})), /^seccomp: read: args: expected an array/],
	[
		'an argument that is none',
		except(marked(['read'], {args: [null as never]})),
		/^seccomp: read: args: expected an object/,
	],
	['an index', except(marked(['read'], {args: [{index: 6, value: 0, op: 'SCMP_CMP_EQ'}]})), /index from 0 to 5, got 6/],
	['an operator', except(marked(['read'], {args: [{index: 0, value: 0, op: 'EQ'}]})), /operator such as .*got "EQ"/],
	['a value', except(marked(['read'], {args: [{index: 0, value: -1, op: 'SCMP_CMP_EQ'}]})), /whole number, got -1/],
	['conditions', except(marked(['read'], {includes: 5 as never})), /^seccomp: includes: expected an object, got 5$/],
	['arches', except(marked(['read'], {includes: {arches: 'amd64' as never}})), /includes\.arches: expected an array/],
	['a kernel', except(marked(['read'], {includes: {minKernel: 'new'}})), /minKernel: expected a version .* got "new"/],
	['one without execve', except(marked(['execve'])), /expected a profile that allows .*, got one that forbids execve$/],
	[
		'one without exit_group',
		{defaultAction: 'SCMP_ACT_ERRNO', syscalls: [{names: ['execve'], action: 'SCMP_ACT_ALLOW'}]},
		/forbids exit_group$/,
	],
] as const) {
	test(`what is no profile is a TypeError: ${title}`, (t) => {
		t.throws(() => readSeccompProfile(profile as SeccompProfile), {instanceOf: TypeError, message});
	});
}

kernelTest('a bad profile makes no sandbox, and a word that is none neither', async (t) => {
	const {pool} = fixture();
	await t.throwsAsync(pool.create({seccomp: except(marked(['execve']))}), {instanceOf: TypeError, message: /execve/});
	await t.throwsAsync(pool.create({seccomp: 'strict' as never}), {instanceOf: TypeError, message: /"strict"/});
	t.is(pool.stats().memory.reservedMb, 0);
});

test('whatever is given is a filter or an error that says what was expected', (t) => {
	const odd = fc.oneof(fc.integer({min: -1, max: 8}), fc.jsonValue({maxDepth: 1}));
	const often = (...right: ReadonlyArray<fc.Arbitrary<unknown>>) =>
		fc.oneof({weight: 9, arbitrary: fc.oneof(...right)}, {weight: 1, arbitrary: odd});
	const list = (each: fc.Arbitrary<unknown>) => often(fc.array(each, {maxLength: 3}));
	const loose = (shape: Record<string, fc.Arbitrary<unknown>>, requiredKeys: string[] = []) =>
		often(fc.record(shape, {requiredKeys}));
	const action = often(fc.constantFrom('SCMP_ACT_ALLOW', 'SCMP_ACT_ERRNO', 'SCMP_ACT_LOG'));
	const name = often(fc.constantFrom('read', 'write', 'no_such_call', 'execve'));
	const number = often(fc.nat({max: 6}));
	const arches = list(often(fc.constantFrom('amd64', 's390x')));
	const minKernel = often(fc.constantFrom('4.8', '99.1'));
	const conditions = loose({caps: list(odd), arches, minKernel});
	const argument = loose({index: number, value: number, valueTwo: number, op: often(fc.constant('SCMP_CMP_EQ'))});
	const shape = {names: list(name), name, action, errnoRet: number, args: list(argument)};
	const rule = loose({...shape, includes: conditions, excludes: conditions}, ['names', 'action']);
	const profiles = loose({defaultAction: action, defaultErrnoRet: number, syscalls: list(rule)}, ['defaultAction']);
	fc.assert(
		fc.property(profiles, (profile) => {
			try {
				t.true(readSeccompProfile(profile as SeccompProfile).length % 8 === 0);
			} catch (error) {
				t.true(error instanceof TypeError || error instanceof ForktreeError, String(error));
				t.regex((error as Error).message, /^seccomp: /);
			}
		}),
		fuzzParameters(1),
	);
});
