// The floor: what the kernel takes for a sandbox, in the least C there is. It is the only process in a root that was
// assembled like a launcher's (see floor.cc), root in the same kind of user namespace, and does for each sandbox what the
// library does, in the same order, with the same limits, mounts and filter; but in one process that knows everything, without
// messages, without a first process beside the program, without streams and without any checks.
//   floor_sandbox HIERARCHY...     HIERARCHY is `JOIN FILE=VALUE FILE=VALUE ...`, in the order of the folders on fd 3
// Each line of stdin is a command; NETWORK is `own` (a namespace with loopback up) or `shared` (ours):
//   run NETWORK               -> {"ns":N,"toldNs":N,"code":N}
//     Timed: take a group, a network namespace and a mount that were made ahead; fork into a new pid namespace; in the child
//     join the groups, unshare, enter the network, mount proc and a sized /tmp, attach the mount, host name, limits,
//     drop privileges, /tmp/work, filter, exec of the program; and wait for its end. `toldNs` is the same until the program had
//     ended but its namespaces were not yet taken down, which waiting for a pid namespace's first process includes.
//     Not timed: making the next group, namespace and mount; removing the group. The library does these outside of create()
//     and exec() as well.
//   churn NETWORK AT_ONCE COUNT -> {"ns":N}
//     Timed: everything, for COUNT sandboxes, AT_ONCE of them at a time: as above, but instead of an exec the child says that it is
//     ready and waits, is killed and collected, and its groups are removed; what is made ahead is made again meanwhile.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../filters/filters.h"

namespace {

constexpr int kControl = 3;
constexpr int kMaxHierarchies = 8;
constexpr int kMaxSettings = 8;
constexpr int kMaxAtOnce = 64, kMaxHeld = 4096;
// As many as the library makes ahead.
constexpr int kReadyGroups = 2, kReadyNets = 4, kReadyMounts = 2;
constexpr id_t kFirstId = 1000, kIds = 60000;
constexpr const char* kFolder = "/forktree/bench";
constexpr const char* kTarget = "/bench";
constexpr const char* kProgram = "/bench/program";
// As src/sandbox/launcher.ts: 64 MiB.
constexpr const char* kScratch = "size=65536k,nr_inodes=16448,mode=1777";
constexpr const char* kHostname = "sandbox";

struct Setting {
  char *file, *value;
};
struct Hierarchy {
  int folder;
  char* join;
  Setting settings[kMaxSettings];
  int setting_count;
};
struct Group {
  unsigned number;
  int joins[kMaxHierarchies];
};
// Made ahead.
template <typename T, int N>
struct Stock {
  T items[N];
  int count = 0;
};
struct Sandbox {
  pid_t pid;
  int pidfd;
  unsigned group;
};

Hierarchy hierarchies[kMaxHierarchies];
int hierarchy_count = 0;
int own_net = -1, births[2], signals = -1;
unsigned last_group = 0;
id_t last_id = 0;
Stock<Group, kReadyGroups> groups;
Stock<int, kReadyNets> nets;
Stock<int, kReadyMounts> mounts;

long long Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

void Check(bool ok, const char* step) {
  if (ok) return;
  dprintf(2, "floor: %s: %s\n", step, strerror(errno));
  _exit(1);
}

void WriteSetting(int folder, const char* group, const Setting& setting) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", group, setting.file);
  int file = openat(folder, path, O_WRONLY | O_CLOEXEC);
  if (file < 0 && errno == ENOENT && (strstr(setting.file, "memsw") != nullptr || strstr(setting.file, "swap") != nullptr)) {
    return;  // the kernel does no swap accounting
  }
  Check(file >= 0, setting.file);
  ssize_t length = static_cast<ssize_t>(strlen(setting.value));
  Check(write(file, setting.value, static_cast<size_t>(length)) == length, setting.file);
  close(file);
}

Group MakeGroup() {
  Group group = {++last_group, {}};
  char name[32], path[256];
  snprintf(name, sizeof name, "sandbox-%u", group.number);
  for (int i = 0; i < hierarchy_count; i++) {
    const Hierarchy& each = hierarchies[i];
    Check(mkdirat(each.folder, name, 0755) == 0, "make a group");
    for (int j = 0; j < each.setting_count; j++) WriteSetting(each.folder, name, each.settings[j]);
    snprintf(path, sizeof path, "%s/%s", name, each.join);
    group.joins[i] = openat(each.folder, path, O_WRONLY | O_CLOEXEC);
    Check(group.joins[i] >= 0, "open a group");
  }
  return group;
}

Group TakeGroup() { return groups.count > 0 ? groups.items[--groups.count] : MakeGroup(); }

void CloseJoins(const Group& group) {
  for (int i = 0; i < hierarchy_count; i++) close(group.joins[i]);
}

// As in src/kernel/cgroup.ts: who has just ended may count for a moment longer, and no event tells when it is over.
void RemoveGroup(unsigned number) {
  char name[32];
  snprintf(name, sizeof name, "sandbox-%u", number);
  long long deadline = Now() + 5000000000LL;
  for (int i = 0; i < hierarchy_count; i++) {
    while (unlinkat(hierarchies[i].folder, name, AT_REMOVEDIR) < 0) Check(errno == EBUSY && Now() < deadline, "remove a group");
  }
}

// Leaves for a new network namespace and comes back, with an fd that keeps it.
int MakeNet() {
  Check(unshare(CLONE_NEWNET) == 0, "make a network namespace");
  int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  Check(ioctl(socket_fd, SIOCSIFFLAGS, &request) == 0, "loopback");
  close(socket_fd);
  int net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  Check(net >= 0 && setns(own_net, CLONE_NEWNET) == 0, "come back");
  return net;
}

int MakeMount() {
  int tree = static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, kFolder, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  Check(tree >= 0, "clone the folder");
  return tree;
}

int TakeNet() { return nets.count > 0 ? nets.items[--nets.count] : MakeNet(); }
int TakeMount() { return mounts.count > 0 ? mounts.items[--mounts.count] : MakeMount(); }

void Refill(bool network) {
  while (groups.count < kReadyGroups) groups.items[groups.count++] = MakeGroup();
  while (mounts.count < kReadyMounts) mounts.items[mounts.count++] = MakeMount();
  while (network && nets.count < kReadyNets) nets.items[nets.count++] = MakeNet();
}

pid_t Clone(int* pidfd) {
  clone_args arguments = {};
  arguments.flags = CLONE_NEWPID | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<unsigned long>(pidfd);
  arguments.exit_signal = SIGCHLD;
  return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof arguments));
}

constexpr int kCapabilities[] = {CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_NET_ADMIN, CAP_SETFCAP};

void SetCapabilities(unsigned long keep) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0].effective = data[0].permitted = static_cast<unsigned>(keep);
  data[1].effective = data[1].permitted = static_cast<unsigned>(keep >> 32);
  Check(syscall(SYS_capset, &header, data) == 0, "capset");
}

// What launchers drop ahead, so that a child has as little left to drop as a sandbox.
void LockDown() {
  unsigned long keep = 0;  // and to kill what has another id, as the host can
  for (int each : kCapabilities) keep |= 1UL << each;
  Check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  for (int each = 0; each < 64; each++) {
    if ((keep >> each & 1) == 0 && prctl(PR_CAPBSET_DROP, each, 0, 0, 0) < 0) break;
  }
  SetCapabilities(keep | 1UL << CAP_KILL);
}

// The child's set-up, in the order of launcher.cc.
void SetUp(const Group& group, int net, int mount_fd, id_t id) {
  for (int i = 0; i < hierarchy_count; i++) Check(write(group.joins[i], "0", 1) == 1, "join a group");
  Check(unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) == 0, "unshare");
  if (net >= 0) Check(setns(net, CLONE_NEWNET) == 0, "enter the network");
  Check(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0, "mount proc");
  Check(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, kScratch) == 0, "mount /tmp");
  Check(syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, kTarget, MOVE_MOUNT_F_EMPTY_PATH) == 0, "attach");
  Check(sethostname(kHostname, strlen(kHostname)) == 0, "host name");
  rlimit files = {1024, 1024}, no_core = {0, 0};
  Check(setrlimit(RLIMIT_NOFILE, &files) == 0, "limit open files");
  Check(setrlimit(RLIMIT_CORE, &no_core) == 0, "limit core files");
  unsigned long none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
  setsid();
  Check(syscall(SYS_setgroups, 0, nullptr) == 0, "setgroups");
  Check(syscall(SYS_setresgid, id, id, id) == 0, "setresgid");
  for (int each : kCapabilities) Check(prctl(PR_CAPBSET_DROP, each, 0, 0, 0) == 0, "drop capabilities");
  Check(syscall(SYS_setresuid, id, id, id) == 0, "setresuid");
  SetCapabilities(0);
  Check(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0, "dumpable");
  Check(mkdir("/tmp/work", 0700) == 0 && chdir("/tmp/work") == 0, "/tmp/work");
  struct {
    unsigned short size;
    const FilterInstruction* instructions;
  } filter = {sizeof kLeafFilter / sizeof kLeafFilter[0], kLeafFilter};
  Check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0, "filter");
}

struct Parts {
  Group group;
  int net, mount;
  id_t id;
};

Parts Take(bool network) {
  last_id = (last_id + 1) % kIds;
  return {TakeGroup(), network ? TakeNet() : -1, TakeMount(), kFirstId + last_id};
}

void CloseParts(const Parts& parts) {
  CloseJoins(parts.group);
  close(parts.mount);
  if (parts.net >= 0) close(parts.net);
}

void Run(bool network) {
  char* arguments[] = {const_cast<char*>(kProgram), nullptr};
  char* environment[] = {nullptr};
  Refill(network);
  int told[2];  // closes when the program has ended
  Check(pipe(told) == 0 && fcntl(told[0], F_SETFD, FD_CLOEXEC) == 0, "pipe");
  long long began = Now();
  Parts parts = Take(network);
  int pidfd = -1;
  pid_t pid = Clone(&pidfd);
  Check(pid >= 0, "fork");
  if (pid == 0) {
    SetUp(parts.group, parts.net, parts.mount, parts.id);
    execve(kProgram, arguments, environment);
    Check(false, "exec");
  }
  close(told[1]);
  char byte;
  Check(read(told[0], &byte, 1) == 0, "be told");
  long long heard = Now();
  siginfo_t info = {};
  Check(waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED) == 0, "wait");
  long long ended = Now();
  close(told[0]);
  close(pidfd);
  CloseParts(parts);
  RemoveGroup(parts.group.number);
  Refill(network);
  int code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  dprintf(1, "{\"ns\":%lld,\"toldNs\":%lld,\"code\":%d}\n", ended - began, heard - began, code);
}

Sandbox Start(bool network, unsigned char slot) {
  Parts parts = Take(network);
  Sandbox sandbox = {0, -1, parts.group.number};
  sandbox.pid = Clone(&sandbox.pidfd);
  Check(sandbox.pid >= 0, "fork");
  if (sandbox.pid == 0) {
    SetUp(parts.group, parts.net, parts.mount, parts.id);
    Check(write(births[1], &slot, 1) == 1, "tell its birth");
    close_range(0, ~0U, 0);
    for (;;) pause();
  }
  CloseParts(parts);
  Refill(network);
  return sandbox;
}

void KillBorn(Sandbox* sandboxes) {
  unsigned char slots[kMaxAtOnce];
  ssize_t size = read(births[0], slots, sizeof slots);
  for (ssize_t i = 0; i < size; i++) {
    Check(syscall(SYS_pidfd_send_signal, sandboxes[slots[i]].pidfd, SIGKILL, nullptr, 0) == 0, "kill");
  }
}

// Answers how many there were.
int Collect(Sandbox* sandboxes, int at_once) {
  signalfd_siginfo drained[8];
  while (read(signals, drained, sizeof drained) > 0) {
  }
  int count = 0, status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0; count++) {
    Check(WIFSIGNALED(status), "end as it was told to");
    for (int i = 0; i < at_once; i++) {
      if (sandboxes[i].pid != pid) continue;
      close(sandboxes[i].pidfd);
      RemoveGroup(sandboxes[i].group);
      sandboxes[i].pid = 0;
    }
  }
  return count;
}

void Churn(bool network, int at_once, int count) {
  Sandbox sandboxes[kMaxAtOnce] = {};
  Check(at_once > 0 && at_once <= kMaxAtOnce, "understand AT_ONCE");
  Refill(network);
  long long began = Now();
  for (int started = 0, done = 0; done < count;) {
    for (int i = 0; i < at_once && started < count; i++) {
      if (sandboxes[i].pid != 0) continue;
      sandboxes[i] = Start(network, static_cast<unsigned char>(i));
      started++;
    }
    pollfd waits[2] = {{births[0], POLLIN, 0}, {signals, POLLIN, 0}};
    poll(waits, 2, -1);
    if (waits[0].revents != 0) KillBorn(sandboxes);
    if (waits[1].revents != 0) done += Collect(sandboxes, at_once);
  }
  dprintf(1, "{\"ns\":%lld}\n", Now() - began);
}

Sandbox held[kMaxHeld];
int held_count = 0;

// Makes sandboxes that stay, one after the other.
void Hold(bool network, int count) {
  Check(count >= 0 && held_count + count <= kMaxHeld, "understand COUNT");
  for (int i = 0; i < count; i++) {
    held[held_count++] = Start(network, 0);
    pollfd birth = {births[0], POLLIN, 0};
    unsigned char slot;
    Check(poll(&birth, 1, 10000) == 1 && read(births[0], &slot, 1) == 1, "be born");
  }
  dprintf(1, "{\"held\":%d}\n", held_count);
}

void Release() {
  for (int i = 0; i < held_count; i++) Check(syscall(SYS_pidfd_send_signal, held[i].pidfd, SIGKILL, nullptr, 0) == 0, "kill");
  for (int i = 0; i < held_count; i++) {
    Check(waitpid(held[i].pid, nullptr, 0) == held[i].pid, "wait");
    close(held[i].pidfd);
    RemoveGroup(held[i].group);
  }
  held_count = 0;
  dprintf(1, "{\"held\":0}\n");
}

void Serve() {
  char* line = nullptr;
  size_t capacity = 0;
  FILE* commands = fdopen(0, "r");
  while (getline(&line, &capacity, commands) > 0) {
    char network[16] = "";
    int at_once = 0, count = 0;
    if (sscanf(line, "run %15s", network) == 1) {
      Run(strcmp(network, "own") == 0);
    } else if (sscanf(line, "churn %15s %d %d", network, &at_once, &count) == 3) {
      Churn(strcmp(network, "own") == 0, at_once, count);
    } else if (sscanf(line, "hold %15s %d", network, &count) == 2) {
      Hold(strcmp(network, "own") == 0, count);
    } else if (strcmp(line, "release\n") == 0) {
      Release();
    }
  }
}

void ReceiveFds() {
  char byte;
  iovec vector = {&byte, 1};
  char control[CMSG_SPACE((kMaxHierarchies + 2) * sizeof(int))];
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  Check(recvmsg(kControl, &message, MSG_CMSG_CLOEXEC) == 1, "receive fds");
  int fds[kMaxHierarchies + 2];
  memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), static_cast<size_t>(hierarchy_count + 2) * sizeof(int));
  Check(dup2(fds[0], 0) == 0 && dup2(fds[1], 1) == 1, "place fds");
  close(fds[0]);
  close(fds[1]);
  for (int i = 0; i < hierarchy_count; i++) hierarchies[i].folder = fds[i + 2];
}

void ParseHierarchy(char* word) {
  Check(hierarchy_count < kMaxHierarchies, "understand the hierarchies");
  Hierarchy& hierarchy = hierarchies[hierarchy_count++];
  hierarchy.join = strtok(word, " ");
  for (char* each; (each = strtok(nullptr, " ")) != nullptr;) {
    char* equals = strchr(each, '=');
    Check(equals != nullptr && hierarchy.setting_count < kMaxSettings, "understand the settings");
    *equals = 0;
    hierarchy.settings[hierarchy.setting_count++] = {each, equals + 1};
  }
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; i++) ParseHierarchy(arguments[i]);
  ReceiveFds();
  own_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  Check(own_net >= 0 && pipe2(births, O_CLOEXEC | O_NONBLOCK) == 0, "get ready");
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
  signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  Check(signals >= 0, "signalfd");
  LockDown();
  dprintf(1, "{\"ready\":true}\n");
  Serve();
  while (groups.count > 0) {
    Group group = TakeGroup();
    CloseJoins(group);
    RemoveGroup(group.number);
  }
  return 0;
}
