#include "launcher.h"

#include "../filters/filters.h"
#include "syscalls.h"

namespace {

constexpr int kNetPool = 4;
constexpr int kMaxLeaves = 4096;

// What a leaf says of its set-up, with its pidfd if all went well. By a socket that all leaves of a zygote share and the
// host looks at when it hears of one: it is not woken by a birth, which on a busy machine would take the leaf's core.
struct Born {
  u32 id, step, error, padding;
  u64 began, ended;  // CLOCK_MONOTONIC nanoseconds
};

// What a zygote reports by itself: op, id, value.
struct Report {
  u32 op, id;
  int value;
};
enum : u32 { kExitReport = 'X', kForkFailed = 'E' };

// A process has one zygote's state; its children inherit a copy that they drop.
struct State {
  int own_pid_ns = -1, own_net_ns = -1, signals = -1, births = -1;
  int nets[kNetPool] = {-1, -1, -1, -1};
  struct {
    int pid;
    u32 id;
  } leaves[kMaxLeaves] = {};
} state;

u64 Now() {
  long time[2];
  Syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, Word(time));
  return static_cast<u64>(time[0]) * 1000000000UL + static_cast<u64>(time[1]);
}

}  // namespace

long Prctl(int option, long value) { return Syscall(__NR_prctl, option, value, 0, 0, 0); }

long SetCapabilities(u64 keep) {
  struct {
    u32 version;
    int pid;
  } header = {0x20080522, 0};
  u32 low = static_cast<u32>(keep), high = static_cast<u32>(keep >> 32);
  struct {
    u32 effective, permitted, inheritable;
  } data[2] = {{low, low, 0}, {high, high, 0}};
  return Syscall(__NR_capset, Word(&header), Word(data));
}

long MountProc() {  // of the caller's pid namespace; some proc must still be visible, else EPERM
  return Syscall(__NR_mount, Word("proc"), Word("/proc"), Word("proc"), MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
}

long Attach(int fd, const char* target) {
  return Syscall(__NR_move_mount, fd, Word(""), AT_FDCWD, Word(target), MOVE_MOUNT_F_EMPTY_PATH);
}

namespace {

template <u64 N>
long InstallFilter(const FilterInstruction (&filter)[N]) {
  struct {
    u16 size;
    const FilterInstruction* instructions;
  } program = {static_cast<u16>(N), filter};
  return Syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, Word(&program));
}

// What a zygote keeps: it forks and isolates with it.
constexpr u64 kZygoteCapabilities =
    1UL << CAP_SYS_ADMIN | 1UL << CAP_SETUID | 1UL << CAP_SETGID | 1UL << CAP_SETPCAP | 1UL << CAP_NET_ADMIN;

// Leaves only `keep` in the bounding set. Needs CAP_SETPCAP, so before the uid changes.
void DropBoundingSet(u64 keep) {
  for (int capability = 0; capability <= CAP_HIGHEST; capability++) {
    if ((keep >> capability & 1) == 0 && Prctl(PR_CAPBSET_DROP, capability) < 0) break;  // EINVAL: past the last
  }
}
long SendWithFds(int socket, void* data, u64 size, const int* fds, u64 count) {
  IoVec vector = {data, size};
  struct {
    ControlHeader header;
    int fds[2];
  } control = {{sizeof(ControlHeader) + count * sizeof(int), SOL_SOCKET, SCM_RIGHTS}, {}};
  for (u64 i = 0; i < count; i++) control.fds[i] = fds[i];
  MsgHdr message = {nullptr, 0, &vector, 1, count == 0 ? nullptr : &control, count == 0 ? 0 : sizeof control, 0};
  return Syscall(__NR_sendmsg, socket, Word(&message), MSG_NOSIGNAL);
}

long LoopbackUp() {
  struct {
    char name[16];
    short flags;
    char padding[22];
  } request = {"lo", 0x41 /* IFF_UP | IFF_RUNNING */, {}};
  long socket = Syscall(__NR_socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0);
  if (socket < 0) return socket;
  long result = Syscall(__NR_ioctl, socket, 0x8914 /* SIOCSIFFLAGS */, Word(&request));
  Syscall(__NR_close, socket);
  return result;
}

long OpenNamespace(const char* path) { return Syscall(__NR_openat, AT_FDCWD, Word(path), O_CLOEXEC, 0); }

// One network namespace with loopback up, made by leaving for it and coming back; an fd that keeps it, or -errno.
long MakeNetwork() {
  if (state.own_net_ns < 0) return -EPERM;
  long result = Syscall(__NR_unshare, CLONE_NEWNET);
  if (result < 0) return result;
  result = LoopbackUp();
  if (result >= 0) result = OpenNamespace("/proc/self/ns/net");
  long back = Syscall(__NR_setns, state.own_net_ns, CLONE_NEWNET);
  return back < 0 ? back : result;
}

int TakeNetwork() {
  for (int& net : state.nets) {
    if (net < 0) continue;
    int taken = net;
    net = -1;
    return taken;
  }
  return -1;
}

// Makes network namespaces ahead, so that a leaf does not wait for its own. The host says when: it takes a few hundred
// microseconds each, on a core that a start under way would need.
void Refill() {
  for (int& net : state.nets) {
    if (net >= 0) continue;
    long made = MakeNetwork();
    if (made < 0) return;  // a leaf makes its own then
    net = static_cast<int>(made);
  }
}

void ReportTo(u32 op, u32 id, int value) {
  Report report = {op, id, value};
  Syscall(__NR_sendto, kControl, Word(&report), sizeof report, MSG_NOSIGNAL, 0);
}

// Reaps every ended child and tells the host of the leaves among them.
void ReapLeaves() {
  char drained[256];
  while (Syscall(__NR_read, state.signals, Word(drained), sizeof drained) > 0) {
  }
  for (;;) {
    int status = 0;
    long pid = Syscall(__NR_wait4, -1, Word(&status), WNOHANG, 0);
    if (pid <= 0) return;
    for (auto& leaf : state.leaves) {
      if (leaf.pid != pid) continue;
      leaf.pid = 0;
      ReportTo(kExitReport, leaf.id, status);
      break;
    }
  }
}

// Receives one request with its fds. 1 received, 0 the host has gone, else -errno.
long Receive(Request* request) {
  IoVec vectors[2] = {{request, kHeadSize}, {request->text, kMaxText}};
  struct {
    ControlHeader header;
    int fds[kMaxFds];
  } control = {};
  MsgHdr message = {nullptr, 0, vectors, 2, &control, sizeof control, 0};
  long size = Syscall(__NR_recvmsg, kControl, Word(&message), MSG_CMSG_CLOEXEC);
  request->fd_count = 0;
  request->text_size = 0;
  if (size <= 0) return size;
  if (message.control_size >= sizeof(ControlHeader) && control.header.type == SCM_RIGHTS) {
    request->fd_count = static_cast<int>((control.header.size - sizeof(ControlHeader)) / sizeof(int));
    for (int i = 0; i < request->fd_count; i++) request->fds[i] = control.fds[i];
  }
  if (size < static_cast<long>(kHeadSize) || (message.flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) return -EPROTO;
  request->text_size = static_cast<u32>(size) - static_cast<u32>(kHeadSize);
  if (request->text_size == kMaxText) return -EPROTO;
  request->text[request->text_size] = 0;
  return 1;
}

// Steps of a leaf; native.ts names them in the same order.
enum LeafStep : u32 {
  kNoStep,
  kJoinCgroups,
  kPlaceFds,
  kUnshare,
  kJoinNetwork,
  kMountProc,
  kMountScratch,
  kAttachMounts,
  kSetHostname,
  kLimitFiles,
  kDropPrivileges,
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

Failure JoinCgroups(const Request& request, int first) {
  for (int i = first; i < request.fd_count; i++) STEP(kJoinCgroups, Syscall(__NR_write, request.fds[i], Word("0"), 1));
  return {kNoStep, 0};
}

// What a leaf needs while it is set up, besides what it keeps: first where it was received, then where it was placed.
struct Needs {
  int births, net, first_mount, mount_count;
};

// fds: 0 null already, 1 stdout, 2 stderr, 3 channel, then what is still needed. The received ones may have any number
// above 3, so they first move out of the way of those.
Failure PlaceFds(const Request& request, Needs* needs) {
  constexpr int kAside = 64;
  bool streams = (request.flags & kNoStreams) == 0;
  int from[kMaxFds + 2];
  int count = 0;
  if (streams) from[count++] = request.fds[1], from[count++] = request.fds[2];
  from[count++] = request.fds[0];
  from[count++] = needs->births;
  for (int i = 0; i < needs->mount_count; i++) from[count++] = request.fds[needs->first_mount + i];
  if (needs->net >= 0) from[count++] = needs->net;
  int first = streams ? 1 : kControl;
  for (int i = 0; i < count; i++) STEP(kPlaceFds, Syscall(__NR_dup3, from[i], kAside + i, O_CLOEXEC));
  for (int i = 0; i < count; i++) {
    STEP(kPlaceFds, Syscall(__NR_dup3, kAside + i, first + i, first + i <= kControl ? 0 : O_CLOEXEC));
  }
  needs->births = kControl + 1;
  needs->first_mount = kControl + 2;
  if (needs->net >= 0) needs->net = first + count - 1;
  STEP(kPlaceFds, Syscall(__NR_close_range, first + count, ~0U, 0));
  return {kNoStep, 0};
}

long Limit(int resource, u64 most) {
  u64 limits[2] = {most, most};
  return Syscall(__NR_prlimit64, 0, resource, Word(limits), 0);
}

long ReopenNull() {
  long null = Syscall(__NR_openat, AT_FDCWD, Word("/dev/null"), O_CLOEXEC, 0);
  if (null < 0) return null;
  long placed = Syscall(__NR_dup3, null, 0, 0);
  Syscall(__NR_close, null);
  return placed;
}

const char* NextWord(const char* word) {
  while (*word != 0) word++;
  return word + 1;
}

Failure DropPrivileges(u32 uid) {
  unsigned long mask = 1UL << (SIGCHLD - 1);
  Syscall(__NR_rt_sigprocmask, SIG_UNBLOCK, Word(&mask), 0, sizeof mask);
  Syscall(__NR_setsid);  // fails harmlessly when it leads a group already
  STEP(kDropPrivileges, Prctl(PR_SET_NO_NEW_PRIVS, 1));
  STEP(kDropPrivileges, Syscall(__NR_setgroups, 0, 0));
  STEP(kDropPrivileges, Syscall(__NR_setresgid, uid, uid, uid));
  // The zygote has dropped all others.
  for (u64 left = kZygoteCapabilities | 1UL << CAP_SETFCAP; left != 0; left &= left - 1) {
    STEP(kDropPrivileges, Prctl(PR_CAPBSET_DROP, __builtin_ctzl(left)));
  }
  STEP(kDropPrivileges, Syscall(__NR_setresuid, uid, uid, uid));
  STEP(kDropPrivileges, SetCapabilities(0));
  // The uid change made /proc/self belong to root; nobody else can reach it, so let its owner read it.
  STEP(kDropPrivileges, Prctl(PR_SET_DUMPABLE, 1));
  return {kNoStep, 0};
}

// A leaf's set-up. The order matters: cgroups first (what follows is charged there), then the network namespace while
// the capabilities are there, mounts while the template's proc is visible, privileges, the filter last.
Failure SetUpLeaf(const Request& request, Needs* needs) {
#define RUN(call)                                \
  do {                                           \
    Failure failure = (call);                    \
    if (failure.step != kNoStep) return failure; \
  } while (0)
  const char* scratch = request.text;
  const char* hostname = NextWord(scratch);
  const char* folder = NextWord(hostname);
  RUN(JoinCgroups(request, needs->first_mount + needs->mount_count));
  RUN(PlaceFds(request, needs));
  STEP(kUnshare, Syscall(__NR_unshare, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
  if (needs->net >= 0) {
    STEP(kJoinNetwork, Syscall(__NR_setns, needs->net, CLONE_NEWNET));
  } else if ((request.flags & kSharedNetwork) == 0) {
    STEP(kJoinNetwork, Syscall(__NR_unshare, CLONE_NEWNET));
    STEP(kJoinNetwork, LoopbackUp());
  }
  STEP(kMountProc, MountProc());
  if (*scratch != 0) {
    STEP(kMountScratch, Syscall(__NR_mount, Word("tmpfs"), Word("/tmp"), Word("tmpfs"), MS_NOSUID | MS_NODEV, Word(scratch)));
  }
  const char* target = NextWord(folder);
  for (int i = 0; i < needs->mount_count; i++, target = NextWord(target)) {
    STEP(kAttachMounts, Attach(needs->first_mount + i, target));
  }
  STEP(kAttachMounts, Syscall(__NR_chdir, Word(folder)));
  STEP(kSetHostname, Syscall(__NR_sethostname, Word(hostname), folder - hostname - 1));
  STEP(kLimitFiles, Limit(7 /* RLIMIT_NOFILE */, request.open_files));
  // The launcher's is one open file with one set of flags for all that it forks.
  STEP(kPlaceFds, ReopenNull());
  RUN(DropPrivileges(request.uid));
  // As its user, who so owns it.
  if ((request.flags & kWorkFolder) != 0) STEP(kMountScratch, Syscall(__NR_mkdirat, AT_FDCWD, Word("/tmp/work"), 0700));
  return {kNoStep, 0};
#undef RUN
}

// Tells the host how it went; a failure ends the leaf.
void BecomeLeaf(Request* request) {
  Born born = {request->id, kNoStep, 0, 0, Now(), 0};
  bool shared = (request->flags & kSharedNetwork) != 0;
  int first_mount = (request->flags & kNoStreams) != 0 ? 1 : 3;
  Needs needs = {state.births, shared ? -1 : TakeNetwork(), first_mount, static_cast<int>(request->mount_count)};
  Failure failure = SetUpLeaf(*request, &needs);
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (failure.step == kNoStep && self < 0) failure = {kInstallFilter, self};
  if (failure.step == kNoStep && (request->flags & kNoFilter) == 0) {
    long installed = InstallFilter(kLeafFilter);
    if (installed < 0) failure = {kInstallFilter, installed};
  }
  born.step = failure.step;
  born.error = static_cast<u32>(-failure.error);
  born.ended = Now();
  int pidfd = static_cast<int>(self);
  SendWithFds(needs.births, &born, sizeof born, &pidfd, self < 0 ? 0 : 1);
  if (failure.step != kNoStep) {
    for (;;) Syscall(__NR_exit_group, 1);
  }
  Syscall(__NR_close_range, kControl + 1, ~0U, 0);
}

void RememberLeaf(const Request& request, int pid) {
  int given = (request.flags & kSharedNetwork) != 0 ? -1 : TakeNetwork();  // the leaf's copy of the pool took the same
  if (given >= 0) Syscall(__NR_close, given);
  for (auto& leaf : state.leaves) {
    if (leaf.pid != 0) continue;
    leaf.pid = pid;
    leaf.id = request.id;
    break;
  }
}

// 1 in the leaf, 0 in the zygote, else -errno. What goes wrong with the leaf is told to the host.
long ForkLeaf(Request* request, const ForkParts& parts) {
  // The next child is process 1 of a pid namespace of its own.
  long result = Syscall(__NR_unshare, CLONE_NEWPID);
  if (result < 0) return result;
  parts.before_fork();
  int pid = parts.fork();
  if (pid == 0) {
    BecomeLeaf(request);
    // Only now: these hooks are Python, also of packages, and write to many pages.
    parts.after_in_child();
    return 1;
  }
  int error = pid < 0 ? *parts.error_number : 0;
  parts.after_in_parent();
  long back = Syscall(__NR_setns, state.own_pid_ns, CLONE_NEWPID);
  if (pid > 0) {
    RememberLeaf(*request, pid);
  } else {
    ReportTo(kForkFailed, request->id, -error);
  }
  CloseFds(request);
  return back;
}

}  // namespace

void CloseFds(Request* request) {
  for (int i = 0; i < request->fd_count; i++) Syscall(__NR_close, request->fds[i]);
  request->fd_count = 0;
}

long LockDown(bool install_filter, bool one_id) {
  u64 keep = kZygoteCapabilities | (one_id ? 1UL << CAP_SETFCAP : 0);
  long result = Prctl(PR_SET_NO_NEW_PRIVS, 1);
  if (result < 0) return result;
  // These are also counted for all that is forked here together: nobody shall take what the others need.
  if (result >= 0) result = Limit(11 /* RLIMIT_SIGPENDING */, 1024);
  if (result >= 0) result = Limit(12 /* RLIMIT_MSGQUEUE */, 128 * 1024);
  DropBoundingSet(keep);
  result = SetCapabilities(keep);
  if (result >= 0 && install_filter) result = InstallFilter(kZygoteFilter);
  return result;
}

long BecomeLauncher() {
  Syscall(__NR_close_range, kControl + 1, ~0U, 0);
  state = State();
  state.own_pid_ns = static_cast<int>(OpenNamespace("/proc/self/ns/pid"));
  state.own_net_ns = static_cast<int>(OpenNamespace("/proc/self/ns/net"));
  if (state.own_pid_ns < 0 || state.own_net_ns < 0) return -1;
  // Who has the host's network could leave it for another but not come back, and needs none besides.
  if (Syscall(__NR_setns, state.own_net_ns, CLONE_NEWNET) < 0) {
    Syscall(__NR_close, state.own_net_ns);
    state.own_net_ns = -1;
  }
  unsigned long mask = 1UL << (SIGCHLD - 1);
  Syscall(__NR_rt_sigprocmask, SIG_BLOCK, Word(&mask), 0, sizeof mask);
  state.signals = static_cast<int>(Syscall(__NR_signalfd4, -1, Word(&mask), sizeof mask, O_CLOEXEC | O_NONBLOCK));
  if (state.signals < 0) return state.signals;
  int births[2];
  long result = Syscall(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, Word(births));
  if (result < 0) return result;
  state.births = births[0];
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (self < 0) return self;
  char hello = 'B';
  int fds[2] = {static_cast<int>(self), births[1]};
  result = SendWithFds(kControl, &hello, 1, fds, 2);
  Syscall(__NR_close, self);
  Syscall(__NR_close, births[1]);
  return result < 0 ? result : 0;
}

// A zygote runs no Python between two leaves: what it wrote would split huge pages, for good, which the next fork would
// then copy piece by piece.
long ServeLauncher(Request* request, const ForkParts& parts) {
  for (;;) {
    PollFd waits[2] = {{kControl, 1, 0}, {state.signals, 1, 0}};
    long ready = Syscall(__NR_ppoll, Word(waits), 2, 0, 0, 0);
    if (ready < 0 && ready != -EINTR) return ready;
    if (waits[1].revents != 0) ReapLeaves();
    if (waits[0].revents == 0) continue;
    long received = Receive(request);
    if (received == -EINTR || received == -EAGAIN) continue;
    if (received != 1) return received;
    if (request->op == kRefill) {
      Refill();
    } else if (request->op == kLeaf) {
      long forked = ForkLeaf(request, parts);
      if (forked != 0) return forked > 0 ? static_cast<long>(kLeaf) : forked;
    } else {
      return static_cast<long>(request->op);
    }
  }
}
