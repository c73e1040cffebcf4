// A root that is writable as a whole: overlays, whose lower folders are mounted with their ids mapped, so that what belongs
// to the host's root there belongs to root of the sandbox. The upper ones lie on a tmpfs or in a folder that the caller
// keeps. What is in such a folder was written by a sandbox: no path is followed through it.
#include <errno.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "assemble.h"

namespace keeper {
namespace {

// Relative to the place where the root is assembled: options of overlays could not hold every path.
constexpr const char *kFixed = "fixed", *kSkeleton = "skeleton", *kLower = "lower", *kStore = "store", *kRoot = "root";
// Of the fixed part; the rest of the root is the sandbox's.
constexpr const char* kFixedFolders[] = {"/dev", "/proc", "/forktree"};

Outcome MakeFolder(const std::string& path) {
  TRY("mkdir", path, mkdir(path.c_str(), 0755) < 0 && errno != EEXIST ? -1 : 0);
  return Outcome::Ok();
}

// A path as one name without anything that overlays' options give a meaning to.
std::string NameOf(const std::string& path) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string name;
  for (char each : path.substr(1)) {
    if (isalnum(static_cast<unsigned char>(each)) != 0 || each == '-') {
      name += each;
    } else {
      name += '_';
      name += kDigits[static_cast<unsigned char>(each) >> 4];
      name += kDigits[static_cast<unsigned char>(each) & 15];
    }
  }
  return name;
}

// Folders separated by colons; a backslash takes a colon's or its own meaning away.
Words SplitFolders(const std::string& text) {
  Words folders(1);
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == ':') {
      folders.emplace_back();
    } else {
      if (text[i] == '\\' && i + 1 < text.size()) i++;
      folders.back() += text[i];
    }
  }
  return folders;
}

Outcome MountMapped(const std::string& source, const std::string& target, int map, unsigned long long flags) {
  Outcome made = MakeFolder(target);
  if (!made.ok) return made;
  // The path is resolved once: who swaps a link on it afterwards changes nothing.
  Fd folder(open(source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  TRY("open", source, folder.get());
  Fd tree(OpenTree("", AT_EMPTY_PATH, folder.get()));
  TRY("clone mount", source, tree.get());
  Outcome mapped = MapIds(tree.get(), map, flags | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, source);
  if (!mapped.ok) return mapped;
  TRY("attach", target, MoveMount(tree.get(), target.c_str()));
  return Outcome::Ok();
}

// The lower folders of every overlay, each below a folder of that overlay, the topmost first.
Outcome MountLowers(const Plan& plan, int map) {
  for (const Operation& each : plan.operations) {
    if (each.op != Op::kBind && each.op != Op::kOverlay) continue;
    const Words sources = each.op == Op::kBind ? Words({each.first}) : SplitFolders(each.first);
    const std::string folder = std::string(kLower) + "/" + NameOf(each.path);
    Outcome done = MakeFolder(folder);
    for (size_t i = 0; done.ok && i < sources.size(); i++) {
      done = MountMapped(sources[i], folder + "/" + std::to_string(i), map, MOUNT_ATTR_RDONLY);
    }
    if (!done.ok) return done;
  }
  return Outcome::Ok();
}

Outcome MakeFixed(const Plan& plan) {
  Outcome done = MakeFolder(std::string(kFixed) + "/proc");
  for (const Operation& each : plan.operations) {
    if (done.ok && each.op == Op::kProgram) done = MakeParents(kFixed, each.path);
    if (done.ok && each.op == Op::kProgram) done = MakeEntry(each, kFixed, 0444);
  }
  if (done.ok) done = MakeDevices(plan, kFixed);
  return done.ok ? MountDeadProc(kFixed) : std::move(done);
}

// What lies below everything else: files and links of the plan, and folders to mount on.
Outcome MakeSkeleton(const Plan& plan) {
  Outcome done = Outcome::Ok();
  for (const char* folder : kFixedFolders) {
    if (done.ok) done = MakeFolder(std::string(kSkeleton) + folder);
  }
  for (const Operation& each : plan.operations) {
    if (!done.ok) return done;
    if (!IsPlaced(each.op) || each.op == Op::kProgram || each.path == "/proc") continue;
    done = MakeParents(kSkeleton, each.path);
    if (!done.ok) return done;
    bool mounted = each.op == Op::kBind || each.op == Op::kOverlay;
    done = mounted ? MakeFolder(kSkeleton + each.path) : MakeEntry(each, kSkeleton, 0644);
  }
  return done;
}

Outcome MountStore(const Plan& plan, int map) {
  if (plan.writable.kind == "folder") return MountMapped(plan.writable.where, kStore, map, 0);
  TRY("mount tmpfs", kStore, mount("tmpfs", kStore, "tmpfs", MS_NOSUID | MS_NODEV, plan.writable.where.c_str()));
  return Outcome::Ok();
}

Outcome MountUpper(const std::string& lowers, const std::string& name, const std::string& target) {
  const std::string upper = std::string(kStore) + "/upper", work = std::string(kStore) + "/work";
  for (const std::string& folder : {upper, work, upper + "/" + name, work + "/" + name}) {
    Outcome made = MakeFolder(folder);
    if (!made.ok) return made;
  }
  const std::string options = "lowerdir=" + lowers + ",upperdir=" + upper + "/" + name + ",workdir=" + work + "/" + name;
  TRY("mount overlay", target, mount("overlay", target.c_str(), "overlay", MS_NOSUID | MS_NODEV, options.c_str()));
  return Outcome::Ok();
}

// A folder of the new root, by no link: a sandbox before may have made one.
Outcome OpenInside(int root, const std::string& path) {
  open_how how = {};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  int folder = static_cast<int>(syscall(SYS_openat2, root, path.c_str() + 1, &how, sizeof how));
  TRY("open folder of writable root", path, folder);
  return Outcome::Ok({}, Fd(folder));
}

Outcome MountParts(const Plan& plan) {
  Fd root(open(kRoot, O_PATH | O_DIRECTORY | O_CLOEXEC));
  TRY("open", kRoot, root.get());
  for (const Operation& each : plan.operations) {
    if (each.op != Op::kBind && each.op != Op::kOverlay) continue;
    Outcome target = OpenInside(root.get(), each.path);
    if (!target.ok) return target;
    std::string lowers;
    const size_t count = each.op == Op::kBind ? 1 : SplitFolders(each.first).size();
    for (size_t i = 0; i < count; i++) lowers += (i == 0 ? "" : ":") + std::string(kLower) + "/" + NameOf(each.path) + "/" + std::to_string(i);
    Outcome mounted = MountUpper(lowers, NameOf(each.path), "/proc/self/fd/" + std::to_string(target.fd.get()));
    if (!mounted.ok) return mounted;
  }
  for (const char* folder : kFixedFolders) {
    Outcome target = OpenInside(root.get(), folder);
    if (!target.ok) return target;
    Fd tree(OpenTree((kFixed + std::string(folder)).c_str(), 0));
    TRY("clone mount", folder, tree.get());
    // The others have had theirs since they were mounted.
    mount_attr attributes = {};
    attributes.attr_set = strcmp(folder, "/forktree") == 0 ? MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV : 0;
    TRY("set mount flags", folder, syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes));
    TRY("attach", folder, MoveMount(tree.get(), "", target.fd.get()));
  }
  return Outcome::Ok();
}

}  // namespace

Outcome EnterWritableRoot(const Plan& plan, const std::string& place, const Ids& ids) {
  TRY("chdir", place, chdir(place.c_str()));
  Outcome map = OpenIdMap(ids);
  if (!map.ok) return map;
  Outcome done = Outcome::Ok();
  for (const char* folder : {kFixed, kSkeleton, kLower, kStore, kRoot}) {
    if (done.ok) done = MakeFolder(folder);
  }
  if (done.ok) done = MountLowers(plan, map.fd.get());
  if (done.ok) done = MakeFixed(plan);
  TRY("chown", kSkeleton, chown(kSkeleton, ids.start, ids.start));
  // From here on as the sandbox's root: what is made belongs to it, and overlays act as it.
  if (done.ok) done = BecomeOwner(ids.start);
  if (done.ok) done = MountStore(plan, map.fd.get());
  if (done.ok) done = MakeSkeleton(plan);
  if (done.ok) done = MountUpper(kSkeleton, "root", kRoot);
  if (done.ok) done = MountParts(plan);
  return done.ok ? Enter(kRoot) : std::move(done);
}

}  // namespace keeper
