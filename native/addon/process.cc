#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace forktree {
namespace {

// The child's side shares the parent's memory until exec (CLONE_VM | CLONE_VFORK): system calls only.
struct ChildPlan {
  const char* path;
  char* const* arguments;
  const int* fds;
  int fd_count;
  const sigset_t* mask;
  int error;
};

constexpr int kAside = 512;

int RunChild(void* data) {
  ChildPlan* plan = static_cast<ChildPlan*>(data);
  for (int signal = 1; signal < 65; signal++) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);  // the ones that can't be set stay as they are
  }
  for (int i = 0; i < plan->fd_count; i++) {
    if (dup3(plan->fds[i], kAside + i, O_CLOEXEC) < 0) goto failed;
  }
  for (int i = 0; i < plan->fd_count; i++) {
    if (dup2(kAside + i, i) < 0) goto failed;
  }
  if (syscall(SYS_close_range, plan->fd_count, ~0U, 0) < 0) goto failed;
  if (sigprocmask(SIG_SETMASK, plan->mask, nullptr) < 0) goto failed;
  {
    char* const environment[] = {nullptr};
    execve(plan->path, plan->arguments, environment);
  }
failed:
  plan->error = errno;
  return 127;
}

}  // namespace

int Spawn(const std::string& path, const std::vector<std::string>& arguments, const std::vector<int>& fds, Spawned* spawned) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  sigset_t all, old, none;
  sigfillset(&all);
  sigemptyset(&none);
  ChildPlan plan = {path.c_str(), argv.data(), fds.data(), static_cast<int>(fds.size()), &none, 0};
  std::vector<char> stack(64 * 1024);
  int pidfd = -1;
  // No signal handler of Node's may run in the child while it shares our memory.
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int pid = clone(RunChild, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &pidfd);
  int clone_error = errno;
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (pid < 0) return -clone_error;
  if (plan.error != 0) {
    waitpid(pid, nullptr, 0);
    close(pidfd);
    return -plan.error;
  }
  *spawned = {pid, pidfd};
  return 0;
}

int SignalProcess(int pidfd, int signal) {
  return syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) < 0 ? -errno : 0;
}

int ExitStatus(int pidfd) {
  // struct pidfd_info of <linux/pidfd.h>, first published version; the headers here may be older than the kernel.
  struct {
    unsigned long long mask, cgroup;
    unsigned ids[11];
    int code;
  } info = {};
  constexpr unsigned long kGetInfo = _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64);
  constexpr unsigned long long kExit = 8;  // PIDFD_INFO_EXIT
  info.mask = kExit;
  static_assert(sizeof info == 64, "PIDFD_INFO_SIZE_VER0");
  if (ioctl(pidfd, kGetInfo, &info) < 0 || (info.mask & kExit) == 0) return kStatusUnknown;
  return info.code;
}

void ReapChild(int pidfd) {
  siginfo_t info;
  waitid(static_cast<idtype_t>(3 /* P_PIDFD */), static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
}

int LockFile(const std::string& path, bool create) {
  int fd = open(path.c_str(), O_RDWR | (create ? O_CREAT : 0) | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -errno;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  int error = errno;
  close(fd);
  return -error;
}

double ReadNumber(int fd) {
  char text[32];
  ssize_t size = pread(fd, text, sizeof text - 1, 0);
  if (size <= 0) return -1;
  text[size] = '\0';
  return strtod(text, nullptr);
}

}  // namespace forktree
