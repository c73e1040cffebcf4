"""A start and a call gone through without the host, for what is set up by the first of them, and for the pages that they write to."""

import gc
import marshal
import os
import select
import sys
import time
from typing import Callable

from . import hygiene, leaf, warmups

HANDLER = """
import os
from json import loads
def f(event):
    if event is None:
        raise ValueError('rehearsed')
    return event
"""
NAME = 'forktree_rehearsal'
code = bytes(16) + marshal.dumps(compile(HANDLER, f'{leaf.FORKTREE}/rehearsed.py', 'exec'))


def rehearse_zygote(check: Callable[[str], bool]) -> None:
    """With every warm-up, as long as `check` answers True of a module."""
    warmups.run(check=check)
    rehearse()


def rehearse_spare(warm_up: bool) -> dict[str, object]:
    """Tells how long it took, and what failed."""
    started = time.perf_counter()
    failed = warmups.run(again=True) if warm_up else []
    if not rehearse():
        failed.append('a call')
    return {'ms': (time.perf_counter() - started) * 1000, 'failed': failed}


def rehearse() -> bool:
    """Leaves nothing behind but what it is for. False: it failed."""
    done = True
    try:
        rehearse_call()
    except Exception:
        done = False
    leaf.flush()
    gc.collect()  # else a handler's first collection would end what is left over
    random = sys.modules.get('random')
    if random is not None:
        random.seed()
    hygiene.draw_fresh_randomness()
    return done


def rehearse_call() -> None:
    """By the functions that load and call a handler; what they send they are given back."""
    channel, waiter, path = leaf.CHANNEL, leaf.waiter, list(sys.path)
    leaf.CHANNEL, file = open_loop(), write_file(code)
    try:
        leaf.waiter = select.poll()
        leaf.waiter.register(leaf.CHANNEL, select.POLLIN)
        module = leaf.make_module(f'{NAME}.py')
        module.__cached__ = f'/proc/self/fd/{file}'
        leaf.send(leaf.LOAD, f'{NAME}.py\0{NAME}=1'.encode())
        leaf.prepare(leaf.receive()[1].decode().split('\0')[1:])
        handler = leaf.find_handler(module)
        leaf.send(leaf.LOADED)
        leaf.receive()
        for event in (b'{"text":["a",1,2.5,null,true]}', b'null'):
            leaf.send(leaf.EVENT_JSON, event)
            leaf.answer_event(handler, *leaf.receive())
            leaf.receive()
    finally:
        os.close(leaf.CHANNEL)
        os.close(file)
        leaf.CHANNEL, leaf.waiter = channel, waiter
        leaf.received.clear()
        sys.path[:] = path
        sys.modules.pop(NAME, None)
        os.environ.pop(NAME, None)
        gc.disable()


def open_loop() -> int:
    """A descriptor from which comes what is written to it."""
    ends = os.pipe()
    try:
        return os.open(f'/proc/self/fd/{ends[0]}', os.O_RDWR | os.O_CLOEXEC)
    finally:
        for end in ends:
            os.close(end)


def write_file(content: bytes) -> int:
    # In a zygote's /tmp, as long as it is open. No file in memory: some functions may have none.
    fd = os.open('/tmp', os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
    os.write(fd, content)
    return fd
