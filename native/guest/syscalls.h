// System calls without a C library, so that what runs in the guest is independent of the libc there.
// Every call answers the kernel's value; a negative answer is -errno.
#pragma once
#include <asm/unistd.h>

static inline long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = 0;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = 0;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
  return x0;
#else
#error "forktree supports x86-64 and arm64"
#endif
}

// Forks a child that runs `function(argument)`, which must not return, on a stack of its own in this memory; by the flags
// CLONE_VM | CLONE_VFORK this process goes on when the child has executed something or ended. Answers the child's pid.
static inline long CloneOnStack(long flags, void* stack_top, void (*function)(void*), void* argument) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = 0;
  register long r8 __asm__("r8") = 0;
  register void (*r12)(void*) __asm__("r12") = function;
  register void* r13 __asm__("r13") = argument;
  __asm__ volatile(
      "syscall\n test %%rax, %%rax\n jnz 1f\n xor %%ebp, %%ebp\n mov %%r13, %%rdi\n call *%%r12\n ud2\n1:"
      : "=a"(result)
      : "0"(__NR_clone), "D"(flags), "S"(stack_top), "d"(0L), "r"(r10), "r"(r8), "r"(r12), "r"(r13)
      : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = __NR_clone;
  register long x0 __asm__("x0") = flags;
  register void* x1 __asm__("x1") = stack_top;
  register long x2 __asm__("x2") = 0;
  register long x3 __asm__("x3") = 0;
  register long x4 __asm__("x4") = 0;
  register void (*x19)(void*) __asm__("x19") = function;
  register void* x20 __asm__("x20") = argument;
  __asm__ volatile("svc 0\n cbnz x0, 1f\n mov x29, 0\n mov x0, x20\n blr x19\n brk 1\n1:"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19), "r"(x20)
                   : "memory", "cc");
  return x0;
#endif
}

template <typename T>
static inline long Word(T* pointer) {
  return reinterpret_cast<long>(pointer);
}
