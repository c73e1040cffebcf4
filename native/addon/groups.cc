#include "groups.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

namespace forktree {
namespace {

constexpr long kRemoveSeconds = 2;

int WriteControl(const std::string& path, const std::string& value) {
  int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) return -errno;
  int result = write(file, value.data(), value.size()) < 0 ? -errno : 0;
  close(file);
  return result;
}

int TakeStep(const GroupStep& step, std::vector<int>* joins) {
  switch (step.kind) {
    case GroupStep::kMake:
      return mkdir(step.path.c_str(), 0755) < 0 ? -errno : 0;
    case GroupStep::kSet:
      return WriteControl(step.path, step.value);
    case GroupStep::kTry: {
      int result = WriteControl(step.path, step.value);
      return result == -ENOENT ? 0 : result;
    }
    case GroupStep::kJoin: {
      int file = open(step.path.c_str(), O_WRONLY | O_CLOEXEC);
      if (file < 0) return -errno;
      joins->push_back(file);
      return 0;
    }
  }
  return -EINVAL;
}

std::string Describe(const GroupStep& step) {
  if (step.kind == GroupStep::kMake) return "make cgroup";
  return step.kind == GroupStep::kJoin ? "open cgroup" : "write " + step.value + " to";
}

long Now() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

}  // namespace

std::vector<int> MakeGroup(const std::vector<GroupStep>& steps, GroupFailure* failure) {
  std::vector<int> joins;
  std::vector<std::string> made;
  for (const GroupStep& step : steps) {
    int result = TakeStep(step, &joins);
    if (result < 0) {
      *failure = {result, Describe(step), step.path};
      for (int join : joins) close(join);
      for (auto folder = made.rbegin(); folder != made.rend(); folder++) rmdir(folder->c_str());
      return {};
    }
    if (step.kind == GroupStep::kMake) made.push_back(step.path);
  }
  return joins;
}

GroupFailure RemoveGroup(const std::vector<std::string>& folders) {
  GroupFailure failure = {0, "", ""};
  const long deadline = Now() + kRemoveSeconds;
  for (const std::string& folder : folders) {
    while (rmdir(folder.c_str()) < 0 && errno != ENOENT) {
      if (errno == EBUSY && Now() < deadline) {
        sched_yield();
        continue;
      }
      failure = {-errno, "remove cgroup", folder};  // the others go all the same
      break;
    }
  }
  return failure;
}

int ReadControl(const std::string& path, std::string* text) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return -errno;
  char bytes[4096];
  ssize_t size;
  while ((size = read(file, bytes, sizeof bytes)) > 0) text->append(bytes, static_cast<size_t>(size));
  int result = size < 0 ? -errno : 0;
  close(file);
  return result;
}

double ReadCounter(int file, const std::string& name) {
  char bytes[4096];
  ssize_t size = pread(file, bytes, sizeof bytes - 1, 0);
  if (size <= 0) return 0;
  bytes[size] = '\0';
  const std::string start = name + " ";
  for (const char* line = bytes; line != nullptr; line = strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (strncmp(line, start.c_str(), start.size()) == 0) return strtod(line + start.size(), nullptr);
  }
  return 0;
}

}  // namespace forktree
