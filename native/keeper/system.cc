// Thin names for system calls, some of which the C library lacks.
#include <errno.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "keeper.h"

namespace keeper {
namespace {

struct CloneArgs {
  unsigned long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

}  // namespace

void Fd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

pid_t Clone3(unsigned long flags, int* pidfd, int exit_signal) {
  CloneArgs arguments = {};
  arguments.flags = flags | (pidfd == nullptr ? 0 : CLONE_PIDFD);
  arguments.pidfd = reinterpret_cast<unsigned long>(pidfd);
  arguments.exit_signal = static_cast<unsigned long>(exit_signal);
  return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof arguments));
}

Outcome WriteFile(const std::string& path, const std::string& text, int flags, mode_t mode) {
  Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, mode));
  TRY("open", path, file.get());
  for (size_t written = 0; written < text.size();) {
    ssize_t size = write(file.get(), text.data() + written, text.size() - written);
    TRY("write", path, size);
    written += static_cast<size_t>(size);
  }
  return Outcome::Ok();
}

int OpenTree(const char* path, unsigned flags, int directory) {
  constexpr unsigned kClone = 1, kRecursive = 0x8000;  // OPEN_TREE_CLONE, AT_RECURSIVE
  long tree = syscall(SYS_open_tree, directory, path, kClone | O_CLOEXEC | flags);
  if (tree < 0 && errno == EINVAL) tree = syscall(SYS_open_tree, directory, path, kClone | O_CLOEXEC | kRecursive | flags);
  return static_cast<int>(tree);
}

int AddMountFlags(int tree, unsigned long long flags) {
  constexpr unsigned kRecursive = 0x8000;  // AT_RECURSIVE
  mount_attr attributes = {};
  attributes.attr_set = flags;
  return static_cast<int>(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | kRecursive, &attributes, sizeof attributes));
}

int MoveMount(int tree, const char* target, int folder) {
  constexpr unsigned kFromEmptyPath = 4, kToEmptyPath = 0x40;  // MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
  return static_cast<int>(syscall(SYS_move_mount, tree, "", folder, target, kFromEmptyPath | (*target == 0 ? kToEmptyPath : 0)));
}

}  // namespace keeper
