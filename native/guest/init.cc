// Process 1 of a zygote's pid namespace: static, without a C library, a few pages of memory.
//   init FD    FD is the read end of the host's liveness pipe, or "-" for an init below another one.
// It reaps every orphan, and exits when the host's end of the pipe closes (the kernel then kills the whole namespace
// and all namespaces below it) or when no child is left.
#include "syscalls.h"

namespace {

constexpr int kSigchld = 17;
constexpr long kNoChild = -10;  // ECHILD
constexpr int kNoHang = 1;      // WNOHANG
constexpr int kBlock = 0;       // SIG_BLOCK
constexpr int kSignalFdFlags = 02000000 | 04000;  // SFD_CLOEXEC | SFD_NONBLOCK

struct PollFd {
  int fd;
  short events, revents;
};

bool ReapAll() {  // true when nobody is left
  for (;;) {
    long result = Syscall(__NR_wait4, -1, 0, kNoHang, 0);
    if (result == 0) return false;
    if (result < 0) return result == kNoChild;
  }
}

int ParseFd(const char* text) {
  if (text == nullptr || *text == '-') return -1;
  int fd = 0;
  for (; *text >= '0' && *text <= '9'; text++) fd = fd * 10 + (*text - '0');
  return fd;
}

}  // namespace

extern "C" [[noreturn]] __attribute__((used)) void RunInit(long* stack) {
  char** arguments = reinterpret_cast<char**>(stack + 1);
  int liveness = ParseFd(arguments[1]);
  unsigned long mask = 1UL << (kSigchld - 1);
  Syscall(__NR_rt_sigprocmask, kBlock, Word(&mask), 0, sizeof mask);
  int signals = static_cast<int>(Syscall(__NR_signalfd4, -1, Word(&mask), sizeof mask, kSignalFdFlags));
  while (!ReapAll()) {
    PollFd waits[2] = {{signals, 1 /* POLLIN */, 0}, {liveness, 0, 0}};  // POLLHUP is reported unasked
    Syscall(__NR_ppoll, Word(waits), liveness < 0 ? 1 : 2, 0, 0, 0);
    if (waits[1].revents != 0) break;
    char drained[128];
    while (Syscall(__NR_read, signals, Word(drained), sizeof drained) > 0) {
    }
  }
  for (;;) Syscall(__NR_exit_group, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call RunInit\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n bl RunInit\n");
#endif
