"""Attempts to administrate the machine, or to use the parts of the kernel that most often had holes.

All arguments are such that a kernel that let them through would refuse them as senseless, or do nothing.
"""

import ctypes

from raw import CWD, attempt, call, call_attempt, in_child

attributes = ctypes.create_string_buffer(128)

call_attempt('keys: add_key', 'add_key', b'user', b'forktree', b'x', 1, -2)
call_attempt('keys: request_key', 'request_key', b'user', b'forktree', None, 0)
call_attempt('keys: the session keyring', 'keyctl', 0, -3, 0, 0, 0)
call_attempt('keys: a persistent keyring', 'keyctl', 22, -1, -2, 0, 0)
call_attempt('kernel: io_uring_setup', 'io_uring_setup', 1, attributes)
call_attempt('kernel: io_uring_enter', 'io_uring_enter', -1, 0, 0, 0, None, 0)
call_attempt('kernel: io_uring_register', 'io_uring_register', -1, 0, None, 0)
call_attempt('kernel: bpf, a map', 'bpf', 0, attributes, 128)
call_attempt('kernel: bpf, a program', 'bpf', 5, attributes, 128)
call_attempt('kernel: perf_event_open', 'perf_event_open', attributes, 0, -1, -1, 0)
call_attempt('kernel: userfaultfd', 'userfaultfd', 1)
call_attempt('kernel: modify_ldt', 'modify_ldt', 0, attributes, 16)
call_attempt('kernel: personality without ASLR', 'personality', 0x0040000)
call_attempt('kernel: personality where reading is running', 'personality', 0x0400000)
call_attempt('kernel: iopl', 'iopl', 0)
call_attempt('kernel: ioperm', 'ioperm', 0, 1, 0)
call_attempt('kernel: fanotify_init', 'fanotify_init', 0, 0)
call_attempt('kernel: mbind', 'mbind', 0, 0, 0, None, 0, 0)
call_attempt('machine: kexec_load', 'kexec_load', 0, -1, None, 0xFFFF)
call_attempt('machine: kexec_file_load', 'kexec_file_load', -1, -1, 0, None, 0xFFFF)
call_attempt('machine: init_module', 'init_module', None, 0, b'')
call_attempt('machine: finit_module', 'finit_module', -1, b'', 0)
call_attempt('machine: delete_module', 'delete_module', b'forktree-no-such-module', 0x800)
call_attempt('machine: create_module', 'create_module', None, 0)
call_attempt('machine: query_module', 'query_module', None, 0, None, 0, None)
call_attempt('machine: swapon', 'swapon', b'/tmp/none', 0)
call_attempt('machine: swapoff', 'swapoff', b'/tmp/none')
call_attempt('machine: reboot', 'reboot', 0, 0, 0, None)
call_attempt('machine: clock_settime', 'clock_settime', 0, None)
call_attempt('machine: settimeofday', 'settimeofday', None, None)
call_attempt('machine: adjtimex', 'adjtimex', None)
call_attempt('machine: clock_adjtime', 'clock_adjtime', 0, None)
call_attempt('machine: sethostname', 'sethostname', None, 1)
call_attempt('machine: setdomainname', 'setdomainname', None, 1)
call_attempt('machine: quotactl', 'quotactl', 0, None, 0, None)
call_attempt('machine: quotactl_fd', 'quotactl_fd', -1, 0, 0, None)
call_attempt('machine: acct', 'acct', b'/tmp/none')
call_attempt('machine: syslog', 'syslog', 10, None, 0)
call_attempt('machine: lookup_dcookie', 'lookup_dcookie', 0, attributes, 128)
call_attempt('machine: vhangup', 'vhangup')
call_attempt('machine: ustat', 'ustat', 0, attributes)
call_attempt('missing: nfsservctl', 'nfsservctl', 0, None, None)
call_attempt('missing: _sysctl', '_sysctl', None)
call_attempt('missing: lsm_get_self_attr', 'lsm_get_self_attr', 0, None, None, 0)
call_attempt('missing: file_setattr', 'file_setattr', CWD, b'/tmp', attributes, 24, 0)


@attempt('machine: the clock of a process that is not there')
def dynamic_clock(host):
    """A descriptor can be a clock; none is one that can be set."""
    return in_child(lambda: call('clock_settime', ~0 << 3 | 3, None) and None)
