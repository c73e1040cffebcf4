// Probes: each tries one thing of the kernel as forktree uses it, in a throw-away child, and answers what was found or
// the step that failed. Nothing of a probe outlives its child.
#include <errno.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

namespace keeper {
namespace {

id_t ReadId(const std::string& text) { return static_cast<id_t>(strtoul(text.c_str(), nullptr, 10)); }

Outcome MountOwnTmpfs(const std::string& place) {
  TRY("unshare mount namespace", "", unshare(CLONE_NEWNS));
  TRY("make mounts private", "/", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  TRY("mount tmpfs", place, mount("tmpfs", place.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=1m"));
  return Outcome::Ok();
}

// A user namespace and one below it, as zygotes of packages are made by zygotes, and a mount in it: where they are
// restricted, making one may succeed and only its capabilities be missing.
Outcome UserNamespaces(const Words&, const std::string& place) {
  return InUserNamespace({0, 1}, [&] { return InUserNamespace({0, 1}, [&] { return MountOwnTmpfs(place); }); });
}

// START COUNT: a map of these ids, and becoming the last of them.
Outcome MapOfIds(const Words& arguments, const std::string&) {
  const Ids ids = {ReadId(arguments[0]), ReadId(arguments[1])};
  return InUserNamespace(ids, [&]() -> Outcome {
    uid_t last = ids.count - 1;
    TRY("setresgid", std::to_string(last), setresgid(last, last, last));
    TRY("setresuid", std::to_string(last), setresuid(last, last, last));
    return Outcome::Ok();
  });
}

// ID FOLDER PATH: what a sandbox sees is FOLDER itself, wherever it is on the host; whether someone with that id, and
// no other right, can read PATH in it, and execute or enter it.
Outcome Reach(const Words& arguments, const std::string&) {
  const std::string &folder = arguments[1], &path = arguments[2];
  uid_t id = ReadId(arguments[0]);
  Fd root(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  TRY("open", folder, root.get());
  Outcome dropped = DropGroups();
  if (!dropped.ok) return dropped;
  TRY("setresgid", "", setresgid(id, id, id));
  TRY("setresuid", "", setresuid(id, id, id));
  TRY("reach as another user", folder + "/" + path, faccessat(root.get(), path.c_str(), R_OK | X_OK, 0));
  return Outcome::Ok();
}

Outcome MakeOverlayFolders(const std::string& place) {
  Outcome mounted = MountOwnTmpfs(place);
  if (!mounted.ok) return mounted;
  for (const char* name : {"/lower", "/upper", "/work", "/merged"}) TRY("mkdir", place + name, mkdir((place + name).c_str(), 0700));
  return Outcome::Ok();
}

Outcome MountOverlay(const std::string& place) {
  const std::string merged = place + "/merged";
  const std::string options = "lowerdir=" + place + "/lower,upperdir=" + place + "/upper,workdir=" + place + "/work";
  TRY("mount overlay", merged, mount("overlay", merged.c_str(), "overlay", 0, options.c_str()));
  return Outcome::Ok();
}

// An overlay on a tmpfs, and a copy-up in it.
Outcome Overlay(const Words&, const std::string& place) {
  Outcome made = MakeOverlayFolders(place);
  if (!made.ok) return made;
  auto in_place = [&](const char* name) { return place + "/" + name; };
  Outcome written = WriteFile(in_place("lower/file"), "text", O_CREAT | O_EXCL);
  if (!written.ok) return written;
  Outcome mounted = MountOverlay(place);
  if (!mounted.ok) return mounted;
  written = WriteFile(in_place("merged/file"), "new", O_TRUNC);
  if (!written.ok) return written;
  TRY("copy up", in_place("upper/file"), access(in_place("upper/file").c_str(), F_OK));
  return Outcome::Ok();
}

// FOLDER START: a mount of a folder of id 0 in which it belongs to START, and an overlay over it.
Outcome IdmappedMount(const Words& arguments, const std::string& place) {
  const std::string& folder = arguments[0];
  const id_t start = ReadId(arguments[1]);
  Outcome map = OpenIdMap({start, 1});
  if (!map.ok) return map;
  Fd tree(OpenTree(folder.c_str(), 0));
  TRY("clone mount", folder, tree.get());
  Outcome mapped = MapIds(tree.get(), map.fd.get(), 0, folder);
  if (!mapped.ok) return mapped;
  struct stat status;
  TRY("stat", folder, fstat(tree.get(), &status));
  if (status.st_uid != start) return Outcome::Failed("see the mapped owner", EOVERFLOW, folder);
  Outcome made = MakeOverlayFolders(place);
  if (!made.ok) return made;
  TRY("attach", folder, MoveMount(tree.get(), (place + "/lower").c_str()));
  return MountOverlay(place);
}

// The actions that the filters take, and a filter that is obeyed.
Outcome Seccomp(const Words&, const std::string&) {
  for (unsigned action : {SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS})
    TRY("ask for seccomp action", std::to_string(action), syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  sock_filter instructions[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {sizeof instructions / sizeof instructions[0], instructions};
  TRY("set no_new_privs", "", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  TRY("install seccomp filter", "", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
  if (syscall(SYS_getppid) != -1) return Outcome::Failed("be held by seccomp filter", EINVAL, "");
  return Outcome::Ok();
}

// Answers the version of the kernel's Landlock.
Outcome Landlock(const Words&, const std::string&) {
  long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  TRY("ask for Landlock", "", version);
  return Outcome::Ok({std::to_string(version)});
}

// Collapses anonymous memory into a huge page; only 2 MiB ones are tried, as zygotes do.
Outcome Collapse(const Words&, const std::string&) {
  constexpr size_t kHuge = 2 * 1024 * 1024;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers lack
  void* mapped = mmap(nullptr, 2 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return Outcome::Failed("map memory", errno, "");
  size_t start = (reinterpret_cast<size_t>(mapped) + kHuge - 1) / kHuge * kHuge;
  *reinterpret_cast<volatile char*>(start) = 1;
  TRY("collapse memory", "", madvise(reinterpret_cast<void*>(start), kHuge, kCollapse));
  return Outcome::Ok();
}

struct Probe {
  const char* name;
  size_t arguments;
  Outcome (*run)(const Words& arguments, const std::string& place);
};

constexpr Probe kProbes[] = {
    {"user-namespaces", 0, UserNamespaces}, {"ids", 2, MapOfIds},         {"reach", 3, Reach},       {"overlay", 0, Overlay},
    {"idmapped-mount", 2, IdmappedMount},   {"seccomp", 0, Seccomp}, {"landlock", 0, Landlock}, {"collapse", 0, Collapse},
};

}  // namespace

Outcome RunProbe(const Words& words, const std::string& place) {
  for (const Probe& probe : kProbes) {
    if (words.size() != 2 + probe.arguments || words[1] != probe.name) continue;
    Words arguments(words.begin() + 2, words.end());
    return InChild([&] { return probe.run(arguments, place); });
  }
  return Outcome::Failed("understand request", EINVAL, "probe");
}

}  // namespace keeper
