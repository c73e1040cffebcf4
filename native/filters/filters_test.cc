// Installs the filters in child processes and checks what calls answer there.
// Prints one line per check and exits with 1 if any failed.
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "filters.h"

namespace {

enum Installed { kNone, kZygote, kLeaf, kLeafOnZygote };
const char* const kInstalledNames[] = {"none", "zygote", "leaf", "both"};

// Stands for whatever the call answers without a filter.
constexpr int kPasses = -1;

constexpr int kNotInstalled = 254;
constexpr int kOtherErrno = 253;

// Calls newer than some headers. They have one number everywhere.
constexpr long kOpenTree = 428, kMoveMount = 429, kFsopen = 430,
               kFsconfig = 431, kFsmount = 432, kFspick = 433, kClone3 = 435,
               kPidfdGetfd = 438, kProcessMadvise = 440, kMountSetattr = 442,
               kQuotactlFd = 443, kLandlockCreateRuleset = 444,
               kIoUringSetup = 425, kIoUringEnter = 426,
               kIoUringRegister = 427;

int passed = 0;
int failed = 0;

void Report(bool ok, const std::string& what, const std::string& detail = "") {
  printf("%s %s%s%s\n", ok ? "ok  " : "FAIL", what.c_str(),
         detail.empty() ? "" : ": ", detail.c_str());
  (ok ? passed : failed)++;
}

bool InstallOne(const FilterInstruction* filter, size_t size) {
  sock_fprog program;
  program.len = static_cast<unsigned short>(size / sizeof *filter);
  program.filter =
      reinterpret_cast<sock_filter*>(const_cast<FilterInstruction*>(filter));
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

bool Install(Installed installed) {
  if (installed == kNone) return true;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  if (installed != kLeaf && !InstallOne(kZygoteFilter, sizeof kZygoteFilter)) {
    return false;
  }
  return installed == kZygote || InstallOne(kLeafFilter, sizeof kLeafFilter);
}

// Runs a function in a child with the filters and gives its wait status.
template <typename Function>
int RunIn(Installed installed, Function function) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    if (!Install(installed)) _exit(kNotInstalled);
    _exit(function());
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return status;
}

std::string Describe(int status) {
  if (WIFSIGNALED(status)) {
    return "signal " + std::to_string(WTERMSIG(status));
  }
  if (!WIFEXITED(status)) return "status " + std::to_string(status);
  int code = WEXITSTATUS(status);
  if (code == 0) return "success";
  if (code == kNotInstalled) return "filter not installed";
  return code == kOtherErrno ? "other errno" : strerror(code);
}

struct Arguments {
  uint64_t a = ~0ull, b = ~0ull, c = ~0ull, d = ~0ull, e = ~0ull, f = ~0ull;
};

int CallIn(Installed installed, long number, const Arguments& x) {
  return RunIn(installed, [&] {
    if (syscall(number, x.a, x.b, x.c, x.d, x.e, x.f) != -1) return 0;
    return errno > 0 && errno < kOtherErrno ? errno : kOtherErrno;
  });
}

// Arguments not given are all ones, which no refused call can do harm with
// should a filter let it through.
void Expect(Installed installed, const std::string& what, int expected,
            long number, const Arguments& arguments = {}) {
  int status = CallIn(installed, number, arguments);
  bool ok = expected == kPasses
                ? status == CallIn(kNone, number, arguments)
                : WIFEXITED(status) && WEXITSTATUS(status) == expected;
  Report(ok, std::string(kInstalledNames[installed]) + " " + what,
         Describe(status));
}

void Succeeds(const char* what, int status) {
  Report(WIFEXITED(status) && WEXITSTATUS(status) == 0, what,
         Describe(status));
}

struct Call {
  const char* name;
  long number;
};
#define CALL(name) {#name, SYS_##name}

// Refused by both filters.
const Call kRefusedToAll[] = {
    CALL(chroot), CALL(pivot_root), CALL(umount2), CALL(ptrace),
    CALL(process_vm_readv), CALL(process_vm_writev), CALL(kcmp), CALL(bpf),
    CALL(perf_event_open), CALL(userfaultfd), CALL(keyctl), CALL(add_key),
    CALL(request_key), CALL(init_module), CALL(finit_module),
    CALL(delete_module), CALL(kexec_load), CALL(reboot), CALL(swapon),
    CALL(swapoff), CALL(settimeofday), CALL(clock_settime), CALL(adjtimex),
    CALL(clock_adjtime), CALL(open_by_handle_at), CALL(acct), CALL(quotactl),
    CALL(syslog), CALL(fanotify_init), {"open_tree", kOpenTree},
    {"fsopen", kFsopen}, {"fsconfig", kFsconfig}, {"fsmount", kFsmount},
    {"fspick", kFspick}, {"mount_setattr", kMountSetattr},
    {"pidfd_getfd", kPidfdGetfd}, {"process_madvise", kProcessMadvise},
    {"quotactl_fd", kQuotactlFd}, {"io_uring_setup", kIoUringSetup},
    {"io_uring_enter", kIoUringEnter},
    {"io_uring_register", kIoUringRegister},
#ifdef __x86_64__
    CALL(iopl), CALL(ioperm), CALL(modify_ldt),
#endif
};

// Refused by the leaf filter only.
const Call kRefusedToLeaf[] = {
    CALL(mount), CALL(setns), CALL(unshare), CALL(name_to_handle_at),
    CALL(sethostname), CALL(setdomainname), CALL(setuid), CALL(setgid),
    CALL(setreuid), CALL(setregid), CALL(setresuid), CALL(setresgid),
    CALL(setgroups), CALL(setfsuid), CALL(setfsgid), CALL(capset),
    {"move_mount", kMoveMount},
};

// Let through by both filters.
const Call kPassing[] = {
    CALL(read), CALL(futex), CALL(getppid), CALL(prctl), CALL(seccomp),
    CALL(memfd_create), CALL(madvise), CALL(openat), CALL(socketpair),
    CALL(getrandom), CALL(set_robust_list), CALL(setpgid), CALL(prlimit64),
    {"landlock_create_ruleset", kLandlockCreateRuleset},
};

const Call kNewNamespaces[] = {
    {"CLONE_NEWNS", CLONE_NEWNS},     {"CLONE_NEWCGROUP", CLONE_NEWCGROUP},
    {"CLONE_NEWUTS", CLONE_NEWUTS},   {"CLONE_NEWIPC", CLONE_NEWIPC},
    {"CLONE_NEWUSER", CLONE_NEWUSER}, {"CLONE_NEWPID", CLONE_NEWPID},
    {"CLONE_NEWNET", CLONE_NEWNET},
};

constexpr uint64_t kGarbage = 0xDEADBEEF00000000;

void CheckProcesses(Installed installed) {
  std::string name = kInstalledNames[installed];
  Succeeds((name + " fork").c_str(), RunIn(installed, [] {
    pid_t child = fork();
    if (child == 0) _exit(0);
    int status = 1;
    return child > 0 && waitpid(child, &status, 0) == child ? status : 1;
  }));
  // Starts with clone3 where the C library has it.
  Succeeds((name + " posix_spawn").c_str(), RunIn(installed, [] {
    char shell[] = "/bin/sh", flag[] = "-c", command[] = "exit 0";
    char* arguments[] = {shell, flag, command, nullptr};
    char* environment[] = {nullptr};
    pid_t child;
    int error =
        posix_spawn(&child, shell, nullptr, nullptr, arguments, environment);
    int status = 1;
    if (error != 0) return error;
    return waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : 1;
  }));
}

void CheckLeaf(Installed installed) {
  CheckProcesses(installed);
  for (const Call& call : kPassing) {
    Expect(installed, call.name, kPasses, call.number);
  }
  for (const Call& call : kRefusedToAll) {
    Expect(installed, call.name, EPERM, call.number);
  }
  for (const Call& call : kRefusedToLeaf) {
    Expect(installed, call.name, EPERM, call.number);
  }
  Expect(installed, "clone3", ENOSYS, kClone3);
  Expect(installed, "clone", kPasses, SYS_clone, {SIGCHLD, 0, 0, 0, 0});
  for (const Call& flag : kNewNamespaces) {
    uint64_t flags = static_cast<uint64_t>(flag.number) | SIGCHLD;
    Expect(installed, std::string("clone ") + flag.name, EPERM, SYS_clone,
           {flags, 0, 0, 0, 0});
    Expect(installed, std::string("clone ") + flag.name + " and high bits",
           EPERM, SYS_clone, {kGarbage | flags, 0, 0, 0, 0});
  }

  Expect(installed, "socket AF_UNIX", kPasses, SYS_socket, {1, 1, 0});
  Expect(installed, "socket AF_INET", kPasses, SYS_socket, {2, 1, 0});
  Expect(installed, "socket AF_INET with high bits", kPasses, SYS_socket,
         {kGarbage | 2, 1, 0});
  Expect(installed, "socket AF_INET6", kPasses, SYS_socket, {10, 2, 0});
  Expect(installed, "socket AF_NETLINK route", kPasses, SYS_socket,
         {16, 3, 0});
  Expect(installed, "socket AF_NETLINK uevent", EAFNOSUPPORT, SYS_socket,
         {16, 3, 15});
  Expect(installed, "socket AF_NETLINK netfilter", EAFNOSUPPORT, SYS_socket,
         {16, 3, 12});
  Expect(installed, "socket AF_UNSPEC", EAFNOSUPPORT, SYS_socket, {0, 1, 0});
  Expect(installed, "socket AF_PACKET", EAFNOSUPPORT, SYS_socket, {17, 3, 0});
  Expect(installed, "socket AF_ALG", EAFNOSUPPORT, SYS_socket, {38, 5, 0});
  Expect(installed, "socket AF_VSOCK", EAFNOSUPPORT, SYS_socket, {40, 1, 0});
  Expect(installed, "socket AF_VSOCK with high bits", EAFNOSUPPORT, SYS_socket,
         {kGarbage | 40, 1, 0});
  Expect(installed, "socketpair", kPasses, SYS_socketpair, {1, 1, 0});

  Expect(installed, "ioctl FIONREAD", kPasses, SYS_ioctl, {~0ull, 0x541B});
  Expect(installed, "ioctl TIOCSTI", EPERM, SYS_ioctl, {~0ull, 0x5412});
  Expect(installed, "ioctl TIOCSTI with high bits", EPERM, SYS_ioctl,
         {~0ull, kGarbage | 0x5412});
  Expect(installed, "ioctl TIOCLINUX", EPERM, SYS_ioctl, {~0ull, 0x541C});
  Expect(installed, "ioctl TIOCLINUX with high bits", EPERM, SYS_ioctl,
         {~0ull, kGarbage | 0x541C});

  Expect(installed, "personality read", kPasses, SYS_personality,
         {0xFFFFFFFF});
  Expect(installed, "personality PER_LINUX", kPasses, SYS_personality, {0});
  Expect(installed, "personality ADDR_NO_RANDOMIZE", EPERM, SYS_personality,
         {0x0040000});
  Expect(installed, "personality READ_IMPLIES_EXEC and high bits", EPERM,
         SYS_personality, {kGarbage | 0x0400000});
}

void CheckLeafNodes() {
  const struct {
    const char* name;
    mode_t mode;
    int expected;
  } kinds[] = {
      {"no type", 0600, kPasses},         {"regular", S_IFREG | 0600, kPasses},
      {"fifo", S_IFIFO | 0600, kPasses},  {"socket", S_IFSOCK, kPasses},
      {"character", S_IFCHR | 0600, EPERM}, {"block", S_IFBLK | 0600, EPERM},
      {"directory", S_IFDIR, EPERM},
  };
  for (const auto& kind : kinds) {
    // A null path: what gets past the filter fails in the kernel.
    std::string name = kind.name;
    Expect(kLeaf, "mknodat " + name, kind.expected, SYS_mknodat,
           {~0ull, 0, kind.mode, 0x103});
    Expect(kLeafOnZygote, "mknodat " + name, EPERM, SYS_mknodat,
           {~0ull, 0, kind.mode, 0x103});
#ifdef SYS_mknod
    Expect(kLeaf, "mknod " + name, kind.expected, SYS_mknod,
           {0, kind.mode, 0x103});
#endif
  }
}

void CheckZygote() {
  CheckProcesses(kZygote);
  for (const Call& call : kPassing) {
    Expect(kZygote, call.name, kPasses, call.number);
  }
  for (const Call& call : kRefusedToAll) {
    Expect(kZygote, call.name, EPERM, call.number);
  }
  for (const Call& call : kRefusedToLeaf) {
    if (call.number == SYS_mount) continue;
    Expect(kZygote, call.name, kPasses, call.number);
  }
  Expect(kZygote, "clone3", kPasses, kClone3);
  Expect(kZygote, "mknodat", EPERM, SYS_mknodat);
#ifdef SYS_mknod
  Expect(kZygote, "mknod", EPERM, SYS_mknod);
#endif
  Expect(kZygote, "madvise MADV_COLLAPSE", kPasses, SYS_madvise, {0, 0, 25});
  // Null paths, as above. The first flags are those of a new mount, and
  // MS_PRIVATE | MS_REC.
  for (uint64_t flags : {0x0, 0xE, 0x44000}) {
    Expect(kZygote, "mount with flags " + std::to_string(flags), kPasses,
           SYS_mount, {0, 0, 0, flags, 0});
  }
  for (uint64_t flag : {32, 4096, 8192}) {
    for (uint64_t others : {0x0ull, 0xEull, 0xC0ED4000ull, 0xFull << 32}) {
      Expect(kZygote, "mount with flags " + std::to_string(flag | others),
             EPERM, SYS_mount, {0, 0, 0, flag | others, 0});
    }
  }
}

// Calls that the filters don't know, and those of other ABIs.
void CheckOtherCalls(Installed installed) {
  std::string name = kInstalledNames[installed];
  Succeeds((name + " unknown calls").c_str(), RunIn(installed, [] {
    for (long number = 451; number <= 600; number++) {
      if (syscall(number, -1, -1, -1, -1, -1, -1) != -1 || errno != ENOSYS) {
        return 1;
      }
    }
    for (long number : {1000L, 4096L, 0x3FFFFFFFL, 0x7FFFFFFFL, -1L}) {
      if (syscall(number, -1, -1, -1, -1, -1, -1) != -1 || errno != ENOSYS) {
        return 2;
      }
    }
    return 0;
  }));
#ifdef __x86_64__
  Succeeds((name + " x32 calls").c_str(), RunIn(installed, [] {
    for (long number = 0; number <= 600; number++) {
      if (syscall(0x40000000 | number, -1, -1, -1, -1, -1, -1) != -1 ||
          errno != ENOSYS) {
        return 1;
      }
    }
    return 0;
  }));
  int status = RunIn(installed, [] {
    long result = 20;  // i386's getpid
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9",
                     "r10", "r11");
    return 0;
  });
  // A kernel without i386 calls sends SIGSEGV by itself.
  Report(WIFSIGNALED(status) &&
             (WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV),
         name + " i386 call", Describe(status));
#endif
}

}  // namespace

int main() {
  CheckZygote();
  CheckOtherCalls(kZygote);
  CheckLeaf(kLeaf);
  CheckOtherCalls(kLeaf);
  CheckLeaf(kLeafOnZygote);
  CheckOtherCalls(kLeafOnZygote);
  CheckLeafNodes();
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
