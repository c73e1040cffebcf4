// A leaf's set-up, in two halves: what does not depend on whom it is for, and what does. A leaf that was asked for with all
// that it gets takes both at once; a spare waits between them.
#pragma once
#include "kernel.h"
#include "launcher.h"
#include "network.h"

// Steps of the set-up; launch-protocol.ts names them in the same order.
enum LeafStep : u32 {
  kNoStep,
  kJoinCgroups,
  kPlaceFds,
  kUnshare,
  kJoinNetwork,
  kMountProc,
  kMountScratch,
  kAttachMounts,
  kOpenNetwork,
  kSetHostname,
  kLimit,
  kDropPrivileges,
  kEnclose,
  kInstallFilter,
};

struct Failure {
  u32 step;
  long error;
};

#define STEP(step, call)                                     \
  do {                                                       \
    long step_result = (call);                               \
    if (step_result < 0) return Failure{step, step_result}; \
  } while (0)

// What a leaf says of its set-up, with its pidfd if all went well. By a socket that all leaves of a zygote share and the
// host looks at when it hears of one: it is not woken by a birth, which on a busy machine would take the leaf's core. A spare
// says it twice: when it can be killed, and, without a pidfd, when it is a sandbox.
struct Born {
  u32 id, step, error, padding;
  u64 began, ended;  // CLOCK_MONOTONIC nanoseconds
};

// Descriptors besides those that a leaf keeps: first where they were received, then where they were placed. Where `streams`
// is not -1 stdout and stderr wait there, and 1 and 2 lead nowhere.
struct Needs {
  int births, net, first_mount, mount_count, streams;
};

// What is given to a leaf in the second half. `targets` has a NUL-terminated word for each of `mounts`.
struct Outfit {
  u32 uid, open_files, processes, data_mib;
  bool own_user_namespace, work_folder, writable_mounts, writable_root, no_new_executables;
  const char *scratch, *folder, *network, *targets;  // options of /tmp (empty: none), working folder, see network.h
  const int* mounts;
  int mount_count, streams;
};

// What a spare knows of itself when it waits.
struct WaitingSpare {
  u32 id, uid;
  bool wants_filter, own_user_namespace;
  int births, streams;
};
extern WaitingSpare waiting_spare;

// What a zygote keeps: it forks and isolates with it, and makes sockets that listen on any port.
constexpr u64 kZygoteCapabilities =
    1UL << CAP_SYS_ADMIN | 1UL << CAP_SETUID | 1UL << CAP_SETGID | 1UL << CAP_SETPCAP | 1UL << CAP_NET_ADMIN |
    1UL << CAP_NET_BIND_SERVICE;

// Cgroups first (what follows is charged there), then its descriptors, namespaces, the network while the capabilities are
// there, proc while the template's is visible.
Failure EnterNamespaces(const Request& request, const char* hostname, Needs* needs);

// Mounts, network, limits, and the end of its privileges.
Failure TakeOn(const Outfit& outfit, Listeners* listeners);

// Tells the host how it went; a failure ends the leaf. The pidfd, if it is not -1, and the listeners go with it.
void TellBorn(Born* born, Failure failure, int births, int pidfd, const Listeners& listeners);

// Which of them a leaf gets: the strict one, and the one by which it executes nothing that it has written.
struct Filters {
  bool strict, no_new_executables;
};

// The last step: the filters, if no step has failed, word to the host, and only the leaf's own descriptors.
void Finish(Born* born, Failure failure, Filters filters, int births, int pidfd, const Listeners& listeners);

long LoopbackUp();
long Limit(int resource, u64 most);
// Limits what is counted for all that a user has, or all that is forked here, together: nobody shall take what the others need.
// A launcher with one id only lowers it for itself: a user namespace below has no more in all than its maker could have.
long LimitShared(bool only_now);
long InstallZygoteFilter();
// Refuses what no rule of mounts reaches: files in memory, and file systems without noexec, which who is root of a user namespace can mount.
long RefuseNewExecutables();
// /tmp as a tmpfs with these options.
long MountScratch(const char* options, bool no_new_executables);
long SendWithFds(int socket, void* data, u64 size, const int* fds, u64 count);
const char* NextWord(const char* word);
// Reads a small file as text; answers its size, or -errno.
long ReadText(const char* path, char* text, u64 room);
u64 Now();
