"""What a process does so that forks of it are cheap and safe: settle memory before, draw fresh randomness after."""

import ctypes
import gc
import os
import sys
import time
from typing import Any, Callable, Optional

HUGE_PAGE = 2 << 20
MT19937_WORDS = 624
numpy_state: Optional[int] = None  # address of the key of numpy's global generator
is_starting = True  # a zygote, or a leaf that is not set up yet


def skip_threading_hook() -> None:
    """Keeps the hook that ``threading`` runs in a forked child from running in a leaf's start.

    It renews locks and forgets the other threads: a zygote has neither a held lock nor another thread, and the hook
    touches two hundred pages. What is left to do is in :func:`after_start`. In forks by a handler it runs as ever.
    To be called before ``threading`` is imported.
    """
    register = os.register_at_fork

    def register_at_fork(**hooks: Callable[[], Any]) -> None:
        hook = hooks.get('after_in_child')
        if hook is not None and hook.__module__ == 'threading' and hook.__qualname__ == '_after_fork':
            hooks['after_in_child'] = lambda: None if is_starting else hook()
        register(**hooks)

    assert 'threading' not in sys.modules
    os.register_at_fork = register_at_fork  # type: ignore[assignment]


def after_start() -> None:
    """In a process that will be a sandbox: from now on hooks run, and so does the part of threading's that matters."""
    global is_starting
    is_starting = False
    note_thread()


def note_thread() -> None:
    """The part of threading's hook that matters."""
    threading = sys.modules.get('threading')
    if threading is not None:
        threading.main_thread()._set_native_id()


def find_numpy_state() -> None:
    """Notes where numpy's global generator keeps its state, if it is there and looks as it should."""
    global numpy_state
    numpy_random = sys.modules.get('numpy.random')
    if numpy_random is None or numpy_state is not None:
        return
    try:
        generator = numpy_random.mtrand._rand._bit_generator
        address = generator.ctypes.state_address  # of struct {uint32_t key[624]; int pos;}
        key = generator.state['state']['key']
        if type(generator).__name__ == 'MT19937' and ctypes.string_at(address, key.nbytes) == key.tobytes():
            numpy_state = address
    except (AttributeError, KeyError, TypeError):
        pass  # another numpy: it is seeded by its own function


def forget_listings(packages: str) -> None:
    """Makes the import system look again at what is in ``packages``: a leaf may see more there than was imported here."""
    importers = sys.path_importer_cache
    for path in [path for path in importers if path == packages or path.startswith(packages + '/')]:
        finder = importers[path]
        if finder is None:
            del importers[path]
        else:
            finder.invalidate_caches()
    metadata = sys.modules.get('importlib.metadata')
    if metadata is not None:
        metadata.MetadataPathFinder().invalidate_caches()  # no class method before Python 3.12


def settle(collapse: Optional[Callable[[int, int], int]], trim: Callable[[int], int]) -> None:
    """Collects, freezes the collector's heap, gives free memory back, and makes huge pages of what is left.

    ``gc.freeze`` keeps the collector of a child from writing to inherited objects; huge pages make the copy of the
    page tables shorter. Both were measured to matter more than anything else here.
    """
    gc.collect()
    gc.freeze()
    trim(0)
    if collapse is None:
        return
    for start, end in anonymous_ranges():
        # One by one: at some failures the kernel leaves out all that follows.
        for huge_page in range(start, end, HUGE_PAGE):
            collapse(huge_page, HUGE_PAGE)  # before Linux 6.1, or memory is short: only slower


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
    torch_generator = getattr(modules.get('torch'), 'default_generator', None)
    if torch_generator is not None:
        torch_generator.seed()  # else from the seed that it drew when it was imported
    if numpy_state is not None:
        ctypes.memmove(numpy_state, os.urandom(MT19937_WORDS * 4), MT19937_WORDS * 4)
        return
    numpy_random = modules.get('numpy.random')
    if numpy_random is not None:
        # One word: an array of them, or none, runs through five times as much code, all of it page faults after a fork.
        numpy_random.seed(int.from_bytes(os.urandom(4), 'little'))


def is_alone(deadline: float) -> bool:
    """Whether there is no other thread, or none any more until the deadline, in seconds from now.

    A thread that was joined has still to leave the kernel, which tells nobody when it has: hence the turns.
    """
    ends = time.monotonic() + deadline
    while thread_count() > 1:
        if time.monotonic() > ends:
            return False
        os.sched_yield()
    return True


def thread_count() -> int:
    return len(os.listdir('/proc/self/task'))
