// A leaf's end of its channel, read without a C library. It is a stream of frames: length (4 bytes, little-endian, without
// the header), type (1 byte), payload.
#pragma once
#include "kernel.h"
#include "launcher.h"
#include "syscalls.h"

constexpr u32 kFrameHeader = 5;

// Received with a frame, by its first byte.
struct FrameFds {
  int fds[kMaxFds];
  int count;
};

static inline void CloseFrameFds(FrameFds* fds) {
  for (int i = 0; i < fds->count; i++) Syscall(__NR_close, fds->fds[i]);
  fds->count = 0;
}

// Reads exactly that much, so that what follows is left to whoever reads next. False: the host has gone.
static inline bool ReadExactly(void* to, u64 size, FrameFds* fds) {
  char* at = static_cast<char*>(to);
  while (size > 0) {
    IoVec vector = {at, size};
    struct {
      ControlHeader header;
      int fds[kMaxFds];
    } control = {};
    MsgHdr message = {nullptr, 0, &vector, 1, &control, sizeof control, 0};
    long got = Syscall(__NR_recvmsg, kControl, Word(&message), MSG_CMSG_CLOEXEC);
    if (got == -EINTR) continue;
    if (got <= 0) return false;
    if (message.control_size >= sizeof(ControlHeader) && control.header.type == SCM_RIGHTS) {
      CloseFrameFds(fds);
      fds->count = static_cast<int>((control.header.size - sizeof(ControlHeader)) / sizeof(int));
      for (int i = 0; i < fds->count; i++) fds->fds[i] = control.fds[i];
    }
    at += got;
    size -= static_cast<u64>(got);
  }
  return true;
}

struct FrameHead {
  u32 size;
  unsigned char type;
};

static inline bool ReadFrameHead(FrameHead* head, FrameFds* fds) {
  unsigned char bytes[kFrameHeader];
  if (!ReadExactly(bytes, kFrameHeader, fds)) return false;
  head->size = static_cast<u32>(bytes[0]) | static_cast<u32>(bytes[1]) << 8 | static_cast<u32>(bytes[2]) << 16 |
               static_cast<u32>(bytes[3]) << 24;
  head->type = bytes[4];
  return true;
}
