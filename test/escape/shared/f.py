"""Takes what the kernel counts for several sandboxes together, or for them and the host, and keeps it between calls."""

import ctypes
import fcntl
import os
import signal

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
kept = []
SIGNAL, IO_SETUP, SHM_LOCK, NULL = 40, 206, 11, 0


def watcher():
    return libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)


def asynchronous_io():
    return libc.syscall(ctypes.c_long(IO_SETUP), ctypes.c_long(1000), ctypes.byref(ctypes.c_ulong(0)))


def pending_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGNAL])
    return libc.sigqueue(os.getpid(), SIGNAL, ctypes.c_void_p(0))


def message_queue():
    kept.append(b'/forktree-%d' % len(kept))
    return libc.mq_open(kept[-1], os.O_CREAT | os.O_RDWR, 0o600, None)


def locked_memory():
    return libc.shmctl(libc.shmget(0, 1 << 20, 0o1600), SHM_LOCK, None)


def take(resource, most):
    """How many could be had."""
    make = globals()[resource]
    for count in range(most):
        if make() < 0:
            return count
    return most


def set_flags():
    fcntl.fcntl(NULL, fcntl.F_SETFL, os.O_APPEND)


def has_flags():
    return bool(fcntl.fcntl(NULL, fcntl.F_GETFL) & os.O_APPEND)


def lock(path):
    kept.append(open(path, 'rb'))
    fcntl.flock(kept[-1], fcntl.LOCK_EX)


def is_locked(path):
    try:
        with open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def f(event):
    name, *arguments = event
    return globals()[name](*arguments)
