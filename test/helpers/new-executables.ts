/** Ways to run code that a sandbox has written itself, as a Python module; each leaves nothing in the folder. */

/** Those that work in any sandbox without `noNewExecutables`, as {@link newExecutables} names them. */
export const waysOfSandbox = [
	'program',
	'script',
	'loader',
	'library',
	'link',
	'mapped',
	'made executable',
	'in memory',
	'without a name',
] as const;

/** In a function's own zygote, which is root of a user namespace, this as well. */
export const waysOfZygote = [...waysOfSandbox, 'a file system of its own'] as const;

/** Defines `try_all(folder)`: tries to run code that lies there, in each way, and answers the ways that worked. */
export const newExecutables = String.raw`
import ctypes, glob, mmap, os, shutil, subprocess, tempfile

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

def runs(*argv, **options):
	subprocess.run(argv, check=True, stderr=subprocess.DEVNULL, **options)

def by_descriptor(fd):
	runs(f'/proc/self/fd/{fd}', pass_fds=[fd])

def copy_program(folder):
	program = shutil.copy(os.path.realpath('/bin/true'), folder + '/program')
	os.chmod(program, 0o755)
	return program

def in_memory():
	fd = os.memfd_create('program')
	try:
		with open('/bin/true', 'rb') as source: os.write(fd, source.read())
		by_descriptor(fd)
	finally:
		os.close(fd)

def without_a_name(folder):
	fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o755)
	with open('/bin/true', 'rb') as source: os.write(fd, source.read())
	reading = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)
	os.close(fd)
	try:
		by_descriptor(reading)
	finally:
		os.close(reading)

def map_file(file, protection):
	fd = os.open(file, os.O_RDONLY)
	at = libc.mmap(None, ctypes.c_size_t(4096), protection, mmap.MAP_PRIVATE, fd, ctypes.c_long(0))
	os.close(fd)
	if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), 'mmap')
	return ctypes.c_void_p(at)

def made_executable(file):
	at = map_file(file, mmap.PROT_READ)
	if libc.mprotect(at, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC) != 0: raise OSError(ctypes.get_errno(), 'mprotect')

def on_a_file_system_of_its_own():
	if libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) != 0: raise OSError(ctypes.get_errno(), 'mount')
	program = copy_program('/tmp')
	try:
		runs(program)
	finally:
		os.unlink(program)

def mount_of(folder):
	return folder if os.path.ismount(folder) else mount_of(os.path.dirname(folder))

def try_all(parent):
	folder = tempfile.mkdtemp(dir=os.path.realpath(parent))
	program = copy_program(folder)
	mapped_files = [line.split()[-1] for line in open('/proc/self/maps')]
	library = shutil.copy(next(each for each in mapped_files if '/libm' in each), folder + '/library.so')
	script = folder + '/script'
	with open(script, 'w') as file: file.write('#!/bin/sh\nexit 0\n')
	os.chmod(script, 0o755)
	loader = [*glob.glob('/lib64/ld-linux-*'), *glob.glob('/lib/ld-linux-*')][0]
	runs('sh', script)  # what is only read goes on working
	ways = {
		'program': lambda: runs(program),
		'script': lambda: runs(script),
		'loader': lambda: runs(loader, program),
		'library': lambda: ctypes.CDLL(library),
		'link': lambda: (os.symlink(program, folder + '/link'), runs(folder + '/link')),
		'mapped': lambda: map_file(library, mmap.PROT_READ | mmap.PROT_EXEC),
		'made executable': lambda: made_executable(library),
		'in memory': in_memory,
		'without a name': lambda: without_a_name(folder),
		'remounted': lambda: (runs('mount', '-o', 'remount,bind,exec', mount_of(folder)), runs(program)),
	}
	worked = [name for name, way in ways.items() if try_one(way)]
	shutil.rmtree(folder)
	# Last: it hides what was there.
	return worked + ['a file system of its own'] * try_one(on_a_file_system_of_its_own)

def try_one(way):
	try:
		way()
	except (OSError, subprocess.CalledProcessError):
		return False
	return True
`;
