// The message by which a spare becomes a sandbox, against a plain reader of it.
// Input: the number of mounts, the message.
#include "../guest/hand_over.h"

#include <string>
#include <vector>

#include "fuzz.h"

namespace {

// The words, or nothing when the last one has no end.
bool SplitPlainly(const std::string& text, std::vector<std::string>* words) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\0', at);
    if (end == std::string::npos) return false;
    words->push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const unsigned mounts = data[0];
  const std::vector<char> message(data + 1, data + size);
  HandOver cut = {};
  const bool is_one = CutHandOver(message.data(), message.size(), mounts, &cut);
  std::vector<std::string> words;
  auto number = [&](size_t at) {
    return static_cast<unsigned>(data[1 + at]) + 256U * data[2 + at] + 65536U * data[3 + at] + 16777216U * data[4 + at];
  };
  const bool expected = message.size() > 20 && SplitPlainly(std::string(message.begin() + 20, message.end()), &words) &&
                        number(4) == mounts && words.size() == 3 + size_t{mounts};
  EXPECT(is_one == expected);
  if (!is_one) return 0;
  EXPECT(cut.open_files == number(0) && cut.mount_count == mounts && cut.processes == number(8) && cut.data_mib == number(12) && cut.flags == number(16));
  EXPECT(words[0] == cut.scratch && words[1] == cut.folder && words[2] == cut.network);
  const char* target = cut.targets;
  for (size_t i = 0; i < mounts; i++, target += words[2 + i].size() + 1) EXPECT(words[3 + i] == target);
  return 0;
}
