// Control groups: a whole one in one call, so that Node's own thread need not wait for it.
#pragma once
#include <string>
#include <vector>

namespace forktree {

// A step of making a group. `kSet` writes `value`; `kTry` does where the file is; `kJoin` opens a file that a process joins by.
struct GroupStep {
  enum Kind { kMake, kSet, kTry, kJoin } kind;
  std::string path, value;
};

// What went wrong, if `error`, which is -errno, is not 0.
struct GroupFailure {
  int error;
  std::string step, path;
};

// Takes all steps, and answers the fds to join by; after a failure nothing is left.
std::vector<int> MakeGroup(const std::vector<GroupStep>& steps, GroupFailure* failure);

// Removes folders of groups in which every process has ended. One may count for a moment longer (its pidfd is readable
// before its last thread has left), and no event tells when: so the kernel is asked again, until a deadline.
GroupFailure RemoveGroup(const std::vector<std::string>& folders);

// The text of a control file; answers -errno when it can't be read.
int ReadControl(const std::string& path, std::string* text);

// The number after `name` and a space at the start of a line of an open control file. 0 when there is none.
double ReadCounter(int file, const std::string& name);

}  // namespace forktree
