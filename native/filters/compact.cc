#include "compact.h"

#include <linux/seccomp.h>
#include <stddef.h>

#include <map>
#include <random>
#include <set>
#include <utility>

namespace {

using Program = std::vector<sock_filter>;

constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
constexpr uint32_t kArch = offsetof(seccomp_data, arch);
constexpr int kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr int kAnd = BPF_ALU | BPF_AND | BPF_K;
constexpr int kReturn = BPF_RET | BPF_K;
constexpr int kJump = BPF_JMP | BPF_JA;
constexpr int kIfEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr int kIfGreater = BPF_JMP | BPF_JGT | BPF_K;
constexpr int kIfNotLess = BPF_JMP | BPF_JGE | BPF_K;
constexpr int kIfAnyBit = BPF_JMP | BPF_JSET | BPF_K;

bool IsLoad(const sock_filter& i, uint32_t offset) {
  return i.code == kLoad && i.k == offset;
}

bool IsConditional(const sock_filter& i) {
  return i.code == kIfEqual || i.code == kIfGreater || i.code == kIfNotLess ||
         i.code == kIfAnyBit;
}

bool Holds(const sock_filter& i, uint32_t value) {
  switch (i.code) {
    case kIfEqual: return value == i.k;
    case kIfGreater: return value > i.k;
    case kIfNotLess: return value >= i.k;
    default: return (value & i.k) != 0;
  }
}

// Where an instruction that is a jump leads to when `value` is loaded.
size_t Next(const Program& program, size_t at, uint32_t value) {
  const sock_filter& i = program.at(at);
  if (i.code == kJump) return at + 1 + i.k;
  return at + 1 + (Holds(i, value) ? i.jt : i.jf);
}

// What the kernel would answer.
uint32_t Answer(const Program& program, const seccomp_data& call) {
  uint32_t value = 0;
  for (size_t at = 0;;) {
    const sock_filter& i = program.at(at);
    if (i.code == kReturn) return i.k;
    if (i.code == kLoad) {
      value = reinterpret_cast<const uint32_t*>(&call)[i.k / 4];
      at++;
    } else if (i.code == kAnd) {
      value &= i.k;
      at++;
    } else {
      at = Next(program, at, value);
    }
  }
}

void CheckForm(const Program& program, uint32_t audit_arch) {
  for (const sock_filter& i : program) {
    if (!IsConditional(i) && i.code != kLoad && i.code != kAnd &&
        i.code != kReturn && i.code != kJump) {
      Fail("an instruction of a kind that libseccomp did not use");
    }
  }
  if (program.size() < 4 || !IsLoad(program[0], kArch) ||
      program[1].code != kIfEqual || program[1].k != audit_arch) {
    Fail("a filter that does not begin with the architecture");
  }
}

// The instruction at which a call's number alone decides no more: an answer,
// or the first look at an argument.
size_t Decide(const Program& program, size_t at, uint32_t number) {
  for (;;) {
    const sock_filter& i = program.at(at);
    if (IsLoad(i, kNumber)) {
      at++;
    } else if (IsConditional(i) || i.code == kJump) {
      at = Next(program, at, number);
    } else {
      return at;
    }
  }
}

struct Range {
  uint32_t first;
  size_t decided;
};

// Neighbours of which the same becomes, in order, from 0 on.
std::vector<Range> FindRanges(const Program& program, size_t start) {
  // Between two neighbours of these no comparison changes its mind; a test of
  // bits, which could, is not made of numbers.
  std::set<uint32_t> firsts = {0};
  for (const sock_filter& i : program) {
    if (i.code == kIfEqual || i.code == kIfNotLess) firsts.insert(i.k);
    if (i.code == kIfEqual || i.code == kIfGreater) firsts.insert(i.k + 1);
    if (i.code == kIfAnyBit) Fail("a test of bits");
  }
  std::vector<Range> ranges;
  for (uint32_t first : firsts) {
    const size_t decided = Decide(program, start, first);
    const sock_filter& found = program[decided];
    if (!ranges.empty()) {
      const sock_filter& before = program[ranges.back().decided];
      const bool both_answer = found.code == kReturn && before.code == kReturn;
      if (decided == ranges.back().decided) continue;
      if (both_answer && found.k == before.k) continue;
    }
    ranges.push_back({first, decided});
  }
  return ranges;
}

// Instructions whose jumps lead to labels until all have their places.
class Writer {
 public:
  explicit Writer(const Program& from) : from_(from) {}

  Program Write(const std::vector<Range>& ranges, uint32_t audit_arch,
                size_t other_arch) {
    Put({kLoad, 0, 0, kArch});
    Put({kIfEqual, 0, 0, audit_arch}, {kHere, Place(other_arch)});
    Put({kLoad, 0, 0, kNumber});
    WriteTree(ranges, 0, ranges.size());
    WriteBlocks();
    WriteAnswers();
    return Resolve();
  }

 private:
  // A label: an answer, an instruction of the old program, or the next one.
  struct Label {
    enum { kNext, kAnswer, kBlock, kPlaced } kind;
    size_t value;
  };
  static constexpr Label kHere = {Label::kNext, 0};
  struct Line {
    sock_filter instruction;
    Label then, otherwise;
  };

  void Put(sock_filter instruction,
           std::pair<Label, Label> labels = {kHere, kHere}) {
    lines_.push_back({instruction, labels.first, labels.second});
  }

  // Of an instruction of the old program.
  Label Place(size_t at) {
    while (from_.at(at).code == kJump) at += 1 + from_[at].k;
    if (from_[at].code == kReturn) {
      answers_.emplace(from_[at].k, 0);
      return {Label::kAnswer, from_[at].k};
    }
    blocks_.emplace(at, 0);
    return {Label::kBlock, at};
  }

  // Comparisons that find the range of a number among [begin, end).
  Label WriteTree(const std::vector<Range>& ranges, size_t begin, size_t end) {
    if (end - begin == 1) return Place(ranges[begin].decided);
    const size_t middle = begin + (end - begin) / 2;
    const size_t line = lines_.size();
    Put({kIfGreater, 0, 0, ranges[middle].first - 1});
    const Label below = WriteTree(ranges, begin, middle);
    const Label above = WriteTree(ranges, middle, end);
    lines_[line].then = above;
    lines_[line].otherwise = below;
    return {Label::kPlaced, line};
  }

  // What looks at arguments, as it was, in the order in which it was.
  void WriteBlocks() {
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const size_t at = block->first;
      const sock_filter& i = from_[at];
      block->second = lines_.size();
      if (IsConditional(i)) {
        Put(i, {Place(at + 1 + i.jt), Place(at + 1 + i.jf)});
        continue;
      }
      Put(i);
      // What follows is put next, unless it is somewhere else already.
      const Label next = Place(at + 1);
      if (next.kind != Label::kBlock || std::next(block)->first != next.value) {
        Fail("a look at an argument that leads nowhere");
      }
    }
  }

  void WriteAnswers() {
    for (auto& [answer, line] : answers_) {
      line = lines_.size();
      Put({kReturn, 0, 0, answer});
    }
  }

  size_t LineOf(Label label, size_t line) const {
    switch (label.kind) {
      case Label::kAnswer:
        return answers_.at(static_cast<uint32_t>(label.value));
      case Label::kBlock: return blocks_.at(label.value);
      case Label::kPlaced: return label.value;
      default: return line + 1;
    }
  }

  uint8_t Distance(Label label, size_t line) const {
    const size_t to = LineOf(label, line);
    if (to <= line || to - line - 1 > UINT8_MAX) Fail("a jump too far");
    return static_cast<uint8_t>(to - line - 1);
  }

  Program Resolve() const {
    Program made;
    for (size_t line = 0; line < lines_.size(); line++) {
      sock_filter i = lines_[line].instruction;
      if (IsConditional(i)) {
        i.jt = Distance(lines_[line].then, line);
        i.jf = Distance(lines_[line].otherwise, line);
      }
      made.push_back(i);
    }
    return made;
  }

  const Program& from_;
  std::vector<Line> lines_;
  std::map<uint32_t, size_t> answers_;
  std::map<size_t, size_t> blocks_;
};

// Every number that could matter, with arguments that do, and with any.
void CheckSame(const Program& a, const Program& b, uint32_t audit_arch) {
  std::set<uint32_t> values = {0, 1, UINT32_MAX};
  for (const Program* program : {&a, &b}) {
    for (const sock_filter& i : *program) {
      for (uint32_t k : {i.k - 1, i.k, i.k + 1, ~i.k}) values.insert(k);
    }
  }
  std::set<uint32_t> numbers = values;
  for (uint32_t n = 0; n < 2048; n++) numbers.insert({n, n | 0x40000000});
  const std::vector<uint32_t> words(values.begin(), values.end());
  std::mt19937 random(1);
  const auto any = [&] { return words[random() % words.size()]; };
  for (uint32_t number : numbers) {
    for (int turn = 0; turn < 1000; turn++) {
      seccomp_data call = {};
      call.nr = static_cast<int>(number);
      call.arch = turn == 0 ? any() : audit_arch;
      for (auto& argument : call.args) {
        argument = static_cast<uint64_t>(any()) << 32 | any();
      }
      if (Answer(a, call) != Answer(b, call)) {
        Fail("a compacted filter answers call " + std::to_string(number) +
             " differently");
      }
    }
  }
}

}  // namespace

std::vector<sock_filter> Compact(const Program& program, uint32_t audit_arch) {
  CheckForm(program, audit_arch);
  const size_t start = 2 + program[1].jt;
  const size_t other_arch = 2 + program[1].jf;
  const std::vector<Range> ranges = FindRanges(program, start);
  if (ranges.size() < 2) Fail("a filter with one answer to every call");
  const Program made = Writer(program).Write(ranges, audit_arch, other_arch);
  CheckSame(program, made, audit_arch);
  return made;
}
