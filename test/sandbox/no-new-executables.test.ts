/** What a sandbox has written runs only where it may; each attempt is seen to work without the option. */
import {chmod, mkdir, rm} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import type {SandboxOptions} from '../../src/index.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {usePool} from '../helpers/pool.ts';
import {python, temporaryFolder} from '../helpers/runtime.ts';

const fixture = usePool();

/** Tries to run code that lies in the folder of its first argument, in each way, and prints the ways that worked. */
const attempts = String.raw`
import ctypes, glob, mmap, os, shutil, subprocess, sys
folder = sys.argv[1]
program = shutil.copy(os.path.realpath('/bin/true'), folder + '/program')
os.chmod(program, 0o755)
mapped_files = [line.split()[-1] for line in open('/proc/self/maps')]
library = shutil.copy(next(each for each in mapped_files if '/libm' in each), folder + '/library.so')
script = folder + '/script'
with open(script, 'w') as file: file.write('#!/bin/sh\nexit 0\n')
os.chmod(script, 0o755)
loader = [*glob.glob('/lib64/ld-linux-*'), *glob.glob('/lib/ld-linux-*')][0]

def runs(*argv, **options):
	subprocess.run(argv, check=True, stderr=subprocess.DEVNULL, **options)

def by_descriptor(fd):
	runs(f'/proc/self/fd/{fd}', pass_fds=[fd])

def in_memory():
	fd = os.memfd_create('program')
	with open('/bin/true', 'rb') as source: os.write(fd, source.read())
	by_descriptor(fd)

def without_a_name():
	fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o755)
	with open('/bin/true', 'rb') as source: os.write(fd, source.read())
	reading = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)
	os.close(fd)
	by_descriptor(reading)

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

def map_file(protection):
	fd = os.open(library, os.O_RDONLY)
	at = libc.mmap(None, ctypes.c_size_t(4096), protection, mmap.MAP_PRIVATE, fd, ctypes.c_long(0))
	if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), 'mmap')
	return at

def mapped():
	map_file(mmap.PROT_READ | mmap.PROT_EXEC)

def made_executable():
	at = ctypes.c_void_p(map_file(mmap.PROT_READ))
	if libc.mprotect(at, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC) != 0: raise OSError(ctypes.get_errno(), 'mprotect')

def remounted():
	runs('mount', '-o', 'remount,bind,exec', folder)

ways = {
	'program': lambda: runs(program),
	'script': lambda: runs(script),
	'loader': lambda: runs(loader, program),
	'library': lambda: ctypes.CDLL(library),
	'link': lambda: (os.symlink(program, folder + '/link'), runs(folder + '/link')),
	'mapped': mapped,
	'made executable': made_executable,
	'in memory': in_memory,
	'without a name': without_a_name,
	'remounted': remounted,
}
for name, way in ways.items():
	try:
		way()
	except (OSError, subprocess.CalledProcessError):
		continue
	print(name)
runs('sh', script)
`;
const ways = [
	'program',
	'script',
	'loader',
	'library',
	'link',
	'mapped',
	'made executable',
	'in memory',
	'without a name',
];

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

test('every way is tried', (t) => t.true(ways.every((each) => attempts.includes(`'${each}'`))));
