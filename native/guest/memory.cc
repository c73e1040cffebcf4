// Memory of a zygote, laid out so that a fork copies few mappings and few page-table entries.
#include "memory.h"

#include "syscalls.h"

namespace {

using u64 = unsigned long;

enum : int { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, MAP_PRIVATE = 2, MAP_ANONYMOUS = 32, MAP_NORESERVE = 0x4000 };
enum : int { MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2 };
enum : int { MADV_DONTNEED = 4, MADV_POPULATE_READ = 22, MADV_POPULATE_WRITE = 23, MADV_COLLAPSE = 25 };
constexpr u64 kHugePage = 2UL << 20;
constexpr u64 kRegion = 32UL << 20;
constexpr int kMaxFree = 1024;

struct Range {
  u64 start, size;
};

// What is left of the newest region, and arenas that were given back.
struct Arenas {
  u64 next = 0, end = 0;
  int free_count = 0;
  Range free[kMaxFree] = {};
} arenas;

bool IsError(long result) { return result < 0 && result > -4096; }

long Advise(u64 start, u64 size, int advice) {
  return Syscall(__NR_madvise, static_cast<long>(start), static_cast<long>(size), advice);
}

// Writable memory that starts at a huge page; 0 when there is none.
u64 MapAligned(u64 size, int flags) {
  long mapped = Syscall(__NR_mmap, 0, static_cast<long>(size + kHugePage), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | flags, -1);
  if (IsError(mapped)) return 0;
  u64 start = static_cast<u64>(mapped), aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
  if (aligned > start) Syscall(__NR_munmap, mapped, static_cast<long>(aligned - start));
  Syscall(__NR_munmap, static_cast<long>(aligned + size), static_cast<long>(start + kHugePage - aligned));
  return aligned;
}

}  // namespace

extern "C" {

// CPython's arenas (PyObject_SetArenaAllocator), one after the other in large regions: its own allocator maps each by
// itself, and a mapping smaller than a huge page can't become one.
void* forktree_allocate_arena(void*, u64 size) {
  for (int i = arenas.free_count - 1; i >= 0; i--) {
    if (arenas.free[i].size != size) continue;
    u64 start = arenas.free[i].start;
    arenas.free[i] = arenas.free[--arenas.free_count];
    return reinterpret_cast<void*>(start);
  }
  if (arenas.end - arenas.next < size) {
    u64 region = MapAligned(size > kRegion ? size : kRegion, MAP_NORESERVE);
    if (region == 0) return nullptr;
    arenas.next = region;
    arenas.end = region + (size > kRegion ? size : kRegion);
  }
  u64 start = arenas.next;
  arenas.next += size;
  return reinterpret_cast<void*>(start);
}

void forktree_free_arena(void*, void* arena, u64 size) {
  u64 start = reinterpret_cast<u64>(arena);
  Advise(start, size, MADV_DONTNEED);
  if (arenas.free_count < kMaxFree) arenas.free[arenas.free_count++] = {start, size};
}

// Makes huge pages of an anonymous range (Linux 6.1+), so that a fork copies fewer page-table entries.
int forktree_collapse(u64 start, u64 size) { return static_cast<int>(Advise(start, size, MADV_COLLAPSE)); }

// Puts huge pages with the same content in the place of a range of the interpreter's text, which starts and ends at
// one. A fork copies their few entries; of mapped files it copies none, and each child faults the text in anew.
int forktree_make_text_huge(u64 start, u64 size) {
  u64 copy = MapAligned(size, 0);
  if (copy == 0) return -12;  // ENOMEM
  u64 *to = reinterpret_cast<u64*>(copy), *from = reinterpret_cast<u64*>(start);
  for (u64 i = 0; i < size / sizeof(u64); i++) to[i] = from[i];
  long result = Advise(copy, size, MADV_COLLAPSE);
  if (result >= 0) {
    result = Syscall(__NR_mprotect, static_cast<long>(copy), static_cast<long>(size), PROT_READ | PROT_EXEC);
  }
  if (result >= 0) {
    result = Syscall(__NR_mremap, static_cast<long>(copy), static_cast<long>(size), static_cast<long>(size),
                     MREMAP_MAYMOVE | MREMAP_FIXED, static_cast<long>(start));
  }
  if (!IsError(result)) return 0;
  Syscall(__NR_munmap, static_cast<long>(copy), static_cast<long>(size));
  return static_cast<int>(result);
}

unsigned int forktree_populate(const char* set, u64 size) {
  auto word = [&](u64 index) {
    u64 value = 0;
    for (u64 i = 0; i < sizeof value; i++) value |= static_cast<u64>(static_cast<unsigned char>(set[index * 8 + i])) << i * 8;
    return value;
  };
  const u64 words = size / sizeof(u64);
  unsigned int populated = 0;
  for (u64 at = 1; at + 1 < words; at += 2) {
    const int advice = at / 2 < word(0) ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    if (Advise(word(at), word(at + 1), advice) == 0) populated++;
  }
  return populated;
}
}
