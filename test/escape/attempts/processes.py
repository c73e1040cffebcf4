"""Attempts to look into, signal or steer processes that are not the sandbox's own."""

import ctypes
import fcntl
import os
import resource
import signal

from raw import Held, attempt, call, first_success, in_child, word

TRACEME, ATTACH, SEIZE = 0, 16, 0x4206
text = ctypes.create_string_buffer(b'text')
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(text), 4)


def on_child(title, work):
    def run(host):
        with Held() as pid:
            return in_child(lambda: work(pid) and None)

    attempt(title)(run)


on_child('ptrace: attach to a child', lambda pid: call('ptrace', ATTACH, pid, 0, 0))
on_child('ptrace: seize a child', lambda pid: call('ptrace', SEIZE, pid, 0, 0))
on_child('process_vm_readv: a child', lambda pid: call('process_vm_readv', pid, vector, 1, vector, 1, 0))
on_child('process_vm_writev: a child', lambda pid: call('process_vm_writev', pid, vector, 1, vector, 1, 0))
on_child('pidfd_getfd: of a child', lambda pid: call('pidfd_getfd', call('pidfd_open', pid, 0), 2, 0))
on_child('kcmp: a child', lambda pid: call('kcmp', pid, os.getpid(), 1, 0, 0))
on_child('process_madvise: a child', lambda pid: call('process_madvise', call('pidfd_open', pid, 0), vector, 1, 20, 0))
on_child('migrate_pages: of a child', lambda pid: call('migrate_pages', pid, 0, None, None))
attempt('ptrace: be traced')(lambda host: in_child(lambda: call('ptrace', TRACEME, 0, 0, 0) and None))
attempt('ptrace: process 1')(lambda host: in_child(lambda: call('ptrace', SEIZE, 1, 0, 0) and None))


def on_hosts(title, work):
    """What the host's pids are good for: here they are those of nobody."""

    def run(host):
        answers = []
        for pid in host['pids']:
            try:
                work(pid)
                answers.append('reached')
            except OSError as error:
                answers.append(word(error))
        return ', '.join(sorted(set(answers)))

    attempt(title)(run)


on_hosts('signal: pids of the host', lambda pid: os.kill(pid, 0))
on_hosts('signal: process groups of the host', lambda pid: os.killpg(pid, 0))
on_hosts('pidfd_open: pids of the host', lambda pid: os.close(os.pidfd_open(pid)))
on_hosts('prlimit: of the host', lambda pid: resource.prlimit(pid, resource.RLIMIT_CORE) and None)
on_hosts('affinity: of the host', lambda pid: os.sched_getaffinity(pid) and None)
on_hosts('priority: of the host', lambda pid: os.getpriority(os.PRIO_PROCESS, pid) and None)
on_hosts('/proc: memory of the host’s pids', lambda pid: os.close(os.open(f'/proc/{pid}/mem', os.O_RDWR)))


@attempt('signal: everyone')
def signal_all(host):
    os.kill(-1, signal.SIGKILL)


@attempt('signal: every low pid')
def signal_low(host):
    def reach(pid):
        try:
            os.kill(pid, 0)
            return 'reached'
        except OSError as error:
            return word(error)

    return first_success([reach(pid) for pid in range(2, 5000)], ('ESRCH',))


@attempt('signal: the parent')
def signal_parent(host):
    return 'no parent' if os.getppid() == 0 else os.kill(os.getppid(), 0)


@attempt('signal: by the owner of the channel')
def own_channel(host):
    """A descriptor can be made to signal a process when it is ready; its pid is looked up in our namespace."""
    return in_child(lambda: fcntl.fcntl(3, fcntl.F_SETOWN, host['pids'][0]) and None)


@attempt('priority: that of all processes of other users')
def priority_of_others(host):
    answers = set()
    for uid in range(1, 1000):
        try:
            answers.add(str(os.getpriority(os.PRIO_USER, uid)) if uid != os.getuid() else 'ESRCH')
        except OSError as error:
            answers.add(word(error))
    return ', '.join(sorted(answers))


@attempt('priority: above others')
def priority_above(host):
    return in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))


@attempt('priority: real time')
def real_time(host):
    return in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@attempt('/proc: other processes')
def others(host):
    pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
    return first_success([str(pid) for pid in pids], (str(os.getpid()),))


@attempt('write: oom_score_adj below its floor')
def oom_score(host):
    return in_child(lambda: wrote('/proc/self/oom_score_adj', '-1000'))


def wrote(path, text):
    with open(path, 'w', encoding='ascii') as file:
        file.write(text)


# Both can be opened by all; it is the write that is refused.
attempt('write: the time of children')(lambda host: wrote('/proc/self/timens_offsets', 'monotonic 1 0'))
attempt('write: the last pid')(lambda host: wrote('/proc/sys/kernel/ns_last_pid', '5'))


@attempt('core dump: after the limit is raised')
def core_dump(host):
    def work():
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (ValueError, OSError):
            pass
        os.chdir('/tmp/core')
        os.kill(os.getpid(), signal.SIGSEGV)

    os.mkdir('/tmp/core')
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    dumped = os.WCOREDUMP(status) or os.listdir('/tmp/core')
    os.rmdir('/tmp/core')
    return 'dumped' if dumped else signal.Signals(os.WTERMSIG(status)).name


def raised(name):
    limit = getattr(resource, name)

    def work():
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY:
            return 'unlimited'
        try:
            resource.setrlimit(limit, (hard + 1, hard + 1))
        except ValueError:  # what Python makes of EPERM
            return 'EPERM'
        return 'raised'

    return in_child(work)


for name in ('RLIMIT_CORE', 'RLIMIT_NOFILE', 'RLIMIT_NICE', 'RLIMIT_RTPRIO', 'RLIMIT_MEMLOCK', 'RLIMIT_MSGQUEUE'):
    attempt(f'rlimit: {name} raised')(lambda host, name=name: raised(name))
