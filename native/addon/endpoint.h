// One end of a socket, a pipe or a pidfd, watched by Node's event loop.
#pragma once
#include <napi.h>
#include <uv.h>

#include <deque>
#include <vector>

namespace forktree {

// JavaScript: new Endpoint(fd, kind, callback)
//   kind      'socket' (frames and fds both ways), 'pipe' (read only) or 'pidfd' (tells once that the process ended)
//   callback  (event, data, fds): event 0 data, 1 end (data undefined), 2 a negative errno (data is the number)
// It owns the fd. Every method after close() does nothing.
class Endpoint : public Napi::ObjectWrap<Endpoint> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Endpoint(const Napi::CallbackInfo& info);
  ~Endpoint() override;

 private:
  enum class Kind { kSocket, kPipe, kPidfd };
  enum Event { kData = 0, kEnd = 1, kError = 2 };
  struct Pending {
    std::vector<char> bytes;
    size_t sent = 0;
    std::vector<int> fds;
  };

  Napi::Value Send(const Napi::CallbackInfo& info);
  Napi::Value RefuseFds(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Drain(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  static void OnPoll(uv_poll_t* handle, int status, int events);
  void ReadLast();
  void ReadAvailable(int rounds);
  bool ReadOnce();
  void WritePending();
  bool WriteFirst();
  int TrySend(const char* bytes, size_t size, const std::vector<int>& fds, size_t* sent);
  void Watch();
  void Emit(Event event, Napi::Value data, Napi::Value fds);
  void Fail(int error);
  void Stop();

  Kind kind_ = Kind::kSocket;
  int fd_ = -1;
  bool accept_fds_ = true;
  bool in_callback_ = false;
  bool paused_ = false;
  uv_poll_t* poll_ = nullptr;
  Napi::FunctionReference callback_;
  std::deque<Pending> pending_;
};

}  // namespace forktree
