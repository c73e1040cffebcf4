// What forks sandboxes: a zygote, or the launcher of programs. It takes the host's requests on its control socket, and
// each leaf that it forks sets itself up by one function, straight after the fork.
#pragma once
#include "kernel.h"

constexpr int kControl = 3;  // the control socket; in a leaf its channel
constexpr int kMaxFds = 16;
constexpr int kMaxText = 65536;

// Bits of Request::flags: no stdout and stderr come with it; the launcher's own network; no filter; a
// folder of its own in /tmp; a user namespace of its own, since the launcher has only one id; mounts among its
// own can be written, or all of its root; nothing that it writes can be executed. 16 is zygote.py's.
enum : u32 {
  kNoStreams = 1,
  kSharedNetwork = 2,
  kNoFilter = 4,
  kWorkFolder = 8,
  kOwnUserNamespace = 32,
  kWritableMounts = 64,
  kWritableRoot = 128,
  kNoNewExecutables = 256,
};

// Requests: fork a leaf; fork a spare, which waits for the rest; make network namespaces ahead. Any other is the program's own.
enum : u32 { kLeaf = 'L', kSpare = 'S', kRefill = 'N' };

// What the host asks for. The first words and the text are the message; zygote.py mirrors this layout. Of a leaf the text
// is NUL-terminated words: options of /tmp (empty: none), host name, working folder, its network as in network.h, and a
// target for each mount. Its fds: channel, stdout and stderr, mounts, cgroups. A spare has of these only the host name, and
// no mounts. What no cgroup limits is limited by `processes` and `data_mib`, 0: not.
struct Request {
  u32 op, id, uid, flags, mount_count, range_start, range_count, open_files, processes, data_mib;
  int fd_count;
  int fds[kMaxFds];
  u32 text_size;
  char text[kMaxText];
};
constexpr u64 kHeadSize = 10 * sizeof(u32);

// What a fork consists of: for an interpreter CPython's PyOS_ functions, and its libc's fork(3) and errno.
struct ForkParts {
  void (*before_fork)();
  int (*fork)();
  void (*after_in_child)();
  void (*after_in_parent)();
  const int* error_number;
};

// First call: gives up what it does not need, in particular CAP_SYS_PTRACE, without which it cannot trace its init, which
// has every capability. Answers 0 or -errno.
long LockDown(bool install_filter);

// Own fds only, own namespaces remembered, and the host told who it is and where its leaves' births are told.
long BecomeLauncher();

// Answers the host's requests, and reports ended leaves meanwhile. Returns in a leaf that is set up (kLeaf), in a spare that
// has to call ParkSpare() (kSpare), in the launcher for requests that are not answered here (the op), when the host has let go (0), or with -errno.
long ServeLauncher(Request* request, const ForkParts& parts);

// In a spare, when it is as ready as it can be: waits on its channel until the host hands it over, and is then set up. The
// request gives room to read into. Without a host, and when a step fails, it does not return.
void ParkSpare(Request* room);

void CloseFds(Request* request);
long SetCapabilities(u64 keep);
long MountProc();
long Attach(int fd, const char* target);
long Prctl(int option, long value);
