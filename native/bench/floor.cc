// The host's side of the floor: what makes and removes what floor_sandbox.cc works in. Nothing here is timed.
//   floor MOUNTPOINT GROUP HIERARCHY... -- WORDS...
// MOUNTPOINT is an empty folder; GROUP the name of the cgroups to make, which must be new; HIERARCHY is
// VERSION:FOLDER:CONTROLLERS, the last as written to cgroup.subtree_control on v2; WORDS is a keeper's request `spawn`, see
// root.cc: so the root is assembled by the very code that assembles those of sandboxes.
// What is in the root gets our stdin, our stdout and the groups' folders on its fd 3. It ends with stdin, and we with it.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "../keeper/keeper.h"

namespace {

using keeper::Fd;
using keeper::Outcome;
using keeper::Words;

constexpr int kCleanSeconds = 10;

struct Hierarchy {
  bool v2;
  std::string parent, controllers, folder;
};

std::vector<Hierarchy> hierarchies;

[[noreturn]] void Fail(const std::string& step, int error) {
  fprintf(stderr, "floor: %s: %s\n", step.c_str(), strerror(error));
  exit(1);
}

void Check(bool ok, const std::string& step) {
  if (!ok) Fail(step, errno);
}

Hierarchy ParseHierarchy(const std::string& word, const std::string& name) {
  size_t first = word.find(':'), last = word.rfind(':');
  if (first == std::string::npos || first == last) Fail("understand " + word, EINVAL);
  std::string parent = word.substr(first + 1, last - first - 1);
  return {word[0] == '2', parent, word.substr(last + 1), parent + "/" + name};
}

void Write(const std::string& path, const std::string& text) {
  Outcome written = keeper::WriteFile(path, text, 0);
  if (!written.ok) Fail("write " + path, atoi(written.words[1].c_str()));
}

// Kills who is in a group and those below, and removes them. False: somebody is still there.
bool RemoveGroup(const std::string& folder) {
  std::ifstream processes(folder + "/cgroup.procs");
  for (pid_t pid; processes >> pid;) {
    if (pid > 0 && pid != getpid()) kill(pid, SIGKILL);
  }
  bool removed = true;
  if (DIR* entries = opendir(folder.c_str())) {
    while (dirent* entry = readdir(entries)) {
      if (entry->d_type == DT_DIR && entry->d_name[0] != '.') removed &= RemoveGroup(folder + "/" + entry->d_name);
    }
    closedir(entries);
  }
  return rmdir(folder.c_str()) == 0 ? removed : errno == ENOENT;
}

// No event tells when the last process has left a group, so the kernel is asked again until the deadline.
bool RemoveGroups() {
  time_t deadline = time(nullptr) + kCleanSeconds;
  for (const Hierarchy& each : hierarchies) {
    while (!RemoveGroup(each.folder)) {
      if (time(nullptr) > deadline) return false;
    }
  }
  return true;
}

// A process that outlives us, if only to remove the groups when we were killed. Answers what tells it by being closed.
int StartCleaner() {
  int pair[2];
  Check(pipe2(pair, O_CLOEXEC) == 0, "pipe");
  pid_t pid = fork();
  Check(pid >= 0, "fork");
  if (pid > 0) {
    close(pair[0]);
    return pair[1];
  }
  setsid();
  for (int each : {SIGINT, SIGTERM, SIGHUP}) signal(each, SIG_IGN);
  close(0);
  close(1);
  close(pair[1]);
  char byte;
  while (read(pair[0], &byte, 1) < 0 && errno == EINTR) {
  }
  _exit(RemoveGroups() ? 0 : 1);
}

void Own(const std::string& path, id_t owner) { Check(chown(path.c_str(), owner, owner) == 0, "chown " + path); }

// The groups belong to whoever is root in the sandboxes' user namespace: one process can so do everything, without asking
// another for each sandbox.
void MakeGroups(id_t owner) {
  for (const Hierarchy& each : hierarchies) {
    if (each.v2 && !each.controllers.empty()) Write(each.parent + "/cgroup.subtree_control", each.controllers);
    Check(mkdir(each.folder.c_str(), 0755) == 0, "mkdir " + each.folder);
    if (each.v2 && !each.controllers.empty()) Write(each.folder + "/cgroup.subtree_control", each.controllers);
    Own(each.folder, owner);
    Own(each.folder + "/cgroup.procs", owner);
    std::string own = each.folder + "/server";
    Check(mkdir(own.c_str(), 0755) == 0, "mkdir " + own);
    Own(own + "/cgroup.procs", owner);
  }
}

void SendFds(int socket, const std::vector<int>& fds) {
  char byte = 0;
  iovec vector = {&byte, 1};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  Check(sendmsg(socket, &message, MSG_NOSIGNAL) == 1, "send fds");
}

void Join() {
  for (const Hierarchy& each : hierarchies) Write(each.folder + "/server/" + (each.v2 ? "cgroup.procs" : "tasks"), "0");
}

// Makes what is in the root, and waits for its end.
void Serve(const std::string& mount_point, const Words& words) {
  int control[2], liveness[2];
  Check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) == 0, "socketpair");
  Check(pipe2(liveness, O_CLOEXEC) == 0, "pipe");
  std::vector<Fd> fds;
  fds.emplace_back(control[1]);
  fds.emplace_back(liveness[0]);
  fds.emplace_back(fcntl(2, F_DUPFD_CLOEXEC, 3));
  Outcome spawned = keeper::SpawnRoot(words, fds, mount_point);
  if (!spawned.ok) Fail("make the root: " + spawned.words[0] + " " + spawned.words[2], atoi(spawned.words[1].c_str()));
  fds.clear();
  std::vector<int> given = {0, 1};
  for (const Hierarchy& each : hierarchies) {
    given.push_back(open(each.folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    Check(given.back() >= 0, "open " + each.folder);
  }
  SendFds(control[0], given);
  while (waitpid(spawned.pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

// Until it has ended, or has had its time for that since stdin ended.
void AwaitEnd(pid_t server) {
  Fd process(static_cast<int>(syscall(SYS_pidfd_open, server, 0)));
  Check(process.get() >= 0, "pidfd_open");
  pollfd waits[2] = {{process.get(), POLLIN, 0}, {0, 0, 0}};  // of the second POLLHUP is told unasked
  while (poll(waits, 2, -1) < 0 && errno == EINTR) {
  }
  if (waits[0].revents == 0) poll(waits, 1, kCleanSeconds * 1000);
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::string> all(arguments, arguments + count);
  auto end = std::find(all.begin(), all.end(), "--");
  if (end - all.begin() < 4 || all.end() - end < 4) {
    fprintf(stderr, "usage: floor MOUNTPOINT GROUP HIERARCHY... -- spawn ID_START ID_COUNT ...\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  for (auto each = all.begin() + 3; each != end; each++) hierarchies.push_back(ParseHierarchy(*each, all[2]));
  Words words(end + 1, all.end());
  int cleaner = StartCleaner();
  MakeGroups(static_cast<id_t>(strtoul(words[1].c_str(), nullptr, 10)));
  pid_t server = fork();
  Check(server >= 0, "fork");
  if (server == 0) {
    close(cleaner);  // it is told by our end alone
    Join();
    Serve(all[1], words);
    _exit(0);
  }
  close(1);
  AwaitEnd(server);
  int status = 0;
  bool ended = waitpid(server, &status, WNOHANG) == server;
  if (!RemoveGroups()) Fail("remove the groups", EBUSY);
  return ended && status == 0 ? 0 : 1;
}
