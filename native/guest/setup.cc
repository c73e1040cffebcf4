#include "setup.h"

#include "../filters/filters.h"
#include "landlock.h"
#include "syscalls.h"

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

long SendWithFds(int socket, void* data, u64 size, const int* fds, u64 count) {
  IoVec vector = {data, size};
  struct {
    ControlHeader header;
    int fds[kMaxFds];
  } control = {{sizeof(ControlHeader) + count * sizeof(int), SOL_SOCKET, SCM_RIGHTS}, {}};
  for (u64 i = 0; i < count; i++) control.fds[i] = fds[i];
  MsgHdr message = {nullptr, 0, &vector, 1, count == 0 ? nullptr : &control, count == 0 ? 0 : control.header.size, 0};
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

long Limit(int resource, u64 most) {
  u64 limits[2] = {most, most};
  return Syscall(__NR_prlimit64, 0, resource, Word(limits), 0);
}

namespace {

constexpr int kLockedMemory = 8, kPendingSignals = 11, kMessageQueues = 12;  // RLIMIT_
constexpr u64 kMostPendingSignals = 1024;

// As much as may be had again.
long Unlimit(int resource) {
  u64 limits[2];
  const long result = Syscall(__NR_prlimit64, 0, resource, 0, Word(limits));
  return result < 0 ? result : Limit(resource, limits[1]);
}

long Lower(int resource, u64 most, bool only_now) {
  u64 limits[2];
  const long result = Syscall(__NR_prlimit64, 0, resource, 0, Word(limits));
  if (result < 0) return result;
  if (limits[1] < most) most = limits[1];
  u64 lower[2] = {most, only_now ? limits[1] : most};
  return Syscall(__NR_prlimit64, 0, resource, Word(lower), 0);
}

}  // namespace

long LimitShared(bool only_now) {
  const long result = Lower(kPendingSignals, kMostPendingSignals, only_now);
  // Nobody gets any of these: they are few, counted for all together, and Landlock knows no folder that they are in.
  return result < 0 ? result : Limit(kMessageQueues, 0);
}

const char* NextWord(const char* word) {
  while (*word != 0) word++;
  return word + 1;
}

long ReadText(const char* path, char* text, u64 room) {
  const long file = Syscall(__NR_openat, AT_FDCWD, Word(path), O_RDONLY | O_CLOEXEC, 0);
  if (file < 0) return file;
  const long size = Syscall(__NR_read, file, Word(text), static_cast<long>(room));
  Syscall(__NR_close, file);
  return size;
}

u64 Now() {
  long time[2];
  Syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, Word(time));
  return static_cast<u64>(time[0]) * 1000000000UL + static_cast<u64>(time[1]);
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

#define RUN(call)                                \
  do {                                           \
    Failure failure = (call);                    \
    if (failure.step != kNoStep) return failure; \
  } while (0)

Failure JoinCgroups(const Request& request, int first) {
  for (int i = first; i < request.fd_count; i++) STEP(kJoinCgroups, Syscall(__NR_write, request.fds[i], Word("0"), 1));
  return {kNoStep, 0};
}

long OpenNull(int to, int flags) {
  long null = Syscall(__NR_openat, AT_FDCWD, Word("/dev/null"), flags | O_CLOEXEC, 0);
  if (null < 0) return null;
  long placed = Syscall(__NR_dup3, null, to, 0);
  Syscall(__NR_close, null);
  return placed;
}

// fds: 0 null already, 1 stdout, 2 stderr, 3 channel, then what is still needed. The received ones may have any number
// above 3, so they first move out of the way of those.
Failure PlaceFds(const Request& request, Needs* needs) {
  constexpr int kAside = 64;
  const bool streams = (request.flags & kNoStreams) == 0, streams_wait = streams && request.op == kSpare;
  const int first = streams && !streams_wait ? 1 : kControl;
  int from[kMaxFds + 2];
  int count = 0;
  if (first == 1) from[count++] = request.fds[1], from[count++] = request.fds[2];
  from[count++] = request.fds[0];
  from[count++] = needs->births;
  if (streams_wait) from[count++] = request.fds[1], from[count++] = request.fds[2];
  for (int i = 0; i < needs->mount_count; i++) from[count++] = request.fds[needs->first_mount + i];
  if (needs->net >= 0) from[count++] = needs->net;
  for (int i = 0; i < count; i++) STEP(kPlaceFds, Syscall(__NR_dup3, from[i], kAside + i, O_CLOEXEC));
  for (int i = 0; i < count; i++) {
    STEP(kPlaceFds, Syscall(__NR_dup3, kAside + i, first + i, first + i <= kControl ? 0 : O_CLOEXEC));
  }
  needs->births = kControl + 1;
  needs->streams = streams_wait ? kControl + 2 : -1;
  needs->first_mount = kControl + (streams_wait ? 4 : 2);
  if (needs->net >= 0) needs->net = first + count - 1;
  STEP(kPlaceFds, Syscall(__NR_close_range, first + count, ~0U, 0));
  // What is printed before the hand-over is nobody's.
  for (int fd = 1; streams_wait && fd <= 2; fd++) STEP(kPlaceFds, OpenNull(fd, O_WRONLY));
  return {kNoStep, 0};
}

long WriteText(const char* path, const char* text) {
  long file = Syscall(__NR_openat, AT_FDCWD, Word(path), O_WRONLY | O_CLOEXEC, 0);
  if (file < 0) return file;
  const long size = NextWord(text) - text - 1, written = Syscall(__NR_write, file, Word(text), size);
  Syscall(__NR_close, file);
  return written < 0 || written == size ? written : -EIO;
}

// "UID 0 1": the launcher's only id, seen as another one.
void FormatMap(u32 uid, char* map) {
  char digits[10];
  int count = 0;
  for (u32 left = uid; left > 0 || count == 0; left /= 10) digits[count++] = static_cast<char>('0' + left % 10);
  while (count > 0) *map++ = digits[--count];
  for (const char* rest = " 0 1"; *rest != 0; rest++) *map++ = *rest;
  *map = 0;
}

// Leaves of a launcher with one id are apart all the same: each is alone in a user namespace, and so owns none of those that
// the launcher has made.
Failure EnterUserNamespace(u32 uid) {
  char map[16];
  FormatMap(uid, map);
  STEP(kLimit, Unlimit(kPendingSignals));
  STEP(kDropPrivileges, Syscall(__NR_unshare, CLONE_NEWUSER));
  STEP(kLimit, LimitShared(false));
  // Of this the user may have as much as a few sandboxes would take.
  STEP(kLimit, Limit(kLockedMemory, 0));
  STEP(kDropPrivileges, WriteText("/proc/self/setgroups", "deny"));
  STEP(kDropPrivileges, WriteText("/proc/self/gid_map", map));
  STEP(kDropPrivileges, WriteText("/proc/self/uid_map", map));
  for (int capability = 0; Prctl(PR_CAPBSET_DROP, capability) >= 0; capability++) {
  }
  return {kNoStep, 0};
}

Failure ChangeIds(u32 uid) {
  STEP(kDropPrivileges, Syscall(__NR_setgroups, 0, 0));
  STEP(kDropPrivileges, Syscall(__NR_setresgid, uid, uid, uid));
  // The zygote has dropped all others.
  for (u64 left = kZygoteCapabilities | 1UL << CAP_SETFCAP; left != 0; left &= left - 1) {
    STEP(kDropPrivileges, Prctl(PR_CAPBSET_DROP, __builtin_ctzl(left)));
  }
  STEP(kDropPrivileges, Syscall(__NR_setresuid, uid, uid, uid));
  return {kNoStep, 0};
}

// What it has mapped already, and shares with its launcher, is not counted.
long LimitData(u32 mib) {
  constexpr u64 kPage = 4096, kMebibyte = 1024 * 1024;
  char text[256];
  const long size = ReadText("/proc/self/statm", text, sizeof text);
  if (size < 0) return size;
  u64 pages = 0;  // the sixth number, see proc(5)
  int at = 0;
  for (long i = 0; i < size && at <= 5; i++) {
    if (text[i] == ' ') at++;
    else if (at == 5) pages = pages * 10 + static_cast<u64>(text[i] - '0');
  }
  return Limit(2 /* RLIMIT_DATA */, pages * kPage + mib * kMebibyte);
}

Failure DropPrivileges(const Outfit& outfit) {
  unsigned long mask = 1UL << (SIGCHLD - 1);
  Syscall(__NR_rt_sigprocmask, SIG_UNBLOCK, Word(&mask), 0, sizeof mask);
  Syscall(__NR_setsid);  // fails harmlessly when it leads a group already
  STEP(kDropPrivileges, Prctl(PR_SET_NO_NEW_PRIVS, 1));
  RUN(outfit.own_user_namespace ? EnterUserNamespace(outfit.uid) : ChangeIds(outfit.uid));
  // Counted for its id; in a user namespace of its own for what is in there. Not before: a namespace may have no more in all, with
  // its siblings, than its maker could.
  if (outfit.processes > 0) STEP(kLimit, Limit(6 /* RLIMIT_NPROC */, outfit.processes));
  if (outfit.data_mib > 0) STEP(kLimit, LimitData(outfit.data_mib));
  STEP(kDropPrivileges, SetCapabilities(0));
  // The uid change made /proc/self belong to root; nobody else can reach it, so let its owner read it.
  STEP(kDropPrivileges, Prctl(PR_SET_DUMPABLE, 1));
  return {kNoStep, 0};
}

}  // namespace

long InstallZygoteFilter() { return InstallFilter(kZygoteFilter); }

long RefuseNewExecutables() {
  // Of linux/filter.h and linux/seccomp.h. Calls of other architectures and of x32 are answered by the zygote's filter.
  constexpr u16 kLoad = 0x20, kJumpIfEqual = 0x15, kJumpIfAnyBit = 0x45, kAnswer = 0x06;
  constexpr u32 kAllow = 0x7fff0000, kRefuse = 0x00050000 + EPERM, kNumberAt = 0, kMountFlagsAt = 16 + 3 * sizeof(u64);
  static constexpr FilterInstruction kFilter[] = {
      {kLoad, 0, 0, kNumberAt},
      {kJumpIfEqual, 3, 0, __NR_memfd_create},
      {kJumpIfEqual, 0, 3, __NR_mount},
      {kLoad, 0, 0, kMountFlagsAt},
      {kJumpIfAnyBit, 1, 0, MS_NOEXEC},
      {kAnswer, 0, 0, kRefuse},
      {kAnswer, 0, 0, kAllow},
  };
  return InstallFilter(kFilter);
}

long MountScratch(const char* options, bool no_new_executables) {
  const long flags = MS_NOSUID | MS_NODEV | (no_new_executables ? MS_NOEXEC : 0);
  return Syscall(__NR_mount, Word("tmpfs"), Word("/tmp"), Word("tmpfs"), flags, Word(options));
}

Failure EnterNamespaces(const Request& request, const char* hostname, Needs* needs) {
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
  STEP(kSetHostname, Syscall(__NR_sethostname, Word(hostname), NextWord(hostname) - hostname - 1));
  return {kNoStep, 0};
}

Failure TakeOn(const Outfit& outfit, Listeners* listeners) {
  if (*outfit.scratch != 0) STEP(kMountScratch, MountScratch(outfit.scratch, outfit.no_new_executables));
  const char* target = outfit.targets;
  for (int i = 0; i < outfit.mount_count; i++, target = NextWord(target)) {
    STEP(kAttachMounts, Attach(outfit.mounts[i], target));
  }
  STEP(kAttachMounts, Syscall(__NR_chdir, Word(outfit.folder)));
  STEP(kOpenNetwork, OpenListeners(outfit.network, listeners));
  STEP(kLimit, Limit(7 /* RLIMIT_NOFILE */, outfit.open_files));
  // The launcher's is one open file with one set of flags for all that it forks.
  STEP(kPlaceFds, OpenNull(0, O_RDONLY));
  for (int i = 0; outfit.streams >= 0 && i < 2; i++) STEP(kPlaceFds, Syscall(__NR_dup3, outfit.streams + i, 1 + i, 0));
  RUN(DropPrivileges(outfit));
  // As its user, who so owns it.
  if (outfit.work_folder) STEP(kMountScratch, Syscall(__NR_mkdirat, AT_FDCWD, Word("/tmp/work"), 0700));
  STEP(kEnclose, Enclose({*outfit.scratch != 0, outfit.writable_root, outfit.targets, outfit.writable_mounts ? outfit.mount_count : 0}));
  return {kNoStep, 0};
}

void TellBorn(Born* born, Failure failure, int births, int pidfd, const Listeners& listeners) {
  born->step = failure.step;
  born->error = static_cast<u32>(-failure.error);
  born->ended = Now();
  int fds[1 + kMaxListeners];
  u64 count = 0;
  if (pidfd >= 0) fds[count++] = pidfd;
  for (int i = 0; i < listeners.count; i++) fds[count++] = listeners.fds[i];
  SendWithFds(births, born, sizeof *born, fds, count);
  if (failure.step == kNoStep) return;
  for (;;) Syscall(__NR_exit_group, 1);
}

void Finish(Born* born, Failure failure, Filters filters, int births, int pidfd, const Listeners& listeners) {
  if (failure.step == kNoStep) {
    long installed = filters.no_new_executables ? RefuseNewExecutables() : 0;
    if (installed >= 0 && filters.strict) installed = InstallFilter(kLeafFilter);
    if (installed < 0) failure = {kInstallFilter, installed};
  }
  TellBorn(born, failure, births, pidfd, listeners);
  Syscall(__NR_close_range, kControl + 1, ~0U, 0);
}
