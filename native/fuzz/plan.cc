// The keeper's reading of a root zygote's plan: what it reads is what was written, and what it refuses is no plan.
// Input: the words of a request, NUL-terminated; the plan begins with the fourth, as in a request.
#include <errno.h>

#include <set>
#include <string>

#include "../keeper/keeper.h"
#include "fuzz.h"

namespace {

using keeper::Op;
using keeper::Outcome;
using keeper::Plan;
using keeper::Words;

constexpr size_t kHead = 3;

const char* NameOf(Op op) {
  switch (op) {
    case Op::kBind:
      return "bind";
    case Op::kCopy:
      return "copy";
    case Op::kProgram:
      return "program";
    case Op::kFile:
      return "file";
    case Op::kLink:
      return "link";
    case Op::kDirectory:
      return "dir";
    case Op::kOverlay:
      return "overlay";
    case Op::kDevice:
      return "device";
    case Op::kShare:
      return "share";
    case Op::kWritable:
      return "writable";
  }
  abort();
}

Words Write(const Plan& plan, const std::string& count) {
  Words words;
  for (const keeper::Operation& each : plan.operations) {
    for (const std::string& word : {std::string(NameOf(each.op)), each.first, each.path}) words.push_back(word);
  }
  words.push_back("exec");
  words.push_back(count);
  words.insert(words.end(), plan.arguments.begin(), plan.arguments.end());
  words.insert(words.end(), plan.environment.begin(), plan.environment.end());
  return words;
}

// By looking at what is left word by word, and at the numbers that could be meant.
bool IsPlan(const Words& words) {
  size_t at = kHead;
  while (at < words.size()) {
    const std::string& op = words[at];
    if (op == "exec") break;
    const std::set<std::string> known = {"bind", "copy", "program", "file", "link", "dir", "overlay", "device", "share", "writable"};
    if (known.count(op) == 0 || at + 2 >= words.size()) return false;
    if (op == "share" && words[at + 1] != "network") return false;
    if (op == "writable" && words[at + 1] != "tmpfs" && words[at + 1] != "folder") return false;
    at += 3;
  }
  if (at + 1 >= words.size()) return false;
  std::string count = words[at + 1];
  if (count.size() > 6) return false;
  count.erase(0, count.find_first_not_of('0'));
  for (size_t wanted = 1; at + 1 + wanted < words.size(); wanted++) {
    if (count == std::to_string(wanted)) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Words words = keeper::Split(reinterpret_cast<const char*>(data), size);
  Plan plan;
  Outcome outcome = keeper::ParsePlan(words, kHead, &plan);
  EXPECT(outcome.ok == IsPlan(words));
  if (!outcome.ok) {
    EXPECT(outcome.words.size() == 3 && outcome.words[0] == "understand plan");
    EXPECT(outcome.words[1] == std::to_string(EINVAL));
    return 0;
  }
  EXPECT(!plan.arguments.empty());
  const size_t count = kHead + plan.operations.size() * 3 + 1;
  EXPECT(std::stoul(words[count]) == plan.arguments.size());
  EXPECT(Write(plan, words[count]) == Words(words.begin() + kHead, words.end()));
  return 0;
}
