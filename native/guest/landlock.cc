// A second wall under the rules of mounts, where the kernel has Landlock: what a leaf may do with files is bound to the
// folders that it is to write to, and it reaches no abstract socket and no process outside.
#include "landlock.h"

#include "kernel.h"
#include "syscalls.h"

namespace {

// As in linux/landlock.h, which older systems have without the newer ones. The rights are bits, each version's after the last one's.
constexpr u64 kExecute = 1 << 0, kWriteFile = 1 << 1, kReadFile = 1 << 2, kReadDirectory = 1 << 3, kTruncate = 1 << 14, kDeviceControl = 1 << 15;
constexpr u64 kAbstractSockets = 1 << 0, kSignals = 1 << 1;
constexpr int kVersionFlag = 1, kPathBeneath = 1, kOpenPath = 010000000 | O_CLOEXEC;  // O_PATH

struct Ruleset {
  u64 files, network, scoped;
};
struct __attribute__((packed)) PathRule {
  u64 allowed;
  int folder;
};

u64 RightsOf(long version) {
  if (version >= 5) return (kDeviceControl << 1) - 1;
  return version >= 3 ? (kTruncate << 1) - 1 : kTruncate - 1;
}

long Allow(int ruleset, const char* folder, u64 rights) {
  const long opened = Syscall(__NR_openat, AT_FDCWD, Word(folder), kOpenPath, 0);
  if (opened < 0) return opened;
  PathRule rule = {rights, static_cast<int>(opened)};
  const long added = Syscall(__NR_landlock_add_rule, ruleset, kPathBeneath, Word(&rule), 0);
  Syscall(__NR_close, opened);
  return added;
}

long AllowAll(int ruleset, u64 all, const Enclosure& enclosure) {
  const u64 reading = kExecute | kReadFile | kReadDirectory, writing = reading | kWriteFile | ((kTruncate | kDeviceControl) & all);
  long result = Allow(ruleset, "/", enclosure.writable_root ? all : reading);
  if (result >= 0) result = Allow(ruleset, "/dev", writing);
  if (result >= 0) result = Allow(ruleset, "/proc", writing);
  if (result >= 0 && enclosure.scratch) result = Allow(ruleset, "/tmp", all);
  const char* target = enclosure.targets;
  for (int i = 0; result >= 0 && i < enclosure.target_count; i++, target = NextWord(target)) {
    result = Allow(ruleset, target, all);
    if (result == -EINVAL) result = 0;  // a file, which is there to be read
  }
  return result;
}

}  // namespace

long Enclose(const Enclosure& enclosure) {
  const long version = Syscall(__NR_landlock_create_ruleset, 0, 0, kVersionFlag);
  if (version < 2) return 0;
  const u64 all = RightsOf(version);
  Ruleset handled = {all, 0, version >= 6 ? kAbstractSockets | kSignals : 0};
  const u64 size = version >= 6 ? sizeof handled : sizeof handled.files;
  const long ruleset = Syscall(__NR_landlock_create_ruleset, Word(&handled), static_cast<long>(size), 0);
  if (ruleset < 0) return ruleset;
  long result = AllowAll(static_cast<int>(ruleset), all, enclosure);
  if (result >= 0) result = Syscall(__NR_landlock_restrict_self, ruleset, 0);
  Syscall(__NR_close, ruleset);
  return result;
}
