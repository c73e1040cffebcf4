"""``import forktree`` inside a sandbox: what a package wants done around the forks of a zygote that imported it.

Nothing of it is there outside: ``try: import forktree``, ``except ImportError``.
"""

import traceback
from typing import Any, Callable

__all__ = ['after_fork', 'before_fork', 'warmup']

Hook = Callable[[], Any]
before: list[Hook] = []
after: list[Hook] = []
warm_ups: list[Hook] = []


def before_fork(function: Hook) -> Hook:
    """Has it called once in the zygote, when all its packages are imported, before anything is forked. Can decorate.

    The place to close what can't be shared, and to end threads: a zygote with threads is not forked. What it raises
    is told as a failed import, and the zygote is not used.
    """
    before.append(function)
    return function


def after_fork(function: Hook) -> Hook:
    """Has it called in each sandbox that is forked, before the function's code is loaded. Can decorate.

    The place to draw new seeds and to open again what was closed. It runs with the sandbox's rights. What it raises fails the call.
    """
    after.append(function)
    return function


def warmup(function: Hook) -> Hook:
    """Has it called once in the zygote, when all its packages are imported: what is put off until a first use is done ahead. Can decorate.

    As long as it leaves no thread, open file or connection behind. What it raises is told as a failed import, and all goes on without it.
    """
    warm_ups.append(function)
    return function


def run_before() -> None:
    """Once each: a zygote that is forked from this one has it done already."""
    while before:
        before.pop(0)()


def run_warm_ups() -> list[dict[str, str]]:
    """Once each; answers which failed, with tracebacks."""
    failed = []
    while warm_ups:
        function = warm_ups.pop(0)
        try:
            function()
        except BaseException:
            name = getattr(function, '__qualname__', repr(function))
            failed.append({'module': f'forktree.warmup: {name}', 'traceback': traceback.format_exc(limit=-20)[-8192:]})
    return failed


def run_after() -> None:
    for function in after:
        function()
