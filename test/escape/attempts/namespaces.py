"""Attempts to make, enter or look above namespaces."""

import ctypes
import fcntl
import os
import signal

from raw import attempt, call, call_attempt, in_child, opened

FLAGS = {
    'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'network': 0x40000000, 'ipc': 0x8000000,
    'uts': 0x4000000, 'cgroup': 0x2000000, 'time': 0x80,
}  # fmt: skip
GET_USER_NAMESPACE, GET_PARENT, GET_OWNER_UID = 0xB701, 0xB702, 0xB704


def clone(flags):
    """A clone that makes a namespace; what it made, if it did, ends at once."""
    pid = call('clone', flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


for name, flags in FLAGS.items():
    call_attempt(f'unshare: {name}', 'unshare', flags)
    if name != 'time':  # clone takes that bit for a part of the signal
        attempt(f'clone: {name}')(lambda host, flags=flags: in_child(lambda: clone(flags)))
call_attempt('unshare: all at once', 'unshare', 0x7E020080)
call_attempt('clone3: user', 'clone3', (ctypes.c_uint64 * 11)(FLAGS['user']), 88)
call_attempt('clone3: into a cgroup', 'clone3', (ctypes.c_uint64 * 11)(1 << 33), 88)


def enter(path):
    def work():
        call('setns', os.open(path, os.O_RDONLY), 0)

    return in_child(work)


for name in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup', 'time'):
    attempt(f'setns: own {name}')(lambda host, name=name: enter(f'/proc/self/ns/{name}'))
attempt('setns: mount of process 1')(lambda host: enter('/proc/1/ns/mnt'))


@attempt('setns: through a pidfd')
def enter_by_pidfd(host):
    return in_child(lambda: call('setns', call('pidfd_open', 1, 0), FLAGS['mount']) and None)


def related(name, request):
    fd = os.open(f'/proc/self/ns/{name}', os.O_RDONLY)
    try:
        os.close(fcntl.ioctl(fd, request))
    finally:
        os.close(fd)


attempt('ioctl: the user namespace above')(lambda host: related('user', GET_PARENT))
attempt('ioctl: the pid namespace above')(lambda host: related('pid', GET_PARENT))
attempt('ioctl: the owner of the owner')(lambda host: related('user', GET_USER_NAMESPACE))


@attempt('setns: the user namespace that owns ours')
def enter_owner(host):
    def work():
        fd = os.open('/proc/self/ns/uts', os.O_RDONLY)
        call('setns', fcntl.ioctl(fd, GET_USER_NAMESPACE), 0)

    return in_child(work)


def map_ids(name, text):
    with open(f'/proc/self/{name}', 'w', encoding='ascii') as id_map:
        id_map.write(text)


for name in ('uid_map', 'gid_map'):
    attempt(f'write: /proc/self/{name}')(lambda host, name=name: map_ids(name, '0 0 4294967295'))
attempt('write: /proc/self/setgroups')(lambda host: map_ids('setgroups', 'allow'))


@attempt('write: /proc/self/projid_map')
def map_projects(host):
    """It is of the user namespace, which siblings share, and can be written once: who looks later sees it as well."""
    try:
        map_ids('projid_map', '7 0 1')
    except OSError:
        pass
    with open('/proc/self/projid_map', encoding='ascii') as id_map:
        return 'written' if id_map.read().split() == ['7', '0', '1'] else 'nothing'


@attempt('write: /proc/sys/user/max_user_namespaces')
def raise_namespaces(host):
    return opened('/proc/sys/user/max_user_namespaces')
