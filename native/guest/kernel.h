// The kernel's constants and layouts that the guest's programs use, which know no C library.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long;

// Kernel constants keep the kernel's spelling.
enum : int {
  CLONE_VM = 0x100,
  CLONE_VFORK = 0x4000,
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
  CAP_NET_BIND_SERVICE = 10,
  CAP_NET_ADMIN = 12,
  CAP_SYS_ADMIN = 21,
  CAP_SETFCAP = 31,
  CAP_HIGHEST = 63,
};
enum : int { PR_SET_DUMPABLE = 4, PR_CAPBSET_DROP = 24, PR_SET_NO_NEW_PRIVS = 38 };
enum : int { SIGCHLD = 17, SIG_BLOCK = 0, SIG_UNBLOCK = 1, WNOHANG = 1 };
enum : int { AT_FDCWD = -100, O_RDONLY = 0, O_WRONLY = 1, O_CLOEXEC = 02000000, O_NONBLOCK = 04000, EPERM = 1, EINTR = 4, EIO = 5, EAGAIN = 11, EINVAL = 22, EPROTO = 71 };
enum : int { SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_CMSG_CLOEXEC = 0x40000000, MSG_NOSIGNAL = 0x4000, MSG_CTRUNC = 8, MSG_TRUNC = 0x20 };
enum : int { MOVE_MOUNT_F_EMPTY_PATH = 4, SECCOMP_SET_MODE_FILTER = 1 };

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
