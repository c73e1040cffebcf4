#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "accept.h"

namespace forktree {
namespace {

constexpr size_t kChunk = 256 * 1024;
constexpr int kRounds = 8;  // then other handles get their turn
constexpr double kTellBytes = 256 * 1024;

// Between reading and writing nothing else happens on this thread.
char* Room() {
  static thread_local std::vector<char> room(kChunk);
  return room.data();
}

// 0 for what is no address.
socklen_t ReadAddress(const std::string& text, int port, sockaddr_storage* address) {
  auto* six = reinterpret_cast<sockaddr_in6*>(address);
  auto* four = reinterpret_cast<sockaddr_in*>(address);
  const uint16_t number = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, text.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = number;
    return sizeof *four;
  }
  if (inet_pton(AF_INET6, text.c_str(), &six->sin6_addr) != 1) return 0;
  six->sin6_family = AF_INET6;
  six->sin6_port = number;
  return sizeof *six;
}

void SendAtOnce(int fd) {
  const int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

}  // namespace

std::string LocalAddress(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  char text[INET6_ADDRSTRLEN] = "";
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) < 0) return "";
  const auto* six = reinterpret_cast<const sockaddr_in6*>(&address);
  const auto* four = reinterpret_cast<const sockaddr_in*>(&address);
  const bool is_six = address.ss_family == AF_INET6;
  const void* bytes = is_six ? static_cast<const void*>(&six->sin6_addr) : &four->sin_addr;
  if (inet_ntop(address.ss_family, bytes, text, sizeof text) == nullptr) return "";
  return std::string(text) + " " + std::to_string(ntohs(is_six ? six->sin6_port : four->sin_port));
}

Napi::Function Relay::Define(Napi::Env env) {
  return DefineClass(env, "Relay",
                     {InstanceMethod("connect", &Relay::Connect), InstanceMethod("start", &Relay::Start),
                      InstanceMethod("end", &Relay::End),
                      InstanceMethod("counts", &Relay::Counts)});
}

Relay::Relay(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Relay>(info) {
  near_.owner = far_.owner = this;
  near_.fd = info[0].As<Napi::Number>().Int32Value();
  SendAtOnce(near_.fd);
  callback_ = Napi::Persistent(info[1].As<Napi::Function>());
  Ref();
}

Relay::~Relay() {
  Close(&near_);
  Close(&far_);
}

// connect(address, port): 1 when it has connected already, and start() is to be called; 0 when that will be told, or -errno
Napi::Value Relay::Connect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (near_.fd < 0 || far_.fd >= 0) return Napi::Number::New(env, -EALREADY);
  sockaddr_storage address = {};
  const std::string text = info[0].As<Napi::String>();
  const socklen_t size = ReadAddress(text, info[1].As<Napi::Number>().Int32Value(), &address);
  if (size == 0) return Napi::Number::New(env, -EINVAL);
  const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Napi::Number::New(env, -errno);
  SendAtOnce(fd);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), size) < 0 && errno != EINPROGRESS) {
    const int error = errno;
    close(fd);
    return Napi::Number::New(env, -error);
  }
  const int failed = Open(&far_, fd);
  if (failed != 0) return Napi::Number::New(env, failed);
  // On the same machine that takes no time: to be told of it would.
  pollfd ready = {fd, POLLOUT, 0};
  if (poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT) return Napi::Number::New(env, 1);
  connecting_ = true;
  Watch(&far_, UV_WRITABLE);
  return Napi::Number::New(env, 0);
}

// start(): from now on bytes go both ways.
Napi::Value Relay::Start(const Napi::CallbackInfo& info) {
  if (near_.fd >= 0 && far_.fd >= 0 && !connecting_ && !connected_) Begin();
  return info.Env().Undefined();
}

void Relay::Begin() {
  connected_ = true;
  const int failed = Open(&near_, near_.fd);
  if (failed != 0) return Finish(failed);
  MoveBoth();
}

// end(): breaks it off at once; nothing is told of it.
Napi::Value Relay::End(const Napi::CallbackInfo& info) {
  if (near_.fd < 0) return info.Env().Undefined();
  for (Side* side : {&near_, &far_}) {
    if (side->fd >= 0) ResetOnClose(side->fd);
    Close(side);
  }
  Unref();
  return info.Env().Undefined();
}

// counts(): bytes that were sent to whom it connected to, and received from there
Napi::Value Relay::Counts(const Napi::CallbackInfo& info) {
  Napi::Array counts = Napi::Array::New(info.Env(), 2);
  counts.Set(0U, sent_);
  counts.Set(1U, received_);
  return counts;
}

// Takes the fd over. 0, or a negative errno.
int Relay::Open(Side* side, int fd) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(Env(), &loop);
  side->poll = new uv_poll_t;
  const int failed = uv_poll_init(loop, side->poll, fd);
  if (failed != 0) {
    delete side->poll;
    side->poll = nullptr;
    close(fd);
    if (side->fd == fd) side->fd = -1;
    return failed;
  }
  side->poll->data = side;
  side->fd = fd;
  side->watched = 0;
  return 0;
}

void Relay::Watch(Side* side, int events) {
  if (side->poll == nullptr || events == side->watched) return;
  side->watched = events;
  if (events == 0) {
    uv_poll_stop(side->poll);
  } else {
    uv_poll_start(side->poll, events, OnPoll);
  }
}

void Relay::Close(Side* side) {
  if (side->poll != nullptr) {
    uv_poll_stop(side->poll);
    side->poll->data = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(side->poll), [](uv_handle_t* handle) { delete reinterpret_cast<uv_poll_t*>(handle); });
    side->poll = nullptr;
  }
  if (side->fd >= 0) close(side->fd);
  side->fd = -1;
}

void Relay::OnPoll(uv_poll_t* handle, int status, int) {
  Side* side = static_cast<Side*>(handle->data);
  if (side == nullptr) return;
  Relay* self = side->owner;
  Napi::HandleScope scope(self->Env());
  if (self->connecting_) return self->FinishConnect();
  if (status < 0) side->watched = 0;  // it has stopped; what is wrong is told by the next read or write
  self->MoveBoth();
}

void Relay::FinishConnect() {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(far_.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) error = errno;
  connecting_ = false;
  Watch(&far_, 0);
  if (error == 0) return Emit(kConnected, 0);
  Close(&far_);
  Emit(kRefused, -error);
}

// Sends what is pending. False when it can't be sent now, or at all (an errno).
bool Relay::Flush(Side* to, int* error) {
  while (!to->pending.empty()) {
    const ssize_t sent = send(to->fd, to->pending.data(), to->pending.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) {
      if (errno != EAGAIN) *error = errno;
      return false;
    }
    to->pending.erase(to->pending.begin(), to->pending.begin() + sent);
  }
  return true;
}

// 0, or why it broke.
int Relay::Move(Side* from, Side* to, double* count) {
  int error = 0;
  for (int round = 0; round < kRounds; round++) {
    if (!Flush(to, &error)) return error;
    if (from->ended) break;
    const ssize_t size = recv(from->fd, Room(), kChunk, MSG_DONTWAIT);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN ? 0 : errno;
    if (size == 0) {
      from->ended = true;
      break;
    }
    *count += static_cast<double>(size);
    ssize_t sent = send(to->fd, Room(), static_cast<size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return errno;
    if (sent < 0) sent = 0;
    to->pending.assign(Room() + sent, Room() + size);
  }
  if (from->ended && to->pending.empty() && !to->told) {
    to->told = true;
    if (shutdown(to->fd, SHUT_WR) < 0 && errno != ENOTCONN) return errno;
  }
  return 0;
}

void Relay::MoveBoth() {
  int error = Move(&near_, &far_, &sent_);
  if (error == 0) error = Move(&far_, &near_, &received_);
  if (error != 0 || (near_.told && far_.told)) return Finish(-error);
  for (Side* side : {&near_, &far_}) {
    Side* other = side == &near_ ? &far_ : &near_;
    const bool reads = !side->ended && other->pending.empty();
    Watch(side, (reads ? UV_READABLE : 0) | (side->pending.empty() ? 0 : UV_WRITABLE));
  }
  if (sent_ + received_ - told_ < kTellBytes) return;
  told_ = sent_ + received_;
  Emit(kMoved, 0);
}

void Relay::Finish(int error) {
  for (Side* side : {&near_, &far_}) {
    if (error != 0 && side->fd >= 0) ResetOnClose(side->fd);
    Close(side);
  }
  Emit(kOver, error);
  Unref();
}

void Relay::Emit(Event event, int value) {
  Napi::Env env = Env();
  callback_.MakeCallback(env.Global(), {Napi::Number::New(env, event), Napi::Number::New(env, value)});
  if (!env.IsExceptionPending()) return;
  napi_value exception;
  napi_get_and_clear_last_exception(env, &exception);
  napi_fatal_exception(env, exception);
}

}  // namespace forktree
