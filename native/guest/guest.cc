// What a zygote calls through ctypes: one shared library without a C library, so that it does not matter which one the
// interpreter has. A leaf's set-up is part of one call, because each page that Python touches after the fork is a
// copy-on-write fault. Unless said otherwise each answers 0, or -errno.
#include "launcher.h"
#include "setup.h"
#include "syscalls.h"

extern "C" {

int forktree_lock_down(int install_filter) { return static_cast<int>(LockDown(install_filter != 0)); }

int forktree_become_zygote() { return static_cast<int>(BecomeLauncher()); }

// Answers as ServeLauncher() does.
int forktree_serve(Request* request, const ForkParts* parts) { return static_cast<int>(ServeLauncher(request, *parts)); }

// In a spare, after forktree_serve(): answers once it is a sandbox.
int forktree_park(Request* room) {
  ParkSpare(room);
  return 0;
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

// Some packages want to write a file when they are imported. A leaf has a /tmp of its own above it.
int forktree_mount_scratch(int no_new_executables) {
  return static_cast<int>(MountScratch("mode=1777,size=16m,nr_inodes=1024", no_new_executables != 0));
}

int forktree_refuse_new_executables() { return static_cast<int>(RefuseNewExecutables()); }

int forktree_attach(int fd, const char* target) { return static_cast<int>(Attach(fd, target)); }

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
