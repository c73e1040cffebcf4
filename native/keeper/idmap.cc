// Maps of ids: of user namespaces, and of mounts, by which files of one user appear as another's.
#include <errno.h>
#include <grp.h>
#include <linux/mount.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

namespace keeper {

Outcome DropGroups() {
  if (setgroups(0, nullptr) == 0) return Outcome::Ok();
  const int error = errno;
  char word[5] = {};
  Fd file(open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC));
  const bool is_denied = read(file.get(), word, 4) == 4 && strcmp(word, "deny") == 0;
  return is_denied ? Outcome::Ok() : Outcome::Failed("setgroups", error, "");
}

Outcome WriteMaps(pid_t pid, const Ids& ids) {
  std::string map = "0 " + std::to_string(ids.start) + " " + std::to_string(ids.count), folder = "/proc/" + std::to_string(pid) + "/";
  // Who is inside could write this one, once for all, and so leave a mark for others. It fails, as it does for them, where
  // our own namespace has no such ids.
  WriteFile(folder + "projid_map", map, 0);
  Outcome written = WriteFile(folder + "gid_map", map, 0);
  return written.ok ? WriteFile(folder + "uid_map", map, 0) : std::move(written);
}

Outcome InUserNamespace(const Ids& ids, const std::function<Outcome()>& steps) {
  int pair[2];
  TRY("socketpair", "", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
  Fd ours(pair[0]), theirs(pair[1]);
  pid_t child = fork();
  TRY("fork", "", child);
  if (child == 0) {
    ours.Close();
    auto all = [&]() -> Outcome {
      TRY("unshare user namespace", "", unshare(CLONE_NEWUSER));
      Send(theirs.get(), Outcome::Ok());
      char go;
      if (recv(theirs.get(), &go, 1, 0) != 1) _exit(1);  // the maps could not be written
      TRY("setresgid", "", setresgid(0, 0, 0));
      TRY("setresuid", "", setresuid(0, 0, 0));
      return steps();
    };
    Send(theirs.get(), all());
    _exit(0);
  }
  theirs.Close();
  Outcome outcome = Receive(ours.get());
  if (outcome.ok) outcome = WriteMaps(child, ids);
  if (outcome.ok && send(ours.get(), "g", 1, MSG_NOSIGNAL) != 1) outcome = Outcome::Failed("start child", errno, "");
  if (outcome.ok) outcome = Receive(ours.get());
  ours.Close();
  waitpid(child, nullptr, 0);
  return outcome;
}

Outcome OpenIdMap(const Ids& ids) {
  return InUserNamespace(ids, []() -> Outcome {
    int space = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    TRY("open", "/proc/self/ns/user", space);
    return Outcome::Ok({}, Fd(space));
  });
}

Outcome MapIds(int tree, int map, unsigned long long flags, const std::string& source) {
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_IDMAP | flags;
  attributes.userns_fd = static_cast<unsigned long long>(map);
  TRY("map ids of mount", source, syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes));
  return Outcome::Ok();
}

}  // namespace keeper
