// The host's frame decoder against a plain one, which has the whole stream at once.
// Input: the largest size, the number of cuts, the size of each piece less one (used again when they run out), the stream.
#include "../addon/frames.h"

#include <algorithm>
#include <string>
#include <vector>

#include "fuzz.h"

namespace {

using forktree::FrameDecoder;
using forktree::kFrameHeader;

struct Told {
  FrameDecoder::Result result;
  uint8_t type;
  size_t size;
  std::string payload;
};

// All frames of a stream; the last is none but says why there are no more.
std::vector<Told> DecodeAll(const std::string& stream, size_t max_size) {
  std::vector<Told> all;
  for (size_t at = 0; stream.size() - at >= kFrameHeader;) {
    auto byte = [&](size_t index) { return static_cast<size_t>(static_cast<unsigned char>(stream[at + index])); };
    size_t size = byte(0) + byte(1) * 256 + byte(2) * 65536 + byte(3) * 16777216;
    uint8_t type = static_cast<uint8_t>(byte(4));
    if (size > max_size) {
      all.push_back({FrameDecoder::Result::kTooLarge, type, size, ""});
      return all;
    }
    if (stream.size() - at - kFrameHeader < size) break;
    all.push_back({FrameDecoder::Result::kFrame, type, size, stream.substr(at + kFrameHeader, size)});
    at += kFrameHeader + size;
  }
  all.push_back({FrameDecoder::Result::kNeedMore, 0, 0, ""});
  return all;
}

void ExpectHeader(const std::string& stream, size_t at, const Told& told) {
  char header[kFrameHeader];
  forktree::WriteFrameHeader(header, told.size, told.type);
  EXPECT(stream.compare(at, kFrameHeader, header, kFrameHeader) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size - 2 < data[1]) return 0;
  const size_t max_size = data[0];
  const std::vector<uint8_t> pieces(data + 2, data + 2 + data[1]);
  const std::string stream(data + 2 + data[1], data + size);
  const std::vector<Told> expected = DecodeAll(stream, max_size);
  FrameDecoder decoder(max_size);
  size_t told = 0, decoded = 0, cut = 0;
  for (size_t at = 0; at < stream.size();) {
    size_t length = pieces.empty() ? stream.size() : pieces[cut++ % pieces.size()] + 1u;
    // An allocation of its own: a byte read beyond it, or after the next piece has come, is found.
    const std::vector<char> piece(stream.begin() + static_cast<long>(at),
                                  stream.begin() + static_cast<long>(std::min(at + length, stream.size())));
    at += piece.size();
    decoder.Push(piece.data(), piece.size());
    for (;;) {
      FrameDecoder::Frame frame;
      FrameDecoder::Result result = decoder.Next(&frame);
      if (result == FrameDecoder::Result::kNeedMore) break;
      EXPECT(told < expected.size());
      const Told& want = expected[told++];
      EXPECT(result == want.result && frame.type == want.type && frame.size == want.size);
      ExpectHeader(stream, decoded, want);
      if (result == FrameDecoder::Result::kTooLarge) return 0;
      EXPECT(std::string(frame.payload, frame.size) == want.payload);
      decoded += kFrameHeader + frame.size;
      EXPECT(decoded <= at);
    }
  }
  EXPECT(told + 1 == expected.size() && expected[told].result == FrameDecoder::Result::kNeedMore);
  return 0;
}
