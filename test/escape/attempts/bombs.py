"""Attempts to take more than was given: each must end at its limit, and the machine and the runtime go on."""

import ctypes
import os
import shutil
import signal
import sys
import threading

from raw import attempt, in_child, libc, word


@attempt('bomb: processes')
def processes(host):
    """Every child forks as well, until nobody can. Orphans come back to process 1, which ends them."""

    def multiply():
        while True:
            try:
                os.fork()
            except OSError as error:
                return word(error)

    answers, answer = os.pipe()
    if os.fork() == 0:
        signal.alarm(20)
        os.write(answer, multiply().encode() + b' ')
        while True:
            signal.pause()
    os.close(answer)
    found = os.read(answers, 6).decode().strip()
    os.close(answers)
    return end_all(found)


def end_all(found):
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return found


@attempt('bomb: threads')
def threads(host):
    def work():
        release = threading.Event()
        try:
            while True:
                threading.Thread(target=release.wait, daemon=True).start()
        except RuntimeError:
            return 'EAGAIN'

    return in_child(work)


@attempt('bomb: open files')
def open_files(host):
    def work():
        while True:
            os.open('/dev/null', os.O_RDONLY)

    return in_child(work)


@attempt('bomb: pipes full of bytes')
def pipes(host):
    def work():
        while True:
            _, writer = os.pipe()
            os.set_blocking(writer, False)
            os.write(writer, b'x' * 65536)

    return in_child(work)


@attempt('bomb: memory')
def memory(host):
    taken = []
    while True:
        taken.append(b'x' * (4 << 20))


@attempt('bomb: memory without a process that holds it')
def memory_of_files(host):
    fd = os.memfd_create('bomb')
    while True:
        os.write(fd, b'x' * (4 << 20))


@attempt('bomb: shared memory')
def shared_memory(host):
    libc.shmat.restype = ctypes.c_void_p
    while True:
        segment = libc.shmget(0, 8 << 20, 0o1600)
        if segment < 0:
            raise OSError(ctypes.get_errno(), 'shmget')
        ctypes.memset(libc.shmat(segment, None, 0), 1, 8 << 20)
        libc.shmctl(segment, 0, None)


@attempt('bomb: the size of /tmp')
def scratch_size(host):
    try:
        with open('/tmp/big', 'wb', buffering=0) as file:
            while file.write(b'x' * 65536) == 65536:
                pass
            file.write(b'x')
    finally:
        os.unlink('/tmp/big')


@attempt('bomb: a file larger than /tmp in one piece')
def large_file(host):
    fd = os.open('/tmp/large', os.O_WRONLY | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, 1 << 30)
    finally:
        os.close(fd)
        os.unlink('/tmp/large')


@attempt('bomb: files of /tmp')
def scratch_files(host):
    os.mkdir('/tmp/many')
    try:
        number = 0
        while True:
            os.close(os.open(f'/tmp/many/{number}', os.O_WRONLY | os.O_CREAT))
            number += 1
    finally:
        shutil.rmtree('/tmp/many')


@attempt('bomb: output')
def output(host):
    for _ in range(64):
        sys.stdout.write('x' * 65536)
    return 'done'


@attempt('bomb: output of every child')
def output_of_children(host):
    answers = {in_child(lambda: os.write(2, b'x' * (1 << 20)) and None) for _ in range(4)}
    return ', '.join(answers)


@attempt('bomb: the answer')
def answer(host):
    return 'x' * (3 << 20)


@attempt('bomb: an answer nested beyond all bounds')
def nested(host):
    value = []
    for _ in range(5000):
        value = [value]
    return value


@attempt('bomb: stop itself')
def stop(host):
    """Process 1 of a pid namespace ignores even this when it comes from within."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return 'not stopped'
