// A root zygote: the root is assembled and entered with the host's privileges, and only then does a new user namespace
// lock what was mounted. Whoever lives below can then clear no read-only, nosuid or nodev flag.
#include <errno.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

namespace keeper {

namespace {

constexpr const char* kInit = "/forktree/native/init";

struct Fds {
  int report, control, liveness, errors;
};

void Report(int socket, const Outcome& outcome) { Send(socket, outcome); }

// Copies each of `fds` to 3, 4, ... and closes all above.
int Place(std::vector<int> fds) {
  constexpr int kAside = 100;
  for (size_t i = 0; i < fds.size(); i++) {
    if (dup3(fds[i], kAside + static_cast<int>(i), O_CLOEXEC) < 0) return -1;
  }
  for (size_t i = 0; i < fds.size(); i++) {
    if (dup2(kAside + static_cast<int>(i), 3 + static_cast<int>(i)) < 0) return -1;
  }
  return close_range(3 + static_cast<unsigned>(fds.size()), ~0U, 0);
}

Outcome NullStdio() {
  int null = open("/dev/null", O_RDWR);
  TRY("open", "/dev/null", null);
  for (int fd = 0; fd < 3; fd++) TRY("dup2", "/dev/null", dup2(null, fd));
  return Outcome::Ok();
}

std::vector<char*> Pointers(const Words& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Process 2: the interpreter.
Outcome ExecInterpreter(const Plan& plan, Fds fds) {
  std::vector<char*> arguments = Pointers(plan.arguments), environment = Pointers(plan.environment);
  TRY("dup2", "stderr", dup2(fds.errors, 2));
  TRY("place fds", "", Place({fds.control, fds.report}));
  TRY("close on exec", "", fcntl(4, F_SETFD, FD_CLOEXEC));
  execve(arguments[0], arguments.data(), environment.data());
  Report(4, Outcome::Failed("exec", errno, arguments[0]));
  _exit(127);
}

// Process 1: becomes root of its namespaces, forks the interpreter, and turns into the tiny init.
Outcome RunInit(const Plan& plan, Fds fds) {
  char go;
  if (recv(fds.report, &go, 1, 0) != 1) _exit(1);  // the keeper has gone
  TRY("setresgid", "", setresgid(0, 0, 0));
  TRY("setresuid", "", setresuid(0, 0, 0));
  TRY("mount proc", "/proc", mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  Outcome null = NullStdio();
  if (!null.ok) return null;
  pid_t zygote = fork();
  TRY("fork", "", zygote);
  if (zygote == 0) return ExecInterpreter(plan, fds);
  TRY("place fds", "", Place({fds.liveness, fds.report}));
  TRY("close on exec", "", fcntl(4, F_SETFD, FD_CLOEXEC));
  const char* arguments[] = {"init", "3", nullptr};
  const char* environment[] = {nullptr};
  execve(kInit, const_cast<char**>(arguments), const_cast<char**>(environment));
  Report(4, Outcome::Failed("exec", errno, kInit));
  _exit(127);
}

// In the helper: assembles the root, enters it, makes the init as the keeper's child, and ends.
Outcome RunHelper(const Plan& plan, const std::string& place, const Ids& ids, Fds fds) {
  umask(022);
  const rlimit no_core = {0, 0}, endless = {RLIM_INFINITY, RLIM_INFINITY};
  TRY("setrlimit", "RLIMIT_CORE", setrlimit(RLIMIT_CORE, &no_core));
  // What a user namespace may have in all is what its maker may have; each sandbox gets a limit of its own. A root
  // without CAP_SYS_RESOURCE can't raise these: then many sandboxes together may want more than there is.
  setrlimit(RLIMIT_SIGPENDING, &endless);
  setrlimit(RLIMIT_MSGQUEUE, &endless);
  Outcome dropped = DropGroups();
  if (!dropped.ok) return dropped;
  TRY("unshare mount namespace", "", unshare(CLONE_NEWNS));
  TRY("make mounts private", "/", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  TRY("mount tmpfs", place, mount("tmpfs", place.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=2m"));
  Outcome assembled = plan.writable.kind.empty() ? EnterReadOnlyRoot(plan, place, ids.start) : EnterWritableRoot(plan, place, ids);
  if (!assembled.ok) return assembled;
  int pidfd = -1;
  pid_t init = Clone3(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP |
                          CLONE_PARENT | (plan.own_network ? CLONE_NEWNET : 0),
                      &pidfd, 0);
  TRY("clone3", "", init);
  if (init == 0) {
    Report(fds.report, RunInit(plan, fds));
    _exit(1);
  }
  Report(fds.report, Outcome::Ok({std::to_string(init)}, Fd(pidfd)));
  _exit(0);
}

// The report socket closes with the two execs; anything before its end of file is a failure.
Outcome AwaitExecs(int report) {
  char bytes[8192];
  std::vector<Fd> fds;
  ssize_t size = ReceiveBytes(report, bytes, sizeof bytes, &fds);
  if (size == 0) return Outcome::Ok();
  TRY("answer", "", size);
  Words words = Split(bytes, static_cast<size_t>(size));
  words.erase(words.begin());
  return {false, std::move(words), Fd(), 0};
}

Outcome Finish(const Ids& ids, int report, Outcome helper) {
  pid_t init = static_cast<pid_t>(strtol(helper.words[0].c_str(), nullptr, 10));
  Outcome done = WriteMaps(init, ids);
  if (done.ok && send(report, "g", 1, MSG_NOSIGNAL) != 1) done = Outcome::Failed("start init", errno, "");
  if (done.ok) done = AwaitExecs(report);
  if (!done.ok) {
    kill(init, SIGKILL);
    waitpid(init, nullptr, __WALL);
    return done;
  }
  helper.pid = init;
  return helper;
}

}  // namespace

Outcome SpawnRoot(const Words& words, const std::vector<Fd>& fds, const std::string& place) {
  if (words.size() < 5 || fds.size() != 3) return Outcome::Failed("understand request", EINVAL, "spawn");
  const Ids ids = {static_cast<id_t>(strtoul(words[1].c_str(), nullptr, 10)), static_cast<id_t>(strtoul(words[2].c_str(), nullptr, 10))};
  Plan plan;
  Outcome parsed = ParsePlan(words, 3, &plan);
  if (!parsed.ok) return parsed;
  int pair[2];
  TRY("socketpair", "", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
  Fd ours(pair[0]), theirs(pair[1]);
  pid_t helper = fork();
  TRY("fork", "", helper);
  if (helper == 0) {
    ours.Close();
    Report(theirs.get(), RunHelper(plan, place, ids, {theirs.get(), fds[0].get(), fds[1].get(), fds[2].get()}));
    _exit(1);
  }
  theirs.Close();
  Outcome made = Receive(ours.get());
  waitpid(helper, nullptr, 0);
  return made.ok && !made.words.empty() ? Finish(ids, ours.get(), std::move(made)) : std::move(made);
}

}  // namespace keeper
