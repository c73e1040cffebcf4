#include "profile.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

namespace forktree {
namespace {

// From <seccomp.h>, which need not be installed.
struct Comparison {
  unsigned argument;
  int op;
  uint64_t value, second;
};
constexpr int kOptimize = 8;       // SCMP_FLTATR_CTL_OPTIMIZE
constexpr uint32_t kTree = 2;      // as a tree instead of a list
constexpr int kBadArchitecture = 4;  // SCMP_FLTATR_ACT_BADARCH
constexpr int kNoSuchCall = -1;    // __NR_SCMP_ERROR

struct Library {
  void* (*init)(uint32_t);
  void (*release)(void*);
  int (*resolve)(const char*);
  int (*add)(void*, uint32_t, int, unsigned, const Comparison*);
  int (*set)(void*, int, uint32_t);
  int (*write)(void*, int);
};

template <typename T>
bool Find(void* handle, const char* name, T* function) {
  *function = reinterpret_cast<T>(dlsym(handle, name));
  return *function != nullptr;
}

bool Load(Library* library, std::string* error) {
  static void* handle = dlopen("libseccomp.so.2", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    *error = "libseccomp.so.2 is missing; on Debian and Ubuntu: apt-get install libseccomp2";
    return false;
  }
  if (Find(handle, "seccomp_init", &library->init) && Find(handle, "seccomp_release", &library->release) &&
      Find(handle, "seccomp_syscall_resolve_name", &library->resolve) &&
      Find(handle, "seccomp_rule_add_array", &library->add) && Find(handle, "seccomp_attr_set", &library->set) &&
      Find(handle, "seccomp_export_bpf", &library->write)) {
    return true;
  }
  *error = "libseccomp.so.2 is too old";
  return false;
}

bool AddRules(const Library& library, void* filter, const Profile& profile, std::string* error) {
  for (const ProfileRule& rule : profile.rules) {
    int number = library.resolve(rule.call.c_str());
    // Profiles list calls of every architecture and of kernels to come.
    if (number == kNoSuchCall || number < 0 || rule.action == profile.default_action) continue;
    std::vector<Comparison> comparisons;
    for (const ProfileArgument& each : rule.arguments) {
      comparisons.push_back({each.index, static_cast<int>(each.op), each.value, each.second});
    }
    int result = library.add(filter, rule.action, number, static_cast<unsigned>(comparisons.size()), comparisons.data());
    if (result < 0) {
      *error = "the rule of " + rule.call + ": " + strerror(-result);
      return false;
    }
  }
  return true;
}

std::string Export(const Library& library, void* filter, std::string* error) {
  int file = memfd_create("filter", MFD_CLOEXEC);
  int result = file < 0 ? -1 : library.write(filter, file);
  std::string bytes;
  char part[4096];
  if (result == 0) lseek(file, 0, SEEK_SET);
  for (ssize_t size; result == 0 && (size = read(file, part, sizeof part)) > 0;) bytes.append(part, static_cast<size_t>(size));
  if (file >= 0) close(file);
  if (bytes.empty()) *error = "the filter could not be made";
  return bytes;
}

}  // namespace

std::string CompileProfile(const Profile& profile, std::string* error) {
  Library library = {};
  if (!Load(&library, error)) return "";
  void* filter = library.init(profile.default_action);
  if (filter == nullptr) {
    *error = "the default action is not one";
    return "";
  }
  std::string bytes;
  library.set(filter, kOptimize, kTree);  // before libseccomp 2.5 it is a list, which is only slower
  library.set(filter, kBadArchitecture, profile.default_action);
  if (AddRules(library, filter, profile, error)) bytes = Export(library, filter, error);
  library.release(filter);
  return bytes;
}

}  // namespace forktree
