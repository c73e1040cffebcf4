"""Attempts to find what another sandbox of the same kind keeps: its code, scratch, environment, memory and sockets.

A sibling holds a secret in each of these places; what it looks like is told by no event.
"""

import ctypes
import glob
import os
import re
import socket

from raw import attempt, libc, word

SECRET = re.compile(b'escape-' + b'secret-' + b'[0-9a-f]{32}')


def has_secret(path):
    try:
        with open(path, 'rb') as file:
            return SECRET.search(file.read()) is not None
    except OSError:
        return False


@attempt('sibling: its scratch')
def scratch(host):
    return 'found' if any(has_secret(path) for path in glob.glob('/tmp/**', recursive=True)) else 'nothing'


@attempt('sibling: its code')
def code(host):
    return 'found' if any(has_secret(path) for path in glob.glob('/handler/**', recursive=True)) else 'nothing'


@attempt('sibling: its environment')
def environment(host):
    pids = [*host['pids'], *(name for name in os.listdir('/proc') if name.isdigit())]
    return 'found' if any(has_secret(f'/proc/{pid}/environ') for pid in pids) else 'nothing'


@attempt('sibling: its command lines')
def command_lines(host):
    pids = [*host['pids'], *(name for name in os.listdir('/proc') if name.isdigit())]
    return 'found' if any(has_secret(f'/proc/{pid}/cmdline') for pid in pids) else 'nothing'


@attempt('sibling: its secret in memory that came from the zygote')
def memory(host):
    with open('/proc/self/maps', encoding='utf-8', errors='surrogateescape') as maps:
        lines = [line.split(None, 5) for line in maps]
    with open('/proc/self/mem', 'rb', buffering=0) as file:
        for fields in lines:
            start, end = (int(part, 16) for part in fields[0].split('-'))
            if fields[1][0] != 'r' or fields[-1].startswith('[v'):
                continue
            for at in range(start, end, 1 << 20):
                try:
                    file.seek(at)
                    if SECRET.search(file.read(min(end, at + (1 << 20)) - at)):
                        return 'found'
                except (OSError, OverflowError):
                    pass
    return 'nothing'


@attempt('sibling: memory that a fork shares instead of copying it')
def shared_mappings(host):
    """Files of the system that the C library maps are not written by anyone."""
    with open('/proc/self/maps', encoding='utf-8', errors='surrogateescape') as maps:
        shared = [line for line in maps if line.split()[1][3] == 's' and ' /usr/' not in line]
    return ', '.join(shared) or 'nothing'


@attempt('sibling: its abstract socket')
def abstract_socket(host):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect('\0forktree-sibling')
        return 'connected'


@attempt('sibling: its port on loopback')
def port(host):
    with socket.create_connection(('127.0.0.1', 4711), timeout=5):
        return 'connected'


@attempt('sibling: its shared memory')
def shared_memory(host):
    if libc.shmget(4711, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), 'shmget')


@attempt('sibling: its message queue')
def message_queue(host):
    if libc.mq_open(b'/forktree-sibling', os.O_RDONLY) < 0:
        raise OSError(ctypes.get_errno(), 'mq_open')


@attempt('sibling: its lock on /tmp')
def posix_lock(host):
    """Locks are listed for all, with pids as seen from here; those of open files, which have none, of the whole machine."""
    with open('/proc/locks', encoding='ascii') as file:
        return 'found' if any('OFDLCK' not in line for line in file) else 'nothing'


@attempt('sibling: its mounts')
def mounts(host):
    return 'found' if has_secret('/proc/self/mountinfo') else 'nothing'


@attempt('sibling: its cgroup')
def cgroup(host):
    with open('/proc/self/cgroup', encoding='ascii') as file:
        groups = {line.rstrip('\n').split(':', 2)[2] for line in file}
    return ', '.join(sorted(groups))


@attempt('sibling: its folder by a guessed path')
def guessed_path(host):
    found = []
    for path in (host['stateDir'], os.path.join(host['stateDir'], 'functions')):
        try:
            found.extend(os.listdir(path))
        except OSError as error:
            found.append(word(error))
    return ', '.join(sorted(set(found)))
