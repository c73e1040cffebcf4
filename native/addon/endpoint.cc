#include "endpoint.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "accept.h"

namespace forktree {
namespace {

constexpr size_t kChunk = 64 * 1024;
constexpr int kRoundsPerPoll = 16;  // then other handles get their turn
constexpr int kRoundsPerDrain = 1024;
constexpr size_t kMaxFds = 16;

std::vector<int> TakeFds(msghdr* message) {
  std::vector<int> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      fds.push_back(fd);
    }
  }
  return fds;
}

std::vector<int> ReadFds(Napi::Value value) {
  std::vector<int> fds;
  if (!value.IsArray()) return fds;
  Napi::Array list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length() && i < kMaxFds; i++) fds.push_back(list.Get(i).As<Napi::Number>().Int32Value());
  return fds;
}

void CloseAll(std::vector<int>* fds) {
  for (int fd : *fds) close(fd);
  fds->clear();
}

}  // namespace

Napi::Function Endpoint::Define(Napi::Env env) {
  return DefineClass(env, "Endpoint",
                     {InstanceMethod("send", &Endpoint::Send), InstanceMethod("sendFrame", &Endpoint::SendFrame),
                      InstanceMethod("hold", &Endpoint::Hold), InstanceMethod("letGo", &Endpoint::LetGo),
                      InstanceMethod("follow", &Endpoint::Follow), InstanceMethod("refuseFds", &Endpoint::RefuseFds),
                      InstanceMethod("acceptFrames", &Endpoint::AcceptFrames), InstanceMethod("pause", &Endpoint::Pause),
                      InstanceMethod("resume", &Endpoint::Resume), InstanceMethod("drain", &Endpoint::Drain),
                      InstanceMethod("close", &Endpoint::Close)});
}

Endpoint::Endpoint(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Endpoint>(info) {
  Napi::Env env = info.Env();
  fd_ = info[0].As<Napi::Number>().Int32Value();
  std::string kind = info[1].As<Napi::String>();
  kind_ = kind == "pipe" ? Kind::kPipe : kind == "pidfd" ? Kind::kPidfd : kind == "frames" ? Kind::kFrames :
          kind == "listener" ? Kind::kListener : Kind::kPackets;
  if (kind_ == Kind::kFrames) decoder_ = FrameDecoder(static_cast<size_t>(info[3].As<Napi::Number>().Int64Value()));
  callback_ = Napi::Persistent(info[2].As<Napi::Function>());
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  poll_ = new uv_poll_t;
  int failed = uv_poll_init(loop, poll_, fd_);
  if (failed != 0) {
    delete poll_;
    poll_ = nullptr;
    Napi::Error error = Napi::Error::New(env, std::string("uv_poll_init: ") + uv_strerror(failed));
    error.Set("errno", Napi::Number::New(env, failed));
    error.ThrowAsJavaScriptException();
    return;
  }
  poll_->data = this;
  Ref();
  Watch();
}

Endpoint::~Endpoint() { Stop(); }

void Endpoint::Watch() {
  if (poll_ == nullptr) return;
  int events = (paused_ ? 0 : UV_READABLE) | (pending_.empty() ? 0 : UV_WRITABLE);
  if (events == 0) {
    uv_poll_stop(poll_);
  } else {
    uv_poll_start(poll_, events, OnPoll);
  }
}

void Endpoint::OnPoll(uv_poll_t* handle, int status, int events) {
  Endpoint* self = static_cast<Endpoint*>(handle->data);
  Napi::HandleScope scope(self->Env());
  if (status < 0) return self->ReadLast();
  if ((events & UV_WRITABLE) != 0) self->WritePending();
  if ((events & UV_READABLE) != 0) self->ReadAvailable(kRoundsPerPoll);
}

// The other side closed without reading all that it was sent, which libuv takes for a failure of ours: what it had
// said before can still be read, and after that its end.
void Endpoint::ReadLast() {
  for (Pending& pending : pending_) CloseAll(&pending.fds);
  pending_.clear();
  Watch();
  ReadAvailable(kRoundsPerPoll);
}

void Endpoint::ReadAvailable(int rounds) {
  if (kind_ == Kind::kPidfd) {
    if (poll_ != nullptr) uv_poll_stop(poll_);
    return Emit(kEnd, Env().Undefined(), Env().Undefined());
  }
  while (rounds-- > 0 && fd_ >= 0 && !paused_ && ReadOnce()) {
  }
}

// False when there is nothing more to read now.
bool Endpoint::ReadOnce() {
  if (kind_ == Kind::kListener) return AcceptOnce();
  char bytes[kChunk];
  char control[CMSG_SPACE(kMaxFds * sizeof(int))];
  iovec vector = {bytes, sizeof bytes};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  // Without room for them the kernel itself drops the fds that a guest sends.
  message.msg_control = accept_fds_ ? control : nullptr;
  message.msg_controllen = accept_fds_ ? sizeof control : 0;
  ssize_t size = kind_ == Kind::kPipe ? read(fd_, bytes, sizeof bytes)
                                      : recvmsg(fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    if (errno == ECONNRESET) size = 0;
  }
  if (size < 0) {
    Fail(errno);
    return false;
  }
  if (size == 0) {
    if (poll_ != nullptr) uv_poll_stop(poll_);
    Emit(kEnd, Env().Undefined(), Env().Undefined());
    return false;
  }
  std::vector<int> taken;
  if (kind_ != Kind::kPipe && accept_fds_) taken = TakeFds(&message);
  if (kind_ == Kind::kFrames) ReadFollowed();
  if (fd_ < 0) {  // closed by whoever was told
    CloseAll(&taken);
    return false;
  }
  Napi::Value fds = Env().Undefined();
  if (!taken.empty()) {
    Napi::Array list = Napi::Array::New(Env(), taken.size());
    for (size_t i = 0; i < taken.size(); i++) list.Set(static_cast<uint32_t>(i), taken[i]);
    fds = list;
  }
  if (kind_ == Kind::kFrames) return EmitFrames(bytes, static_cast<size_t>(size), fds);
  Emit(kData, Napi::Buffer<char>::Copy(Env(), bytes, static_cast<size_t>(size)), fds);
  return true;
}

// False when there is nobody more to accept now.
bool Endpoint::AcceptOnce() {
  const int accepted = AcceptConnection(fd_);
  if (accepted == -EAGAIN || accepted == -EINTR) return false;
  if (accepted == -ECONNABORTED) return true;  // it has gone again
  if (accepted < 0) {
    Fail(-accepted);
    return false;
  }
  Emit(kData, Napi::Number::New(Env(), accepted), Env().Undefined());
  return true;
}

// What the other side wrote to the followed ones before it sent what was just read, comes first.
void Endpoint::ReadFollowed() {
  constexpr size_t kMaxFollowed = 4;
  pollfd polls[kMaxFollowed];
  size_t count = 0;
  for (Endpoint* each : followed_) {
    if (count < kMaxFollowed) polls[count++] = {each->fd_, POLLIN, 0};  // a closed one has -1, which poll passes over
  }
  if (count == 0 || poll(polls, count, 0) <= 0) return;
  for (size_t i = 0; i < count && i < followed_.size(); i++) {
    if ((polls[i].revents & POLLIN) != 0) followed_[i]->ReadAvailable(kRoundsPerPoll);
  }
}

// False when nothing more is to be read.
bool Endpoint::EmitFrames(const char* bytes, size_t size, Napi::Value fds) {
  decoder_.Push(bytes, size);
  FrameDecoder::Frame frame;
  for (;;) {
    Napi::HandleScope scope(Env());
    switch (decoder_.Next(&frame)) {
      case FrameDecoder::Result::kNeedMore:
        return true;
      case FrameDecoder::Result::kTooLarge:
        if (poll_ != nullptr) uv_poll_stop(poll_);
        Emit(kTooLarge, Napi::Number::New(Env(), static_cast<double>(frame.size)), Env().Undefined(), frame.type);
        return false;
      case FrameDecoder::Result::kFrame: {
        Napi::Value payload;
        if (frame.type >= kTextType) {
          napi_value text = nullptr;
          // Beyond the longest string there is: as if it were beyond the limit.
          if (napi_create_string_utf8(Env(), frame.payload, frame.size, &text) != napi_ok) {
            Emit(kTooLarge, Napi::Number::New(Env(), static_cast<double>(frame.size)), Env().Undefined(), frame.type);
            return false;
          }
          payload = Napi::Value(Env(), text);
        } else {
          payload = Napi::Buffer<char>::Copy(Env(), frame.payload, frame.size);
        }
        Emit(kData, payload, fds, frame.type);
        fds = Env().Undefined();  // they came with the first
        if (fd_ < 0) return false;
      }
    }
  }
}

void Endpoint::Emit(Event event, Napi::Value data, Napi::Value fds, uint8_t type) {
  Napi::Env env = Env();
  const napi_value arguments[] = {Napi::Number::New(env, event), data, fds, Napi::Number::New(env, type)};
  if (in_callback_) {
    callback_.Call(env.Global(), 4, arguments);
  } else {
    callback_.MakeCallback(env.Global(), 4, arguments);
  }
  if (env.IsExceptionPending() && !in_callback_) {
    napi_value exception;
    napi_get_and_clear_last_exception(env, &exception);
    napi_fatal_exception(env, exception);
  }
}

void Endpoint::Fail(int error) {
  if (poll_ != nullptr) uv_poll_stop(poll_);
  Emit(kError, Napi::Number::New(Env(), -error), Env().Undefined());
}

// 0 sent (perhaps in part), else errno.
int Endpoint::TrySend(const char* bytes, size_t size, const std::vector<int>& fds, size_t* sent) {
  char control[CMSG_SPACE(kMaxFds * sizeof(int))] = {};
  iovec vector = {const_cast<char*>(bytes), size};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  ssize_t result = sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (result < 0) return errno;
  *sent = static_cast<size_t>(result);
  return 0;
}

// send(data, fds): 0, or -errno. The fds stay the caller's, who may close them at once: what could not be sent yet
// holds copies.
Napi::Value Endpoint::Send(const Napi::CallbackInfo& info) {
  Napi::Uint8Array data = info[0].As<Napi::Uint8Array>();
  int result = SendOrKeep(reinterpret_cast<const char*>(data.Data()), data.ByteLength(), ReadFds(info[1]));
  return Napi::Number::New(info.Env(), result);
}

// sendFrame(type, payload, fds): 0, or -errno; the payload is a string or a Uint8Array.
Napi::Value Endpoint::SendFrame(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint8_t type = static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value());
  char small[4096];
  std::vector<char> large;
  char* frame = small;
  size_t size = 0;
  if (info[1].IsString()) {
    constexpr size_t kRoom = sizeof small - kFrameHeader;
    // A character takes up to three bytes; what fills the room may have been cut.
    napi_get_value_string_utf8(env, info[1], small + kFrameHeader, kRoom, &size);
    if (size + 4 >= kRoom) {
      napi_get_value_string_utf8(env, info[1], nullptr, 0, &size);
      large.resize(kFrameHeader + size + 1);
      frame = large.data();
      napi_get_value_string_utf8(env, info[1], frame + kFrameHeader, size + 1, &size);
    }
  } else {
    Napi::Uint8Array data = info[1].As<Napi::Uint8Array>();
    size = data.ByteLength();
    if (kFrameHeader + size > sizeof small) {
      large.resize(kFrameHeader + size);
      frame = large.data();
    }
    if (size > 0) memcpy(frame + kFrameHeader, data.Data(), size);
  }
  WriteFrameHeader(frame, size, type);
  return Napi::Number::New(env, SendOrKeep(frame, kFrameHeader + size, ReadFds(info[2])));
}

int Endpoint::SendOrKeep(const char* bytes, size_t size, std::vector<int> fds) {
  if (fd_ < 0) return -EPIPE;
  if (holding_) {
    held_.bytes.insert(held_.bytes.end(), bytes, bytes + size);
    held_.fds.insert(held_.fds.end(), fds.begin(), fds.end());
    return 0;
  }
  size_t sent = 0;
  if (pending_.empty()) {
    int error = TrySend(bytes, size, fds, &sent);
    if (error != 0 && error != EAGAIN && error != EINTR) return -error;
    if (error == 0) fds.clear();
  }
  if (sent < size) {
    Pending rest;
    rest.bytes.assign(bytes + sent, bytes + size);
    for (int fd : fds) rest.fds.push_back(dup(fd));
    pending_.push_back(std::move(rest));
    Watch();
  }
  return 0;
}

// hold(): what is sent is kept until letGo() sends it at once. Only the first may have fds, which must stay open until then.
Napi::Value Endpoint::Hold(const Napi::CallbackInfo& info) {
  holding_ = true;
  return info.Env().Undefined();
}

// letGo(): 0, or -errno
Napi::Value Endpoint::LetGo(const Napi::CallbackInfo& info) {
  holding_ = false;
  Pending held = std::move(held_);
  held_ = Pending();
  return Napi::Number::New(info.Env(), held.bytes.empty() ? 0 : SendOrKeep(held.bytes.data(), held.bytes.size(), held.fds));
}

// follow(endpoints): what those have to read by the time that a frame comes is told before it.
Napi::Value Endpoint::Follow(const Napi::CallbackInfo& info) {
  Napi::Array list = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    Napi::Object object = list.Get(i).As<Napi::Object>();
    followed_.push_back(Unwrap(object));
    followed_objects_.push_back(Napi::Persistent(object));
  }
  return info.Env().Undefined();
}

// True when the first pending message went out whole.
bool Endpoint::WriteFirst() {
  Pending& first = pending_.front();
  size_t sent = 0;
  int error = TrySend(first.bytes.data() + first.sent, first.bytes.size() - first.sent, first.fds, &sent);
  if (error == EAGAIN || error == EINTR) return false;
  CloseAll(&first.fds);
  // A broken pipe shows as the end of what can be read; what was to be sent is moot.
  first.sent = error != 0 ? first.bytes.size() : first.sent + sent;
  return first.sent == first.bytes.size();
}

void Endpoint::WritePending() {
  while (!pending_.empty() && WriteFirst()) pending_.pop_front();
  if (pending_.empty()) Watch();
}

// From now on fds that the other side sends are dropped by the kernel.
Napi::Value Endpoint::RefuseFds(const Napi::CallbackInfo& info) {
  accept_fds_ = false;
  return info.Env().Undefined();
}

// acceptFrames(maxFrame): from the next frame on.
Napi::Value Endpoint::AcceptFrames(const Napi::CallbackInfo& info) {
  decoder_.Accept(static_cast<size_t>(info[0].As<Napi::Number>().Int64Value()));
  return info.Env().Undefined();
}

// Nothing is read until resume(): the other side then waits for room.
Napi::Value Endpoint::Pause(const Napi::CallbackInfo& info) {
  paused_ = true;
  Watch();
  return info.Env().Undefined();
}

Napi::Value Endpoint::Resume(const Napi::CallbackInfo& info) {
  paused_ = false;
  Watch();
  return info.Env().Undefined();
}

// Reads what is there now, even when paused, calling back before it returns.
Napi::Value Endpoint::Drain(const Napi::CallbackInfo& info) {
  bool paused = paused_;
  paused_ = false;
  in_callback_ = true;
  ReadAvailable(kRoundsPerDrain);
  in_callback_ = false;
  if (paused) {
    paused_ = true;
    Watch();
  }
  return info.Env().Undefined();
}

void Endpoint::Stop() {
  if (fd_ < 0) return;
  for (Pending& pending : pending_) CloseAll(&pending.fds);
  pending_.clear();
  followed_.clear();
  followed_objects_.clear();
  int fd = fd_;
  fd_ = -1;
  if (poll_ == nullptr) {
    close(fd);
    return;
  }
  uv_poll_stop(poll_);
  poll_->data = nullptr;
  uv_close(reinterpret_cast<uv_handle_t*>(poll_), [](uv_handle_t* handle) { delete reinterpret_cast<uv_poll_t*>(handle); });
  poll_ = nullptr;
  close(fd);
}

Napi::Value Endpoint::Close(const Napi::CallbackInfo& info) {
  if (fd_ >= 0) {
    Stop();
    Unref();
  }
  return info.Env().Undefined();
}

}  // namespace forktree
