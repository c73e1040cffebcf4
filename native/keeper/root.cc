// A root zygote: the root is assembled and entered with the host's privileges, and only then does a new user namespace
// lock what was mounted. Whoever lives below can then clear no read-only, nosuid or nodev flag.
#include <errno.h>
#include <grp.h>
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

Outcome WriteFile(const std::string& path, const std::string& text, int flags, mode_t mode) {
  Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, mode));
  TRY("open", path, file.get());
  for (size_t written = 0; written < text.size();) {
    ssize_t size = write(file.get(), text.data() + written, text.size() - written);
    TRY("write", path, size);
    written += static_cast<size_t>(size);
  }
  return Outcome::Ok();
}

Outcome WriteMaps(pid_t pid, const std::string& start, const std::string& count) {
  std::string map = "0 " + start + " " + count, folder = "/proc/" + std::to_string(pid) + "/";
  // Who is inside could write this one, once for all, and so leave a mark for others. It fails, as it does for them, where
  // our own namespace has no such ids.
  WriteFile(folder + "projid_map", map, 0);
  Outcome written = WriteFile(folder + "gid_map", map, 0);
  return written.ok ? WriteFile(folder + "uid_map", map, 0) : std::move(written);
}

namespace {

constexpr const char* kInit = "/forktree/native/init";

struct CloneArgs {
  unsigned long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

pid_t Clone3(unsigned long flags, int* pidfd, int exit_signal) {
  CloneArgs arguments = {};
  arguments.flags = flags | (pidfd == nullptr ? 0 : CLONE_PIDFD);
  arguments.pidfd = reinterpret_cast<unsigned long>(pidfd);
  arguments.exit_signal = static_cast<unsigned long>(exit_signal);
  return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof arguments));
}

Outcome CopyFile(const std::string& source, const std::string& target, mode_t mode) {
  Fd file(open(source.c_str(), O_RDONLY | O_CLOEXEC));
  TRY("open", source, file.get());
  std::string text;
  char bytes[65536];
  for (;;) {
    ssize_t size = read(file.get(), bytes, sizeof bytes);
    TRY("read", source, size);
    if (size == 0) break;
    text.append(bytes, static_cast<size_t>(size));
  }
  return WriteFile(target, text, O_CREAT | O_EXCL, mode);
}

Outcome MakeParents(const std::string& root, const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    std::string parent = root + path.substr(0, slash);
    if (mkdir(parent.c_str(), 0755) < 0 && errno != EEXIST) return Outcome::Failed("mkdir", errno, parent);
  }
  return Outcome::Ok();
}

Outcome BindReadOnly(const std::string& source, const std::string& target) {
  if (mkdir(target.c_str(), 0755) < 0 && errno != EEXIST) return Outcome::Failed("mkdir", errno, target);
  Fd tree(OpenTree(source.c_str(), 0));
  TRY("clone mount", source, tree.get());
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  TRY("make read-only", source, syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes));
  TRY("attach", target, MoveMount(tree.get(), target.c_str()));
  return Outcome::Ok();
}

// A read-only tmpfs with just the devices named, made before the user namespace: later no device node could be opened.
Outcome MakeDevices(const std::string& root) {
  struct Device {
    const char* name;
    unsigned major, minor;
  };
  // A tty is that of whoever opens it; in a sandbox, which has none, that fails with ENXIO.
  constexpr Device kDevices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
  constexpr const char* kLinks[][2] = {{"/proc/self/fd", "fd"},
                                       {"/proc/self/fd/0", "stdin"},
                                       {"/proc/self/fd/1", "stdout"},
                                       {"/proc/self/fd/2", "stderr"},
                                       {"/tmp", "shm"}};
  std::string folder = root + "/dev";
  TRY("mkdir", folder, mkdir(folder.c_str(), 0755));
  TRY("mount tmpfs", folder, mount("tmpfs", folder.c_str(), "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=32"));
  for (const Device& device : kDevices) {
    std::string path = folder + "/" + device.name;
    TRY("mknod", path, mknod(path.c_str(), S_IFCHR | 0666, makedev(device.major, device.minor)));
    TRY("chmod", path, chmod(path.c_str(), 0666));
  }
  for (const auto& link : kLinks) {
    std::string path = folder + "/" + link[1];
    TRY("symlink", path, symlink(link[0], path.c_str()));
  }
  TRY("make read-only", folder,
      mount(nullptr, folder.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, nullptr));
  return Outcome::Ok();
}

// Some proc must be visible for the namespaces below to mount theirs, and it stays underneath. So it is not the host's
// but that of a pid namespace whose only process is about to end.
Outcome MountDeadProc(const std::string& root) {
  std::string path = root + "/proc";
  pid_t child = Clone3(CLONE_NEWPID, nullptr, SIGCHLD);
  TRY("clone3", "", child);
  if (child == 0) _exit(mount("proc", path.c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) < 0 ? errno : 0);
  int status = 0;
  TRY("wait", "", waitpid(child, &status, 0));
  return status == 0 ? Outcome::Ok() : Outcome::Failed("mount proc", WEXITSTATUS(status), path);
}

// Folders one over the other, the topmost first, read-only: there is no upper one.
Outcome MountLayers(const std::string& lowers, const std::string& target) {
  TRY("mkdir", target, mkdir(target.c_str(), 0755));
  std::string options = "lowerdir=" + lowers;
  TRY("mount overlay", target, mount("overlay", target.c_str(), "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()));
  return Outcome::Ok();
}

Outcome Assemble(const Plan& plan, const std::string& root) {
  for (const auto& [op, first, path] : plan.operations) {
    std::string target = root + path;
    Outcome done = MakeParents(root, path);
    if (!done.ok) return done;
    switch (op) {
      case Op::kBind:
        done = BindReadOnly(first, target);
        break;
      case Op::kCopy:
        done = CopyFile(first, target, 0444);
        break;
      case Op::kProgram:
        done = CopyFile(first, target, 0555);
        break;
      case Op::kFile:
        done = WriteFile(target, first, O_CREAT | O_EXCL);
        break;
      case Op::kLink:
        TRY("symlink", target, symlink(first.c_str(), target.c_str()));
        break;
      case Op::kOverlay:
        done = MountLayers(first, target);
        break;
      case Op::kShare:
        break;  // nothing in the root
      case Op::kDirectory:
        TRY("mkdir", target, mkdir(target.c_str(), 0755));
        break;
    }
    if (!done.ok) return done;
  }
  return Outcome::Ok();
}

Outcome Enter(const std::string& root) {
  mount_attr read_only = {};
  read_only.attr_set = MOUNT_ATTR_RDONLY;
  TRY("make read-only", root, syscall(SYS_mount_setattr, AT_FDCWD, root.c_str(), 0, &read_only, sizeof read_only));
  TRY("chdir", root, chdir(root.c_str()));
  TRY("pivot_root", root, syscall(SYS_pivot_root, ".", "."));
  TRY("detach old root", "/", umount2(".", MNT_DETACH));
  TRY("chdir", "/", chdir("/"));
  return Outcome::Ok();
}

struct Fds {
  int report, control, liveness, errors;
};

// Becomes the user whose ids these are, and keeps the capabilities: what the kernel counts for the maker of a user
// namespace is then not counted for root of the host.
Outcome BecomeOwner(id_t id) {
  TRY("keep capabilities", "", prctl(PR_SET_KEEPCAPS, 1));
  TRY("setresgid", "", setresgid(id, id, id));
  TRY("setresuid", "", setresuid(id, id, id));
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  TRY("capget", "", syscall(SYS_capget, &header, data));
  for (auto& each : data) each.effective = each.permitted;
  TRY("capset", "", syscall(SYS_capset, &header, data));
  return Outcome::Ok();
}

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
Outcome RunHelper(const Plan& plan, const std::string& root, id_t owner, Fds fds) {
  umask(022);
  const rlimit no_core = {0, 0}, endless = {RLIM_INFINITY, RLIM_INFINITY};
  TRY("setrlimit", "RLIMIT_CORE", setrlimit(RLIMIT_CORE, &no_core));
  // What a user namespace may have in all is what its maker may have; each sandbox gets a limit of its own. A root
  // without CAP_SYS_RESOURCE can't raise these: then many sandboxes together may want more than there is.
  setrlimit(RLIMIT_SIGPENDING, &endless);
  setrlimit(RLIMIT_MSGQUEUE, &endless);
  TRY("setgroups", "", setgroups(0, nullptr));
  TRY("unshare mount namespace", "", unshare(CLONE_NEWNS));
  TRY("make mounts private", "/", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  TRY("mount tmpfs", root, mount("tmpfs", root.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=2m"));
  Outcome assembled = Assemble(plan, root);
  if (assembled.ok) assembled = MakeDevices(root);
  if (assembled.ok) assembled = MountDeadProc(root);
  if (assembled.ok) assembled = Enter(root);
  if (assembled.ok) assembled = BecomeOwner(owner);
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

Outcome Finish(const Words& words, int report, Outcome helper) {
  pid_t init = static_cast<pid_t>(strtol(helper.words[0].c_str(), nullptr, 10));
  Outcome done = WriteMaps(init, words[1], words[2]);
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

Outcome SpawnRoot(const Words& words, const std::vector<Fd>& fds, const std::string& root) {
  if (words.size() < 5 || fds.size() != 3) return Outcome::Failed("understand request", EINVAL, "spawn");
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
    Report(theirs.get(), RunHelper(plan, root, static_cast<id_t>(strtoul(words[1].c_str(), nullptr, 10)), {theirs.get(), fds[0].get(), fds[1].get(), fds[2].get()}));
    _exit(1);
  }
  theirs.Close();
  Outcome made = Receive(ours.get());
  waitpid(helper, nullptr, 0);
  return made.ok && !made.words.empty() ? Finish(words, ours.get(), std::move(made)) : std::move(made);
}

}  // namespace keeper
