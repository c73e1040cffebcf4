"""Raw system calls, the register of attempts, and the words in which they answer."""

import ctypes
import errno
import os
import signal
from typing import Any, Callable, Dict

# Those of x64, the only machine that sandboxes run on.
NUMBERS = {
    'ioctl': 16, 'clone': 56, 'ptrace': 101, 'syslog': 103, 'setuid': 105, 'setgid': 106, 'setreuid': 113,
    'setgroups': 116, 'setresuid': 117, 'setfsuid': 122, 'capset': 126, 'personality': 135, 'ustat': 136,
    'vhangup': 153,
    'modify_ldt': 154, 'pivot_root': 155, '_sysctl': 156, 'adjtimex': 159, 'chroot': 161, 'acct': 163,
    'settimeofday': 164, 'mount': 165, 'umount2': 166, 'swapon': 167, 'swapoff': 168, 'reboot': 169, 'sethostname': 170,
    'setdomainname': 171, 'iopl': 172, 'ioperm': 173, 'create_module': 174, 'init_module': 175, 'delete_module': 176,
    'query_module': 178, 'quotactl': 179, 'nfsservctl': 180, 'io_setup': 206, 'lookup_dcookie': 212,
    'clock_settime': 227, 'mbind': 237, 'kexec_load': 246, 'add_key': 248, 'request_key': 249, 'keyctl': 250,
    'migrate_pages': 256, 'unshare': 272, 'perf_event_open': 298, 'fanotify_init': 300, 'name_to_handle_at': 303,
    'open_by_handle_at': 304, 'clock_adjtime': 305, 'setns': 308, 'process_vm_readv': 310, 'process_vm_writev': 311,
    'kcmp': 312, 'finit_module': 313, 'seccomp': 317, 'kexec_file_load': 320, 'bpf': 321, 'userfaultfd': 323,
    'pidfd_send_signal': 424, 'io_uring_setup': 425, 'io_uring_enter': 426, 'io_uring_register': 427, 'open_tree': 428,
    'move_mount': 429, 'fsopen': 430, 'fsconfig': 431, 'fsmount': 432, 'fspick': 433, 'pidfd_open': 434, 'clone3': 435,
    'pidfd_getfd': 438, 'process_madvise': 440, 'mount_setattr': 442, 'quotactl_fd': 443, 'statmount': 457,
    'listmount': 458, 'lsm_get_self_attr': 459, 'open_tree_attr': 467, 'file_setattr': 469,
}  # fmt: skip
CWD = -100

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

Attempt = Callable[[Dict[str, Any]], Any]
attempts: Dict[str, Attempt] = {}


def attempt(name: str) -> Callable[[Attempt], Attempt]:
    def register(function: Attempt) -> Attempt:
        assert name not in attempts, name
        attempts[name] = function
        return function

    return register


def word(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def call(name: str, *arguments: Any) -> int:
    """A raw call; what the kernel refuses is an OSError."""
    return call_number(NUMBERS[name], *arguments)


def call_number(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), 'raw call')
    return result


def call_attempt(title: str, name: str, *arguments: Any) -> None:
    """Registers an attempt that is a single call, with arguments that would do no harm if it were let through."""
    attempt(title)(lambda host: call_in_child(name, *arguments))


def call_in_child(name: str, *arguments: Any) -> str:
    return in_child(lambda: None if call(name, *arguments) >= 0 else 'negative')


def in_child(work: Callable[[], Any]) -> str:
    """What the work answers in a child of ours, which it may change or break; else how the child ended."""
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        try:
            text = work() or 'done'
        except OSError as error:
            text = word(error)
        os.write(answer, text.encode())
        os._exit(0)
    os.close(answer)
    with os.fdopen(answers, 'rb') as reader:
        text = reader.read().decode()
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else text


class Held:
    """A child that waits until the block ends."""

    def __enter__(self) -> int:
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()
        return self.pid

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def opened(path: str, flags: int = os.O_WRONLY) -> str:
    """Whether a file can be opened. Nothing is written: what would be a success must do no harm."""
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC))
    except OSError as error:
        return word(error)
    return 'opened'


def first_success(answers: 'list[str]', failures: 'tuple[str, ...]') -> str:
    """`nothing` when every answer is one of the failures, else the first that is not."""
    return next((answer for answer in answers if answer not in failures), 'nothing')
