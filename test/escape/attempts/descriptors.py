"""Attempts on open descriptors: those that may have been inherited, and the channel as a way for others."""

import array
import os
import socket
import termios

from raw import attempt, call_attempt, first_success, opened, word

PASSED = 'forktree-escape-passed'
SO_PEERPIDFD, TIOCLINUX = 77, 0x541C
CHUNK_JSON = b'\x03\x00\x00\x00\x87"x"'


@attempt('descriptors: more than the four given')
def inherited(host):
    found = []
    for fd in range(4, 4096):
        try:
            os.fstat(fd)
            found.append(f'{fd}: {os.readlink(f"/proc/self/fd/{fd}")}')
        except OSError:
            pass
    return ', '.join(found) or 'nothing'


@attempt('descriptors: what the four are')
def given(host):
    return ', '.join(os.readlink(f'/proc/self/fd/{fd}').partition(':')[0] for fd in range(4))


def reopened(fd, flags):
    return opened(f'/proc/self/fd/{fd}', flags)


# The pipe belongs to the sandbox, so that /dev/stdout can be opened: it may as well read what it wrote itself.
attempt('descriptors: the other end of its own stdout')(lambda host: reopened(1, os.O_RDONLY))
attempt('descriptors: the channel opened again')(lambda host: reopened(3, os.O_RDWR))


@attempt('descriptors: a folder above the open ones')
def above(host):
    answers = []
    for fd in range(4):
        try:
            os.close(os.open('..', os.O_RDONLY, dir_fd=fd))
            answers.append('opened')
        except OSError as error:
            answers.append(word(error))
    return ', '.join(sorted(set(answers)))


@attempt('descriptors: one passed to the host')
def passed(host):
    fd = os.memfd_create(PASSED)
    try:
        with socket.socket(fileno=os.dup(3)) as channel:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))
            channel.sendmsg([CHUNK_JSON], [rights])
    finally:
        os.close(fd)
    return 'sent'


@attempt('descriptors: the credentials of process 1 claimed on the channel')
def credentials(host):
    with socket.socket(fileno=os.dup(3)) as channel:
        claimed = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, array.array('i', [1, 0, 0]))
        channel.sendmsg([CHUNK_JSON], [claimed])
    return 'sent'


@attempt('descriptors: one received on the channel')
def received(host):
    with socket.socket(fileno=os.dup(3)) as channel:
        try:
            return 'received' if channel.recvmsg(1, 1024, socket.MSG_DONTWAIT)[1] else 'end'
        except BlockingIOError:
            return 'nothing'


@attempt('descriptors: who is at the other end of the channel')
def peer(host):
    with socket.socket(fileno=os.dup(3)) as channel:
        pid = int.from_bytes(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], 'little')
    return 'nobody' if pid == 0 else f'pid {pid}'


@attempt('descriptors: a pidfd of who is at the other end')
def peer_pidfd(host):
    with socket.socket(fileno=os.dup(3)) as channel:
        pidfd = int.from_bytes(channel.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4), 'little')
    try:
        with open(f'/proc/self/fdinfo/{pidfd}', encoding='ascii') as info:
            pid = next(line.split()[1] for line in info if line.startswith('Pid:'))
        return 'nobody' if pid in ('0', '-1') else f'pid {pid}'
    finally:
        os.close(pidfd)


call_attempt('terminal: TIOCSTI', 'ioctl', 0, termios.TIOCSTI, b'x')
call_attempt('terminal: TIOCSTI with high bits set', 'ioctl', 0, 0xF_0000_0000 | termios.TIOCSTI, b'x')
call_attempt('terminal: TIOCLINUX', 'ioctl', 0, TIOCLINUX, b'x')


@attempt('terminal: any there is')
def terminals(host):
    paths = ('/dev/tty', '/dev/console', '/dev/ptmx', '/dev/tty0')
    return first_success([opened(path, os.O_RDWR) for path in paths], ('ENOENT',))
