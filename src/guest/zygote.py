"""A zygote: imports packages once, then forks leaves and child zygotes when the host asks.

Descriptor 3 is its control socket (one packet a message). It is never process 1 of its pid namespace, holds
capabilities only inside its own user namespace, and sits behind a seccomp filter before the first foreign import.
"""

import gc

gc.disable()  # before anything is allocated that a collection would later dirty in every child

import ctypes

from . import layout  # before more is allocated

import importlib
import json
import marshal  # noqa: F401  (a leaf loads byte code with it)
import os
import sys
import time
import traceback

from . import hooks, hygiene, leaf, own_module, rehearsal
from .layout import libc, native

CONTROL = 3
LEAF, SPARE, CHILD_ZYGOTE = ord('L'), ord('S'), ord('Z')
NO_WARM_UPS = 16  # a bit of Request.flags
MAX_FDS = 16
MAX_TEXT = 65536
PACKAGES = '/packages'
THREAD_END = 0.1  # seconds in which a thread that a hook has ended is to be gone


class Request(ctypes.Structure):
    """Mirrors struct Request of launcher.h."""

    _fields_ = [
        ('op', ctypes.c_uint32),
        ('id', ctypes.c_uint32),
        ('uid', ctypes.c_uint32),
        ('flags', ctypes.c_uint32),
        ('mount_count', ctypes.c_uint32),
        ('range_start', ctypes.c_uint32),
        ('range_count', ctypes.c_uint32),
        ('open_files', ctypes.c_uint32),
        ('processes', ctypes.c_uint32),
        ('data_mib', ctypes.c_uint32),
        ('fd_count', ctypes.c_int),
        ('fds', ctypes.c_int * MAX_FDS),
        ('text_size', ctypes.c_uint32),
        ('text', ctypes.c_char * MAX_TEXT),
    ]


class ForkParts(ctypes.Structure):
    """Mirrors struct ForkParts of launcher.h."""

    _fields_ = [
        ('before_fork', ctypes.c_void_p),
        ('fork', ctypes.c_void_p),
        ('after_in_child', ctypes.c_void_p),
        ('after_in_parent', ctypes.c_void_p),
        ('error_number', ctypes.c_void_p),
    ]


def address(function: object) -> ctypes.c_void_p:
    return ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]


python = ctypes.pythonapi
libc.__errno_location.restype = ctypes.c_void_p
fork_parts = ForkParts(
    address(python.PyOS_BeforeFork),
    address(libc.fork),
    address(python.PyOS_AfterFork_Child),
    address(python.PyOS_AfterFork_Parent),
    libc.__errno_location(),
)
fork_parts_ref = ctypes.byref(fork_parts)
request = Request()
request_ref = ctypes.byref(request)


def check(result: int, step: str) -> None:
    if result < 0:
        raise OSError(-result, f'{step}: {os.strerror(-result)}')


def import_modules(names: list[str]) -> dict[str, object]:
    """Imports each, and says which raised (with traceback) and which left a thread behind."""
    failed, threaded = [], []
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException:  # a package may even call exit()
            failed.append({'module': name, 'traceback': traceback.format_exc(limit=-20)[-8192:]})
        if hygiene.thread_count() > 1 and not hooks.before:
            threaded.append(name)
            break  # whatever is imported after it would be blamed as well
    try:
        hooks.run_before()
    except BaseException:
        failed.append({'module': 'forktree.before_fork', 'traceback': traceback.format_exc(limit=-20)[-8192:]})
    if names and not threaded and not hygiene.is_alone(THREAD_END):
        threaded.append(names[-1])  # nobody knows which
    return {'failed': failed, 'threaded': threaded}


def load_own(own: dict) -> dict[str, object]:
    report = own_module.load(own['entry'], own['preparation'], own.get('warmup'))
    if 'failed' in report:
        return report
    hooked = import_modules([])  # for the hooks that it has registered
    if hooked['failed']:
        return hooked
    if not hygiene.is_alone(THREAD_END):
        report['refused'] = 'it has started a thread'
    return report


def warm_up(imported: list[str]) -> dict[str, object]:
    """Answers which module's warm-up has left a thread behind: then it must not be imported here; and which of others' failed."""
    threaded: list[str] = []

    def check(module: str) -> bool:
        if hygiene.thread_count() > 1:
            threaded.append(next((each for each in imported if f'{module}.'.startswith(f'{each}.')), module.partition('.')[0]))
        return not threaded

    failed = hooks.run_warm_ups()
    check('forktree.warmup')
    if not threaded:
        rehearsal.rehearse_zygote(check)
    return {'threaded': threaded, 'warmUpsFailed': failed}


def become(spec: dict) -> None:
    """Start of every zygote, also of a forked one: own descriptors, imports, hygiene, ready."""
    started = time.monotonic()
    check(native.forktree_become_zygote(), 'become zygote')
    own = spec.get('own')
    no_new_executables = own is not None and own.get('noNewExecutables', False)
    check(native.forktree_mount_scratch(no_new_executables), 'mount scratch')
    if no_new_executables:
        check(native.forktree_refuse_new_executables(), 'refuse new executables')
    hygiene.note_thread()
    hygiene.draw_fresh_randomness()  # same pid as the parent zygote had, in its namespace
    report = {'refused': None, 'loadMs': 0, 'warmUpsFailed': [], **import_modules(spec['modules'])}
    if own is not None and not report['failed'] and not report['threaded']:
        report = {**report, **load_own(own)}
    leaf.flush()  # else what an import printed would be printed again by every child
    if not report['failed'] and not report['threaded'] and own is None and spec.get('warmUps', True):
        report = {**report, **warm_up(spec['modules'])}
    if not report['failed'] and not report['threaded']:
        hygiene.draw_fresh_randomness()  # what was imported now sets itself up here, not in each leaf
        hygiene.find_numpy_state()
        hygiene.forget_listings(PACKAGES)
        layout.merge_mappings()
        # What a function's own zygote has from its parent stays shared with it.
        collapse = native.forktree_collapse if own is None else None
        hygiene.settle(collapse, getattr(libc, 'malloc_trim', lambda pad: 0))
    report['importMs'] = (time.monotonic() - started) * 1000
    os.write(CONTROL, b'R' + json.dumps(report).encode())


def fork_zygote(spec: dict) -> bool:
    """True in the new zygote: a user namespace of its own, mapped by us, who have the capability in ours."""
    says_unshared, unshared = os.pipe()
    mapped, says_mapped = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(says_unshared)
            os.close(says_mapped)  # else it would wait for itself when the parent dies
            enter_child_zygote(spec, unshared, mapped)
        except BaseException:
            os._exit(1)
        return True
    os.close(unshared)
    if os.read(says_unshared, 1):  # else it failed, and the host sees the end of the control socket
        for name in ('projid_map', 'uid_map', 'gid_map'):
            try:
                with open(f'/proc/{pid}/{name}', 'w', encoding='ascii') as id_map:
                    id_map.write(f'0 {request.range_start} {request.range_count}')
            except PermissionError:
                if name != 'projid_map':  # that one may have no ids above, and then none below can be written
                    raise
        os.write(says_mapped, b'm')
    for fd in (says_unshared, mapped, says_mapped):
        os.close(fd)
    native.forktree_close_fds(request_ref)
    return False


def enter_child_zygote(spec: dict, unshared: int, mapped: int) -> None:
    check(native.forktree_unshare_zygote(), 'unshare')
    os.write(unshared, b'u')
    if os.read(mapped, 1) != b'm':
        os._exit(1)
    check(native.forktree_become_root(), 'become root')
    if os.fork():
        os._exit(0)
    check(native.forktree_mount_proc(), 'mount proc')  # process 1 of the new pid namespace
    for fd, target in zip(request.fds[1 : 1 + request.mount_count], spec['targets']):
        check(native.forktree_attach(fd, target.encode()), 'attach a folder')
    if os.fork():
        native.forktree_exec_init()
        os._exit(1)
    for fd in request.fds[1 + request.mount_count : request.fd_count]:
        os.write(fd, b'0')  # joins a group
    check(native.forktree_lock_down(0), 'lock down')  # the filter was inherited
    check(native.forktree_place_control(request.fds[0]), 'place control socket')


def serve() -> None:
    """Answers the host until it lets go. Returns only in a leaf, which is set up and unprivileged."""
    while True:
        op = native.forktree_serve(request_ref, fork_parts_ref)
        if op == LEAF:
            return
        if op == SPARE:
            hygiene.after_start()
            report = rehearsal.rehearse_spare(not request.flags & NO_WARM_UPS)
            leaf.send(leaf.PARKED, json.dumps(report).encode())
            native.forktree_park(request_ref)
            return
        if op == CHILD_ZYGOTE:
            spec = json.loads(request.text)
            if fork_zygote(spec):
                become(spec)
        else:
            os._exit(0 if op == 0 else 1)


def main() -> None:
    import site

    site.setquit()
    hygiene.skip_threading_hook()
    check(native.forktree_lock_down(1), 'lock down')
    layout.make_interpreter_huge()
    sys.path.append(PACKAGES)
    sys.modules['forktree'] = hooks
    become(json.loads(sys.argv[1]))
    serve()
    leaf.serve()
