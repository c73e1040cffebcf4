// What a zygote and its children do below Python: one shared library, called through ctypes, without a C library.
// A leaf's set-up is one call, made straight after the fork, because each page that Python touches then is a
// copy-on-write fault.
#include "../filters/filters.h"
#include "syscalls.h"

// The compiler may emit calls to these.
extern "C" void* memset(void* target, int value, unsigned long size) {
  volatile char* bytes = static_cast<volatile char*>(target);
  for (unsigned long i = 0; i < size; i++) bytes[i] = static_cast<char>(value);
  return target;
}
extern "C" void* memcpy(void* target, const void* source, unsigned long size) {
  volatile char* to = static_cast<volatile char*>(target);
  const char* from = static_cast<const char*>(source);
  for (unsigned long i = 0; i < size; i++) to[i] = from[i];
  return target;
}

namespace {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long;

// Kernel constants keep the kernel's spelling.
enum : int {
  CLONE_NEWNS = 0x20000,
  CLONE_NEWCGROUP = 0x2000000,
  CLONE_NEWUTS = 0x4000000,
  CLONE_NEWIPC = 0x8000000,
  CLONE_NEWUSER = 0x10000000,
  CLONE_NEWPID = 0x20000000,
  CLONE_NEWNET = 0x40000000,
};
enum : int { MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8 };
enum : int {
  CAP_SETGID = 6,
  CAP_SETUID = 7,
  CAP_SETPCAP = 8,
  CAP_NET_ADMIN = 12,
  CAP_SYS_ADMIN = 21,
  CAP_SETFCAP = 31,
  CAP_HIGHEST = 63,
};
enum : int { PR_SET_DUMPABLE = 4, PR_CAPBSET_DROP = 24, PR_SET_NO_NEW_PRIVS = 38 };
enum : int { SIGCHLD = 17, SIG_BLOCK = 0, SIG_UNBLOCK = 1, WNOHANG = 1 };
enum : int { AT_FDCWD = -100, O_CLOEXEC = 02000000, O_NONBLOCK = 04000, EINTR = 4, EAGAIN = 11, EPROTO = 71 };
enum : int { SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_CMSG_CLOEXEC = 0x40000000, MSG_NOSIGNAL = 0x4000, MSG_CTRUNC = 8, MSG_TRUNC = 0x20 };
enum : int { MOVE_MOUNT_F_EMPTY_PATH = 4, SECCOMP_SET_MODE_FILTER = 1 };

constexpr int kControl = 3;          // a zygote's control socket; a leaf's channel
constexpr int kMaxFds = 16;
constexpr int kMaxText = 65536;
constexpr int kNetPool = 4;
constexpr int kMaxLeaves = 4096;

// Bits of Request::flags.
enum : u32 { kHasPackages = 1 };

// What the host asks of a zygote. The first seven words and the text are the message; zygote.py mirrors this layout.
struct Request {
  u32 op, id, uid, flags, range_start, range_count, open_files;
  int fd_count;
  int fds[kMaxFds];
  u32 text_size;
  char text[kMaxText];
};
constexpr u64 kHeadSize = 7 * sizeof(u32);

// What the fork of an interpreter consists of: CPython's PyOS_ functions, and its libc's fork(3) and errno.
struct Interpreter {
  void (*before_fork)();
  int (*fork)();
  void (*after_in_child)();
  void (*after_in_parent)();
  const int* error_number;
};

struct IoVec {
  void* base;
  u64 size;
};
struct MsgHdr {
  void* name;
  u32 name_size;
  IoVec* vectors;
  u64 vector_count;
  void* control;
  u64 control_size;
  int flags;
};
struct ControlHeader {
  u64 size;
  int level, type;
};
struct PollFd {
  int fd;
  short events, revents;
};

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
// Requests that never leave this file: fork a leaf; make network namespaces ahead.
enum : u32 { kLeaf = 'L', kRefill = 'N' };

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

long Prctl(int option, long value) { return Syscall(__NR_prctl, option, value, 0, 0, 0); }

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

long MountProc() {  // of the caller's pid namespace; some proc must still be visible, else EPERM
  return Syscall(__NR_mount, Word("proc"), Word("/proc"), Word("proc"), MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
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

void CloseFds(Request* request) {
  for (int i = 0; i < request->fd_count; i++) Syscall(__NR_close, request->fds[i]);
  request->fd_count = 0;
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

long Attach(int fd, const char* target) {
  return Syscall(__NR_move_mount, fd, Word(""), AT_FDCWD, Word(target), MOVE_MOUNT_F_EMPTY_PATH);
}

Failure JoinCgroups(const Request& request, int first) {
  for (int i = first; i < request.fd_count; i++) STEP(kJoinCgroups, Syscall(__NR_write, request.fds[i], Word("0"), 1));
  return {kNoStep, 0};
}

// What a leaf needs while it is set up, besides what it keeps.
struct Needs {
  int births, net;
  int mounts[2];
  int mount_count;
};

// fds: 0 null already, 1 stdout, 2 stderr, 3 channel, then what is still needed. The received ones may have any number
// above 3, so they first move out of the way of those.
Failure PlaceFds(Request* request, Needs* needs) {
  constexpr int kAside = 64;
  int from[7] = {request->fds[1], request->fds[2], request->fds[0], needs->births};
  int count = 4;
  for (int i = 0; i < needs->mount_count; i++) from[count++] = request->fds[3 + i];
  if (needs->net >= 0) from[count++] = needs->net;
  for (int i = 0; i < count; i++) STEP(kPlaceFds, Syscall(__NR_dup3, from[i], kAside + i, O_CLOEXEC));
  for (int i = 0; i < count; i++) STEP(kPlaceFds, Syscall(__NR_dup3, kAside + i, 1 + i, i < 3 ? 0 : O_CLOEXEC));
  needs->births = 4;
  for (int i = 0; i < needs->mount_count; i++) needs->mounts[i] = 5 + i;
  if (needs->net >= 0) needs->net = count;
  STEP(kPlaceFds, Syscall(__NR_close_range, count + 1, ~0U, 0));
  return {kNoStep, 0};
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
Failure SetUpLeaf(Request* request, Needs* needs) {
#define RUN(call)                                \
  do {                                           \
    Failure failure = (call);                    \
    if (failure.step != kNoStep) return failure; \
  } while (0)
  RUN(JoinCgroups(*request, 3 + needs->mount_count));
  RUN(PlaceFds(request, needs));
  STEP(kUnshare, Syscall(__NR_unshare, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
  if (needs->net >= 0) {
    STEP(kJoinNetwork, Syscall(__NR_setns, needs->net, CLONE_NEWNET));
  } else {
    STEP(kJoinNetwork, Syscall(__NR_unshare, CLONE_NEWNET));
    STEP(kJoinNetwork, LoopbackUp());
  }
  STEP(kMountProc, MountProc());
  STEP(kMountScratch, Syscall(__NR_mount, Word("tmpfs"), Word("/tmp"), Word("tmpfs"), MS_NOSUID | MS_NODEV, Word(request->text)));
  STEP(kAttachMounts, Attach(needs->mounts[0], "/handler"));
  if (needs->mount_count == 2) STEP(kAttachMounts, Attach(needs->mounts[1], "/packages"));
  STEP(kAttachMounts, Syscall(__NR_chdir, Word("/handler")));
  STEP(kSetHostname, Syscall(__NR_sethostname, Word("sandbox"), 7));
  u64 open_files[2] = {request->open_files, request->open_files};
  STEP(kLimitFiles, Syscall(__NR_prlimit64, 0, 7 /* RLIMIT_NOFILE */, Word(open_files), 0));
  RUN(DropPrivileges(request->uid));
  return {kNoStep, 0};
#undef RUN
}

// Tells the host how it went; a failure ends the leaf.
void BecomeLeaf(Request* request) {
  Born born = {request->id, kNoStep, 0, 0, Now(), 0};
  Needs needs = {state.births, TakeNetwork(), {-1, -1}, (request->flags & kHasPackages) != 0 ? 2 : 1};
  Failure failure = SetUpLeaf(request, &needs);
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (failure.step == kNoStep && self < 0) failure = {kInstallFilter, self};
  if (failure.step == kNoStep) {
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

void RememberLeaf(u32 id, int pid) {
  int given = TakeNetwork();  // the leaf's copy of the pool took the same one
  if (given >= 0) Syscall(__NR_close, given);
  for (auto& leaf : state.leaves) {
    if (leaf.pid != 0) continue;
    leaf.pid = pid;
    leaf.id = id;
    break;
  }
}

// 1 in the leaf, 0 in the zygote, else -errno. What goes wrong with the leaf is told to the host.
long ForkLeaf(Request* request, const Interpreter& python) {
  // The next child is process 1 of a pid namespace of its own.
  long result = Syscall(__NR_unshare, CLONE_NEWPID);
  if (result < 0) return result;
  python.before_fork();
  int pid = python.fork();
  if (pid == 0) {
    BecomeLeaf(request);
    // Only now: these hooks are Python, also of packages, and write to many pages.
    python.after_in_child();
    return 1;
  }
  int error = pid < 0 ? *python.error_number : 0;
  python.after_in_parent();
  long back = Syscall(__NR_setns, state.own_pid_ns, CLONE_NEWPID);
  if (pid > 0) {
    RememberLeaf(request->id, pid);
  } else {
    ReportTo(kForkFailed, request->id, -error);
  }
  CloseFds(request);
  return back;
}

}  // namespace

// What ctypes calls. Unless said otherwise each answers 0, or -errno.
extern "C" {

// First call of every zygote: gives up what it does not need, in particular CAP_SYS_PTRACE, without which it cannot
// trace its init, which has every capability. `one_id`: its only uid is 0, and mapping a parent's 0 needs CAP_SETFCAP.
int forktree_lock_down(int install_filter, int one_id) {
  u64 keep = kZygoteCapabilities | (one_id != 0 ? 1UL << CAP_SETFCAP : 0);
  long result = Prctl(PR_SET_NO_NEW_PRIVS, 1);
  if (result < 0) return static_cast<int>(result);
  DropBoundingSet(keep);
  result = SetCapabilities(keep);
  if (result >= 0 && install_filter != 0) result = InstallFilter(kZygoteFilter);
  return static_cast<int>(result);
}

// Start of every zygote, also of a forked one: own fds only, own namespaces remembered, and the host told who it is and
// where its leaves' births are told.
int forktree_become_zygote() {
  Syscall(__NR_close_range, kControl + 1, ~0U, 0);
  state = State();
  state.own_pid_ns = static_cast<int>(OpenNamespace("/proc/self/ns/pid"));
  state.own_net_ns = static_cast<int>(OpenNamespace("/proc/self/ns/net"));
  if (state.own_pid_ns < 0 || state.own_net_ns < 0) return -1;
  unsigned long mask = 1UL << (SIGCHLD - 1);
  Syscall(__NR_rt_sigprocmask, SIG_BLOCK, Word(&mask), 0, sizeof mask);
  state.signals = static_cast<int>(Syscall(__NR_signalfd4, -1, Word(&mask), sizeof mask, O_CLOEXEC | O_NONBLOCK));
  if (state.signals < 0) return state.signals;
  int births[2];
  long result = Syscall(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, Word(births));
  if (result < 0) return static_cast<int>(result);
  state.births = births[0];
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (self < 0) return static_cast<int>(self);
  char hello = 'B';
  int fds[2] = {static_cast<int>(self), births[1]};
  result = SendWithFds(kControl, &hello, 1, fds, 2);
  Syscall(__NR_close, self);
  Syscall(__NR_close, births[1]);
  return result < 0 ? static_cast<int>(result) : 0;
}

// Answers the host's requests, and reports ended leaves meanwhile. Returns in a leaf that is set up, in the zygote for
// requests that Python is to answer (with the op), when the host has let go (0), or with -errno.
// The zygote runs no Python between two leaves: what it wrote would split huge pages, for good, which the next fork
// would then copy piece by piece.
int forktree_serve(Request* request, const Interpreter* python) {
  for (;;) {
    PollFd waits[2] = {{kControl, 1, 0}, {state.signals, 1, 0}};
    long ready = Syscall(__NR_ppoll, Word(waits), 2, 0, 0, 0);
    if (ready < 0 && ready != -EINTR) return static_cast<int>(ready);
    if (waits[1].revents != 0) ReapLeaves();
    if (waits[0].revents == 0) continue;
    long received = Receive(request);
    if (received == -EINTR || received == -EAGAIN) continue;
    if (received != 1) return static_cast<int>(received);
    if (request->op == kRefill) {
      Refill();
    } else if (request->op == kLeaf) {
      long forked = ForkLeaf(request, *python);
      if (forked != 0) return forked > 0 ? static_cast<int>(kLeaf) : static_cast<int>(forked);
    } else {
      return static_cast<int>(request->op);
    }
  }
}

int forktree_close_fds(Request* request) {
  CloseFds(request);
  return 0;
}

// A child zygote's own namespaces, seen from its first process.
int forktree_unshare_zygote() {
  return static_cast<int>(Syscall(
      __NR_unshare, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP));
}

// Its identity, once its id maps were written.
int forktree_become_root() {
  Syscall(__NR_setgroups, 0, 0);  // EPERM where setgroups is "deny": then there is nothing to drop
  long result = Syscall(__NR_setresgid, 0, 0, 0);
  if (result >= 0) result = Syscall(__NR_setresuid, 0, 0, 0);
  // Else its /proc folder belongs to an id that is not mapped.
  if (result >= 0) result = Prctl(PR_SET_DUMPABLE, 1);
  return static_cast<int>(result);
}

int forktree_mount_proc() { return static_cast<int>(MountProc()); }

int forktree_attach_packages(int fd) { return static_cast<int>(Attach(fd, "/packages")); }

int forktree_place_control(int fd) { return static_cast<int>(Syscall(__NR_dup3, fd, kControl, 0)); }

// Process 1 of a child zygote's namespace turns into the tiny init, and so drops its copy of the Python heap.
int forktree_exec_init() {
  char name[] = "init", none[] = "-";
  char* arguments[] = {name, none, nullptr};
  char* environment[] = {nullptr};
  Syscall(__NR_close_range, 0, ~0U, 0);
  return static_cast<int>(Syscall(__NR_execve, Word("/forktree/native/init"), Word(arguments), Word(environment)));
}
}
