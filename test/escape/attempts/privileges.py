"""Attempts to become somebody else, or to get capabilities or a weaker filter."""

import ctypes
import mmap
import os

from raw import attempt, call, call_attempt, call_number, in_child, libc

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 23, 24, 28, 38, 47
PR_SET_SECCOMP, PR_SET_MM = 22, 35
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
everything = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
one_id = (ctypes.c_uint32 * 1)(0)

call_attempt('ids: setuid 0', 'setuid', 0)
call_attempt('ids: setgid 0', 'setgid', 0)
call_attempt('ids: setreuid 0', 'setreuid', 0, 0)
call_attempt('ids: setresuid 0', 'setresuid', 0, 0, 0)
call_attempt('ids: setfsuid 0', 'setfsuid', 0)
call_attempt('ids: setgroups', 'setgroups', 1, one_id)
call_attempt('capabilities: capset', 'capset', header, everything)


def controlled(*arguments):
    def work():
        if libc.prctl(*(ctypes.c_ulong(each) for each in arguments)) < 0:
            raise OSError(ctypes.get_errno(), 'prctl')

    return in_child(work)


attempt('capabilities: dropped from the bounding set')(lambda host: controlled(PR_CAPBSET_DROP, 21, 0, 0, 0))
attempt('capabilities: an ambient one')(lambda host: controlled(PR_CAP_AMBIENT, 2, 21, 0, 0))
attempt('capabilities: secure bits cleared')(lambda host: controlled(PR_SET_SECUREBITS, 0, 0, 0, 0))
attempt('privileges: no_new_privs cleared')(lambda host: controlled(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0))
attempt('filter: taken off')(lambda host: controlled(PR_SET_SECCOMP, 0, 0, 0, 0))
attempt('memory: another program file')(lambda host: controlled(PR_SET_MM, 13, 0, 0, 0))


@attempt('capabilities: any in the bounding set')
def bounding_set(host):
    return ', '.join(str(each) for each in range(41) if libc.prctl(PR_CAPBSET_READ, each, 0, 0, 0) == 1) or 'nothing'


@attempt('filter: one of one’s own that allows everything')
def own_filter(host):
    """Of several filters the strictest answer counts."""

    def work():
        instruction = ctypes.create_string_buffer(b'\x06\0\0\0' + (0x7FFF0000).to_bytes(4, 'little'), 8)
        program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(instruction))
        call('seccomp', 1, 0, program)
        call('unshare', 0x10000000)

    return in_child(work)


@attempt('filter: one of one’s own that answers for the kernel')
def listening_filter(host):
    def work():
        instruction = ctypes.create_string_buffer(b'\x06\0\0\0' + (0x7FFF0000).to_bytes(4, 'little'), 8)
        program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(instruction))
        listener = call('seccomp', 1, 8, program)  # SECCOMP_FILTER_FLAG_NEW_LISTENER
        call('setns', listener, 0)

    return in_child(work)


@attempt('filter: the other numbers of calls, x32')
def x32(host):
    return in_child(lambda: call_number(0x40000000 | 39) and None)


@attempt('filter: the other machine, i386')
def i386(host):
    """The kernel would take it for getpid of 32-bit programs."""

    def work():
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b'\xb8\x14\0\0\0\xcd\x80\xc3')  # mov eax, 20; int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        return 'done'

    return in_child(work)


@attempt('filter: calls that came after it was made')
def newer_calls(host):
    answers = set()
    for number in range(451, 512):
        try:
            answers.add(f'{call_number(number, -1, -1, -1, -1, -1, -1)}')
        except OSError as error:
            answers.add(os.strerror(error.errno or 0))
    return ', '.join(sorted(answers))


@attempt('set-uid: the ids of a program that is one')
def set_uid_ids(host):
    """The kernel notes for whom it is more than its caller: AT_SECURE of its auxiliary vector, and its ids there."""
    vector = (os.POSIX_SPAWN_OPEN, 1, '/tmp/vector', os.O_WRONLY | os.O_CREAT, 0o600)
    others = [(os.POSIX_SPAWN_OPEN, fd, '/dev/null', os.O_RDWR, 0) for fd in (0, 2)]
    pid = os.posix_spawn('/usr/bin/passwd', ['passwd'], {'LD_SHOW_AUXV': '1'}, file_actions=[vector, *others])
    os.waitpid(pid, 0)
    with open('/tmp/vector', encoding='utf-8', errors='replace') as file:
        lines = dict(line.replace(' ', '').rstrip('\n').partition(':')[::2] for line in file)
    os.unlink('/tmp/vector')
    is_own = lines.get('AT_EUID') == str(os.getuid()) and lines.get('AT_EGID') == str(os.getgid())
    return 'nothing' if is_own and lines.get('AT_SECURE') == '0' else f'{lines.get("AT_SECURE")} {lines.get("AT_EUID")}'
