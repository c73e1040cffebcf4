// The launcher of programs: static, without a C library, a few pages of memory. It forks sandboxes as a zygote does, and
// each of them runs what the host asks for.
#include "launcher.h"
#include "supervisor.h"
#include "syscalls.h"

namespace {

Request request;
int error_number = 0;

int Fork() {
  long pid = Syscall(__NR_clone, SIGCHLD);
  if (pid < 0) error_number = static_cast<int>(-pid);
  return pid < 0 ? -1 : static_cast<int>(pid);
}

void DoNothing() {}

}  // namespace

extern "C" [[noreturn]] __attribute__((used)) void RunProgramLauncher() {
  const ForkParts parts = {DoNothing, Fork, DoNothing, DoNothing, &error_number};
  char ready = 'R';
  long result = LockDown(true);
  if (result >= 0) result = BecomeLauncher();
  if (result >= 0) result = Syscall(__NR_sendto, kControl, Word(&ready), 1, 0x4000 /* MSG_NOSIGNAL */, 0);
  if (result >= 0) result = ServeLauncher(&request, parts);
  if (result == static_cast<long>(kLeaf)) Supervise();
  for (;;) Syscall(__NR_exit_group, result == 0 ? 0 : 1);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: and $-16, %rsp\n call RunProgramLauncher\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: bl RunProgramLauncher\n");
#endif
