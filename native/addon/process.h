// Processes by pidfd, and the calls that Node lacks: plain C++, answers are 0 or more, else -errno.
#pragma once
#include <string>
#include <vector>

namespace forktree {

struct Spawned {
  int pid;
  int pidfd;
};

// Starts a program with exactly `fds` as its 0, 1, 2, ... and an empty environment. Answers 0, else -errno.
int Spawn(const std::string& path, const std::vector<std::string>& arguments, const std::vector<int>& fds, Spawned* spawned);

// pidfd_send_signal(2).
int SignalProcess(int pidfd, int signal);

// The wait status of a process that ended, also of one that is not ours (Linux 6.15+). kStatusUnknown elsewhere.
constexpr int kStatusUnknown = -1;
int ExitStatus(int pidfd);

// Reaps a child of ours that has ended, so that no zombie stays.
void ReapChild(int pidfd);

// Opens (and makes) a file and takes its flock(2) without waiting. An fd, or -errno: -EWOULDBLOCK when it is taken.
int LockFile(const std::string& path, bool create);

// The number at the start of a control file that is open. -1 when it can't be read.
double ReadNumber(int fd);

}  // namespace forktree
