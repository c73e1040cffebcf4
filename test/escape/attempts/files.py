"""Attempts to write where nothing may be written, and to make files that would be more than files."""

import glob
import os
import shutil
import stat
import subprocess

from raw import attempt, call_in_child, first_success, in_child, opened, word

SECRETS = ('/etc/shadow', '/root', '/home', '/var', '/boot', '/sys', '/run', '/mnt', '/srv', '/opt', '/media')


def created(folder):
    return opened(f'{folder}/written', os.O_WRONLY | os.O_CREAT)


FOLDERS = ('/', '/usr', '/usr/bin', '/etc', '/handler', '/packages', '/dev', '/forktree', '/forktree/forktree_guest')
FILES = ('/handler/f.py', '/etc/passwd', '/forktree/forktree_guest/leaf.py', '/forktree/native/init', '/usr/bin/env')
DEVICES = ('/dev/mem', '/dev/kmsg', '/dev/kvm', '/dev/fuse', '/dev/net/tun', '/dev/vda')
for folder in FOLDERS:
    attempt(f'write: a file in {folder}')(lambda host, folder=folder: created(folder))
for path in FILES:
    attempt(f'write: {path}')(lambda host, path=path: opened(path))
for path in (
    '/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hostname',
    '/proc/sys/vm/drop_caches', '/proc/sys/vm/overcommit_memory', '/proc/sys/net/ipv4/ip_forward',
):  # fmt: skip
    attempt(f'write: {path}')(lambda host, path=path: opened(path))
for path in ('/proc/sys/fs/binfmt_misc/register', *DEVICES):
    attempt(f'write: {path}')(lambda host, path=path: opened(path))
attempt('read: /proc/kcore')(lambda host: opened('/proc/kcore', os.O_RDONLY))
attempt('read: /proc/kmsg')(lambda host: opened('/proc/kmsg', os.O_RDONLY | os.O_NONBLOCK))
attempt('read: /proc/1/stack')(lambda host: read_some('/proc/1/stack'))
attempt('unlink: a file of the handler')(lambda host: os.unlink('/handler/f.py'))
attempt('unlink: the byte code of the handler')(lambda host: os.unlink(glob.glob('/handler/__pycache__/f.*')[0]))
attempt('rename: the handler')(lambda host: os.rename('/handler/f.py', '/tmp/f.py'))
attempt('link: a file of the host into /tmp')(lambda host: os.link('/usr/bin/env', '/tmp/env'))
attempt('chmod: a file of the host')(lambda host: os.chmod('/usr/bin/env', 0o777))
attempt('chown: a file of the host')(lambda host: os.chown('/usr/bin/env', os.getuid(), -1))
attempt('times: of a file of the host')(lambda host: os.utime('/usr/bin/env'))
attempt('xattr: on a file of the host')(lambda host: os.setxattr('/usr/bin/env', 'user.x', b'x'))
attempt('truncate: a file of the host')(lambda host: os.truncate('/usr/bin/env', 0))


def read_some(path):
    with open(path, 'rb') as file:
        return 'read' if file.read(64) else 'nothing'


@attempt('read: addresses of the kernel')
def kernel_addresses(host):
    with open('/proc/kallsyms', encoding='ascii') as symbols:
        return 'found' if any(line.split()[0].strip('0') for line in symbols) else 'nothing'


@attempt('read: folders of the host')
def hosts_folders(host):
    return first_success([opened(path, os.O_RDONLY) for path in SECRETS], ('ENOENT', 'EACCES'))


@attempt('cgroup: a release_agent')
def release_agent(host):
    paths = glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True)
    return first_success([opened(path) for path in [*paths, '/sys/fs/cgroup/memory/release_agent']], ('ENOENT',))


@attempt('cgroup: its own limits')
def own_limits(host):
    names = ('memory.max', 'memory/memory.limit_in_bytes', 'pids.max', 'cgroup.procs', 'unified/cgroup.procs')
    return first_success([opened(f'/sys/fs/cgroup/{name}') for name in names], ('ENOENT',))


def device(kind, major, minor):
    try:
        os.mknod('/tmp/device', kind | 0o666, os.makedev(major, minor))
    except OSError as error:
        return word(error)
    os.unlink('/tmp/device')
    return 'made'


attempt('mknod: the memory device')(lambda host: device(stat.S_IFCHR, 1, 1))
attempt('mknod: a disk')(lambda host: device(stat.S_IFBLK, 254, 0))
attempt('mknod: a whiteout')(lambda host: device(stat.S_IFCHR, 0, 0))


@attempt('set-uid: a file of one’s own')
def set_uid(host):
    """Allowed, but nosuid: it changes nothing for whom runs it."""
    shutil.copy('/usr/bin/env', '/tmp/own')
    os.chmod('/tmp/own', 0o6755)
    try:
        status = subprocess.run(['/tmp/own', 'cat', '/proc/self/status'], stdout=subprocess.PIPE, check=True).stdout
    finally:
        os.unlink('/tmp/own')
    uids = next(line.split()[1:] for line in status.decode().splitlines() if line.startswith('Uid:'))
    return 'nothing' if set(uids) == {str(os.getuid())} else ' '.join(uids)


@attempt('set-uid: a file given to root')
def give_away(host):
    open('/tmp/given', 'w').close()
    try:
        os.chown('/tmp/given', 0, 0)
    finally:
        os.unlink('/tmp/given')


def marked(name, value):
    open('/tmp/marked', 'w').close()
    try:
        os.setxattr('/tmp/marked', name, value)
    finally:
        os.unlink('/tmp/marked')


ALL_CAPABILITIES = b'\x01\x00\x00\x02' + b'\xff' * 16
attempt('capabilities: of a file')(lambda host: marked('security.capability', ALL_CAPABILITIES))
attempt('xattr: a trusted one')(lambda host: marked('trusted.overlay.opaque', b'y'))
attempt('xattr: a label')(lambda host: marked('security.forktree', b'x'))


@attempt('names: newlines, dots and 255 bytes')
def odd_names(host):
    """What is left behind must not trip the host when it takes the sandbox away."""
    os.makedirs('/tmp/odd', exist_ok=True)
    not_text = b'\xff\xfe'.decode('utf-8', 'surrogateescape')
    names = ['new\nline', '...', ' ', '-rf', '*', '$(id)', '\\', not_text, 'x' * 255]
    for name in names:
        os.makedirs(f'/tmp/odd/{name}/{name}', exist_ok=True)
        with open(f'/tmp/odd/{name}/file', 'w'):
            pass
    for target in ('/', '/proc/1/root', '../' * 64, '/proc/self/fd/3'):
        try:
            os.symlink(target, f'/tmp/odd/link-{len(target)}')
        except FileExistsError:
            pass
    return f'{len(os.listdir("/tmp/odd"))} names'


@attempt('names: a path deeper than any path may be')
def deep_path(host):
    def work():
        os.chdir('/tmp')
        for _ in range(40):
            os.mkdir('d' * 200)
            os.chdir('d' * 200)
        return 'made'

    answer = in_child(work)
    shutil.rmtree('/tmp/' + 'd' * 200)
    return answer


@attempt('names: one of 256 bytes')
def long_name(host):
    return opened('/tmp/' + 'x' * 256, os.O_WRONLY | os.O_CREAT)


@attempt('names: links of /tmp to the host')
def links(host):
    os.symlink(host['file'], '/tmp/link')
    try:
        return opened('/tmp/link', os.O_RDONLY)
    finally:
        os.unlink('/tmp/link')


attempt('acct: into a file of /tmp')(lambda host: call_in_child('acct', b'/tmp/acct'))
