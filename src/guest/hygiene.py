"""What a process does so that forks of it are cheap and safe: settle memory before, draw fresh randomness after."""

import gc
import os
import sys
from typing import Callable

HUGE_PAGE = 2 << 20


def settle(collapse: Callable[[int, int], int], trim: Callable[[int], int]) -> None:
    """Collects, freezes the collector's heap, gives free memory back, and makes huge pages of what is left.

    ``gc.freeze`` keeps the collector of a child from writing to inherited objects; huge pages make the copy of the
    page tables shorter. Both were measured to matter more than anything else here.
    """
    gc.collect()
    gc.freeze()
    trim(0)
    for start, end in anonymous_ranges():
        if collapse(start, end - start) < 0:
            continue  # before Linux 6.1, or memory is short: only slower


def anonymous_ranges() -> list[tuple[int, int]]:
    """The writable private ranges without a file, cut to whole huge pages."""
    ranges = []
    with open('/proc/self/maps', encoding='ascii', errors='replace') as maps:
        for line in maps:
            fields = line.split()
            if fields[1] != 'rw-p' or fields[4] != '0' or fields[5:] == ['[stack]']:
                continue
            start, end = (int(part, 16) for part in fields[0].split('-'))
            start, end = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            if end > start:
                ranges.append((start, end))
    return ranges


def draw_fresh_randomness() -> None:
    """Makes this process draw other random numbers than its siblings; to be called after each fork.

    OpenSSL notices a fork by the pid alone, and pids repeat across pid namespaces: so mix bytes in *and* draw one.
    The standard library's own generators (random, uuid, secrets) reseed themselves after a fork or ask the kernel.
    """
    modules = sys.modules
    ssl = modules.get('_ssl')
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
        ssl.RAND_bytes(1)
    numpy_random = modules.get('numpy.random')
    if numpy_random is not None:
        # One word: an array of them, or none, runs through five times as much code, all of it page faults after a fork.
        numpy_random.seed(int.from_bytes(os.urandom(4), 'little'))


def thread_count() -> int:
    return len(os.listdir('/proc/self/task'))
