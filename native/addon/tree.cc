#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

namespace forktree {
namespace {

// Each level keeps a descriptor open, and takes stack.
constexpr int kMaxDepth = 64;

bool Fail(SealedTree* tree, const char* step, const std::string& path, int error) {
  tree->error = error;
  tree->step = step;
  tree->path = path;
  return false;
}

bool Refuse(SealedTree* tree, const char* what, const std::string& path) { return Fail(tree, what, path, 0); }

// What a folder must not hold; null for what it may.
const char* Unwanted(const struct stat& status) {
  if (S_ISDIR(status.st_mode)) return nullptr;
  if (S_ISREG(status.st_mode)) return status.st_nlink == 1 ? nullptr : "a file with several names";
  if (S_ISLNK(status.st_mode)) return "a symbolic link";
  if (S_ISFIFO(status.st_mode)) return "a pipe";
  return S_ISSOCK(status.st_mode) ? "a socket" : "a device";
}

// The mode goes last: a change of owner takes set-uid bits and capabilities away, and this what is left.
bool TakeOver(int fd, const struct stat& status, const std::string& path, SealedTree* tree) {
  if (fchown(fd, geteuid(), getegid()) < 0) return Fail(tree, "chown", path, -errno);
  const bool runnable = S_ISDIR(status.st_mode) || (status.st_mode & 0111) != 0;
  if (fchmod(fd, runnable ? 0755 : 0644) < 0) return Fail(tree, "chmod", path, -errno);
  return true;
}

bool SealFolder(int fd, const std::string& path, int depth, TreeLimits limits, SealedTree* tree);

bool SealEntry(int folder, const char* name, const std::string& path, int depth, TreeLimits limits, SealedTree* tree) {
  if (++tree->entries > limits.entries) return Refuse(tree, "too many files", path);
  struct stat status;
  if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0) return Fail(tree, "stat", path, -errno);
  // Before it is opened: opening a device may do something.
  if (const char* what = Unwanted(status)) return Refuse(tree, what, path);
  const bool is_folder = S_ISDIR(status.st_mode);
  if (is_folder && depth == kMaxDepth) return Refuse(tree, "too many folders in one another", path);
  const int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (is_folder ? O_DIRECTORY : 0));
  if (fd < 0) return Fail(tree, "open", path, -errno);
  bool sealed = false;
  if (fstat(fd, &status) < 0) {
    Fail(tree, "stat", path, -errno);
  } else if (const char* what = Unwanted(status)) {
    Refuse(tree, what, path);
  } else if (is_folder) {
    sealed = SealFolder(fd, path, depth + 1, limits, tree);
  } else if ((tree->bytes += status.st_size) > limits.bytes) {
    Refuse(tree, "too many bytes", path);
  } else {
    tree->files++;
    sealed = TakeOver(fd, status, path, tree);
  }
  close(fd);
  return sealed;
}

bool SealFolder(int fd, const std::string& path, int depth, TreeLimits limits, SealedTree* tree) {
  struct stat status;
  if (fstat(fd, &status) < 0) return Fail(tree, "stat", path, -errno);
  const int listed = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  DIR* entries = listed < 0 ? nullptr : fdopendir(listed);
  if (entries == nullptr) {
    Fail(tree, "list", path, -errno);
    if (listed >= 0) close(listed);
    return false;
  }
  bool sealed = true;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(entries);
    if (entry == nullptr) {
      if (errno != 0) sealed = Fail(tree, "list", path, -errno);
      break;
    }
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    sealed = SealEntry(fd, name.c_str(), path.empty() ? name : path + "/" + name, depth, limits, tree);
    if (!sealed) break;
  }
  closedir(entries);
  return sealed && TakeOver(fd, status, path, tree);
}

}  // namespace

SealedTree SealTree(const std::string& folder, TreeLimits limits) {
  SealedTree tree;
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    Fail(&tree, "open", "", -errno);
    return tree;
  }
  if (SealFolder(fd, "", 0, limits, &tree) && syncfs(fd) < 0) Fail(&tree, "sync", "", -errno);
  close(fd);
  return tree;
}

}  // namespace forktree
