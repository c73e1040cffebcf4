// What a spare's second wall and its filter take at its hand-over, by the code that it runs: Landlock's rules for a function
// (nothing but devices, proc and /tmp can be written to), then the strict seccomp filter.
//   walls COUNT      prints COUNT times {"landlockNs":N,"filterNs":N}, each of a process of its own
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../filters/filters.h"
#include "../guest/landlock.h"

// As in setup.cc.
const char* NextWord(const char* word) {
  while (*word != 0) word++;
  return word + 1;
}

namespace {

constexpr int kFailed = 1;

long long Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

[[noreturn]] void Fail(const char* step) {
  perror(step);
  _exit(kFailed);
}

[[noreturn]] void BuildWalls() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail("no new privileges");
  const long long began = Now();
  if (Enclose({true, false, "", 0}) < 0) Fail("Landlock");
  const long long enclosed = Now();
  const struct {
    unsigned short size;
    const FilterInstruction* instructions;
  } filter = {sizeof kLeafFilter / sizeof kLeafFilter[0], kLeafFilter};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) Fail("filter");
  dprintf(STDOUT_FILENO, "{\"landlockNs\":%lld,\"filterNs\":%lld}\n", enclosed - began, Now() - enclosed);
  _exit(0);
}

}  // namespace

int main(int count, char** words) {
  for (int left = count == 2 ? atoi(words[1]) : 0; left > 0; left--) {
    const pid_t child = fork();
    if (child < 0) Fail("fork");
    if (child == 0) BuildWalls();
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) return kFailed;
  }
  return 0;
}
