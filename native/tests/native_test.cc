// Checks the native parts that do not need Node: processes, messages, and the keeper over its socket (as root).
//   native_test KEEPER INIT      paths of the two programs, for the keeper's checks
// Prints one line per check and exits with 1 if any failed.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../addon/accept.h"
#include "../addon/frames.h"
#include "../addon/groups.h"
#include "../addon/pages.h"
#include "../addon/process.h"
#include "../addon/tree.h"
#include "../guest/hand_over.h"
#include "../guest/landlock.h"
#include "../guest/network.h"
#include "../keeper/keeper.h"

extern char** environ;

namespace {

using keeper::Fd;
using keeper::Outcome;
using keeper::Words;

int failed = 0;

void Check(bool ok, const std::string& what, const std::string& detail = "") {
  if (ok) {
    printf("ok   %s\n", what.c_str());
  } else {
    printf("FAIL %s%s%s\n", what.c_str(), detail.empty() ? "" : ": ", detail.c_str());
    failed++;
  }
}

void CheckEqual(long got, long expected, const std::string& what) {
  Check(got == expected, what, "expected " + std::to_string(expected) + ", got " + std::to_string(got));
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteText(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

std::set<int> OpenFds() {
  std::set<int> fds;
  DIR* folder = opendir("/proc/self/fd");
  while (dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') fds.insert(atoi(entry->d_name));
  }
  fds.erase(dirfd(folder));
  closedir(folder);
  return fds;
}

std::string InodeOf(int fd) {
  struct stat status;
  return fstat(fd, &status) < 0 ? "none" : std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
}

bool WaitForEnd(int pidfd) {
  pollfd wait = {pidfd, POLLIN, 0};
  return poll(&wait, 1, 10000) == 1;
}

std::string ReadAll(int fd) {
  std::string text;
  char bytes[4096];
  for (ssize_t size; (size = read(fd, bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<size_t>(size));
  return text;
}

// A folder of the test's own, removed with it.
struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/forktree-native-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() {
    std::string command = "rm -rf '" + path + "'";
    if (system(command.c_str()) != 0) perror("rm");
  }
};

// What the test program does when it is started by itself: says what it was given.
int Probe() {
  std::set<int> fds = OpenFds();
  std::string status = ReadText("/proc/self/status");
  auto field = [&](const std::string& name) {
    size_t at = status.find(name + ":\t");
    return at == std::string::npos ? "?" : status.substr(at + name.size() + 2, 16);
  };
  for (int fd : fds) printf("fd %d %s\n", fd, InodeOf(fd).c_str());
  int variables = 0;
  while (environ[variables] != nullptr) variables++;
  printf("variables %d\nblocked %s\nignored %s\n", variables, field("SigBlk").c_str(), field("SigIgn").c_str());
  return 0;
}

void CheckSpawn() {
  std::set<int> before = OpenFds();
  {
    int pair[2];
    if (pipe2(pair, O_CLOEXEC) < 0) return Check(false, "spawn: pipe");
    Fd output(pair[0]), input(pair[1]);
    Fd null(open("/dev/null", O_RDWR | O_CLOEXEC)), zero(open("/dev/zero", O_RDWR | O_CLOEXEC));
    // In an order that differs from their numbers, one twice, one left out.
    std::vector<int> fds = {zero.get(), input.get(), 2, input.get(), null.get()};
    std::string expected;
    for (size_t i = 0; i < fds.size(); i++) expected += "fd " + std::to_string(i) + " " + InodeOf(fds[i]) + "\n";
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    signal(SIGPIPE, SIG_IGN);
    forktree::Spawned spawned = {};
    CheckEqual(forktree::Spawn("/proc/self/exe", {"native_test", "--probe"}, fds, &spawned), 0, "spawn: starts a program");
    sigset_t now;
    sigprocmask(SIG_UNBLOCK, &blocked, &now);
    signal(SIGPIPE, SIG_DFL);
    Check(sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGUSR2) == 0, "spawn: our signal mask is as before");
    input.Close();
    std::string said = ReadAll(output.get());
    Check(said.rfind(expected, 0) == 0 && said.find("fd 5") == std::string::npos, "spawn: exactly the given fds", said);
    Check(said.find("variables 0\n") != std::string::npos, "spawn: no environment");
    Check(said.find("blocked 0000000000000000\nignored 0000000000000000\n") != std::string::npos, "spawn: no signal blocked or ignored");
    Check(WaitForEnd(spawned.pidfd), "spawn: its pidfd tells of the end");
    forktree::ReapChild(spawned.pidfd);
    CheckEqual(waitpid(-1, nullptr, WNOHANG), -1, "reap: no child is left");
    close(spawned.pidfd);
  }
  forktree::Spawned none = {-1, -1};
  CheckEqual(forktree::Spawn("/nonexistent/program", {"x"}, {0, 1, 2}, &none), -ENOENT, "spawn: a missing program");
  CheckEqual(forktree::Spawn("/dev/null", {"x"}, {0, 1, 2}, &none), -EACCES, "spawn: not a program");
  CheckEqual(forktree::Spawn("/bin/true", {"true"}, {0, 1, 499}, &none), -EBADF, "spawn: an fd that is not open");
  CheckEqual(none.pidfd, -1, "spawn: a failure hands out nothing");
  CheckEqual(waitpid(-1, nullptr, WNOHANG), -1, "spawn: a failure leaves no child");
  Check(OpenFds() == before, "spawn: no fd is left");
}

void CheckEnds() {
  forktree::Spawned spawned = {};
  if (forktree::Spawn("/bin/sleep", {"sleep", "60"}, {0, 1, 2}, &spawned) < 0) return Check(false, "end: start sleep");
  CheckEqual(forktree::SignalProcess(spawned.pidfd, 0), 0, "signal: a live process");
  CheckEqual(forktree::SignalProcess(spawned.pidfd, 999), -EINVAL, "signal: no such signal");
  CheckEqual(forktree::ExitStatus(spawned.pidfd), forktree::kStatusUnknown, "exit status: unknown while it runs");
  forktree::ReapChild(spawned.pidfd);
  CheckEqual(forktree::SignalProcess(spawned.pidfd, SIGKILL), 0, "reap: leaves a running child alone");
  Check(WaitForEnd(spawned.pidfd), "signal: SIGKILL ends it");
  forktree::ReapChild(spawned.pidfd);
  CheckEqual(forktree::SignalProcess(spawned.pidfd, 0), -ESRCH, "signal: an ended process");
  int killed = forktree::ExitStatus(spawned.pidfd);
  Check(killed == SIGKILL || killed == forktree::kStatusUnknown, "exit status: killed", std::to_string(killed));
  close(spawned.pidfd);
  if (forktree::Spawn("/bin/sh", {"sh", "-c", "exit 7"}, {0, 1, 2}, &spawned) < 0) return Check(false, "end: start sh");
  Check(WaitForEnd(spawned.pidfd), "exit: ends");
  forktree::ReapChild(spawned.pidfd);
  int exited = forktree::ExitStatus(spawned.pidfd);
  Check(exited == 7 << 8 || exited == forktree::kStatusUnknown, "exit status: exited", std::to_string(exited));
  close(spawned.pidfd);
  CheckEqual(forktree::ExitStatus(0), forktree::kStatusUnknown, "exit status: of something that is no process");
  CheckEqual(forktree::SignalProcess(-1, 0), -EBADF, "signal: of something that is no process");
}

void CheckLocks() {
  Folder folder;
  std::string file = folder.path + "/lock";
  CheckEqual(forktree::LockFile(file, false), -ENOENT, "lock: none that was there");
  Check(access(file.c_str(), F_OK) < 0, "lock: none is made");
  int first = forktree::LockFile(file, true);
  Check(first >= 0, "lock: free");
  Check((fcntl(first, F_GETFD) & FD_CLOEXEC) != 0, "lock: not inherited by programs");
  CheckEqual(forktree::LockFile(file, true), -EWOULDBLOCK, "lock: taken");
  close(first);
  int second = forktree::LockFile(file, false);
  Check(second >= 0, "lock: free again");
  close(second);
  CheckEqual(forktree::LockFile(folder.path + "/none/lock", true), -ENOENT, "lock: no such folder");
  if (symlink(file.c_str(), (folder.path + "/link").c_str()) < 0) perror("symlink");
  CheckEqual(forktree::LockFile(folder.path + "/link", true), -ELOOP, "lock: a link is not followed");
}

Words SplitText(const std::string& text) { return keeper::Split(text.data(), text.size()); }

void CheckMessages() {
  using namespace std::string_literals;
  Check(SplitText("").empty(), "split: nothing");
  Check(SplitText("one\0two\0"s) == Words({"one", "two"}), "split: two words");
  Check(SplitText("\0\0x\0"s) == Words({"", "", "x"}), "split: empty words");
  Check(SplitText("one\0tw"s) == Words({"one", "tw"}), "split: no NUL at the end");

  std::set<int> before = OpenFds();
  {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return Check(false, "message: socketpair");
    Fd ours(pair[0]), theirs(pair[1]);
    Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    std::string inode = InodeOf(null.get());
    keeper::Send(theirs.get(), Outcome::Ok({"a", "", "c"}, std::move(null)));
    Outcome ok = keeper::Receive(ours.get());
    Check(ok.ok && ok.words == Words({"a", "", "c"}), "message: words arrive");
    Check(InodeOf(ok.fd.get()) == inode, "message: an fd arrives");
    Check((fcntl(ok.fd.get(), F_GETFD) & FD_CLOEXEC) != 0, "message: a received fd is not inherited by programs");
    keeper::Send(theirs.get(), Outcome::Failed("mount", EPERM, "/x"));
    Outcome no = keeper::Receive(ours.get());
    Check(!no.ok && no.words == Words({"mount", "1", "/x"}) && no.fd.get() < 0, "message: a failed step arrives");
    int both[2] = {0, 1};
    char bytes[] = "two";
    iovec vector = {bytes, 4};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof both)] = {};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof both);
    memcpy(CMSG_DATA(header), both, sizeof both);
    sendmsg(theirs.get(), &message, 0);
    std::vector<Fd> fds;
    char received[16];
    CheckEqual(keeper::ReceiveBytes(ours.get(), received, sizeof received, &fds), 4, "message: its size");
    CheckEqual(static_cast<long>(fds.size()), 2, "message: two fds arrive");
    theirs.Close();
    Outcome end = keeper::Receive(ours.get());
    Check(!end.ok && end.words == Words({"answer", std::to_string(EPIPE), ""}), "message: an end of file is a failure");
    Fd pipe_end(dup(ours.get()));
    keeper::Send(pipe_end.get(), Outcome::Ok());  // nobody is there: no signal, no crash
    Check(true, "message: sending to nobody is harmless");
    Fd moved = std::move(pipe_end);
    moved = std::move(ours);
    Check(fcntl(moved.get(), F_GETFD) >= 0, "fd: moves keep it open");
  }
  Check(OpenFds() == before, "message: no fd is left");
}

// The keeper as the host sees it.
class Client {
 public:
  Client(const std::string& program, const std::string& mount_point) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return;
    socket_ = Fd(pair[0]);
    Fd theirs(pair[1]);
    forktree::Spawned spawned = {};
    if (forktree::Spawn(program, {"forktree-keeper", mount_point}, {0, 1, 2, theirs.get()}, &spawned) < 0) return;
    process_ = Fd(spawned.pidfd);
  }
  Outcome Answer() { return keeper::Receive(socket_.get()); }
  Outcome Ask(const Words& words, const std::vector<int>& fds = {}) {
    std::string text;
    for (const std::string& word : words) text.append(word).push_back('\0');
    iovec vector = {text.data(), text.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
    }
    sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    return Answer();
  }
  bool End() {
    socket_.Close();
    bool ended = WaitForEnd(process_.get());
    forktree::ReapChild(process_.get());
    return ended;
  }

 private:
  Fd socket_, process_;
};

std::string Describe(const Outcome& outcome) {
  std::string text = outcome.ok ? "ok" : "no";
  for (const std::string& word : outcome.words) text += " " + word;
  return text;
}

// Runs steps in a child with a mount namespace of its own, also a user namespace if asked; 0 when all went as expected.
template <typename Steps>
int InNamespace(bool user, Steps steps) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS | (user ? CLONE_NEWUSER : 0)) < 0) _exit(100);
    if (user) {
      WriteText("/proc/self/setgroups", "deny");
      WriteText("/proc/self/uid_map", "0 0 1");
      WriteText("/proc/self/gid_map", "0 0 1");
    }
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) _exit(101);
    _exit(steps());
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

int Clear(const std::string& path, unsigned long long flag) {
  mount_attr attributes = {};
  attributes.attr_clr = flag;
  return syscall(SYS_mount_setattr, AT_FDCWD, path.c_str(), 0, &attributes, sizeof attributes) < 0 ? errno : 0;
}

// Numbers say which step went otherwise.
int TryToWrite(int tree, const std::string& target) {
  if (keeper::MoveMount(tree, target.c_str()) < 0) return 1;
  if (ReadText(target + "/file") != "text") return 2;
  if (open((target + "/file").c_str(), O_WRONLY) >= 0 || errno != EROFS) return 3;
  if (open((target + "/new").c_str(), O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS) return 4;
  if (mount(nullptr, target.c_str(), nullptr, MS_REMOUNT | MS_BIND, nullptr) == 0 || errno != EPERM) return 5;
  for (unsigned long long flag : {MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV}) {
    if (Clear(target, flag) != EPERM) return 6;
  }
  if (open((target + "/file").c_str(), O_WRONLY) >= 0) return 7;
  return 0;
}

// The same without the lock, to show that the checks above can fail.
int WriteToOwnMount(const std::string& source) {
  if (mount(source.c_str(), source.c_str(), nullptr, MS_BIND, nullptr) < 0) return 1;
  if (mount(nullptr, source.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) < 0) return 2;
  if (Clear(source, MOUNT_ATTR_RDONLY) != 0) return 3;
  return open((source + "/file").c_str(), O_WRONLY) >= 0 ? 0 : 4;
}

void CheckLockedFolders(Client& client, const std::string& home) {
  std::string source = home + "/source", target = home + "/target";
  mkdir(source.c_str(), 0755);
  mkdir(target.c_str(), 0755);
  WriteText(source + "/file", "text");
  Outcome locked = client.Ask({"lock", "id", source});
  Check(locked.ok, "keeper: locks a folder", Describe(locked));
  Outcome first = client.Ask({"clone", "id"}), second = client.Ask({"clone", "id"});
  Check(first.ok && first.fd.get() >= 0 && second.ok, "keeper: clones it", Describe(first));
  CheckEqual(InNamespace(false, [&] { return TryToWrite(first.fd.get(), target); }), 0, "keeper: a clone stays read-only for root");
  CheckEqual(InNamespace(true, [&] { return TryToWrite(second.fd.get(), target); }), 0,
             "keeper: a clone stays read-only in a user namespace");
  CheckEqual(InNamespace(true, [&] { return WriteToOwnMount(source); }), 0, "keeper: without the lock it would not");
  WriteText(source + "/file", "text");
  Check(!client.Ask({"lock", "id", source}).ok, "keeper: an id is used once");
  Outcome third = client.Ask({"clone", "id"});
  Check(client.Ask({"unlock", "id"}).ok && client.Ask({"unlock", "id"}).ok, "keeper: unlocks, also twice");
  CheckEqual(InNamespace(true, [&] { return TryToWrite(third.fd.get(), target); }), 0, "keeper: clones outlive the lock");
  Outcome gone = client.Ask({"clone", "id"});
  Check(!gone.ok && gone.words.size() == 3 && gone.words[1] == std::to_string(ENOENT), "keeper: no clone without a lock", Describe(gone));
  Outcome missing = client.Ask({"lock", "other", home + "/missing"});
  Check(!missing.ok && missing.words == Words({"open", std::to_string(ENOENT), home + "/missing"}), "keeper: a missing folder",
        Describe(missing));
}

void CheckRequests(Client& client) {
  Outcome unknown = client.Ask({"dance"});
  Check(!unknown.ok && unknown.words == Words({"understand request", std::to_string(EINVAL), "dance"}), "keeper: an unknown request");
  Check(!client.Ask({"lock", "id"}).ok, "keeper: a lock without a folder");
  Check(!client.Ask({"spawn", "0", "1", "exec", "1"}).ok, "keeper: a root without fds");
  int pair[2];
  if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0) return Check(false, "keeper: pipe");
  Fd output(pair[0]), input(pair[1]);
  Outcome joined = client.Ask({"join"}, {input.get()});
  input.Close();
  Check(joined.ok && ReadAll(output.get()) == "0", "keeper: joins by writing 0 to the given files");
}

// What a plan is read as: its operations' paths, its arguments and its environment; else the word that was not understood.
std::string ReadPlan(const Words& words) {
  keeper::Plan plan;
  Outcome read = keeper::ParsePlan(words, 0, &plan);
  if (!read.ok) return read.words[0] + ": " + read.words[2];
  std::string told;
  for (const keeper::Operation& each : plan.operations) told += std::to_string(static_cast<int>(each.op)) + each.first + each.path + ";";
  for (const std::string& word : plan.arguments) told += "a" + word;
  for (const std::string& word : plan.environment) told += "e" + word;
  return told;
}

void CheckPlans() {
  auto check = [](const Words& words, const std::string& expected, const std::string& what) {
    std::string got = ReadPlan(words);
    Check(got == expected, "plan: " + what, got);
  };
  check({"dir", "", "/x", "bind", "/u", "/v", "exec", "2", "p", "q", "A=b"}, "5/x;0/u/v;apaqeA=b", "operations, arguments, environment");
  check({"exec", "1", "p"}, "ap", "only a program");
  for (const char* count : {"", "0", "3", "x", "+1", "-1", " 1", "1x", "18446744073709551615"}) {
    check({"exec", count, "p", "q"}, "understand plan: exec", std::string("arguments: '") + count + "'");
  }
  for (const Words& words : {Words({}), Words({"exec"}), Words({"exec", "1"}), Words({"dir", "", "/x"})}) {
    check(words, "understand plan: exec", "too short: " + std::to_string(words.size()));
  }
  check({"dir", "", "exec", "1", "p"}, "understand plan: 1", "an operation without its path");
  check({"dir", ""}, "understand plan: dir", "an operation that is cut");
  check({"mount", "/x", "/y", "exec", "1", "p"}, "understand plan: mount", "an unknown operation");
}

void CheckProbes(Client& client, const std::string& home) {
  std::string folder = home + "/folder", closed = home + "/closed";
  mkdir(folder.c_str(), 0755);
  mkdir(closed.c_str(), 0700);
  const std::string id = "1879048192";
  for (const Words& probe : std::vector<Words>{{"user-namespaces"}, {"ids", id, "4194304"}, {"reach", id, folder, "."}, {"seccomp"}}) {
    Words words = {"probe"};
    words.insert(words.end(), probe.begin(), probe.end());
    Outcome tried = client.Ask(words);
    Check(tried.ok, "probe: " + probe[0], Describe(tried));
  }
  // Not every kernel has these; but then it is the kernel that says so.
  const std::vector<std::pair<Words, std::string>> optional = {{{"probe", "overlay"}, "mount overlay"},
                                                               {{"probe", "idmapped-mount", folder, id}, "map ids of mount"},
                                                               {{"probe", "landlock"}, "ask for Landlock"},
                                                               {{"probe", "collapse"}, "collapse memory"}};
  for (const auto& [words, step] : optional) {
    Outcome tried = client.Ask(words);
    Check(tried.ok || tried.words[0] == step, "probe: " + words[1], Describe(tried));
  }
  Outcome refused = client.Ask({"probe", "reach", id, closed, "."});
  Check(!refused.ok && refused.words == Words({"reach as another user", std::to_string(EACCES), closed + "/."}),
        "probe: a folder that others can't enter", Describe(refused));
  Outcome ids = client.Ask({"probe", "ids", "4294967295", "1"});
  Check(!ids.ok && ids.words == Words({"write", std::to_string(EINVAL), ids.words[2]}), "probe: ids that are none", Describe(ids));
  Outcome mapped = client.Ask({"probe", "idmapped-mount", home + "/missing", id});
  Check(!mapped.ok && mapped.words[0] == "clone mount", "probe: a mount of nothing", Describe(mapped));
  Check(!client.Ask({"probe", "dance"}).ok && !client.Ask({"probe", "ids", "1"}).ok && !client.Ask({"probe"}).ok, "probe: an unknown one");
}

// The limit is one of each user namespace, so it is set in one of the test's own.
void CheckProbeWithoutUserNamespaces(const std::string& program, const std::string& home) {
  std::string mount_point = home + "/limited";
  mkdir(mount_point.c_str(), 0700);
  auto probe = [&](const std::string& maximum) {
    return InNamespace(true, [&] {
      WriteText("/proc/sys/user/max_user_namespaces", maximum);
      Client client(program, mount_point);
      if (!client.Answer().ok) return 1;
      Outcome tried = client.Ask({"probe", "user-namespaces"});
      if (!client.End()) return 2;
      if (tried.ok) return 3;
      return tried.words == Words({"unshare user namespace", std::to_string(ENOSPC), ""}) ? 4 : 5;
    });
  };
  CheckEqual(probe("2"), 3, "probe: two user namespaces are enough");
  CheckEqual(probe("1"), 4, "probe: one user namespace is not");
}

// A plan that makes a root with the system's folders and the init, and runs a shell in it.
Words ShellPlan(const std::string& init, const std::string& script) {
  Words words = {"spawn", "1879048192", "1000", "bind", "/usr", "/usr"};
  for (const char* name : {"/bin", "/lib", "/lib64"}) {
    char link[64] = {};
    if (readlink(name, link, sizeof link - 1) > 0) words.insert(words.end(), {"link", link, name});
    else if (access(name, F_OK) == 0) words.insert(words.end(), {"bind", name, name});
  }
  words.insert(words.end(), {"program", init, "/forktree/native/init", "file", "text", "/etc/made", "dir", "", "/tmp", "dir", "", "/proc", "device", "", "/dev/null"});
  words.insert(words.end(), {"exec", "3", "/bin/sh", "-c", script, "PATH=/usr/bin:/bin", "NAME=value"});
  return words;
}

// A root in which a shell runs; what it said until it said `end`, all that it said when it has ended, and how that went.
struct Shell {
  Outcome spawned;
  std::string said, rest;
  bool ran = false, ended = false;
};

Shell RunShell(Client& client, const Words& plan, const std::string& end) {
  Shell shell;
  int control[2], liveness[2], errors[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 || pipe2(liveness, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0) {
    shell.spawned = Outcome::Failed("sockets", errno, "");
    return shell;
  }
  Fd ours(control[0]), theirs(control[1]), read_end(liveness[0]), write_end(liveness[1]), output(errors[0]), input(errors[1]);
  shell.spawned = client.Ask(plan, {theirs.get(), read_end.get(), input.get()});
  if (!shell.spawned.ok) return shell;
  input.Close();
  theirs.Close();
  // Everything below the init has ended when the pipe has: a sleep holds it until then.
  char bytes[4096];
  while (shell.said.find(end) == std::string::npos) {
    pollfd wait = {output.get(), POLLIN, 0};
    ssize_t size = poll(&wait, 1, 30000) == 1 ? read(output.get(), bytes, sizeof bytes) : 0;
    if (size <= 0) break;
    shell.said.append(bytes, static_cast<size_t>(size));
  }
  shell.ran = forktree::SignalProcess(shell.spawned.fd.get(), 0) == 0;
  write_end.Close();
  shell.ended = WaitForEnd(shell.spawned.fd.get());
  shell.rest = ReadAll(output.get());
  return shell;
}

void CheckRoots(Client& client, const std::string& init) {
  const std::string script =
      "{ id -u; echo $$; cat /etc/made; echo; echo $NAME; ls /root /home /etc/shadow 2>/dev/null; "
      "touch /x 2>/dev/null && echo writable; touch /usr/x 2>/dev/null && echo writable; touch /dev/x 2>/dev/null && echo writable; "
      "mount -o remount,bind,rw /usr 2>/dev/null && echo cleared; mount -o remount,bind,rw / 2>/dev/null && echo cleared; "
      "umount /usr 2>/dev/null && echo uncovered; umount /dev 2>/dev/null && echo uncovered; cat /proc/1/comm; "
      "umount /proc; ls /proc | grep -c '^[0-9]'; test -c /dev/null && : >/dev/null && echo device; } >&2; exec sleep 60";
  Shell shell = RunShell(client, ShellPlan(init, script), "device\n");
  Check(shell.spawned.ok && shell.spawned.fd.get() >= 0, "root: is made", Describe(shell.spawned));
  Check(shell.said == "0\n2\ntext\nvalue\ninit\n0\ndevice\n", "root: sees itself as root, pid 2, in a read-only root of its own", shell.said);
  Check(shell.ran, "root: its init runs");
  Check(shell.ended, "root: its init ends with the host's pipe");
  Check(shell.rest.empty(), "root: and everything below it");
  Outcome missing = RunShell(client, ShellPlan(init + ".missing", script), "").spawned;
  Check(!missing.ok && missing.words == Words({"open", std::to_string(ENOENT), init + ".missing"}), "root: a plan that fails", Describe(missing));
}

Words WritablePlan(const std::string& init, const std::string& script, const std::string& kind, const std::string& where) {
  Words words = ShellPlan(init, script);
  words.insert(words.begin() + 3, {"writable", kind, where});
  return words;
}

void CheckWritableRoots(Client& client, const std::string& init, const std::string& home) {
  // It has every capability of its own user namespace here, which programs of sandboxes have not.
  const std::string script =
      "{ touch /x /usr/x && echo more >/etc/made && rm -r /usr/share && echo written; stat -c %u /usr /usr/bin/env /x; "
      "for file in /dev/x /forktree/x /forktree/native/init; do touch $file 2>/dev/null && echo writable; done; "
      "mount -o remount,bind,rw /forktree 2>/dev/null && echo cleared; umount /usr 2>/dev/null && echo uncovered; "
      "umount /forktree 2>/dev/null && echo uncovered; cat /etc/kept 2>/dev/null; echo kept >/etc/kept; echo end; } >&2; exec sleep 60";
  const std::string answer = "written\n0\n0\n0\n";
  Shell memory = RunShell(client, WritablePlan(init, script, "tmpfs", "size=1m"), "end\n");
  if (!memory.spawned.ok) {  // not every kernel can, and not on every file system
    const std::string& step = memory.spawned.words[0];
    return Check(step == "map ids of mount" || step == "mount overlay", "writable root: is made or says why not", Describe(memory.spawned));
  }
  Check(memory.said == answer + "end\n", "writable root: belongs to its root, apart from what is fixed", memory.said);
  Check(access("/usr/share", F_OK) == 0 && access("/usr/x", F_OK) != 0, "writable root: nothing of it shows on the host");
  const std::string folder = home + "/kept";
  mkdir(folder.c_str(), 0700);
  Shell first = RunShell(client, WritablePlan(init, script, "folder", folder), "end\n");
  Check(first.said == answer + "end\n", "writable root: in a folder", first.said + Describe(first.spawned));
  const std::string again = "{ ls -d /x /usr/share 2>/dev/null; cat /etc/kept; mv /etc /other; ln -s / /etc; rmdir /tmp; ln -s /usr /tmp; mv /forktree /f 2>/dev/null; echo end; } >&2; exec sleep 60";
  Shell second = RunShell(client, WritablePlan(init, again, "folder", folder), "end\n");
  Check(second.said == "/x\nkept\nend\n", "writable root: what was written is kept", second.said + Describe(second.spawned));
  struct stat status = {};
  Check(stat((folder + "/upper/root/x").c_str(), &status) == 0 && status.st_uid == 0, "writable root: in the folder it belongs to root");
  symlink("/", (folder + "/upper/root/proc").c_str());
  Outcome replaced = RunShell(client, WritablePlan(init, script, "folder", folder), "end\n").spawned;
  Check(!replaced.ok && replaced.words == Words({"open folder of writable root", std::to_string(ELOOP), "/proc"}),
        "writable root: follows no link that a sandbox has made", Describe(replaced));
}

// By plain folders: making a group is what is looked at, not what the kernel makes of one.
void CheckGroups(const std::string& home) {
  using forktree::GroupFailure;
  using forktree::GroupStep;
  const std::string group = home + "/group", file = home + "/control", missing = home + "/missing";
  WriteText(file, "before");
  std::set<int> before = OpenFds();
  GroupFailure failure = {0, "", ""};
  std::vector<int> fds = forktree::MakeGroup(
      {{GroupStep::kMake, group, ""}, {GroupStep::kSet, file, "after "}, {GroupStep::kTry, missing, "1"}, {GroupStep::kJoin, file, ""}}, &failure);
  Check(fds.size() == 1 && failure.error == 0 && ReadText(file) == "after ", "group: every step is taken", ReadText(file));
  std::string text;
  Check(forktree::ReadControl(file, &text) == 0 && text == "after ", "group: a control file is read", text);
  CheckEqual(forktree::ReadControl(missing, &text), -ENOENT, "group: one that is not there is not");
  for (int fd : fds) close(fd);
  const std::string other = home + "/other";
  fds = forktree::MakeGroup({{GroupStep::kMake, other, ""}, {GroupStep::kJoin, file, ""}, {GroupStep::kSet, missing, "1"}}, &failure);
  Check(fds.empty() && failure.error == -ENOENT && failure.step == "write 1 to" && failure.path == missing, "group: says which step failed", failure.step);
  Check(access(other.c_str(), F_OK) != 0 && OpenFds() == before, "group: after a failure nothing is left");
  CheckEqual(forktree::RemoveGroup({group, missing}).error, 0, "group: is removed, and what is not there is passed over");
  Check(access(group.c_str(), F_OK) != 0, "group: is gone");
  WriteText(home + "/full", "");
  failure = forktree::RemoveGroup({home + "/full"});
  Check(failure.error == -ENOTDIR && failure.path == home + "/full", "group: what can't be removed is named", failure.path);
  // As libuv's threads do, at once.
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; round++) {
        const std::string own = home + "/group-" + std::to_string(i) + "-" + std::to_string(round);
        GroupFailure mine = {0, "", ""};
        std::vector<int> joins = forktree::MakeGroup({{GroupStep::kMake, own, ""}, {GroupStep::kJoin, file, ""}}, &mine);
        std::string read;
        bool ok = joins.size() == 1 && forktree::ReadControl(file, &read) == 0 && forktree::RemoveGroup({own}).error == 0;
        for (int join : joins) close(join);
        if (!ok) failures++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CheckEqual(failures, 0, "group: threads at once do not disturb each other");
  Check(OpenFds() == before, "group: no fd is left");
}

void CheckKeeper(const std::string& program, const std::string& init) {
  std::string mounts = ReadText("/proc/self/mountinfo");
  std::set<int> before = OpenFds();
  {
    Folder folder;
    std::string mount_point = folder.path + "/mnt";
    mkdir(mount_point.c_str(), 0700);
    Client client(program, mount_point);
    Outcome started = client.Answer();
    Check(started.ok, "keeper: starts", Describe(started));
    if (!started.ok) return;
    CheckRequests(client);
    CheckLockedFolders(client, folder.path);
    CheckRoots(client, init);
    CheckWritableRoots(client, init, folder.path);
    CheckProbes(client, folder.path);
    CheckProbeWithoutUserNamespaces(program, folder.path);
    Check(ReadText("/proc/self/mountinfo") == mounts, "keeper: nothing is mounted here");
    Check(client.End(), "keeper: ends with the host's socket");
  }
  Check(OpenFds() == before, "keeper: no fd is left");
  Client misplaced(program, "/nonexistent/mnt");
  Outcome refused = misplaced.Answer();
  Check(!refused.ok && refused.words.size() == 3 && refused.words[0] == "mount tmpfs", "keeper: says why it can't start", Describe(refused));
  misplaced.End();
}

// What a decoder makes of the bytes when they come in pieces of that size: type and payload of each frame, "!" for one
// that is too large.
std::string Decode(const std::string& bytes, size_t piece) {
  forktree::FrameDecoder decoder(8);
  std::string told;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    std::vector<char> part(bytes.begin() + static_cast<long>(at), bytes.begin() + static_cast<long>(std::min(at + piece, bytes.size())));
    decoder.Push(part.data(), part.size());
    forktree::FrameDecoder::Frame frame;
    for (;;) {
      auto result = decoder.Next(&frame);
      if (result == forktree::FrameDecoder::Result::kNeedMore) break;
      if (result == forktree::FrameDecoder::Result::kTooLarge) return told + "!" + std::to_string(frame.size);
      told += std::to_string(frame.type) + std::string(frame.payload, frame.size) + ";";
    }
  }
  return told;
}

void CheckFrames() {
  auto frame = [](uint8_t type, const std::string& payload, size_t size) {
    char header[forktree::kFrameHeader];
    forktree::WriteFrameHeader(header, size, type);
    return std::string(header, sizeof header) + payload;
  };
  std::string bytes = frame(1, "one", 3) + frame(255, "", 0) + frame(2, "whole", 5) + frame(3, "", 9) + "rest";
  for (size_t piece = 1; piece <= bytes.size(); piece++) {
    std::string told = Decode(bytes, piece);
    Check(told == "1one;255;2whole;!9", "frames: in pieces of " + std::to_string(piece), told);
  }
  Check(Decode(frame(1, "", 0xffffffff), 2) == "!4294967295", "frames: the largest length");
  Check(Decode("\x03", 1).empty() && Decode("", 1).empty(), "frames: less than a header");
}

// What sealing a folder came to: `entries/files/bytes`, or `step path error`.
std::string Seal(const std::string& folder, forktree::TreeLimits limits = {100, 1000}) {
  const forktree::SealedTree tree = forktree::SealTree(folder, limits);
  if (tree.step.empty()) return std::to_string(tree.entries) + "/" + std::to_string(tree.files) + "/" + std::to_string(tree.bytes);
  return tree.step + " " + tree.path + (tree.error == 0 ? "" : " " + std::to_string(tree.error));
}

// Owner and mode, of a link itself.
std::string OwnerAndMode(const std::string& path) {
  struct stat status;
  if (lstat(path.c_str(), &status) < 0) return "none";
  char text[64];
  snprintf(text, sizeof text, "%d:%d %o", status.st_uid, status.st_gid, status.st_mode & 07777);
  return text;
}

void CheckSeals(const std::string& home) {
  const std::set<int> before = OpenFds();
  const std::string folder = home + "/sealed", outside = home + "/outside";
  auto make = [&](const std::string& name, mode_t mode, const std::string& text) {
    WriteText(folder + "/" + name, text);
    if (chown((folder + "/" + name).c_str(), 1234, 1234) < 0 || chmod((folder + "/" + name).c_str(), mode) < 0) perror("chmod");
  };
  auto fresh = [&] {
    if (system(("rm -rf '" + folder + "'").c_str()) != 0) perror("rm");
    mkdir(folder.c_str(), 0777);
    mkdir((folder + "/package").c_str(), 0700);
    if (chown((folder + "/package").c_str(), 1234, 1234) < 0) perror("chown");
    chmod(folder.c_str(), 0777);
  };
  WriteText(outside, "outside");
  chmod(outside.c_str(), 0600);

  fresh();
  make("package/module.py", 0600, "12345");
  make("package/hidden", 0, "");
  make("tool", 04711, "123");
  make("group", 02666, "");
  CheckEqual(Seal(folder) == "5/4/8", 1, "seal: counts files, folders and bytes");
  for (const char* name : {"", "/package", "/tool"}) Check(OwnerAndMode(folder + name) == "0:0 755", std::string("seal: takes over ") + name, OwnerAndMode(folder + name));
  for (const char* name : {"/package/module.py", "/package/hidden", "/group"}) {
    Check(OwnerAndMode(folder + name) == "0:0 644", std::string("seal: takes over ") + name, OwnerAndMode(folder + name));
  }
  Check(Seal(folder, {5, 8}) == "5/4/8" && Seal(folder, {5, 7}).rfind("too many bytes ", 0) == 0, "seal: bounds bytes", Seal(folder, {5, 7}));
  Check(Seal(folder, {4, 8}).rfind("too many files ", 0) == 0, "seal: bounds files", Seal(folder, {4, 8}));

  fresh();
  symlink(outside.c_str(), (folder + "/package/link").c_str());
  Check(Seal(folder) == "a symbolic link package/link", "seal: refuses a link", Seal(folder));
  fresh();
  symlink(home.c_str(), (folder + "/link").c_str());
  Check(Seal(folder) == "a symbolic link link", "seal: refuses a link to a folder", Seal(folder));
  fresh();
  if (link(outside.c_str(), (folder + "/name").c_str()) < 0) perror("link");
  Check(Seal(folder) == "a file with several names name", "seal: refuses a second name of a file", Seal(folder));
  unlink((folder + "/name").c_str());
  mkfifo((folder + "/name").c_str(), 0666);
  Check(Seal(folder) == "a pipe name", "seal: refuses a pipe", Seal(folder));
  fresh();
  mknod((folder + "/name").c_str(), S_IFCHR | 0666, 0x103);  // what /dev/null is
  Check(Seal(folder) == "a device name", "seal: refuses a device", Seal(folder));
  Check(OwnerAndMode(outside) == "0:0 600", "seal: leaves what is outside alone", OwnerAndMode(outside));

  fresh();
  std::string deep = folder;
  for (int i = 0; i < 64; i++) mkdir((deep += "/d").c_str(), 0777);
  Check(Seal(folder) == "65/0/0", "seal: 64 folders in one another", Seal(folder));
  mkdir((deep += "/d").c_str(), 0777);
  Check(Seal(folder).rfind("too many folders in one another d/d/", 0) == 0, "seal: no more than that", Seal(folder));

  Check(Seal(home + "/none") == "open  " + std::to_string(-ENOENT), "seal: no such folder", Seal(home + "/none"));
  symlink(folder.c_str(), (home + "/to-sealed").c_str());
  Check(Seal(home + "/to-sealed") == "open  " + std::to_string(-ENOTDIR), "seal: the folder is no link itself", Seal(home + "/to-sealed"));
  Check(OpenFds() == before, "seal: no fd is left");
}

}  // namespace

// A child that touches some of what it inherits, and waits.
void CheckPages(const std::string& folder) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), count = 64;
  WriteText(folder + "/file", std::string(count * page, 'x'));
  Fd file(open((folder + "/file").c_str(), O_RDONLY | O_CLOEXEC));
  auto map = [&](int protection, int flags, int fd) {
    char* place = static_cast<char*>(mmap(nullptr, count * page, protection, flags, fd, 0));
    madvise(place, count * page, MADV_NOHUGEPAGE);
    if (fd < 0) memset(place, 1, count * page);
    return place;
  };
  const int both = PROT_READ | PROT_WRITE;
  char* own = map(both, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  char* shared = map(both, MAP_SHARED | MAP_ANONYMOUS, -1);
  char* sealed = map(both, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  char *constant = map(PROT_READ, MAP_PRIVATE, file.get()), *data = map(both, MAP_PRIVATE, file.get());
  int says[2], waits[2];
  if (pipe(says) < 0 || pipe(waits) < 0) abort();
  const pid_t pid = fork();
  if (pid == 0) {
    close(waits[1]);
    for (size_t index : {3U, 4U, 9U}) own[index * page] = 2;
    shared[5 * page] = sealed[6 * page] = data[7 * page] = 2;
    mprotect(sealed, count * page, PROT_READ);
    char byte = 0;
    for (volatile const char* seen : {own + 20 * page, constant + 8 * page, data + 10 * page}) byte = static_cast<char>(byte + *seen);
    if (write(says[1], &byte, 1) != 1 || read(waits[0], &byte, 1) < 0) _exit(1);
    _exit(0);
  }
  char byte;
  if (read(says[0], &byte, 1) != 1) abort();
  forktree::WorkingSet set, some;
  CheckEqual(forktree::ReadWorkingSet(pid, 1 << 20, &set), 0, "working set: of a child is read");
  CheckEqual(forktree::ReadWorkingSet(pid, 2, &some), 0, "working set: the first pages of it");
  using Found = std::vector<std::pair<size_t, size_t>>;
  auto within = [&](const std::vector<forktree::PageRange>& ranges, const char* place) {
    Found found;
    const uint64_t start = reinterpret_cast<uint64_t>(place);
    for (auto [at, size] : ranges) {
      if (at >= start && at < start + count * page) found.push_back({(at - start) / page, size / page});
    }
    return found;
  };
  Check(within(set.written, own) == Found{{3, 2}, {9, 1}}, "working set: what was written to, and not what was only read");
  Check(within(set.written, shared).empty() && within(set.read, shared).empty(), "working set: no shared memory");
  Check(within(set.written, sealed).empty(), "working set: nothing that can't be written to any more");
  Check(within(set.written, data) == Found{{7, 1}}, "working set: what was copied of a file");
  auto has = [&](const char* place, size_t index) {
    const Found found = within(set.read, place);
    return std::any_of(found.begin(), found.end(), [&](auto range) { return index - range.first < range.second; });
  };
  // The kernel maps up to fifteen pages around it.
  Check(has(data, 10) && has(constant, 8) && !has(data, 7), "working set: what was read of one, and not what was copied");
  Check(!has(data, 40) && !has(constant, 40), "working set: nothing of a file that was not read");
  for (const auto* ranges : {&set.written, &set.read}) {
    bool in_order = ranges->size() > 2;
    for (size_t i = 1; i < ranges->size(); i++) {
      in_order = in_order && (*ranges)[i - 1].start + (*ranges)[i - 1].size < (*ranges)[i].start;
    }
    Check(in_order, "working set: in order");
  }
  for (const auto* ranges : {&some.written, &some.read}) {
    uint64_t size = 0;
    for (auto range : *ranges) size += range.size;
    CheckEqual(static_cast<long>(size / page), 2, "working set: no more than asked for");
  }
  for (int fd : {says[0], says[1], waits[0], waits[1]}) close(fd);
  waitpid(pid, nullptr, 0);
  CheckEqual(forktree::ReadWorkingSet(pid, 1, &some), -ENOENT, "working set: of a process that has gone");
  for (char* place : {own, shared, sealed, constant, data}) munmap(place, count * page);
}

// In a child that is bound to `enclosure`: the error of opening a file to be written, 0 when that went well.
int WriteEnclosed(const Enclosure& enclosure, const std::string& file) {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (Enclose(enclosure) < 0) _exit(255);
    _exit(open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 ? errno : 0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// In a child: whether it reaches an abstract socket of ours, and can signal us.
int ReachEnclosed(const sockaddr_un& address, socklen_t size) {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (Enclose({false, true, "", 0}) < 0) _exit(255);
    const int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connects = connect(client, reinterpret_cast<const sockaddr*>(&address), size) == 0;
    _exit((connects ? 1 : 0) | (kill(getppid(), 0) == 0 ? 2 : 0));
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void CheckEnclosures(const std::string& folder) {
  const long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, 1);
  if (version < 2) {
    printf("skip enclosure: the kernel's Landlock is of version %ld\n", version);
    return;
  }
  const std::string open_one = folder + "/open", closed = folder + "/closed";
  mkdir(open_one.c_str(), 0700);
  mkdir(closed.c_str(), 0700);
  const Enclosure one = {false, false, open_one.c_str(), 1};
  CheckEqual(WriteEnclosed(one, open_one + "/file"), 0, "enclosure: a folder that is to be written can be");
  CheckEqual(WriteEnclosed(one, closed + "/file"), EACCES, "enclosure: another one can't");
  CheckEqual(WriteEnclosed(one, "/dev/null"), 0, "enclosure: devices can be written");
  CheckEqual(WriteEnclosed({false, true, "", 0}, closed + "/file"), 0, "enclosure: with a writable root everything can");
  CheckEqual(WriteEnclosed({false, false, "/nowhere", 1}, closed + "/file"), 255, "enclosure: a folder that is not there is an error");
  if (version < 6) return;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = "forktree-enclosure-" + std::to_string(getpid());
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const socklen_t size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Check(bind(server, reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(server, 1) == 0, "enclosure: an abstract socket");
  CheckEqual(ReachEnclosed(address, size), 0, "enclosure: neither that nor a process outside is reached");
  close(server);
}

void CheckHandOvers() {
  const std::string head("\x40\0\0\0\x02\0\0\0\x07\0\0\0\x09\0\0\0\0\x01\0\0", 20);
  auto cut = [](const std::string& payload, unsigned mounts, HandOver* got) {
    const std::vector<char> exact(payload.begin(), payload.end());  // reading beyond it is noticed
    return CutHandOver(exact.data(), exact.size(), mounts, got);
  };
  const std::string words("size=1k\0/handler\0p80;\0/a\0/b\0", 28), whole = head + words;
  std::vector<char> kept(whole.begin(), whole.end());
  HandOver got = {};
  Check(CutHandOver(kept.data(), kept.size(), 2, &got), "hand-over: is cut");
  Check(got.open_files == 64 && got.mount_count == 2 && got.processes == 7 && got.data_mib == 9 && got.flags == 256, "hand-over: its numbers");
  Check(std::string(got.scratch) == "size=1k" && std::string(got.folder) == "/handler" && std::string(got.network) == "p80;", "hand-over: its words");
  Check(std::string(got.targets) == "/a" && std::string(got.targets + 3) == "/b", "hand-over: a target for each mount");
  Check(!cut(whole, 1, &got), "hand-over: more mounts than fds are refused");
  Check(!cut(head + std::string("\0/\0\0/a\0", 7), 2, &got), "hand-over: a missing target is refused");
  Check(!cut(whole + std::string("/c\0", 3), 2, &got), "hand-over: a target too many is refused");
  Check(!cut(whole.substr(0, whole.size() - 1), 2, &got), "hand-over: a word without an end is refused");
  Check(!cut(head.substr(0, 19), 2, &got) && !cut("", 0, &got), "hand-over: half a head is refused");
  const std::string bare("\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0/\0\0", 24);
  Check(cut(bare, 0, &got), "hand-over: without mounts and /tmp");
}

// As setup.cc has it, which is for programs without a C library.
const char* NextWord(const char* word) { return word + strlen(word) + 1; }

sockaddr_in AddressOf(const char* bytes, int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  memcpy(&address.sin_addr, bytes, 4);
  return address;
}

int Listener(int flags) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  sockaddr_in address = AddressOf("\x7f\0\0\1", 0);
  bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address);
  listen(listener, 8);
  return listener;
}

int ConnectTo(int listener) {
  sockaddr_in address = {};
  socklen_t size = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address);
  return client;
}

void CheckAccepts() {
  int listener = Listener(SOCK_NONBLOCK);
  Check(forktree::IsListener(listener), "accept: a listener is one");
  CheckEqual(forktree::AcceptConnection(listener), -EAGAIN, "accept: nobody has connected");
  // As hostile as it can be set: whatever is inherited must not make the host wait.
  linger long_linger = {1, 60};
  setsockopt(listener, SOL_SOCKET, SO_LINGER, &long_linger, sizeof long_linger);
  int client = ConnectTo(listener), accepted = forktree::AcceptConnection(listener);
  Check(accepted >= 0, "accept: somebody has connected");
  linger kept = {1, 1};
  socklen_t size = sizeof kept;
  getsockopt(accepted, SOL_SOCKET, SO_LINGER, &kept, &size);
  CheckEqual(kept.l_onoff, 0, "accept: closing it does not wait");
  CheckEqual(fcntl(accepted, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "accept: it does not block");
  Check(!forktree::IsListener(accepted), "accept: a connection is no listener");
  int pair[2], none = socket(AF_INET, SOCK_STREAM, 0), unix_listener = socket(AF_UNIX, SOCK_STREAM, 0);
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  sockaddr any = {AF_UNIX, {}};
  bind(unix_listener, &any, sizeof any.sa_family);
  listen(unix_listener, 1);
  for (int fd : {none, unix_listener, pair[0], STDOUT_FILENO, -1}) Check(!forktree::IsListener(fd), "accept: no listener is none");
  // Somebody else has made it wait.
  int waiting = Listener(0);
  CheckEqual(forktree::AcceptConnection(waiting), -EINVAL, "accept: one that waits is given up");
  Check(!forktree::IsListener(waiting), "accept: and listens no more");
  int later = ConnectTo(listener), next = forktree::AcceptConnection(listener);
  Check(next >= 0, "accept: others are served afterwards");
  for (int fd : {listener, client, accepted, pair[0], pair[1], none, unix_listener, waiting, later, next}) close(fd);
}

// In a child with a network namespace of its own: answers what it found as its status.
int TryNetwork() {
  if (unshare(CLONE_NEWNET) < 0) return 2;
  ifreq loopback = {};
  strcpy(loopback.ifr_name, "lo");
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  int any = socket(AF_INET, SOCK_DGRAM, 0);
  if (ioctl(any, SIOCSIFFLAGS, &loopback) < 0) return 3;
  Listeners made = {};
  if (OpenListeners("p80;p5432;r0a010200/24;r0a010200/24;r20010db8000000000000000000000000/32;", &made) != 0) return 4;
  if (made.count != 2 || !forktree::IsListener(made.fds[0]) || !forktree::IsListener(made.fds[1])) return 5;
  int client = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in there = AddressOf("\x0a\1\2\3", 5432);
  if (connect(client, reinterpret_cast<sockaddr*>(&there), sizeof there) < 0) return 6;
  int accepted = forktree::AcceptConnection(made.fds[1]);
  sockaddr_in6 local = {};
  socklen_t size = sizeof local;
  if (accepted < 0 || getsockname(accepted, reinterpret_cast<sockaddr*>(&local), &size) < 0) return 7;
  if (memcmp(local.sin6_addr.s6_addr + 12, "\x0a\1\2\3", 4) != 0 || ntohs(local.sin6_port) != 5432) return 8;
  int elsewhere = socket(AF_INET, SOCK_STREAM, 0);
  there = AddressOf("\x0a\1\3\3", 5432);
  return connect(elsewhere, reinterpret_cast<sockaddr*>(&there), sizeof there) < 0 && errno == ENETUNREACH ? 0 : 9;
}

void CheckNetworks() {
  for (const char* word : {"x", "p", "p80", "p;", "p65536;", "p99999999999;", "p80,", "r", "r;", "r0a010200;", "r0a0102/24;", "r0a010200/33;",
                           "r0A010200/24;", "r0a01020/24;", "r0a010200/24", "r0a010200/;", "r00000000000000000000000000000000000/1;"}) {
    Listeners made = {};
    CheckEqual(OpenListeners(word, &made), -EPROTO, std::string("network: no word of ours: ") + word);
    for (int i = 0; i < made.count; i++) close(made.fds[i]);
  }
  std::string many;
  for (int i = 0; i <= kMaxListeners; i++) many += "p0;";
  Listeners made = {};
  CheckEqual(OpenListeners(many.c_str(), &made), -EPROTO, "network: one listener more than can be sent");
  CheckEqual(made.count, kMaxListeners, "network: as many as can be sent");
  for (int i = 0; i < made.count; i++) close(made.fds[i]);
  made.count = 0;
  CheckEqual(OpenListeners("", &made), 0, "network: none");
  if (geteuid() != 0) return;
  const pid_t child = fork();
  if (child == 0) _exit(TryNetwork());
  int status = -1;
  waitpid(child, &status, 0);
  CheckEqual(status, 0, "network: an address of a listed network leads to the listener of its port");
}

int main(int count, char** arguments) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (count == 2 && strcmp(arguments[1], "--probe") == 0) return Probe();
  bool threads_only = count == 2 && strcmp(arguments[1], "--threads") == 0;
  if (count != 3 && !threads_only) {
    fprintf(stderr, "usage: native_test KEEPER INIT | --threads\n");
    return 2;
  }
  CheckLocks();
  CheckFrames();
  CheckHandOvers();
  {
    Folder folder;
    CheckEnclosures(folder.path);
  }
  {
    Folder folder;
    CheckGroups(folder.path);
  }
  if (threads_only) return failed == 0 ? 0 : 1;
  CheckAccepts();
  CheckNetworks();
  CheckSpawn();
  CheckEnds();
  {
    Folder folder;
    CheckPages(folder.path);
  }
  CheckMessages();
  CheckPlans();
  if (geteuid() == 0) {
    Folder folder;
    CheckSeals(folder.path);
    CheckKeeper(arguments[1], arguments[2]);
  } else if (getenv("FORKTREE_MUST_RUN") != nullptr) {
    Check(false, "keeper: needs root");
  } else {
    printf("skip keeper: needs root\n");
  }
  printf("%s\n", failed == 0 ? "all passed" : "some failed");
  return failed == 0 ? 0 : 1;
}
