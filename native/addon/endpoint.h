// One end of a socket, a pipe or a pidfd, watched by Node's event loop.
#pragma once
#include <napi.h>
#include <uv.h>

#include <deque>
#include <vector>

#include "frames.h"

namespace forktree {

// JavaScript: new Endpoint(fd, kind, callback, maxFrame)
//   kind      'packets' (a socket that keeps message borders, with fds both ways), 'frames' (a stream socket, see
//             frames.h), 'pipe' (read only), 'pidfd' (tells once that the process ended) or 'listener' (data is the
//             descriptor of a connection; after an error nothing more is accepted until resume())
//   callback  (event, data, fds, type): event 0 data, or one frame; 1 end (data undefined); 2 a negative errno (data is
//             the number); 3 a frame that announces more than maxFrame (data is its size), after which nothing is read
// The payload of a frame whose type has the highest bit is text and given as a string, any other as a Buffer.
// It owns the fd. Every method after close() does nothing.
class Endpoint : public Napi::ObjectWrap<Endpoint> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Endpoint(const Napi::CallbackInfo& info);
  ~Endpoint() override;

 private:
  enum class Kind { kPackets, kFrames, kPipe, kPidfd, kListener };
  enum Event { kData = 0, kEnd = 1, kError = 2, kTooLarge = 3 };
  static constexpr uint8_t kTextType = 128;
  struct Pending {
    std::vector<char> bytes;
    size_t sent = 0;
    std::vector<int> fds;
  };

  Napi::Value Send(const Napi::CallbackInfo& info);
  Napi::Value SendFrame(const Napi::CallbackInfo& info);
  Napi::Value Hold(const Napi::CallbackInfo& info);
  Napi::Value LetGo(const Napi::CallbackInfo& info);
  Napi::Value Follow(const Napi::CallbackInfo& info);
  Napi::Value RefuseFds(const Napi::CallbackInfo& info);
  Napi::Value AcceptFrames(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Drain(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  static void OnPoll(uv_poll_t* handle, int status, int events);
  void ReadLast();
  void ReadAvailable(int rounds);
  bool ReadOnce();
  bool AcceptOnce();
  void ReadFollowed();
  bool EmitFrames(const char* bytes, size_t size, Napi::Value fds);
  int SendOrKeep(const char* bytes, size_t size, std::vector<int> fds);
  void WritePending();
  bool WriteFirst();
  int TrySend(const char* bytes, size_t size, const std::vector<int>& fds, size_t* sent);
  void Watch();
  void Emit(Event event, Napi::Value data, Napi::Value fds, uint8_t type = 0);
  void Fail(int error);
  void Stop();

  Kind kind_ = Kind::kPackets;
  int fd_ = -1;
  bool accept_fds_ = true;
  bool in_callback_ = false;
  bool paused_ = false;
  bool holding_ = false;
  Pending held_;
  uv_poll_t* poll_ = nullptr;
  Napi::FunctionReference callback_;
  std::deque<Pending> pending_;
  FrameDecoder decoder_;
  std::vector<Endpoint*> followed_;
  std::vector<Napi::ObjectReference> followed_objects_;  // keep those from being collected
};

}  // namespace forktree
