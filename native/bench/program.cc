// What benches run in sandboxes: the smallest program there can be.
//   program          ends at once, with 42: nothing else here ends like that
//   program WORD     waits for its end
#include "../guest/syscalls.h"

extern "C" [[noreturn]] __attribute__((used)) void RunProgram(long* stack) {
  while (stack[0] > 1) Syscall(__NR_ppoll, 0, 0, 0, 0, 0);
  for (;;) Syscall(__NR_exit_group, 42);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call RunProgram\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n bl RunProgram\n");
#endif
