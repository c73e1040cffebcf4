"""Attempts to see or change more of the file tree than the sandbox was given."""

import ctypes
import os
import subprocess

from raw import CWD, attempt, call, call_attempt, call_in_child, in_child, opened

READ_ONLY, REMOUNT, BIND, MOVE, RECURSIVE, SHARED = 1, 32, 4096, 8192, 16384, 1 << 20
OPEN_TREE_CLONE = 1
attributes = (ctypes.c_uint64 * 4)(0, READ_ONLY, 0, 0)  # struct mount_attr: read-only is to be cleared
handle = ctypes.create_string_buffer((128).to_bytes(4, 'little'), 256)
mount_id = ctypes.create_string_buffer(8)

call_attempt('mount: a tmpfs on /tmp', 'mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)
call_attempt('mount: another proc', 'mount', b'proc', b'/tmp', b'proc', 0, None)
call_attempt('mount: a sysfs', 'mount', b'sysfs', b'/tmp', b'sysfs', 0, None)
call_attempt('mount: a devpts', 'mount', b'devpts', b'/tmp', b'devpts', 0, b'newinstance')
call_attempt('mount: cgroup v1 with its release_agent', 'mount', b'cgroup', b'/tmp', b'cgroup', 0, b'memory')
call_attempt('mount: cgroup v2', 'mount', b'cgroup2', b'/tmp', b'cgroup2', 0, None)
call_attempt('mount: an overlay over /usr', 'mount', b'overlay', b'/usr', b'overlay', 0, b'lowerdir=/usr:/tmp')
call_attempt('mount: the root bound at /tmp', 'mount', b'/', b'/tmp', None, BIND | RECURSIVE, None)
call_attempt('mount: /usr remounted to be written', 'mount', None, b'/usr', None, REMOUNT | BIND, None)
call_attempt('mount: the root remounted to be written', 'mount', None, b'/', None, REMOUNT | BIND, None)
call_attempt('mount: /tmp moved over /usr', 'mount', b'/tmp', b'/usr', None, MOVE, None)
call_attempt('mount: the root made shared', 'mount', None, b'/', None, RECURSIVE | SHARED, None)
call_attempt('umount: /tmp', 'umount2', b'/tmp', 2)
call_attempt('umount: proc, to see the one below', 'umount2', b'/proc', 2)
call_attempt('mount_setattr: /usr no longer read-only', 'mount_setattr', CWD, b'/usr', 0, attributes, 32)
call_attempt('open_tree: a clone of /usr', 'open_tree', CWD, b'/usr', OPEN_TREE_CLONE)
call_attempt('open_tree_attr: a writable clone', 'open_tree_attr', CWD, b'/usr', OPEN_TREE_CLONE, attributes, 32)
call_attempt('move_mount: /tmp onto /usr', 'move_mount', CWD, b'/tmp', CWD, b'/usr', 0)
call_attempt('fsopen: a tmpfs', 'fsopen', b'tmpfs', 0)
call_attempt('fsopen: an ext4', 'fsopen', b'ext4', 0)
call_attempt('fsconfig', 'fsconfig', 0, 0, None, None, 0)
call_attempt('fsmount', 'fsmount', 0, 0, 0)
call_attempt('fspick: /usr', 'fspick', CWD, b'/usr', 0)
call_attempt('listmount', 'listmount', None, None, 0, 0)
call_attempt('statmount', 'statmount', None, None, 0, 0)
call_attempt('pivot_root: onto itself', 'pivot_root', b'.', b'.')
call_attempt('pivot_root: into /tmp', 'pivot_root', b'/tmp', b'/tmp')
call_attempt('chroot: /tmp', 'chroot', b'/tmp')
call_attempt('name_to_handle_at: the root', 'name_to_handle_at', CWD, b'/', handle, mount_id, 0)
call_attempt('open_by_handle_at: a made-up handle', 'open_by_handle_at', CWD, handle, 0)


@attempt('chroot: away from an open folder, and up from there')
def chroot_and_climb(host):
    def climb():
        root = os.open('/', os.O_RDONLY)
        os.makedirs('/tmp/below', exist_ok=True)
        call('chroot', b'/tmp/below')
        os.fchdir(root)
        for _ in range(64):
            os.chdir('..')
        call('chroot', b'.')
        return 'climbed'

    answer = in_child(climb)
    os.rmdir('/tmp/below')
    return answer


def status_of(*arguments):
    """The exit status of a program of the host."""
    return f'status {subprocess.run(arguments, stderr=subprocess.DEVNULL).returncode}'


attempt('chroot: by a program of the host')(lambda host: status_of('/usr/sbin/chroot', '/tmp', '/'))
# That status says that the kernel refused the mount.
attempt('mount: by a set-uid program')(lambda host: status_of('/usr/bin/mount', '-t', 'tmpfs', 'none', '/tmp'))


def other_root(path):
    """Whether a path leads to another root than ours."""
    return 'same root' if os.path.samestat(os.stat(path), os.stat('/')) else 'another root'


@attempt('paths: up from the root')
def climb_from_root(host):
    return other_root('/' + '../' * 64)


@attempt('paths: up from the folder of process 1')
def climb_from_process(host):
    return other_root('/proc/1/cwd/' + '../' * 64)


@attempt('paths: the root of every process')
def roots_of_processes(host):
    pids = [name for name in os.listdir('/proc') if name.isdigit()]
    roots = {other_root(f'/proc/{pid}/root') for pid in pids}
    return ', '.join(sorted(roots))


@attempt('paths: the host’s files through the root of process 1')
def hosts_files(host):
    return opened('/proc/1/root' + host['file'], os.O_RDONLY)


@attempt('paths: the host’s files through open folders')
def hosts_files_by_fds(host):
    for fd in range(64):
        try:
            os.close(os.open(host['file'].lstrip('/'), os.O_RDONLY, dir_fd=fd))
            return 'opened'
        except OSError:
            pass
    return 'nothing'


@attempt('umount: every mount that is seen')
def umount_all(host):
    with open('/proc/self/mountinfo', encoding='utf-8', errors='surrogateescape') as mounts:
        points = [line.split()[4] for line in mounts]
    answers = {call_in_child('umount2', os.fsencode(point), 2) for point in points}
    return ', '.join(sorted(answers))


@attempt('paths: where the host keeps code, by the list of mounts')
def hosts_paths(host):
    with open('/proc/self/mountinfo', encoding='utf-8', errors='surrogateescape') as mounts:
        return 'found' if host['stateDir'] in mounts.read() else 'nothing'
