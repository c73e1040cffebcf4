#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "groups.h"

namespace forktree {
namespace {

// Bits of /proc/PID/pagemap.
constexpr uint64_t kPresent = 1ULL << 63, kOfFile = 1ULL << 61, kExclusive = 1ULL << 56;
// Programs may reserve terabytes: larger mappings are passed over, and beyond so much in all nothing is looked for.
constexpr uint64_t kMaxMapping = 4ULL << 30, kMaxLookedAt = 16ULL << 30;

struct Mapping {
  uint64_t start, end;
  bool writable;
};

std::vector<Mapping> PrivateMappings(const std::string& maps) {
  std::vector<Mapping> mappings;
  for (size_t at = 0; at < maps.size(); at = std::min(maps.size(), maps.find('\n', at)) + 1) {
    Mapping mapping = {};
    char access[5] = {};
    if (sscanf(maps.c_str() + at, "%" SCNx64 "-%" SCNx64 " %4s", &mapping.start, &mapping.end, access) != 3) continue;
    mapping.writable = access[0] == 'r' && access[1] == 'w';
    if (access[3] == 'p' && mapping.end - mapping.start <= kMaxMapping) mappings.push_back(mapping);
  }
  return mappings;
}

// Adds pages to ranges, up to so many.
struct Collector {
  std::vector<PageRange>* ranges;
  uint64_t pages_left;

  void Add(uint64_t start, uint64_t page) {
    if (pages_left == 0) return;
    pages_left--;
    if (!ranges->empty() && ranges->back().start + ranges->back().size == start) {
      ranges->back().size += page;
    } else {
      ranges->push_back({start, page});
    }
  }
};

}  // namespace

int ReadWorkingSet(int pid, uint64_t max_pages, WorkingSet* set) {
  const std::string folder = "/proc/" + std::to_string(pid);
  std::string maps;
  int result = ReadControl(folder + "/maps", &maps);
  if (result < 0) return result;
  const int file = open((folder + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return -errno;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  Collector written = {&set->written, max_pages}, read = {&set->read, max_pages};
  std::vector<uint64_t> entries(8192);
  uint64_t looked_at = 0;
  for (const Mapping& mapping : PrivateMappings(maps)) {
    for (uint64_t at = mapping.start; at < mapping.end && looked_at < kMaxLookedAt;) {
      const uint64_t count = std::min<uint64_t>(entries.size(), (mapping.end - at) / page);
      const ssize_t got = pread(file, entries.data(), count * sizeof(uint64_t), static_cast<off_t>(at / page * sizeof(uint64_t)));
      if (got < static_cast<ssize_t>(sizeof(uint64_t))) break;  // of what the kernel maps for itself it has none
      const uint64_t read_pages = static_cast<uint64_t>(got) / sizeof(uint64_t);
      for (uint64_t i = 0; i < read_pages; i++) {
        const uint64_t bits = entries[i] & (kPresent | kOfFile | kExclusive);
        if ((bits & (kPresent | kOfFile)) == (kPresent | kOfFile)) read.Add(at + i * page, page);
        if (bits == (kPresent | kExclusive) && mapping.writable) written.Add(at + i * page, page);
      }
      at += read_pages * page;
      looked_at += read_pages * page;
    }
  }
  close(file);
  return 0;
}

}  // namespace forktree
