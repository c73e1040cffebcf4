#include "launcher.h"

#include "setup.h"
#include "syscalls.h"

WaitingSpare waiting_spare;

namespace {

constexpr int kNetPool = 4;
constexpr int kMaxLeaves = 4096;

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

// Leaves only `keep` in the bounding set. Needs CAP_SETPCAP, so before the uid changes.
void DropBoundingSet(u64 keep) {
  for (int capability = 0; capability <= CAP_HIGHEST; capability++) {
    if ((keep >> capability & 1) == 0 && Prctl(PR_CAPBSET_DROP, capability) < 0) break;  // EINVAL: past the last
  }
}

// The map's last number says how many ids there are.
long HasOneId() {
  char text[128];
  const long size = ReadText("/proc/self/uid_map", text, sizeof text);
  if (size < 2) return size < 0 ? size : -EIO;
  return text[size - 1] == '\n' && text[size - 2] == '1' && text[size - 3] == ' ' ? 1 : 0;
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

Needs NeedsOf(const Request& request) {
  bool shared = (request.flags & kSharedNetwork) != 0;
  int first_mount = (request.flags & kNoStreams) != 0 ? 1 : 3;
  return {state.births, shared ? -1 : TakeNetwork(), first_mount, static_cast<int>(request.mount_count), -1};
}

void BecomeLeaf(const Request& request) {
  Born born = {request.id, kNoStep, 0, 0, Now(), 0};
  Needs needs = NeedsOf(request);
  const char* hostname = NextWord(request.text);
  const char* folder = NextWord(hostname);
  const char* network = NextWord(folder);
  Listeners listeners = {};
  Failure failure = EnterNamespaces(request, hostname, &needs);
  if (failure.step == kNoStep) {
    int mounts[kMaxFds];
    for (int i = 0; i < needs.mount_count; i++) mounts[i] = needs.first_mount + i;
    failure = TakeOn({request.uid, request.open_files, request.processes, request.data_mib,
                      (request.flags & kOwnUserNamespace) != 0, (request.flags & kWorkFolder) != 0,
                      (request.flags & kWritableMounts) != 0, (request.flags & kWritableRoot) != 0,
                      (request.flags & kNoNewExecutables) != 0, request.text, folder, network, NextWord(network), mounts, needs.mount_count, -1},
                     &listeners);
  }
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (failure.step == kNoStep && self < 0) failure = {kInstallFilter, self};
  const Filters filters = {(request.flags & kNoFilter) == 0, (request.flags & kNoNewExecutables) != 0};
  Finish(&born, failure, filters, needs.births, static_cast<int>(self), listeners);
}

// The first half of the same; the rest is done by ParkSpare().
void BecomeSpare(const Request& request) {
  Born born = {request.id, kNoStep, 0, 0, Now(), 0};
  Needs needs = NeedsOf(request);
  Failure failure = EnterNamespaces(request, NextWord(request.text), &needs);
  long self = Syscall(__NR_pidfd_open, Syscall(__NR_getpid), 0);
  if (failure.step == kNoStep && self < 0) failure = {kInstallFilter, self};
  TellBorn(&born, failure, needs.births, static_cast<int>(self), {});
  Syscall(__NR_close, self);
  if (needs.net >= 0) Syscall(__NR_close, needs.net);
  waiting_spare = {request.id, request.uid, (request.flags & kNoFilter) == 0, (request.flags & kOwnUserNamespace) != 0,
                   needs.births, needs.streams};
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
    if (request->op == kSpare) {
      BecomeSpare(*request);
    } else {
      BecomeLeaf(*request);
    }
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

long LockDown(bool install_filter) {
  const long one_id = HasOneId();
  if (one_id < 0) return one_id;
  // Those that it forks map its only id, its 0, which takes that capability.
  const u64 keep = kZygoteCapabilities | (one_id != 0 ? 1UL << CAP_SETFCAP : 0);
  long result = Prctl(PR_SET_NO_NEW_PRIVS, 1);
  if (result >= 0) result = LimitShared(one_id != 0);
  DropBoundingSet(keep);
  result = SetCapabilities(keep);
  if (result >= 0 && install_filter) result = InstallZygoteFilter();
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
    } else if (request->op == kLeaf || request->op == kSpare) {
      long forked = ForkLeaf(request, parts);
      if (forked != 0) return forked > 0 ? static_cast<long>(request->op) : forked;
    } else {
      return static_cast<long>(request->op);
    }
  }
}
