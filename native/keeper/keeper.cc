// The keeper: a small process that holds forktree's private mount namespace and does what needs the host's privileges
// there, one request after the other: it locks folders and files read-only, clones them for sandboxes, and makes root zygotes.
//   keeper MOUNTPOINT [one|mapped]      fd 3: the host's socket; its end of file is the keeper's end
// Who is not root has it do so in a user namespace of its own: in which its user is the only one, or which the host maps
// when the keeper has said that it is there.
// A request is a list of NUL-terminated words; the answer is `ok` or `no STEP ERRNO PATH`.
#include "keeper.h"

#include <dirent.h>
#include <errno.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>

namespace keeper {
namespace {

constexpr int kHost = 3;
constexpr size_t kMaxRequest = 160 * 1024;

struct Keeper {
  std::string mount_point;
  // Of whose groups sandboxes are frozen; only where that keeps them from ending.
  std::string freezer;
  std::map<std::string, Fd> locked;
  std::map<pid_t, Fd> inits;
};

std::string Place(const Keeper& keeper, const std::string& id) { return keeper.mount_point + "/" + id; }

// A clone of the mount of a folder, or of a file, with the flags it shall have.
Outcome AttachOne(const std::string& source, int kind, unsigned long long flags, const std::string& place) {
  // The path is resolved once: who swaps a link on it afterwards changes nothing.
  Fd found(open(source.c_str(), O_PATH | kind | O_CLOEXEC));
  TRY("open", source, found.get());
  Fd tree(OpenTree("", AT_EMPTY_PATH, found.get()));
  TRY("clone mount", source, tree.get());
  TRY("set mount flags", source, AddMountFlags(tree.get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | flags));
  TRY("attach", place, MoveMount(tree.get(), place.c_str()));
  return Outcome::Ok();
}

// Several folders as one, the first one topmost; nothing can be written. They are named by descriptor: all options together
// may be no longer than a page.
Outcome AttachLayers(const Words& sources, const std::string& place) {
  std::vector<Fd> folders;
  std::string options = "lowerdir=";
  for (const std::string& source : sources) {
    folders.emplace_back(open(source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    TRY("open", source, folders.back().get());
    if (folders.size() > 1) options += ':';
    options += "/proc/self/fd/" + std::to_string(folders.back().get());
  }
  TRY("mount overlay", place, mount("overlay", place.c_str(), "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()));
  return Outcome::Ok();
}

// In a throw-away child: attaches something, copies the mount namespace into a new user namespace, which locks its flags for
// good, and answers a clone of that. No id map is needed.
Outcome MakeLocked(const std::function<Outcome()>& attach, const std::string& place) {
  TRY("unshare mount namespace", "", unshare(CLONE_NEWNS));
  TRY("make mounts private", "/", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  Outcome attached = attach();
  if (!attached.ok) return attached;
  TRY("unshare user namespace", "", unshare(CLONE_NEWUSER | CLONE_NEWNS));
  int locked = OpenTree(place.c_str(), 0);
  TRY("clone mount", place, locked);
  return Outcome::Ok({}, Fd(locked));
}

Outcome LockAt(Keeper& keeper, const std::string& id, const std::function<Outcome()>& attach, const std::string& place) {
  Outcome made = InChild([&] { return MakeLocked(attach, place); });
  if (!made.ok) return made;
  // A detached mount of another namespace can be attached but not cloned, so it is attached here once.
  TRY("attach", place, MoveMount(made.fd.get(), place.c_str()));
  keeper.locked[id] = std::move(made.fd);
  return Outcome::Ok();
}

Outcome Lock(Keeper& keeper, const Words& words) {
  const std::string& id = words[1];
  std::string place = Place(keeper, id);
  const bool is_file = words[0] == "lock-file";
  const unsigned long long flags = words[0] == "lock-writable" ? 0 : words[0] == "lock-data" ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY;
  Words sources(words.begin() + 2, words.end());
  auto attach = [&] {
    if (words[0] == "lock-layers") return AttachLayers(sources, place);
    return AttachOne(sources[0], is_file ? O_NOFOLLOW : O_DIRECTORY, flags, place);
  };
  if (is_file) {
    Outcome made = WriteFile(place, "", O_CREAT | O_EXCL, 0600);
    if (!made.ok) return made;
  } else {
    TRY("make mount point", place, mkdir(place.c_str(), 0700));
  }
  Outcome locked = LockAt(keeper, id, attach, place);
  if (!locked.ok) remove(place.c_str());
  return locked;
}

Outcome Unlock(Keeper& keeper, const std::string& id) {
  if (keeper.locked.erase(id) == 0) return Outcome::Ok();
  std::string place = Place(keeper, id);
  TRY("detach", place, umount2(place.c_str(), MNT_DETACH));
  TRY("remove mount point", place, remove(place.c_str()));
  return Outcome::Ok();
}

Outcome Clone(Keeper& keeper, const std::string& id) {
  auto found = keeper.locked.find(id);
  if (found == keeper.locked.end()) return Outcome::Failed("clone mount", ENOENT, id);
  int tree = OpenTree("", AT_EMPTY_PATH, found->second.get());
  TRY("clone mount", id, tree);
  return Outcome::Ok({}, Fd(tree));
}

Outcome Join(Keeper& keeper, const Words& words, const std::vector<Fd>& groups) {
  if (words.size() == 2) keeper.freezer = words[1];
  for (const Fd& group : groups) TRY("join cgroup", "", write(group.get(), "0", 1));
  return Outcome::Ok();
}

Outcome Spawn(Keeper& keeper, const Words& words, const std::vector<Fd>& fds) {
  Outcome spawned = SpawnRoot(words, fds, Place(keeper, ".root"));
  if (spawned.ok) keeper.inits[spawned.pid] = Fd(fcntl(spawned.fd.get(), F_DUPFD_CLOEXEC, 4));
  return spawned;
}

Outcome Handle(Keeper& keeper, const Words& words, const std::vector<Fd>& fds) {
  const std::string& op = words.empty() ? "" : words[0];
  if (op == "join") return Join(keeper, words, fds);
  if ((op == "lock" || op == "lock-file" || op == "lock-writable" || op == "lock-data") && words.size() == 3) return Lock(keeper, words);
  if (op == "lock-layers" && words.size() >= 4) return Lock(keeper, words);
  if (op == "unlock" && words.size() == 2) return Unlock(keeper, words[1]);
  if (op == "clone" && words.size() == 2) return Clone(keeper, words[1]);
  if (op == "probe") return RunProbe(words, Place(keeper, ".root"));
  if (op == "spawn") return Spawn(keeper, words, fds);
  return Outcome::Failed("understand request", EINVAL, op);
}

Outcome EnterOwnMountNamespace(const std::string& mount_point) {
  TRY("unshare mount namespace", "", unshare(CLONE_NEWNS));
  TRY("make mounts private", "/", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  TRY("mount tmpfs", mount_point, mount("tmpfs", mount_point.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=1m"));
  std::string root = mount_point + "/.root";
  TRY("make mount point", root, mkdir(root.c_str(), 0755));
  return Outcome::Ok();
}

// Inits are reaped as they end; waits until the host asks something. False: the host has gone.
bool WaitForHost(Keeper& keeper) {
  for (;;) {
    std::vector<pollfd> waits = {{kHost, POLLIN, 0}};
    for (const auto& [pid, pidfd] : keeper.inits) waits.push_back({pidfd.get(), POLLIN, 0});
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return false;
    for (auto init = keeper.inits.begin(); init != keeper.inits.end();) {
      bool ended = waitpid(init->first, nullptr, WNOHANG | __WALL) == init->first;
      init = ended ? keeper.inits.erase(init) : std::next(init);
    }
    if ((waits[0].revents & POLLIN) != 0) return true;
    if (waits[0].revents != 0) return false;
  }
}

// What is frozen can't end, on v1, and with it the init above.
void Thaw(const std::string& freezer) {
  DIR* groups = freezer.empty() ? nullptr : opendir(freezer.c_str());
  if (groups == nullptr) return;
  while (const dirent* group = readdir(groups)) {
    if (group->d_type == DT_DIR && group->d_name[0] != '.') WriteFile(freezer + "/" + group->d_name + "/freezer.state", "THAWED", 0);
  }
  closedir(groups);
}

// The end of an init is the end of everyone in its pid namespace and below; who waits for it finds none of them left.
void EndInits(const Keeper& keeper) {
  for (const auto& [pid, pidfd] : keeper.inits) kill(pid, SIGKILL);
  Thaw(keeper.freezer);
  for (const auto& [pid, pidfd] : keeper.inits) waitpid(pid, nullptr, __WALL);
}

Outcome MapOwnId(uid_t uid, gid_t gid) {
  // Without a helper that may do more, groups can be mapped only by who can't change them any more, see user_namespaces(7).
  Outcome written = WriteFile("/proc/self/setgroups", "deny", 0);
  if (written.ok) written = WriteFile("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1", 0);
  if (written.ok) written = WriteFile("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1", 0);
  return written;
}

Outcome AwaitMaps() {
  Send(kHost, Outcome::Ok());
  char word[16];
  std::vector<Fd> fds;
  TRY("wait for id maps", "", ReceiveBytes(kHost, word, sizeof word, &fds) <= 0 ? -1 : 0);
  return Outcome::Ok();
}

// As root of it: with every capability that matters below.
Outcome EnterOwnUserNamespace(const std::string& kind) {
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  TRY("unshare user namespace", "", unshare(CLONE_NEWUSER));
  Outcome mapped = kind == "one" ? MapOwnId(uid, gid) : AwaitMaps();
  if (!mapped.ok) return mapped;
  TRY("setresgid", "", setresgid(0, 0, 0));
  TRY("setresuid", "", setresuid(0, 0, 0));
  return Outcome::Ok();
}

int Run(const char* mount_point, const char* user_namespace) {
  prctl(PR_SET_NAME, "forktree-keeper");
  setsid();  // a terminal's interrupt is the host's business
  signal(SIGPIPE, SIG_IGN);
  Keeper keeper;
  keeper.mount_point = mount_point;
  Outcome entered = user_namespace == nullptr ? Outcome::Ok() : EnterOwnUserNamespace(user_namespace);
  if (entered.ok) entered = EnterOwnMountNamespace(keeper.mount_point);
  Send(kHost, entered);
  if (!entered.ok) return 1;
  std::string buffer(kMaxRequest, '\0');
  while (WaitForHost(keeper)) {
    std::vector<Fd> fds;
    ssize_t size = ReceiveBytes(kHost, buffer.data(), buffer.size(), &fds);
    if (size <= 0) break;
    Send(kHost, Handle(keeper, Split(buffer.data(), static_cast<size_t>(size)), fds));
  }
  EndInits(keeper);
  return 0;
}

}  // namespace
}  // namespace keeper

int main(int count, char** arguments) {
  if (count != 2 && count != 3) {
    static const char text[] = "keeper: it is started by forktree itself\n";
    return write(2, text, sizeof text - 1) < 0 ? 2 : 1;
  }
  return keeper::Run(arguments[1], arguments[2]);
}
