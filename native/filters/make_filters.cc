// Prints the header with the two seccomp filters for one architecture.
//
//   make_filters x64|arm64
//
// Runs only when the filters change: its output is committed. Either
// architecture's header can be made on either architecture.
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "compact.h"

[[noreturn]] void Fail(const std::string& what, int error) {
  fprintf(stderr, "make_filters: %s%s%s\n", what.c_str(),
          error == 0 ? "" : ": ", error == 0 ? "" : strerror(error));
  exit(1);
}

namespace {

constexpr uint32_t kNotPermitted = SCMP_ACT_ERRNO(EPERM);
constexpr uint32_t kNoSuchCall = SCMP_ACT_ERRNO(ENOSYS);
constexpr uint32_t kNoFamily = SCMP_ACT_ERRNO(EAFNOSUPPORT);

// The filters know the calls up to Linux 5.17's last, the newest that
// libseccomp 2.5.4 knows. Both answer ENOSYS to any later one, whichever
// libseccomp makes them, so that a new kernel brings no new call into a
// sandbox by itself.
constexpr int kLastKnownCall = 450;  // set_mempolicy_home_node

using Names = std::initializer_list<const char*>;

// Calls that no kernel implements any more, or never did. They need no rule:
// the default action answers what the kernel would.
const Names kObsolete = {
    "_sysctl", "afs_syscall", "create_module", "epoll_ctl_old",
    "epoll_wait_old", "get_kernel_syms", "get_thread_area", "getpmsg",
    "nfsservctl", "putpmsg", "query_module", "security", "set_thread_area",
    "tuxcall", "vserver",
};

// Refused to zygotes and leaves alike.
const Names kDeniedToAll = {
    // Changing mounts other than by mounting something new.
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount_setattr",
    "open_tree", "pivot_root", "umount2",
    // Looking into other processes.
    "kcmp", "perf_event_open", "pidfd_getfd", "process_madvise",
    "process_vm_readv", "process_vm_writev", "ptrace",
    // Interfaces with a long record of kernel bugs.
    "add_key", "bpf", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "keyctl", "modify_ldt", "request_key", "userfaultfd",
    // Administration of the whole machine.
    "acct", "adjtimex", "clock_adjtime", "clock_settime", "delete_module",
    "fanotify_init", "finit_module", "init_module", "ioperm", "iopl",
    "kexec_file_load", "kexec_load", "open_by_handle_at", "quotactl",
    "quotactl_fd", "reboot", "settimeofday", "swapoff", "swapon", "syslog",
};

// Refused to leaves only.
const Names kDeniedToLeaf = {
    "capset", "lookup_dcookie", "mbind", "migrate_pages", "mount",
    "move_mount", "move_pages", "name_to_handle_at", "get_mempolicy",
    "set_mempolicy", "set_mempolicy_home_node", "setdomainname", "setfsgid",
    "setfsuid", "setgid", "setgroups", "sethostname", "setns", "setregid",
    "setresgid", "setresuid", "setreuid", "setuid", "sysfs", "unshare",
    "uselib", "ustat", "vhangup",
};

// What a leaf may call with any arguments: what container engines allow by
// default, less the calls above. clone, ioctl, mknod, mknodat, personality
// and socket have rules of their own; clone3 is left to the default action,
// as its flags are out of a filter's sight and its callers fall back to clone.
const Names kAllowedToLeaf = {
    "accept", "accept4", "access", "alarm", "arch_prctl", "bind", "brk",
    "capget", "chdir", "chmod", "chown", "clock_getres", "clock_gettime",
    "clock_nanosleep", "close", "close_range", "connect", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd",
    "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat",
    "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir",
    "fchmod", "fchmodat", "fchown", "fchownat", "fcntl", "fdatasync",
    "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr",
    "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_waitv",
    "futimesat", "get_robust_list", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid",
    "getxattr", 
    
    "ioprio_get", "ioprio_set",
    "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat",
    "listen", "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "madvise", "membarrier", "memfd_create", "memfd_secret",
    "mincore", "mkdir", "mkdirat", "mlock", "mlock2", "mlockall", "mmap",
    "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedsend", "mq_unlink", "mremap", "msgctl", "msgget", "msgrcv",
    "msgsnd", "msync", "munlock", "munlockall", "munmap", "nanosleep",
    "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2",
    "prlimit64", "process_mrelease", "pselect6", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr",
    "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp",
    "select", "semctl", "semget", "semop", "semtimedop", "sendfile",
    "sendmmsg", "sendmsg", "sendto", "set_robust_list", "set_tid_address",
    "setitimer", "setpgid", "setpriority", "setrlimit", "setsid",
    "setsockopt", "setxattr", "shmat", "shmctl", "shmdt", "shmget",
    "shutdown", "sigaltstack", "signalfd", "signalfd4", "socketpair",
    "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat",
    "utime", "utimensat", "utimes", "vfork", "vmsplice", "wait4", "waitid",
    "write", "writev",
};

// Calls with rules on their arguments.
const Names kLeafConditional = {"clone", "ioctl", "mknod", "mknodat",
                                "personality", "socket"};
const Names kZygoteConditional = {"mount"};
// As if the kernel lacked them, so that programs fall back: clone3, whose flags
// no filter can read; watches, which show what the host does in folders that it
// shares, and are counted for the whole machine, as asynchronous requests are.
const Names kLeftToDefaultInLeaf = {
    "clone3", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents",
    "io_pgetevents", "io_setup", "io_submit",
};

void Check(int result, const std::string& what) {
  if (result < 0) Fail(what, -result);
}

// Compares the low 32 bits only: the kernel ignores the rest of an int, and a
// caller may leave anything there.
scmp_arg_cmp Masked(unsigned arg, uint32_t mask, uint32_t value) {
  return SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value);
}

scmp_arg_cmp Is(unsigned arg, uint32_t value) {
  return Masked(arg, 0xFFFFFFFF, value);
}

// True for every call. libseccomp has no "otherwise", but tests an argument's
// masked comparisons before its others, so this is what gives a call's
// remaining cases their action. filters_test.cc would notice another order.
scmp_arg_cmp Otherwise(unsigned arg) {
  return SCMP_CMP64(arg, SCMP_CMP_GE, 0);
}

class Filter {
 public:
  Filter(uint32_t arch) : arch_(arch) {
    context_ = seccomp_init(kNoSuchCall);
    if (context_ == nullptr) Fail("seccomp_init");
    if (arch != seccomp_arch_native()) {
      Check(seccomp_arch_remove(context_, SCMP_ARCH_NATIVE), "arch_remove");
      Check(seccomp_arch_add(context_, arch), "arch_add");
    }
    Check(seccomp_attr_set(context_, SCMP_FLTATR_ACT_BADARCH,
                           SCMP_ACT_KILL_PROCESS), "badarch");
  }
  ~Filter() { seccomp_release(context_); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  // A call that this architecture doesn't have is passed over.
  void Add(uint32_t action, const std::string& name,
           const std::vector<scmp_arg_cmp>& conditions = {}) {
    if (seccomp_syscall_resolve_name_arch(arch_, name.c_str()) < 0) return;
    // libseccomp takes the building machine's number, or a made-up one.
    int number = seccomp_syscall_resolve_name(name.c_str());
    if (number == __NR_SCMP_ERROR) Fail("no such call: " + name);
    Check(seccomp_rule_add_exact_array(
              context_, action, number,
              static_cast<unsigned>(conditions.size()), conditions.data()),
          "rule for " + name);
  }

  void AddAll(uint32_t action, Names names) {
    for (const char* name : names) Add(action, name);
  }

  std::vector<sock_filter> Export() {
    // Answers the x32 ABI with ENOSYS: without this libseccomp would end the
    // process. Added last, so it gets none of the rules.
    if (arch_ == SCMP_ARCH_X86_64) {
      Check(seccomp_arch_add(context_, SCMP_ARCH_X32), "arch_add x32");
    }
    FILE* file = tmpfile();
    if (file == nullptr) Fail("tmpfile", errno);
    Check(seccomp_export_bpf(context_, fileno(file)), "export_bpf");
    rewind(file);
    std::vector<sock_filter> program;
    sock_filter instruction;
    while (fread(&instruction, sizeof instruction, 1, file) == 1) {
      program.push_back(instruction);
    }
    fclose(file);
    if (program.empty() || program.size() > 4096) Fail("bad program size");
    // libseccomp's names of architectures are the kernel's.
    return Compact(program, arch_);
  }

 private:
  uint32_t arch_;
  scmp_filter_ctx context_ = nullptr;
};

// The names of every call up to kLastKnownCall.
std::set<std::string> KnownCalls(uint32_t arch) {
  std::set<std::string> known;
  for (int number = 0; number <= kLastKnownCall; number++) {
    char* name = seccomp_syscall_resolve_num_arch(arch, number);
    if (name != nullptr) known.insert(name);
    free(name);
  }
  return known;
}

// Every call must be in exactly one of the lists, and every name in a list
// must be a call of some architecture, so that no typing error opens or closes
// one.
void CheckLists(const std::set<std::string>& known) {
  std::set<std::string> listed;
  for (const Names& names :
       {kObsolete, kDeniedToAll, kDeniedToLeaf, kAllowedToLeaf,
        kLeafConditional, kLeftToDefaultInLeaf}) {
    for (const char* name : names) {
      if (!listed.insert(name).second) {
        Fail(std::string("listed twice: ") + name);
      }
      if (seccomp_syscall_resolve_name(name) == __NR_SCMP_ERROR) {
        Fail(std::string("no such call: ") + name);
      }
    }
  }
  for (const std::string& name : known) {
    // Later libseccomps know these names; they came after kLastKnownCall but
    // have low numbers on x64.
    if (name == "uretprobe" || name == "uprobe") continue;
    if (listed.count(name) == 0) Fail("in no list: " + name);
  }
}

std::vector<sock_filter> MakeLeafFilter(uint32_t arch) {
  Filter filter(arch);
  filter.AddAll(SCMP_ACT_ALLOW, kAllowedToLeaf);
  filter.AddAll(kNotPermitted, kDeniedToAll);
  filter.AddAll(kNotPermitted, kDeniedToLeaf);

  // No CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID or NEWNET.
  // CLONE_NEWTIME, 0x80, is part of the exit signal here.
  filter.Add(SCMP_ACT_ALLOW, "clone", {Masked(0, 0x7E020000, 0)});
  filter.Add(kNotPermitted, "clone", {Otherwise(0)});

  for (uint32_t family : {1, 2, 10}) {  // AF_UNIX, AF_INET, AF_INET6
    filter.Add(SCMP_ACT_ALLOW, "socket", {Is(0, family)});
  }
  // AF_NETLINK with NETLINK_ROUTE, for getaddrinfo and if_nameindex.
  filter.Add(SCMP_ACT_ALLOW, "socket", {Is(0, 16), Is(2, 0)});
  filter.Add(kNoFamily, "socket", {Otherwise(0)});

  filter.Add(kNotPermitted, "ioctl", {Is(1, 0x5412)});  // TIOCSTI
  filter.Add(kNotPermitted, "ioctl", {Is(1, 0x541C)});  // TIOCLINUX
  filter.Add(SCMP_ACT_ALLOW, "ioctl", {Otherwise(1)});

  // Reading it, and PER_LINUX without flags.
  filter.Add(SCMP_ACT_ALLOW, "personality", {Is(0, 0xFFFFFFFF)});
  filter.Add(SCMP_ACT_ALLOW, "personality", {Is(0, 0)});
  filter.Add(kNotPermitted, "personality", {Otherwise(0)});

  // Regular files (0 too), pipes and sockets, no devices.
  for (uint32_t type : {0, 0100000, 0010000, 0140000}) {
    filter.Add(SCMP_ACT_ALLOW, "mknod", {Masked(1, 0170000, type)});
    filter.Add(SCMP_ACT_ALLOW, "mknodat", {Masked(2, 0170000, type)});
  }
  filter.Add(kNotPermitted, "mknod", {Otherwise(1)});
  filter.Add(kNotPermitted, "mknodat", {Otherwise(2)});
  return filter.Export();
}

std::vector<sock_filter> MakeZygoteFilter(uint32_t arch,
                                          const std::set<std::string>& known) {
  Filter filter(arch);
  filter.AddAll(kNotPermitted, kDeniedToAll);
  filter.AddAll(kNotPermitted, {"mknod", "mknodat"});

  // No MS_REMOUNT, MS_BIND or MS_MOVE.
  filter.Add(SCMP_ACT_ALLOW, "mount", {Masked(3, 32 | 4096 | 8192, 0)});
  filter.Add(kNotPermitted, "mount", {Otherwise(3)});

  std::set<std::string> done = {"mknod", "mknodat", "uretprobe", "uprobe"};
  done.insert(kDeniedToAll.begin(), kDeniedToAll.end());
  done.insert(kObsolete.begin(), kObsolete.end());
  done.insert(kZygoteConditional.begin(), kZygoteConditional.end());
  for (const std::string& name : known) {
    if (done.count(name) == 0) filter.Add(SCMP_ACT_ALLOW, name);
  }
  return filter.Export();
}

void Print(const char* name, const std::vector<sock_filter>& program) {
  printf("\n// %zu instructions.\nstatic const FilterInstruction %s[] = {",
         program.size(), name);
  for (size_t n = 0; n < program.size(); n++) {
    const sock_filter& i = program[n];
    printf("%s{0x%02x, %u, %u, 0x%08x},", n % 2 == 0 ? "\n    " : " ", i.code,
           i.jt, i.jf, i.k);
  }
  printf("\n};\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::string name = argc >= 2 ? argv[1] : "";
  if (argc != 2 || (name != "x64" && name != "arm64")) {
    Fail("usage: make_filters x64|arm64");
  }
  uint32_t arch = name == "x64" ? SCMP_ARCH_X86_64 : SCMP_ARCH_AARCH64;
  std::set<std::string> known = KnownCalls(arch);
  CheckLists(known);
  printf("// Generated by make_filters.cc; do not edit.\n");
  Print("kZygoteFilter", MakeZygoteFilter(arch, known));
  Print("kLeafFilter", MakeLeafFilter(arch));
  return 0;
}
