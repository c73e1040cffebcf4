import {once} from 'node:events';
import {existsSync, readFileSync, readlinkSync} from 'node:fs';
import {createServer} from 'node:net';
import process from 'node:process';
import type {ExecutionContext} from 'ava';
import type {DeployOptions, JsonValue} from '../../src/index.ts';
import {isRoot, serialKernelTest as kernelTest, rootTest} from '../helpers/kernel-test.ts';
import {cgroupsOf, processesIn} from '../helpers/leak-check.ts';
import {failure, py, useRuntime, value} from '../helpers/runtime.ts';

process.env.FORKTREE_TEST_SECRET = 'of the host';
// Some count processes: none shall be there that nobody asked for.
const fixture = useRuntime({spares: 0});

async function answer(
	t: ExecutionContext,
	code: string,
	event: JsonValue = null,
	options?: DeployOptions,
): Promise<unknown> {
	return value(t, await fixture().run(code, event, options));
}

/** What sandboxes that run at the same time answer; each has printed before any goes on. */
async function answersTogether(
	t: ExecutionContext,
	code: string,
	count: number,
	during?: () => void,
): Promise<unknown[]> {
	const {runtime} = fixture();
	const name = await fixture().deploy(code, {spares: 0});
	let printed = 0;
	let go: () => void;
	const all = new Promise<void>((resolve) => {
		go = resolve;
	});
	const streams = Array.from({length: count}, () =>
		runtime.stream(name, null, {
			onStdout() {
				printed += 1;
				if (printed === count) go();
			},
		}),
	);
	// A chunk that is not taken holds its sandbox; so all are alive until the last one has started.
	const first = streams.map(async (stream) => {
		const chunks: unknown[] = [];
		for await (const chunk of stream) {
			await all;
			chunks.push(chunk);
		}
		t.true((await stream.outcome).ok);
		return chunks[0];
	});
	await all;
	during?.();
	return Promise.all(first);
}

const namespaces = ['pid', 'mnt', 'ipc', 'uts', 'net', 'user', 'cgroup'] as const;

kernelTest('a sandbox has no capability, can gain none, and sits behind a filter', async (t) => {
	const status = (await answer(t, 'def f(event):\n\treturn open("/proc/self/status").read()\n')) as string;
	const field = (name: string) => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1];
	for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) t.is(field(set), '0000000000000000', set);
	t.is(field('NoNewPrivs'), '1');
	t.is(field('Seccomp'), '2');
	t.not(field('Uid'), '0');
	t.not(field('Gid'), '0');
	if (isRoot) t.regex(status, /^Groups:\s*$/m); // nobody else may give any up
	t.is(field('Threads'), '1');
});

kernelTest(
	'every namespace differs from the host’s, and from a sibling’s but for the user namespace where ids differ',
	async (t) => {
		const code = py`
		import os
		def f(event):
			print('here', flush=True)
			yield {name: os.readlink('/proc/self/ns/' + name) for name in ${JSON.stringify(namespaces)}}
	`;
		const [one, other] = (await answersTogether(t, code, 2)) as Array<Record<string, string>>;
		for (const name of namespaces) {
			t.not(one?.[name], readlinkSync(`/proc/self/ns/${name}`), `${name} is the host’s`);
			if (name === 'user' && isRoot) t.is(one?.[name], other?.[name]);
			else t.not(one?.[name], other?.[name], `${name} is shared`);
		}
	},
);

kernelTest('a sandbox sees only its own process, and only its own descriptors', async (t) => {
	const code = py`
		import os
		def f(event):
			listing = os.open('/proc/self/fd', os.O_RDONLY)
			return {
				'pids': [name for name in os.listdir('/proc') if name.isdigit()],
				'fds': sorted(int(name) for name in os.listdir(listing) if int(name) != listing),
				'pid': os.getpid(), 'parent': os.getppid(), 'hostname': os.uname().nodename,
			}
	`;
	const seen = await answer(t, code);
	// os.listdir opens one more, which is closed before it can be looked at.
	t.like(seen as object, {pids: ['1'], pid: 1, parent: 0, hostname: 'sandbox'});
	t.deepEqual((seen as {fds: number[]}).fds.filter((fd) => fd > 3).length <= 1, true);
	t.deepEqual((seen as {fds: number[]}).fds.slice(0, 4), [0, 1, 2, 3]);
});

kernelTest('what needs privileges is refused: mounts, namespaces, tracing, handles, modules, keys', async (t) => {
	const code = py`
		import ctypes, errno, os
		libc = ctypes.CDLL(None, use_errno=True)
		CALLS = {
			'mount': lambda: libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None),
			'umount2': lambda: libc.umount2(b'/tmp', 2),
			'remount': lambda: libc.mount(None, b'/usr', None, 32 | 4096, None),
			'pivot_root': lambda: libc.syscall(155, b'.', b'.'),
			'chroot': lambda: libc.chroot(b'/tmp'),
			'unshare user': lambda: libc.unshare(0x10000000),
			'unshare mount': lambda: libc.unshare(0x20000),
			'unshare net': lambda: libc.unshare(0x40000000),
			'clone user': lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0),
			'clone3': lambda: libc.syscall(435, ctypes.create_string_buffer(88), 88),
			'setns': lambda: libc.setns(os.open('/proc/self/ns/net', os.O_RDONLY), 0),
			'ptrace': lambda: libc.ptrace(16, 1, 0, 0),
			'traceme': lambda: libc.ptrace(0, 0, 0, 0),
			'process_vm_readv': lambda: libc.process_vm_readv(1, None, 0, None, 0, 0),
			'open_by_handle_at': lambda: libc.open_by_handle_at(3, ctypes.create_string_buffer(64), 0),
			'setuid': lambda: libc.setuid(0),
			'sethostname': lambda: libc.sethostname(b'x', 1),
			'bpf': lambda: libc.syscall(321, 0, None, 0),
			'io_uring_setup': lambda: libc.syscall(425, 1, None),
			'userfaultfd': lambda: libc.syscall(323, 0),
			'keyctl': lambda: libc.syscall(250, 0, 0, 0, 0, 0),
			'add_key': lambda: libc.syscall(248, b'user', b'x', b'x', 1, -3),
			'perf_event_open': lambda: libc.syscall(298, None, 0, -1, -1, 0),
			'init_module': lambda: libc.syscall(175, None, 0, b''),
			'reboot': lambda: libc.reboot(0),
			'device': lambda: libc.mknod(b'/tmp/null', 0o20666, 0x103),
		}
		def f(event):
			results = {}
			for name, call in CALLS.items():
				ctypes.set_errno(0)
				result = call()
				results[name] = 'allowed' if result >= 0 else errno.errorcode.get(ctypes.get_errno(), '?')
			return results
	`;
	if (process.arch !== 'x64') {
		t.pass('the numbers of the calls are those of x64');
		return;
	}
	const results = (await answer(t, code)) as Record<string, string>;
	t.is(Object.keys(results).length, 26);
	for (const [name, result] of Object.entries(results))
		t.true(['EPERM', 'ENOSYS'].includes(result), `${name}: ${result}`);
});

kernelTest('raw, packet and other uncommon sockets are not to be had', async (t) => {
	const code = py`
		import socket, errno
		def f(event):
			results = []
			for family, kind in ((2, 3), (17, 3), (16, 3), (38, 5), (40, 1), (29, 3), (1, 1), (2, 1), (10, 2)):
				try:
					socket.socket(family, kind, {2: 1, 16: 15}.get(family, 0) if kind == 3 else 0).close()
					results.append('ok')
				except OSError as error:
					results.append(errno.errorcode[error.errno])
			return results
	`;
	const results = (await answer(t, code)) as string[];
	t.deepEqual(results.slice(6), ['ok', 'ok', 'ok']);
	for (const result of results.slice(0, 6)) t.true(['EPERM', 'EAFNOSUPPORT', 'EACCES'].includes(result), result);
});

kernelTest('nothing can be written but /tmp', async (t) => {
	const code = py`
		import errno, os
		def f(event):
			results = {}
			for folder in ('/', '/usr', '/usr/bin', '/handler', '/packages', '/etc', '/dev', '/proc', '/forktree', '/forktree/native', '/lib'):
				try:
					open(folder + '/written', 'w')
					results[folder] = 'written'
				except OSError as error:
					results[folder] = errno.errorcode[error.errno]
			for file in ('/handler/f.py', '/forktree/forktree_guest/leaf.py', '/etc/passwd', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger'):
				try:
					os.open(file, os.O_WRONLY)
					results[file] = 'written'
				except OSError as error:
					results[file] = errno.errorcode[error.errno]
			open('/tmp/fine', 'w').close()
			open('/scratch/fine', 'w').close()
			open(os.environ['HOME'] + '/fine', 'w').close()
			return results
	`;
	for (const [file, result] of Object.entries((await answer(t, code)) as Record<string, string>)) {
		t.true(['EROFS', 'EACCES', 'EPERM', 'ENOENT'].includes(result), `${file}: ${result}`);
		if (['/', '/usr', '/handler', '/packages'].includes(file)) t.true(['EROFS', 'EACCES'].includes(result), file);
	}
});

kernelTest('the root holds nothing of the host but its system folders', async (t) => {
	const code =
		'import os\ndef f(event):\n\treturn {name: os.listdir(name) for name in ("/", "/etc", "/dev", "/tmp", "/packages", "/handler")}\n';
	const seen = (await answer(t, code)) as Record<string, string[]>;
	const expected = [
		'bin',
		'dev',
		'etc',
		'forktree',
		'handler',
		'lib',
		'lib32',
		'lib64',
		'libx32',
		'packages',
		'proc',
		'sbin',
		'scratch',
		'tmp',
		'usr',
	];
	t.deepEqual(
		seen['/']?.filter((name) => !expected.includes(name)),
		[],
	);
	t.deepEqual(
		seen['/etc']?.filter((name) => !['group', 'hosts', 'ld.so.cache', 'nsswitch.conf', 'passwd'].includes(name)),
		[],
	);
	t.deepEqual(seen['/dev']?.sort(), [
		'fd',
		'full',
		'null',
		'random',
		'shm',
		'stderr',
		'stdin',
		'stdout',
		'tty',
		'urandom',
		'zero',
	]);
	t.deepEqual(seen['/tmp'], []);
	t.deepEqual(seen['/packages'], []);
	t.deepEqual(seen['/handler']?.sort(), ['__pycache__', 'f.py']);
});

kernelTest('/tmp has a size and a number of files, and beyond them is ENOSPC', async (t) => {
	const code = py`
		import errno, os
		def f(event):
			written = 0
			try:
				if event == 'size':
					with open('/tmp/big', 'wb', buffering=0) as file:
						while True:
							written += file.write(b'x' * 65536)
				while True:
					open(f'/tmp/{written}', 'w').close()
					written += 1
			except OSError as error:
				return [written, errno.errorcode[error.errno]]
	`;
	t.deepEqual(await answer(t, code, 'size', {limits: {scratchMb: 2}}), [2 << 20, 'ENOSPC']);
	const [files, error] = (await answer(t, code, 'files', {limits: {scratchMb: 1}})) as [number, string];
	t.is(error, 'ENOSPC');
	t.true(files > 100 && files < 1000, `${files}`);
});

kernelTest('/tmp counts towards the memory limit', async (t) => {
	const code =
		'def f(event):\n\twith open("/tmp/big", "wb") as file:\n\t\tfor _ in range(200):\n\t\t\tfile.write(b"x" * (1 << 20))\n';
	const outcome = await fixture().run(code, null, {limits: {scratchMb: 300, memoryMb: 64}});
	t.is(failure(t, outcome).code, 'OutOfMemory');
});

kernelTest('loopback works inside, and the host’s is out of reach', async (t) => {
	const server = createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.teardown(() => server.close());
	let connections = 0;
	server.on('connection', (socket) => {
		connections += 1;
		socket.destroy();
	});
	const address = server.address();
	if (address === null || typeof address === 'string') throw t.fail();
	const code = py`
		import errno, socket
		def f(event):
			results = []
			for host in ('127.0.0.1', 'localhost'):
				with socket.create_server(('127.0.0.1', 0)) as server, socket.create_connection((host, server.getsockname()[1])) as client:
					accepted = server.accept()[0]
					accepted.sendall(b'inside')
					results.append(client.recv(10).decode())
			for target in (('127.0.0.1', event), ('1.1.1.1', 80)):
				try:
					socket.create_connection(target, timeout=5)
					results.append('connected')
				except OSError as error:
					results.append(errno.errorcode[error.errno])
			return results + [name for _, name in socket.if_nameindex()]
	`;
	const results = (await answer(t, code, address.port)) as string[];
	t.deepEqual(results.slice(0, 5), ['inside', 'inside', 'ECONNREFUSED', 'ENETUNREACH', 'lo']);
	t.is(connections, 0);
});

kernelTest('abstract sockets of a sibling and of the host are out of reach', async (t) => {
	const server = createServer().listen('\0forktree-test-host');
	await once(server, 'listening');
	t.teardown(() => server.close());
	const code = py`
		import socket
		def reach(name):
			with socket.socket(socket.AF_UNIX) as client:
				return client.connect_ex(name)
		def f(event):
			server = socket.socket(socket.AF_UNIX)
			server.bind('\0forktree-test-sibling')
			server.listen()
			own = reach('\0forktree-test-sibling')
			print('here', flush=True)
			yield [own, reach('\0forktree-test-host')]
	`;
	// Both bind the same name, which only goes when they do not share it.
	for (const results of await answersTogether(t, code, 2)) t.deepEqual(results, [0, 111]);
});

rootTest('sandboxes that run at once have different users on the host, none of them a common one', async (t) => {
	const {stateDir} = fixture();
	const before = processesIn(cgroupsOf(stateDir));
	const uids: number[] = [];
	await answersTogether(t, 'def f(event):\n\tprint("here", flush=True)\n\tyield 1\n', 3, () => {
		for (const pid of processesIn(cgroupsOf(stateDir)).filter((each) => !before.includes(each))) {
			const status = readFileSync(`/proc/${pid}/status`, 'utf8');
			const [real, ...others] = (/^Uid:\t(.*)$/m.exec(status)?.[1] ?? '').split('\t').map(Number);
			const [group] = (/^Gid:\t(.*)$/m.exec(status)?.[1] ?? '').split('\t').map(Number);
			t.deepEqual(others, [real, real, real]);
			t.is(group, real);
			uids.push(Number(real));
		}
	});
	t.is(uids.length, 3);
	t.is(new Set(uids).size, 3);
	for (const uid of uids) t.true(uid >= 0x7000_0000 && uid < 0x8000_0000, `${uid}`);
});

kernelTest('nothing of the host’s environment is inside', async (t) => {
	const code = py`
		import os
		def f(event):
			return [dict(os.environ), open('/proc/self/environ', 'rb').read().decode('latin-1'), open('/proc/self/cmdline', 'rb').read().decode('latin-1')]
	`;
	const [environment, block] = (await answer(t, code, null, {env: {GIVEN: 'yes'}})) as [Record<string, string>, string];
	t.is(environment.GIVEN, 'yes');
	t.false(JSON.stringify([environment, block]).includes('FORKTREE_TEST_SECRET'));
	t.false(JSON.stringify([environment, block]).includes('of the host'));
	t.is(environment.PATH, '/packages/bin:/forktree/bin:/usr/local/bin:/usr/bin:/bin');
	t.deepEqual([environment.USER, environment.LOGNAME], ['sandbox', 'sandbox']);
	for (const name of Object.keys(process.env)) {
		if (['PATH', 'HOME', 'LANG', 'TMPDIR', 'LC_CTYPE', 'USER', 'LOGNAME'].includes(name)) continue;
		t.false(name in environment, name);
	}
});

kernelTest('a fork bomb ends at limits.processes, and its processes die with the sandbox', async (t) => {
	const {runtime, stateDir} = fixture();
	const code = py`
		import os, time
		def f(event):
			forks = 0
			while True:
				try:
					if os.fork() == 0:
						time.sleep(600)
					forks += 1
				except OSError as error:
					return [forks, error.errno]
	`;
	const before = processesIn(cgroupsOf(stateDir));
	const name = await fixture().deploy(code, {limits: {processes: 20}});
	t.deepEqual(value(t, await runtime.invoke(name, null)), [19, 11]);
	const made = processesIn(cgroupsOf(stateDir)).filter((pid) => !before.includes(pid));
	t.is(made.length, 20);
	await runtime.remove(name);
	for (const pid of made) t.false(existsSync(`/proc/${pid}`));
});

kernelTest('open files end at limits.openFiles, which can’t be raised', async (t) => {
	const code = py`
		import os, resource
		def f(event):
			try:
				resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
			except (ValueError, OSError) as error:
				raised = str(error)
			files = 0
			try:
				while True:
					os.open('/dev/null', os.O_RDONLY)
					files += 1
			except OSError as error:
				return [files, error.errno, raised]
	`;
	const [files, error, raised] = (await answer(t, code, null, {limits: {openFiles: 50}})) as [number, number, string];
	t.is(files, 46);
	t.is(error, 24);
	t.regex(raised, /maximum limit|not permitted/);
});

kernelTest('processor time is held to limits.cpuPercent', async (t) => {
	const code = py`
		import time
		def f(event):
			began, used = time.monotonic(), time.process_time()
			while time.monotonic() - began < 1:
				pass
			return time.process_time() - used
	`;
	const used = (await answer(t, code, null, {limits: {cpuPercent: 20}})) as number;
	t.true(used < 0.5, `${used} s of processor time in a second`);
});

kernelTest('signals to everyone reach nobody outside', async (t) => {
	const code = py`
		import os, signal
		def f(event):
			results = []
			for pid in (-1, 2, os.getppid() or 12345):
				try:
					os.kill(pid, signal.SIGKILL)
					results.append('sent')
				except OSError as error:
					results.append(error.errno)
			return results
	`;
	t.deepEqual(await answer(t, code), [3, 3, 3]);
});

kernelTest('what a sandbox leaves in /tmp, shared memory and queues is not there for the next', async (t) => {
	const {runtime} = fixture();
	const code = py`
		import ctypes, os
		libc = ctypes.CDLL(None, use_errno=True)
		def f(event):
			seen = [os.listdir('/tmp'), libc.shmget(4711, 4096, 0o600), libc.msgget(4711, 0o600)]
			open('/tmp/left', 'w').close()
			made = [libc.shmget(4711, 4096, 0o1600), libc.msgget(4711, 0o1600)]
			return [seen, all(number >= 0 for number in made)]
	`;
	const name = await fixture().deploy(code, {reuse: false});
	for (let turn = 0; turn < 2; turn += 1) t.deepEqual(value(t, await runtime.invoke(name, null)), [[[], -1, -1], true]);
});
