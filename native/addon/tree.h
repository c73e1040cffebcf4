// Folders that a sandbox has filled: made ours before anything else looks into them.
#pragma once
#include <cstdint>
#include <string>

namespace forktree {

struct TreeLimits {
  int64_t entries, bytes;
};

// What a folder held, itself left out; or, if `step` is not empty, what went wrong, and where below the folder. `error` is -errno, or 0
// when the folder holds something that it must not: `step` then says what that is.
struct SealedTree {
  int64_t entries = 0, files = 0, bytes = 0;
  int error = 0;
  std::string step, path;
};

// Gives a folder and all below it to root, readable for everybody (0755, or 0644 for a file that can't be executed), and
// waits until its file system is on the disk. Follows no links, and refuses whatever is neither a folder nor a file with
// one name: nobody may be writing to it any more, but whoever did is not trusted.
SealedTree SealTree(const std::string& folder, TreeLimits limits);

}  // namespace forktree
