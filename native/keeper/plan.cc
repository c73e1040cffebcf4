// Reads a root zygote's plan.
#include <errno.h>
#include <stddef.h>

#include <algorithm>

#include "keeper.h"

namespace keeper {
namespace {

struct Name {
  const char* text;
  Op op;
};
constexpr Name kNames[] = {{"bind", Op::kBind}, {"copy", Op::kCopy}, {"program", Op::kProgram},
                           {"file", Op::kFile}, {"link", Op::kLink}, {"dir", Op::kDirectory},
                           {"overlay", Op::kOverlay}, {"device", Op::kDevice}, {"share", Op::kShare},
                           {"writable", Op::kWritable}};

bool IsUnderstood(Op op, const std::string& first) {
  if (op == Op::kShare) return first == "network";
  return op != Op::kWritable || first == "tmpfs" || first == "folder";
}

// The number of arguments: digits only, and no more of them than there can be words. 0: no such number.
size_t ReadCount(const std::string& text) {
  constexpr size_t kMaxDigits = 6;
  if (text.empty() || text.size() > kMaxDigits) return 0;
  if (!std::all_of(text.begin(), text.end(), [](char digit) { return digit >= '0' && digit <= '9'; })) return 0;
  return std::stoul(text);
}

}  // namespace

Outcome ParsePlan(const Words& words, size_t at, Plan* plan) {
  for (; at < words.size() && words[at] != "exec"; at += 3) {
    const Name* name = std::find_if(std::begin(kNames), std::end(kNames), [&](Name each) { return words[at] == each.text; });
    if (name == std::end(kNames) || words.size() - at < 3) return Outcome::Failed("understand plan", EINVAL, words[at]);
    if (!IsUnderstood(name->op, words[at + 1])) return Outcome::Failed("understand plan", EINVAL, words[at + 1]);
    if (name->op == Op::kShare) plan->own_network = false;
    if (name->op == Op::kWritable) plan->writable = {words[at + 1], words[at + 2]};
    plan->operations.push_back({name->op, words[at + 1], words[at + 2]});
  }
  size_t count = words.size() < at + 2 ? 0 : ReadCount(words[at + 1]);
  if (count == 0 || count > words.size() - at - 2) return Outcome::Failed("understand plan", EINVAL, "exec");
  auto arguments = words.begin() + static_cast<ptrdiff_t>(at + 2);
  auto environment = arguments + static_cast<ptrdiff_t>(count);
  plan->arguments.assign(arguments, environment);
  plan->environment.assign(environment, words.end());
  return Outcome::Ok();
}

}  // namespace keeper
