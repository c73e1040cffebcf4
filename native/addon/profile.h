// Seccomp profiles as BPF, by libseccomp, which is loaded only for this.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace forktree {

// One comparison of a call's argument; `op` as in <seccomp.h>: 1 !=, 2 <, 3 <=, 4 ==, 5 >=, 6 >, 7 masked ==.
struct ProfileArgument {
  uint32_t index, op;
  uint64_t value, second;
};
// What becomes of a call, if all its arguments compare so.
struct ProfileRule {
  std::string call;
  uint32_t action;
  std::vector<ProfileArgument> arguments;
};
struct Profile {
  uint32_t default_action;
  std::vector<ProfileRule> rules;
};

// The instructions as bytes. Empty: `error` says why.
std::string CompileProfile(const Profile& profile, std::string* error);

}  // namespace forktree
