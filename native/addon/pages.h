// Which memory a process has used since it was forked: plain C++.
#pragma once
#include <stdint.h>

#include <vector>

namespace forktree {

// In bytes; whole pages.
struct PageRange {
  uint64_t start, size;
};

struct WorkingSet {
  // Pages of memory that it can write to and that it alone has: those that it has written to, or allocated.
  std::vector<PageRange> written;
  // Pages of files, and those around them that the kernel mapped with them: a fork copies none of these.
  std::vector<PageRange> read;
};

// Of private mappings, those that are there now. In order, those that touch each other as one range; of each kind the first
// `max_pages`. 0, or -errno.
int ReadWorkingSet(int pid, uint64_t max_pages, WorkingSet* set);

}  // namespace forktree
