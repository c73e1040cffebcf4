// A root: what it consists of, made and entered with the host's privileges, before any user namespace.
#include <errno.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <signal.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "assemble.h"

namespace keeper {

Outcome MakeParents(const std::string& root, const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    std::string parent = root + path.substr(0, slash);
    if (mkdir(parent.c_str(), 0755) < 0 && errno != EEXIST) return Outcome::Failed("mkdir", errno, parent);
  }
  return Outcome::Ok();
}

bool IsPlaced(Op op) { return op != Op::kDevice && op != Op::kShare && op != Op::kWritable; }

namespace {

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

Outcome BindReadOnly(const std::string& source, const std::string& target) {
  if (mkdir(target.c_str(), 0755) < 0 && errno != EEXIST) return Outcome::Failed("mkdir", errno, target);
  Fd tree(OpenTree(source.c_str(), 0));
  TRY("clone mount", source, tree.get());
  TRY("make read-only", source, AddMountFlags(tree.get(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  TRY("attach", target, MoveMount(tree.get(), target.c_str()));
  return Outcome::Ok();
}

// Folders one over the other, the topmost first, read-only: there is no upper one.
Outcome MountLayers(const std::string& lowers, const std::string& target) {
  TRY("mkdir", target, mkdir(target.c_str(), 0755));
  std::string options = "lowerdir=" + lowers;
  TRY("mount overlay", target, mount("overlay", target.c_str(), "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()));
  return Outcome::Ok();
}

// Of devices that every host has; of any other the host says what it is.
struct Device {
  const char* name;
  unsigned major, minor;
};
// A tty is that of whoever opens it; in a sandbox, which has none, that fails with ENXIO.
constexpr Device kDevices[] = {{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};

// Who is root of a user namespace only can make no device, but show the host's.
Outcome BindDevice(const std::string& device, const std::string& path) {
  Outcome made = WriteFile(path, "", O_CREAT | O_EXCL);
  if (!made.ok) return made;
  Fd tree(OpenTree(device.c_str(), 0));
  TRY("clone mount", device, tree.get());
  TRY("set mount flags", device, AddMountFlags(tree.get(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  TRY("attach", path, MoveMount(tree.get(), path.c_str()));
  return Outcome::Ok();
}

Outcome MakeDevice(const std::string& root, const std::string& device) {
  std::string path = root + device;
  struct stat status = {};
  const Device* known = std::find_if(std::begin(kDevices), std::end(kDevices), [&](const Device& each) { return device == each.name; });
  if (known != std::end(kDevices)) {
    status.st_mode = S_IFCHR;
    status.st_rdev = makedev(known->major, known->minor);
  } else {
    TRY("stat", device, stat(device.c_str(), &status));
    if (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode)) return Outcome::Failed("make device", ENODEV, device);
  }
  Outcome parents = MakeParents(root, device);
  if (!parents.ok) return parents;
  const int made = mknod(path.c_str(), (status.st_mode & S_IFMT) | 0666, status.st_rdev);
  if (made < 0 && errno == EPERM) return BindDevice(device, path);
  TRY("mknod", path, made);
  TRY("chmod", path, chmod(path.c_str(), 0666));
  return Outcome::Ok();
}

}  // namespace

Outcome MakeEntry(const Operation& operation, const std::string& root, mode_t file_mode) {
  const std::string &first = operation.first, target = root + operation.path;
  switch (operation.op) {
    case Op::kCopy:
      return CopyFile(first, target, file_mode);
    case Op::kProgram:
      return CopyFile(first, target, 0555);
    case Op::kFile:
      return WriteFile(target, first, O_CREAT | O_EXCL, file_mode);
    case Op::kLink:
      TRY("symlink", target, symlink(first.c_str(), target.c_str()));
      return Outcome::Ok();
    case Op::kDirectory:
      TRY("mkdir", target, mkdir(target.c_str(), 0755));
      return Outcome::Ok();
    default:
      return Outcome::Ok();  // no entry of a folder
  }
}

// A read-only tmpfs with just the devices of the plan, made before the user namespace: later no device node could be opened.
Outcome MakeDevices(const Plan& plan, const std::string& root) {
  constexpr const char* kLinks[][2] = {{"/proc/self/fd", "fd"},
                                       {"/proc/self/fd/0", "stdin"},
                                       {"/proc/self/fd/1", "stdout"},
                                       {"/proc/self/fd/2", "stderr"},
                                       {"/tmp", "shm"}};
  std::string folder = root + "/dev";
  TRY("mkdir", folder, mkdir(folder.c_str(), 0755));
  TRY("mount tmpfs", folder, mount("tmpfs", folder.c_str(), "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=256k,nr_inodes=128"));
  for (const Operation& each : plan.operations) {
    Outcome made = each.op == Op::kDevice ? MakeDevice(root, each.path) : Outcome::Ok();
    if (!made.ok) return made;
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

Outcome BecomeOwner(id_t id) {
  TRY("keep capabilities", "", prctl(PR_SET_KEEPCAPS, 1));
  TRY("setresgid", "", setresgid(id, id, id));
  TRY("setresuid", "", setresuid(id, id, id));
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  TRY("capget", "", syscall(SYS_capget, &header, data));
  for (auto& each : data) each.effective = each.permitted;
  TRY("capset", "", syscall(SYS_capset, &header, data));
  // Else the files by which its ids are mapped would belong to the host's root, also where the keeper is none.
  TRY("set dumpable", "", prctl(PR_SET_DUMPABLE, 1));
  return Outcome::Ok();
}

Outcome Enter(const std::string& root) {
  TRY("chdir", root, chdir(root.c_str()));
  TRY("pivot_root", root, syscall(SYS_pivot_root, ".", "."));
  TRY("detach old root", "/", umount2(".", MNT_DETACH));
  TRY("chdir", "/", chdir("/"));
  return Outcome::Ok();
}

namespace {

Outcome AssembleReadOnly(const Plan& plan, const std::string& root) {
  for (const Operation& each : plan.operations) {
    if (!IsPlaced(each.op)) continue;
    std::string target = root + each.path;
    Outcome done = MakeParents(root, each.path);
    if (done.ok && each.op == Op::kBind) done = BindReadOnly(each.first, target);
    if (done.ok && each.op == Op::kOverlay) done = MountLayers(each.first, target);
    if (done.ok) done = MakeEntry(each, root, 0444);
    if (!done.ok) return done;
  }
  return Outcome::Ok();
}

}  // namespace

Outcome EnterReadOnlyRoot(const Plan& plan, const std::string& root, id_t owner) {
  Outcome done = AssembleReadOnly(plan, root);
  if (done.ok) done = MakeDevices(plan, root);
  if (done.ok) done = MountDeadProc(root);
  if (!done.ok) return done;
  mount_attr read_only = {};
  read_only.attr_set = MOUNT_ATTR_RDONLY;
  TRY("make read-only", root, syscall(SYS_mount_setattr, AT_FDCWD, root.c_str(), 0, &read_only, sizeof read_only));
  done = Enter(root);
  return done.ok ? BecomeOwner(owner) : std::move(done);
}

}  // namespace keeper
