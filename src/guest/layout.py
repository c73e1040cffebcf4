"""Where a zygote's memory lies, so that a fork of it is cheap: few mappings, few pages, and those huge.

What a fork of CPython costs is mostly one copy of each mapping and of each page-table entry, and then a fault for each
page that the child touches. Imported by a zygote before anything else allocates much.
"""

import ctypes
import sys
from typing import NamedTuple

HUGE_PAGE = 2 << 20
PROT_READ, PROT_EXEC = 1, 4

# PyDLL: with the interpreter's lock held, as the parts of a fork need it. A zygote has one thread.
native = ctypes.PyDLL('/forktree/native/guest.node')
libc = ctypes.PyDLL(None)
native.forktree_collapse.argtypes = [ctypes.c_ulong, ctypes.c_ulong]
native.forktree_make_text_huge.argtypes = [ctypes.c_ulong, ctypes.c_ulong]
native.forktree_populate.argtypes = [ctypes.c_char_p, ctypes.c_ulong]
libc.mprotect.argtypes = [ctypes.c_ulong, ctypes.c_ulong, ctypes.c_int]


class ArenaAllocator(ctypes.Structure):
    """PyObjectArenaAllocator of CPython's API."""

    _fields_ = [('context', ctypes.c_void_p), ('allocate', ctypes.c_void_p), ('free', ctypes.c_void_p)]


ctypes.pythonapi.PyObject_SetArenaAllocator(
    ctypes.byref(
        ArenaAllocator(
            None,
            ctypes.cast(native.forktree_allocate_arena, ctypes.c_void_p),
            ctypes.cast(native.forktree_free_arena, ctypes.c_void_p),
        )
    )
)


class Mapping(NamedTuple):
    start: int
    end: int
    access: str
    offset: int
    inode: str

    def is_continued_by(self, other: 'Mapping') -> bool:
        return self.end == other.start and self.inode == other.inode and self.offset + self.end - self.start == other.offset


def mappings() -> list[Mapping]:
    found = []
    with open('/proc/self/maps', encoding='utf-8', errors='surrogateescape') as maps:
        for line in maps:
            place, access, offset, _device, inode = line.split(None, 5)[:5]
            start, end = (int(part, 16) for part in place.split('-'))
            found.append(Mapping(start, end, access, int(offset, 16), inode))
    return found


def merge_mappings() -> None:
    """Makes one mapping of a library's code and the constants before and behind it, where linkers now make three.

    The constants become executable by it, as they were with every linker until GNU ld 2.31 (-z separate-code).
    """
    last = Mapping(0, 0, '', 0, '')
    around = [last, *mappings(), last, last]
    for before, code, behind, next_one in zip(around, around[1:], around[2:], around[3:]):
        if code.access != 'r-xp' or code.inode == '0':
            continue
        start, end = code.start, code.end
        if before.access == 'r--p' and before.is_continued_by(code):
            start = before.start
        # Not what was relocated and then made read-only: it belongs to the data that follows.
        is_relocated = behind.is_continued_by(next_one) and next_one.access == 'rw-p'
        if behind.access == 'r--p' and code.is_continued_by(behind) and not is_relocated:
            end = behind.end
        libc.mprotect(start, end - start, PROT_READ | PROT_EXEC)  # where it fails, it is only slower


def make_interpreter_huge() -> None:
    """Huge pages for the interpreter's code, as far as it fills them; only slower where the kernel has none to give."""
    merge_mappings()
    known = ctypes.cast(ctypes.pythonapi.PyOS_BeforeFork, ctypes.c_void_p).value or 0
    for mapping in mappings():
        if mapping.start <= known < mapping.end and mapping.access == 'r-xp':
            start, end = -(-mapping.start // HUGE_PAGE) * HUGE_PAGE, mapping.end // HUGE_PAGE * HUGE_PAGE
            if end > start:
                native.forktree_make_text_huge(start, end - start)
