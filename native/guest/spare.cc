// A spare: a leaf that was forked and partly set up before anybody asked for it. Until it is handed over it runs only its
// zygote's code, with the zygote's capabilities inside the zygote's user namespace and behind the zygote's filter.
#include "channel.h"
#include "hand_over.h"
#include "memory.h"
#include "setup.h"

namespace {

// Types of frames, as in launch-protocol.ts.
enum : unsigned char { kHandOver = 24, kPopulate = 25, kPopulated = 26 };

struct __attribute__((packed)) Populated {
  u32 length;
  unsigned char type;
  u32 ranges, microseconds;
};

[[noreturn]] void End() {  // the host sees it as the end of the channel
  for (;;) Syscall(__NR_exit_group, 1);
}

void Populate(const char* set, u32 size) {
  const u64 began = Now();
  const u32 count = forktree_populate(set, size);
  Populated populated = {sizeof populated - kFrameHeader, kPopulated, count, static_cast<u32>((Now() - began) / 1000)};
  Syscall(__NR_sendto, kControl, Word(&populated), sizeof populated, MSG_NOSIGNAL, 0);
}

}  // namespace

void ParkSpare(Request* room) {
  FrameHead head;
  FrameFds mounts = {};
  u64 began;
  for (;;) {
    if (!ReadFrameHead(&head, &mounts)) End();
    began = Now();
    if (head.size > kMaxText || !ReadExactly(room->text, head.size, &mounts)) End();
    if (head.type != kPopulate) break;
    Populate(room->text, head.size);
  }
  HandOver given = {};
  if (head.type != kHandOver || !CutHandOver(room->text, head.size, static_cast<u32>(mounts.count), &given)) End();
  const WaitingSpare& self = waiting_spare;
  Born born = {self.id, kNoStep, 0, 0, began, 0};
  Listeners listeners = {};
  const bool no_new_executables = (given.flags & kNoNewExecutables) != 0;
  Failure failure = TakeOn({self.uid, given.open_files, given.processes, given.data_mib, self.own_user_namespace, false, false, false,
                            no_new_executables, given.scratch, given.folder, given.network, given.targets, mounts.fds, mounts.count, self.streams},
                           &listeners);
  Finish(&born, failure, {self.wants_filter, no_new_executables}, self.births, -1, listeners);
}
