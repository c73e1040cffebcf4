"""A function's module, loaded once in a zygote of its own: its sandboxes begin where it ends.

What of it can't be shared between sandboxes as they share memory has it refused; then each loads it by itself.
"""

import contextlib
import gc
import importlib
import io
import os
import time
import traceback
from typing import Optional

from . import hooks, leaf

SCRATCH = '/tmp'


def load(entry: str, preparation: list[str], warmup: Optional[str]) -> dict[str, object]:
    """Leaves the handler for :func:`leaf.load` to find. Says how that failed, or why it is refused.

    With what the function does ahead: `warmup` names it as ``module:function``.
    """
    files, shared, printed = open_files(), shared_mappings(), io.StringIO()
    started = busy_time()
    os.chdir(leaf.HANDLER)
    leaf.prepare(preparation)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            handler = leaf.find_entry(entry)
            entry = warmup or entry
            if warmup is not None:
                run_warmup(*warmup.split(':'))
            warm_ups_failed = hooks.run_warm_ups()
    except BaseException:
        return {'failed': [{'module': entry, 'traceback': traceback.format_exc(limit=-20)[-8192:]}]}
    finally:
        gc.disable()
    load_ms = (busy_time() - started) * 1000
    leaf.loaded = handler
    return {'refused': find_unshareable(files, shared, printed), 'loadMs': load_ms, 'warmUpsFailed': warm_ups_failed}


def run_warmup(module: str, name: str) -> None:
    function = importlib.import_module(module)
    for part in name.split('.'):
        function = getattr(function, part)
    function()


def busy_time() -> float:
    """Seconds on a clock that stands still while others have the CPU. See proc(5), or sched-stats.rst of the kernel."""
    try:
        with open('/proc/self/schedstat', encoding='ascii') as stat:
            waited = int(stat.read().split()[1])
    except OSError:  # a kernel without it
        waited = 0
    return time.monotonic() - waited / 1e9


def find_unshareable(files: set[str], shared: int, printed: io.StringIO) -> Optional[str]:
    """Each sandbox would have the same open file, none would have what is in /tmp, and nobody would read what was printed."""
    if printed.getvalue():
        return 'it prints when it is loaded'
    if open_files() != files:
        return 'it keeps a file or a socket open'
    if shared_mappings() != shared:
        return 'it has memory that forks share'
    if os.listdir(SCRATCH):
        return f'it leaves files in {SCRATCH}'
    if has_children():
        return 'it has started a process'
    if os.getcwd() != leaf.HANDLER:
        return 'it changes the working folder'
    return None


def open_files() -> set[str]:
    """By what they are, so that a number that was closed and is used again shows."""
    found = set()
    for fd in os.listdir('/proc/self/fd'):
        with contextlib.suppress(OSError):  # the one of the listing itself
            found.add(fd + ' ' + os.readlink(f'/proc/self/fd/{fd}'))
    return found


def shared_mappings() -> int:
    with open('/proc/self/maps', encoding='ascii', errors='replace') as maps:
        return sum(1 for line in maps if line.split(None, 2)[1][3] == 's')


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
