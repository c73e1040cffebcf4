/** What root of a container gets: with the capabilities that Docker leaves it, a proc of its own, and control groups that it may only read. */
import process from 'node:process';
import type {ExecutionContext} from 'ava';
import {execa} from 'execa';
import type {DoctorCheckName, DoctorReport} from '../../src/index.ts';
import {main} from '../cli/forktree.ts';
import {rootTest} from '../helpers/kernel-test.ts';
import {python} from '../helpers/runtime.ts';

const capabilities = [
	...['chown', 'dac_override', 'fsetid', 'fowner', 'mknod', 'net_raw', 'setgid', 'setuid', 'setfcap', 'setpcap'],
	...['net_bind_service', 'sys_chroot', 'kill', 'audit_write'],
];
const readOnlyGroups = `
	awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r group; do mount -o remount,bind,ro "$group" || exit; done`;
/** Paths that the container engines hide, which keeps the kernel from mounting another proc. */
const maskedPaths = `
	mount --bind /dev/null /proc/keys
	mount -t tmpfs -o ro tmpfs /proc/fs`;
/** As their seccomp profiles do to whoever lacks CAP_SYS_ADMIN. */
const refuseUnshare = `
import ctypes, os, platform, struct, sys
number = {'x86_64': 272, 'aarch64': 97}[platform.machine()]
instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *each) for each in instructions))
program = ctypes.create_string_buffer(struct.pack('@HP', len(instructions), ctypes.addressof(code)))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
`;

/** Runs `forktree doctor` there. */
async function doctorInContainer(
	t: ExecutionContext,
	{isMasked = false, isFiltered = false} = {},
): Promise<{report: DoctorReport; exitCode: number | undefined}> {
	const script = `set -e${readOnlyGroups}${isMasked ? maskedPaths : ''}\nexec "$@"`;
	const {stdout, stderr, exitCode} = await execa(
		'unshare',
		[
			...['--pid', '--fork', '--mount', '--mount-proc', '--ipc', '--uts', '--cgroup', 'sh', '-c', script, 'sh'],
			...['setpriv', `--bounding-set=-all,${capabilities.map((name) => `+${name}`).join()}`],
			...(isFiltered ? [python, '-c', refuseUnshare] : []),
			...[process.execPath, main, 'doctor', '--json', '--python', python],
		],
		{reject: false},
	);
	t.is(stderr, '');
	return {report: JSON.parse(stdout) as DoctorReport, exitCode};
}

function fixOf({checks}: DoctorReport, wanted: DoctorCheckName): string | undefined {
	return checks.find(({name}) => name === wanted)?.fix;
}

rootTest('in a container that lets us the level is nested, and what nothing holds there is named', async (t) => {
	const {report, exitCode} = await doctorInContainer(t);
	t.is(exitCode, 0, JSON.stringify(report, undefined, '\t'));
	t.like(report, {level: 'nested', notEnforced: ['memoryMb', 'swapMb', 'cpuPercent']});
});

rootTest('where the engine hides parts of proc, that is what it says', async (t) => {
	const {report, exitCode} = await doctorInContainer(t, {isMasked: true});
	t.is(exitCode, 1);
	t.is(report.level, 'none');
	t.regex(fixOf(report, 'userNamespaces') ?? fixOf(report, 'sandbox') ?? '', /systempaths=unconfined/);
});

rootTest('where its filter refuses namespaces, that is what it says', async (t) => {
	const {report, exitCode} = await doctorInContainer(t, {isFiltered: true});
	t.is(exitCode, 1);
	t.is(report.level, 'none');
	t.regex(fixOf(report, 'userNamespaces') ?? '', /seccomp=unconfined/);
});
