// Which memory of a process is its own: plain C++.
#pragma once
#include <stdint.h>

#include <vector>

namespace forktree {

// In bytes; whole pages.
struct PageRange {
  uint64_t start, size;
};

// The pages of private, writable mappings that are in memory and that this process alone has: of a forked one those that it
// has written to, or allocated. In order, those that touch each other as one range; the first `max_pages` of them. 0, or -errno.
int OwnPages(int pid, uint64_t max_pages, std::vector<PageRange>* ranges);

}  // namespace forktree
