// What the keeper's files share: owned fds, outcomes of steps, messages, and thin names for the mount API.
#pragma once
#include <fcntl.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace keeper {

using Words = std::vector<std::string>;

// A file descriptor that closes with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { Close(); }
  int get() const { return fd_; }
  void Close();

 private:
  int fd_;
};

// How a request or a step ended: with words and perhaps an fd, or with the step that failed.
struct Outcome {
  bool ok = true;
  Words words;
  Fd fd;
  pid_t pid = 0;
  static Outcome Ok(Words words = {}, Fd fd = Fd()) { return {true, std::move(words), std::move(fd), 0}; }
  static Outcome Failed(const std::string& step, int error, const std::string& path) {
    return {false, {step, std::to_string(error), path}, Fd(), 0};
  }
};

#define TRY(step, path, call) \
  do {                        \
    if ((call) < 0) return ::keeper::Outcome::Failed(step, errno, path); \
  } while (0)

Words Split(const char* bytes, size_t size);
ssize_t ReceiveBytes(int socket, char* bytes, size_t size, std::vector<Fd>* fds);
void Send(int socket, const Outcome& outcome);
// An end of file reads as a failure of the step "answer".
Outcome Receive(int socket);

// Runs steps in a throw-away child, so that what they do to their process ends with it.
Outcome InChild(const std::function<Outcome()>& steps);

Outcome WriteFile(const std::string& path, const std::string& text, int flags, mode_t mode = 0444);

// Consecutive ids of ours, for those from 0 on of somebody else.
struct Ids {
  id_t start, count;
};
// Gives supplementary groups up; where the user namespace lets nobody change them they stay.
Outcome DropGroups();
// Maps the ids of a process's user namespace.
Outcome WriteMaps(pid_t pid, const Ids& ids);
// Runs steps in a child in a user namespace of its own, as id 0 there.
Outcome InUserNamespace(const Ids& ids, const std::function<Outcome()>& steps);
// An fd by which mounts get that map.
Outcome OpenIdMap(const Ids& ids);
// Has files of 0 in a detached mount appear as those of the map's first id, and so on; `flags` are MOUNT_ATTR_ ones besides.
Outcome MapIds(int tree, int map, unsigned long long flags, const std::string& source);

pid_t Clone3(unsigned long flags, int* pidfd, int exit_signal);
// A clone of a mount; with what is mounted below it, where it is not ours to see what that covers (EINVAL).
int OpenTree(const char* path, unsigned flags, int directory = AT_FDCWD);
// Sets flags of a clone, and of what is below it.
int AddMountFlags(int tree, unsigned long long flags);
int MoveMount(int tree, const char* target, int folder = AT_FDCWD);

// What a root zygote's root is made of, and what runs in it.
enum class Op { kBind, kCopy, kProgram, kFile, kLink, kDirectory, kOverlay, kDevice, kShare, kWritable };
struct Operation {
  Op op;
  std::string first, path;
};
// Where what is written to the whole root goes: `tmpfs` OPTIONS or `folder` PATH. No kind: it is read-only.
struct Writable {
  std::string kind, where;
};
struct Plan {
  std::vector<Operation> operations;
  Words arguments, environment;
  bool own_network = true;
  Writable writable;
};
// Reads the words from `at`: an operation's name and its two words, again and again; then `exec`, the number of
// arguments, the arguments, the environment. Nothing has been done yet when they are no plan.
Outcome ParsePlan(const Words& words, size_t at, Plan* plan);

// Makes a root zygote by its plan: words are `spawn ID_START ID_COUNT` and then the plan; fds are the zygote's control socket, the liveness pipe's read end and the zygote's stderr. Answers the init's pid and pidfd.
Outcome SpawnRoot(const Words& words, const std::vector<Fd>& fds, const std::string& place);

// Assemble the plan's root in a tmpfs at `place`, enter it, and become the ids' first one.
Outcome EnterReadOnlyRoot(const Plan& plan, const std::string& place, id_t owner);
Outcome EnterWritableRoot(const Plan& plan, const std::string& place, const Ids& ids);

// Tries one thing of the kernel in a child: words are `probe NAME` and its arguments (see probe.cc). `place` is an
// empty folder that it may mount on.
Outcome RunProbe(const Words& words, const std::string& place);

}  // namespace keeper
