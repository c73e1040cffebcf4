import {readdirSync, readFileSync, readlinkSync} from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import {ForktreeError, SyscallError} from '../../src/errors.ts';
import type {Leaf} from '../../src/sandbox/leaf.ts';
import {frameType} from '../../src/zygote/protocol.ts';
import {isRoot, serialKernelTest as kernelTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {until, within} from '../helpers/pool.ts';
import {py} from '../helpers/runtime.ts';
import {Talk, useZygote} from '../helpers/zygote.ts';

const fixture = useZygote();

/** What a handler can find out about where it runs, without what differs between any two sandboxes. */
const look = py`
	import ctypes, gc, os, resource, signal, socket, struct, sys, fcntl
	def text(file):
		with open(file) as opened:
			return opened.read()
	def status():
		counted = ('ctxt_switches', 'Vm', 'Rss', 'HugetlbPages', 'Uid', 'Gid', 'Groups', 'Cpus_allowed', 'Mems_allowed', 'nonvoluntary')
		return [line for line in text('/proc/self/status').splitlines() if not line.startswith(counted) and 'ctxt' not in line]
	def mounts():
		return sorted(line.split()[3:6] + line.split(' - ')[1].split()[:1] for line in text('/proc/self/mountinfo').splitlines())
	def fds():
		found = {}
		for fd in range(3000):
			try:
				found[fd] = [os.readlink(f'/proc/self/fd/{fd}').split('[')[0], fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)]
			except OSError:
				pass
		return found
	def loopback():
		flags = fcntl.ioctl(socket.socket(), 0x8913, struct.pack('16sh14x', b'lo', 0))
		return struct.unpack_from('16sh', flags)[1]
	def f(event):
		uid = os.getuid()
		files = [${isRoot ? "'uid_map', 'gid_map', " : '' /* else of its id alone */}'setgroups', 'cgroup', 'comm', 'cmdline', 'environ', 'oom_score_adj', 'loginuid', 'attr/current']
		def read(file):
			try:
				return text(file)
			except OSError as error:
				return error.errno
		return {
			'status': status(), 'mounts': mounts(), 'fds': fds(), 'loopback': loopback(),
			'proc': {file: read(f'/proc/self/{file}') for file in files},
			'ids are its own': [len({*os.getresuid()}), len({*os.getresgid()}), [gid for gid in os.getgroups() if gid != os.getgid()], uid >= 1000],
			'process': [os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), os.getcwd(), os.umask(0o22), os.uname().nodename],
			'limits': {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith('RLIMIT')},
			'signals': [list(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))), [str(signal.getsignal(n)) for n in range(1, 32)]],
			'dumpable': ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
			'securebits': ctypes.CDLL(None).prctl(27, 0, 0, 0, 0),
			'pids': [name for name in os.listdir('/proc') if name.isdigit()],
			'tmp': [os.listdir('/tmp'), os.stat('/tmp').st_mode, os.statvfs('/tmp').f_blocks, os.statvfs('/tmp').f_files],
			'owner of /proc/self is oneself': os.stat('/proc/self').st_uid == uid,
			'python': [sys.path, sys.argv, gc.isenabled(), gc.get_threshold(), sys.flags[:], dict(os.environ), __name__, __file__, sorted(sys.modules)],
		}
`;

kernelTest('from inside a sandbox that was a spare looks as one that was not', async (t) => {
	const code = await fixture().code(t, look);
	const root = await fixture().root();
	const plain = await fixture().talk(t, await root.forkLeaf(fixture().spec(code)));
	const spare = await fixture().spare(t);
	const handed = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
	const [expected, got] = [await plain.call(null), await handed.call(null)];
	t.deepEqual(got, expected);
	t.like(got as object, {'ids are its own': [1, 1, [], true], dumpable: 1, loopback: 0x49});
	const status = (got as {status: string[]}).status.join('\n');
	for (const line of ['CapEff:\t0000000000000000', 'CapBnd:\t0000000000000000', 'Seccomp:\t2', 'NoNewPrivs:\t1']) {
		t.true(status.includes(line), `${line} in ${status}`);
	}
	t.deepEqual(Object.keys((got as {fds: object}).fds), ['0', '1', '2', '3']);
});

kernelTest('what is sent behind the hand-over is found there, and no answer is waited for between', async (t) => {
	const code = await fixture().code(t, 'import os\ndef f(event):\n\treturn [event, os.environ["WORD"]]\n');
	const spare = await fixture().spare(t);
	const spec = fixture().spec(code);
	const {leaf, born} = await spare.handOver({
		...spec,
		greet: (made) => {
			spec.greet(made);
			made.send(frameType.eventJson, '[1]');
		},
	});
	const talk = new Talk(leaf);
	await talk.loaded();
	t.deepEqual(await talk.answer(), [[1], 'given']);
	const {prepareMs, forkMs, isolateMs, bornAtMs} = await born();
	t.true(prepareMs >= 0 && forkMs > 0 && isolateMs > 0 && bornAtMs < performance.now());
});

kernelTest('until it is handed over a spare is no sandbox’s: it has no mounts, prints nowhere and waits', async (t) => {
	const spare = await fixture().spare(t);
	const [pid] = spare.leaf.pids();
	const root = `/proc/${pid}`;
	const mounts = readFileSync(`${root}/mountinfo`, 'utf8').split('\n');
	t.is(mounts.filter((line) => line.includes(' /tmp ')).length, 1, 'its zygote’s');
	t.false(mounts.some((line) => line.includes(' /handler ')));
	t.regex(readFileSync(`${root}/status`, 'utf8'), /^Seccomp_filters:\t1$/m);
	for (const fd of [1, 2]) t.is(readlinkSync(`${root}/fd/${fd}`), '/dev/null');
	t.true(spare.isUsable);
	await spare.leaf.destroy();
	t.false(spare.isUsable);
});

kernelTest('a step that fails is told as that of a leaf without a spare, and everything is given back', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spec = {...fixture().spec(code), mounts: [{folder: code, target: '/nowhere'}]};
	const root = await fixture().root();
	const plain = await t.throwsAsync(async () => (await root.forkLeaf(spec)).born(), {instanceOf: SyscallError});
	const spare = await fixture().spare(t);
	const [pid] = spare.leaf.pids();
	const handed = await spare.handOver(spec);
	const error = await t.throwsAsync(async () => handed.born(), {instanceOf: SyscallError});
	t.like(error, {message: plain?.message, step: 'attach mounts'});
	await until(() => !isAlive(pid), 'that it was collected');
	t.deepEqual(spare.leaf.cgroup.joins, []);
	t.true((await spare.leaf.destroy()).byItself === false);
});

kernelTest('a wrong working folder and too many open files fail in their steps', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	for (const [change, step] of [
		[{folder: '/nowhere'}, 'attach mounts'],
		[{openFiles: 2 ** 31}, 'set limits'],
		[{scratchMb: -1}, 'mount scratch'],
	] as const) {
		const spare = await fixture().spare(t);
		const handed = await spare.handOver({...fixture().spec(code), ...change});
		t.like(await t.throwsAsync(async () => handed.born(), {instanceOf: SyscallError}), {step});
	}
});

kernelTest('a spare that has ended is noticed and not handed over', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	process.kill(spare.leaf.pids()[0] as number, 'SIGKILL');
	await until(() => !spare.isUsable, 'the end of a spare');
	await t.throwsAsync(async () => spare.handOver(fixture().spec(code)), {code: 'ZygoteFailed'});
});

kernelTest('one that ends at the very moment is told about, and leaves nothing', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	process.kill(spare.leaf.pids()[0] as number, 'SIGKILL');
	const error = await t.throwsAsync(async () => (await spare.handOver(fixture().spec(code))).born());
	t.true(error instanceof ForktreeError && error.code === 'ZygoteFailed', String(error));
});

kernelTest('a spare serves one sandbox', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	const talk = await fixture().talk(t, await spare.handOver(fixture().spec(code)));
	await t.throwsAsync(async () => spare.handOver(fixture().spec(code)), {instanceOf: TypeError});
	t.is(await talk.call(7), 7);
});

kernelTest('a spare that is destroyed right after it was handed over ends', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	const {leaf, born} = await spare.handOver(fixture().spec(code));
	const birth = born().catch(() => undefined);
	await within(leaf.destroy(), 'its end');
	await within(birth, 'word of its birth');
	t.pass();
});

kernelTest('spares outlive their zygote, also those that are handed over then', async (t) => {
	const code = await fixture().code(t, 'import os\ndef f(event):\n\tos._exit(event)\n');
	const {imports} = fixture();
	const zygote = await imports.cold({key: 'none', folders: [], distributions: []} as never);
	const [one, two] = [await fixture().spare(t, zygote), await fixture().spare(t, zygote)];
	zygote.kill();
	await zygote.gone;
	const talk = await fixture().talk(t, await one.handOver(fixture().spec(code)));
	talk.leaf.send(frameType.eventJson, '3');
	t.is((await talk.next()).type, -1);
	await talk.leaf.finish();
	t.true(two.isUsable);
	await two.leaf.destroy();
	await within(zygote.drained, 'that nothing is left of the zygote');
});

kernelTest('the group of a spare gets the limits of whoever takes it', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn bytearray(event << 20) and 1\n');
	for (const limits of [
		{memoryMb: 64, swapMb: 0, cpuPercent: 50, processes: 8},
		{memoryMb: 512, swapMb: 64, cpuPercent: 100, processes: 64},
		{memoryMb: 128, swapMb: 512, cpuPercent: 200, processes: 64},
		{memoryMb: 300, swapMb: 0, cpuPercent: 100, processes: 64},
	]) {
		const spec = fixture().spec(code, limits);
		const plain = await fixture().talk(t, await (await fixture().root()).forkLeaf(spec));
		const spare = await fixture().spare(t);
		const talk = await fixture().talk(t, await spare.handOver(spec));
		const expected = settingsOf(plain.leaf);
		t.true(Object.keys(expected).length >= 3, JSON.stringify(expected));
		t.deepEqual(settingsOf(talk.leaf), expected);
		t.is(await talk.call(20), 1);
	}
});

kernelTest('a spare that uses more memory than it is to have is given back', async (t) => {
	const code = await fixture().code(t, 'def f(event):\n\treturn event\n');
	const spare = await fixture().spare(t);
	const small = fixture().spec(code, {memoryMb: 0.1});
	const error = await t.throwsAsync(async () => (await spare.handOver(small)).born());
	t.true(error instanceof SyscallError, String(error));
	t.false(spare.isUsable);
});

kernelTest('two spares draw different random numbers', async (t) => {
	const code = await fixture().code(
		t,
		py`
			import os, random, secrets, ssl, uuid
			def f(event):
				return [random.random(), secrets.token_hex(), ssl.RAND_bytes(8).hex(), str(uuid.uuid4()), os.urandom(8).hex()]
		`,
	);
	const drawn: unknown[] = [];
	for (let i = 0; i < 2; i += 1) {
		const spare = await fixture().spare(t);
		drawn.push(...((await (await fixture().talk(t, await spare.handOver(fixture().spec(code)))).call(0)) as unknown[]));
	}
	t.is(new Set(drawn).size, 10);
});

/** What the kernel says that the group of a sandbox is limited to. */
function settingsOf(leaf: Leaf): Record<string, string> {
	const [pid] = leaf.pids();
	const groups = cgroupsOf(fixture().stateDir).flatMap((parent) =>
		readdirSync(parent, {withFileTypes: true})
			.filter((entry) => entry.isDirectory())
			.map((entry) => path.join(parent, entry.name))
			.filter((group) => processesIn([group]).includes(pid as number)),
	);
	const found = groups.flatMap((group) =>
		readdirSync(group)
			.filter((file) =>
				/^(memory\..*limit_in_bytes|memory\.(swap\.)?max|pids\.max|cpu\.max|cpu\.cfs_quota_us)$/.test(file),
			)
			.map((file) => [file, readFileSync(path.join(group, file), 'utf8').trim()]),
	);
	return Object.fromEntries(found);
}

function isAlive(pid: number | undefined): boolean {
	try {
		process.kill(pid as number, 0);
		return true;
	} catch {
		return false;
	}
}
