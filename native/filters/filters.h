// The two seccomp filters as bytes. Uses no libc header, so that it can be
// included from freestanding code.
#ifndef FORKTREE_FILTERS_H
#define FORKTREE_FILTERS_H

// The same layout as the kernel's struct sock_filter.
struct FilterInstruction {
  unsigned short code;
  unsigned char jt, jf;
  unsigned int k;
};
static_assert(sizeof(FilterInstruction) == 8, "must match struct sock_filter");

// kZygoteFilter and kLeafFilter; see README.md. The number of instructions is
// sizeof(kLeafFilter) / sizeof(kLeafFilter[0]).
#if defined(__x86_64__) && !defined(__ILP32__)
#include "filters_x64.h"
#elif defined(__aarch64__) && defined(__AARCH64EL__) && !defined(__ILP32__)
#include "filters_arm64.h"
#else
#error "forktree has seccomp filters for x86-64 and little-endian arm64 only"
#endif

#endif  // FORKTREE_FILTERS_H
