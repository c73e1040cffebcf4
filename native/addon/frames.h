// Frames on a stream: length (4 bytes, little-endian, without the header), type (1 byte), payload.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <vector>

namespace forktree {

constexpr size_t kFrameHeader = 5;

inline void WriteFrameHeader(char* header, size_t size, uint8_t type) {
  for (int i = 0; i < 4; i++) header[i] = static_cast<char>(size >> (8 * i) & 0xff);
  header[4] = static_cast<char>(type);
}

// Cuts a stream of bytes from an untrusted side into frames.
class FrameDecoder {
 public:
  struct Frame {
    uint8_t type;
    const char* payload;
    size_t size;
  };
  // What Next() came to: a frame, too few bytes for one, or one that announces more than is accepted, after which
  // nothing can be trusted.
  enum class Result { kFrame, kNeedMore, kTooLarge };

  explicit FrameDecoder(size_t max_size = 0) : max_size_(max_size) {}

  // Changes the largest size that is accepted, from the next frame on.
  void Accept(size_t max_size) { max_size_ = max_size; }

  // Takes bytes as they came. They must stay where they are until Next() has answered that it needs more.
  void Push(const char* bytes, size_t size) {
    if (buffer_.empty()) {
      fresh_ = bytes;
      fresh_size_ = size;
    } else {
      buffer_.insert(buffer_.end(), bytes, bytes + size);
      fresh_ = nullptr;
    }
  }

  // The next frame; its payload is there until the next call. `frame` of one that is too large has type and size.
  Result Next(Frame* frame) {
    if (taken_ > 0 && fresh_ == nullptr) {
      buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(taken_));
      taken_ = 0;
    }
    const char* bytes = fresh_ != nullptr ? fresh_ + taken_ : buffer_.data();
    size_t size = fresh_ != nullptr ? fresh_size_ - taken_ : buffer_.size();
    if (size >= kFrameHeader) {
      uint32_t payload = 0;
      for (int i = 0; i < 4; i++) payload |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
      *frame = {static_cast<uint8_t>(bytes[4]), bytes + kFrameHeader, payload};
      if (payload > max_size_) return Result::kTooLarge;
      if (size - kFrameHeader >= payload) {
        taken_ += kFrameHeader + payload;
        return Result::kFrame;
      }
    }
    if (fresh_ != nullptr) {
      buffer_.assign(bytes, bytes + size);
      fresh_ = nullptr;
      taken_ = 0;
    }
    return Result::kNeedMore;
  }

 private:
  size_t max_size_;
  std::vector<char> buffer_;     // what began a frame that is not whole yet
  const char* fresh_ = nullptr;  // the bytes of the last Push(), as long as they need not be kept
  size_t fresh_size_ = 0;
  size_t taken_ = 0;             // of fresh_, or of buffer_
};

}  // namespace forktree
