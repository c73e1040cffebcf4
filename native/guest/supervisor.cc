#include "supervisor.h"

#include "channel.h"
#include "kernel.h"
#include "launcher.h"
#include "syscalls.h"

namespace {

constexpr u32 kMaxFrame = 1 << 20;
constexpr int kMaxRuns = 256;
constexpr int kMaxWords = 16384;
constexpr int kStreams = 3;

// Types of frames, as in src/sandbox/supervisor-protocol.ts.
enum : u32 { kRun = 32, kKill = 33, kRunFailed = 41, kExited = 42 };
// Steps of a run that can fail.
enum : u32 { kNoStep = 0, kRead, kFork, kPlace, kLimit, kChangeFolder, kFilter, kExecute };

enum : int { SIGNAL_BLOCK = 0, SIGNAL_SET = 2, RLIMIT_CPU = 0, RLIMIT_CORE = 4, ENOENT = 2, EACCES = 13, ENOTDIR = 20, EAGAIN_ERROR = 11 };

// The frame `kRun`: this, then NUL-terminated words: working folder, arguments, variables; then the instructions of a
// seccomp filter for it, if any. Its fds are 0, 1 and 2.
struct Run {
  u32 id, argument_count, variable_count, cpu_seconds, filter_size;
};
struct Kill {
  u32 id, signal;  // id 0: everything
};
struct __attribute__((packed)) RunFailed {
  u32 length;
  unsigned char type;
  u32 id, step, error;
};
struct __attribute__((packed)) Exited {
  u32 length;
  unsigned char type;
  u32 id, status;
  u64 user_us, system_us, peak_kib, full;
};
// Bits of Exited::full.
constexpr u64 kScratchFull = 1, kRootFull = 2;
struct FileSystem {  // struct statfs
  u64 type, block_size, blocks, free_blocks, available_blocks, inodes, free_inodes, others[8];
};
struct ResourceUsage {  // struct rusage
  long user[2], system[2], peak_kib, others[13];
};

struct {
  u32 id;
  int pid;
} runs[kMaxRuns];

struct {
  FrameHead head;
  FrameFds streams;
  char bytes[kMaxFrame + 1];
} frame;

char* words[kMaxWords + 2];

[[noreturn]] void Exit(int status) {
  Syscall(__NR_exit_group, status);
  __builtin_trap();  // a seccomp profile forbids to exit
}

void Send(const void* data, u64 size) { Syscall(__NR_sendto, kControl, Word(data), static_cast<long>(size), 0x4000 /* MSG_NOSIGNAL */); }

bool ReadFrame() {
  if (!ReadFrameHead(&frame.head, &frame.streams)) return false;
  if (frame.head.size > kMaxFrame || !ReadExactly(frame.bytes, frame.head.size, &frame.streams)) return false;
  if (frame.streams.count > kStreams) return false;
  frame.bytes[frame.head.size] = 0;
  return true;
}

u64 Length(const char* text) {
  u64 length = 0;
  while (text[length] != 0) length++;
  return length;
}

bool HasSlash(const char* text) {
  for (; *text != 0; text++) {
    if (*text == '/') return true;
  }
  return false;
}

// The value of PATH among the variables, or where programs usually are.
const char* SearchPath(char** variables) {
  for (; *variables != nullptr; variables++) {
    const char* each = *variables;
    if (each[0] == 'P' && each[1] == 'A' && each[2] == 'T' && each[3] == 'H' && each[4] == '=') return each + 5;
  }
  return "/usr/local/bin:/usr/bin:/bin";
}

// As execvp(3): answers why none of the candidates could be executed.
long Execute(char** arguments, char** variables) {
  const char* name = arguments[0];
  if (HasSlash(name)) return Syscall(__NR_execve, Word(name), Word(arguments), Word(variables));
  char candidate[4096];
  long result = -ENOENT;
  u64 name_length = Length(name);
  for (const char* path = SearchPath(variables); *path != 0;) {
    u64 length = 0;
    while (path[length] != 0 && path[length] != ':') length++;
    if (length > 0 && length + name_length + 2 <= sizeof candidate) {
      u64 at = 0;
      for (u64 i = 0; i < length; i++) candidate[at++] = path[i];
      candidate[at++] = '/';
      for (u64 i = 0; i <= name_length; i++) candidate[at++] = name[i];
      long tried = Syscall(__NR_execve, Word(candidate), Word(arguments), Word(variables));
      if (tried == -EACCES) result = tried;
      if (tried != -ENOENT && tried != -ENOTDIR && tried != -EACCES) return tried;
    }
    path += length;
    if (*path == ':') path++;
  }
  return result;
}

struct Failure {
  u32 step;
  long error;
};

// In the child: 0, 1 and 2 as they were sent, nothing else.
Failure PlaceStreams() {
  constexpr int kDuplicate = 1030;  // F_DUPFD_CLOEXEC
  int aside[kStreams];
  for (int i = 0; i < kStreams; i++) {
    long moved = Syscall(__NR_fcntl, frame.streams.fds[i], kDuplicate, kStreams);
    if (moved < 0) return {kPlace, moved};  // the limit of open files is too low even for this
    aside[i] = static_cast<int>(moved);
  }
  for (int i = 0; i < kStreams; i++) Syscall(__NR_dup3, aside[i], i, 0);
  Syscall(__NR_close_range, kStreams, ~0U, 0);
  return {kNoStep, 0};
}

// In the child.
Failure Become(const Run& run, char** arguments, char** variables, const char* folder) {
  Syscall(__NR_setsid);
  unsigned long none = 0;
  Syscall(__NR_rt_sigprocmask, SIGNAL_SET, Word(&none), 0, sizeof none);
  u64 no_core[2] = {0, 0};
  Syscall(__NR_prlimit64, 0, RLIMIT_CORE, Word(no_core), 0);
  if (run.cpu_seconds > 0) {
    u64 seconds[2] = {run.cpu_seconds, run.cpu_seconds + 1};
    long limited = Syscall(__NR_prlimit64, 0, RLIMIT_CPU, Word(seconds), 0);
    if (limited < 0) return {kLimit, limited};
  }
  long changed = Syscall(__NR_chdir, Word(folder));
  if (changed < 0) return {kChangeFolder, changed};
  if (run.filter_size > 0) {
    struct {
      u16 size;
      const char* instructions;
    } program = {static_cast<u16>(run.filter_size / 8), frame.bytes + frame.head.size - run.filter_size};
    long installed = Syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, Word(&program));
    if (installed < 0) return {kFilter, installed};
  }
  return {kExecute, Execute(arguments, variables)};
}

void TellFailure(u32 id, u32 step, long error) {
  RunFailed failed = {sizeof failed - kFrameHeader, kRunFailed, id, step, static_cast<u32>(-error)};
  Send(&failed, sizeof failed);
}

// Cuts the frame's words; answers their number, or -1 when the frame is not what it says.
int CutWords(u32 wanted) {
  if (wanted > kMaxWords) return -1;
  u32 count = 0;
  u32 end = frame.head.size - reinterpret_cast<Run*>(frame.bytes)->filter_size;
  for (u32 at = sizeof(Run); at < end && count < wanted; at += static_cast<u32>(Length(frame.bytes + at)) + 1) {
    words[count++] = frame.bytes + at;
  }
  return count == wanted ? static_cast<int>(count) : -1;
}

// What a child needs, and what it answers.
struct Child {
  const Run& run;
  char **arguments, **variables;
  volatile u32 step;
  volatile long error;
};

alignas(16) char child_stack[16384];

void RunChild(void* argument) {
  Child& child = *static_cast<Child*>(argument);
  Failure failure = PlaceStreams();
  if (failure.step == kNoStep) failure = Become(child.run, child.arguments, child.variables, words[0]);
  child.error = failure.error;
  child.step = failure.step;
  Exit(127);
}

void StartRun() {
  Run run = *reinterpret_cast<Run*>(frame.bytes);
  int slot = 0;
  while (slot < kMaxRuns && runs[slot].pid != 0) slot++;
  u32 wanted = 1 + run.argument_count + run.variable_count;
  if (frame.head.size < sizeof(Run) + run.filter_size || frame.streams.count != kStreams || run.argument_count == 0 || CutWords(wanted) < 0) {
    return TellFailure(run.id, kRead, -EPROTO);
  }
  if (slot == kMaxRuns) return TellFailure(run.id, kFork, -EAGAIN_ERROR);
  // words: folder, arguments, variables; each list ends with a null pointer, so the variables move up by one.
  char** arguments = words + 1;
  for (u32 i = wanted; i > 1 + run.argument_count; i--) words[i] = words[i - 1];
  words[1 + run.argument_count] = nullptr;
  char** variables = words + 2 + run.argument_count;
  words[wanted + 1] = nullptr;
  // The child runs in this memory until it executes or ends: so it can say there what failed.
  Child child = {run, arguments, variables, kNoStep, 0};
  long pid = CloneOnStack(CLONE_VM | CLONE_VFORK | SIGCHLD, child_stack + sizeof child_stack, RunChild, &child);
  if (pid < 0) return TellFailure(run.id, kFork, pid);
  if (child.step != kNoStep) return TellFailure(run.id, child.step, child.error);  // it is reaped with the others
  runs[slot].id = run.id;
  runs[slot].pid = static_cast<int>(pid);
}

void KillRun() {
  Kill kill = *reinterpret_cast<Kill*>(frame.bytes);
  if (frame.head.size < sizeof(Kill)) return;
  if (kill.id == 0) Syscall(__NR_kill, -1, kill.signal);
  for (auto& run : runs) {
    if (run.pid != 0 && run.id == kill.id) Syscall(__NR_kill, -run.pid, kill.signal);
  }
}

u64 Microseconds(const long (&time)[2]) { return static_cast<u64>(time[0]) * 1000000 + static_cast<u64>(time[1]); }

bool IsFull(const char* place) {
  FileSystem found = {};
  if (Syscall(__NR_statfs, Word(place), Word(&found)) < 0 || found.blocks == 0) return false;
  return found.free_blocks == 0 || found.free_inodes == 0;
}

// Reaps all that have ended; of orphans nobody is told.
void Reap() {
  for (;;) {
    int status = 0;
    ResourceUsage usage = {};
    long pid = Syscall(__NR_wait4, -1, Word(&status), WNOHANG, Word(&usage));
    if (pid <= 0) return;
    for (auto& run : runs) {
      if (run.pid != pid) continue;
      run.pid = 0;
      Exited exited = {sizeof exited - kFrameHeader, kExited, run.id, static_cast<u32>(status), Microseconds(usage.user),
                       Microseconds(usage.system), static_cast<u64>(usage.peak_kib),
                       (IsFull("/tmp") ? kScratchFull : 0) | (IsFull("/") ? kRootFull : 0)};
      Send(&exited, sizeof exited);
      break;
    }
  }
}

}  // namespace

void Supervise() {
  // What runs here has the same id: it shall not look into this process.
  Prctl(PR_SET_DUMPABLE, 0);
  Syscall(__NR_dup3, 0, 1, 0);
  Syscall(__NR_dup3, 0, 2, 0);
  unsigned long mask = 1UL << (SIGCHLD - 1);
  Syscall(__NR_rt_sigprocmask, SIGNAL_BLOCK, Word(&mask), 0, sizeof mask);
  int signals = static_cast<int>(Syscall(__NR_signalfd4, -1, Word(&mask), sizeof mask, O_CLOEXEC | O_NONBLOCK));
  for (;;) {
    PollFd waits[2] = {{kControl, 1, 0}, {signals, 1, 0}};
    Syscall(__NR_ppoll, Word(waits), 2, 0, 0, 0);
    if (waits[1].revents != 0) {
      char drained[256];
      while (Syscall(__NR_read, signals, Word(drained), sizeof drained) > 0) {
      }
    }
    Reap();
    if (waits[0].revents == 0) continue;
    if (!ReadFrame()) Exit(0);
    if (frame.head.type == kRun) StartRun();
    if (frame.head.type == kKill) KillRun();
    CloseFrameFds(&frame.streams);
  }
}
