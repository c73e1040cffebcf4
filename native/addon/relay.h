// Two TCP connections whose ends are given each other's bytes, without JavaScript in between.
#pragma once
#include <napi.h>
#include <uv.h>

#include <vector>

namespace forktree {

// JavaScript: new Relay(fd, callback)
//   fd        a connection, which it owns
//   callback  (event, value): event 0 connect() has succeeded, and start() is to be called; 1 it has not (value is a negative errno)
//             and can be tried again; 2 some more bytes went; 3 both sides have ended, or it broke (a negative errno). Then it is closed.
// What one side has ended is ended on the other side; what broke is reset on both. Every method after the end does nothing.
class Relay : public Napi::ObjectWrap<Relay> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Relay(const Napi::CallbackInfo& info);
  ~Relay() override;

 private:
  enum Event { kConnected = 0, kRefused = 1, kMoved = 2, kOver = 3 };
  // One end, and what is still to be sent there.
  struct Side {
    Relay* owner = nullptr;
    int fd = -1;
    uv_poll_t* poll = nullptr;
    int watched = 0;
    std::vector<char> pending;
    bool ended = false;  // it sends no more
    bool told = false;   // that the other side sends no more
  };

  Napi::Value Connect(const Napi::CallbackInfo& info);
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value End(const Napi::CallbackInfo& info);
  Napi::Value Counts(const Napi::CallbackInfo& info);

  static void OnPoll(uv_poll_t* handle, int status, int events);
  int Open(Side* side, int fd);
  void Watch(Side* side, int events);
  void Close(Side* side);
  void FinishConnect();
  void Begin();
  int Move(Side* from, Side* to, double* count);
  bool Flush(Side* to, int* error);
  void MoveBoth();
  void Finish(int error);
  void Emit(Event event, int value);

  Side near_, far_;
  bool connecting_ = false, connected_ = false;
  double sent_ = 0, received_ = 0, told_ = 0;
  Napi::FunctionReference callback_;
};

// The address and port that a connection was made to, as "address port"; empty when it has ended already.
std::string LocalAddress(int fd);

}  // namespace forktree
