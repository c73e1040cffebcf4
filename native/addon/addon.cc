// The addon's face: what src/native.ts calls. It says what the kernel can do and decides nothing.
#include <errno.h>
#include <fcntl.h>
#include <napi.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint.h"
#include "process.h"
#include "profile.h"

namespace forktree {
namespace {

Napi::Value Pair(Napi::Env env, int result, const int (&pair)[2]) {
  if (result < 0) return Napi::Number::New(env, -errno);
  Napi::Array list = Napi::Array::New(env, 2);
  list.Set(0U, pair[0]);
  list.Set(1U, pair[1]);
  return list;
}

// socketPair(packets): [ours, theirs], or -errno
Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  int pair[2];
  int type = info[0].ToBoolean() ? SOCK_SEQPACKET : SOCK_STREAM;
  return Pair(info.Env(), socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), pair);
}

// pipe(writing): [read end, write end], or -errno; ours, which does not block, is the one that is read or written
Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int pair[2];
  int result = pipe2(pair, O_CLOEXEC);
  if (result == 0) fcntl(pair[info[0].ToBoolean() ? 1 : 0], F_SETFL, O_NONBLOCK);
  return Pair(info.Env(), result, pair);
}

// spawn(path, arguments, fds): {pid, pidfd}, or -errno
Napi::Value SpawnProcess(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::vector<std::string> arguments;
  std::vector<int> fds;
  Napi::Array words = info[1].As<Napi::Array>(), numbers = info[2].As<Napi::Array>();
  for (uint32_t i = 0; i < words.Length(); i++) arguments.push_back(words.Get(i).As<Napi::String>());
  for (uint32_t i = 0; i < numbers.Length(); i++) fds.push_back(numbers.Get(i).As<Napi::Number>().Int32Value());
  Spawned spawned = {};
  int result = Spawn(info[0].As<Napi::String>(), arguments, fds, &spawned);
  if (result < 0) return Napi::Number::New(env, result);
  Napi::Object object = Napi::Object::New(env);
  object.Set("pid", spawned.pid);
  object.Set("pidfd", spawned.pidfd);
  return object;
}

Napi::Value Signal(const Napi::CallbackInfo& info) {
  int pidfd = info[0].As<Napi::Number>().Int32Value(), signal = info[1].As<Napi::Number>().Int32Value();
  return Napi::Number::New(info.Env(), SignalProcess(pidfd, signal));
}

Napi::Value Status(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), ExitStatus(info[0].As<Napi::Number>().Int32Value()));
}

Napi::Value Reap(const Napi::CallbackInfo& info) {
  ReapChild(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

Napi::Value Lock(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), LockFile(info[0].As<Napi::String>()));
}

Napi::Value Number(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), ReadNumber(info[0].As<Napi::Number>().Int32Value()));
}

// A number beyond 2^53 has been refused before.
uint64_t Whole(const Napi::Object& object, const char* name) {
  return static_cast<uint64_t>(object.Get(name).As<Napi::Number>().Int64Value());
}

// compileProfile(default action, [{call, action, args: [{index, op, value, second}]}]): the instructions, or why there are none
Napi::Value CompileProfileToBytes(const Napi::CallbackInfo& info) {
  Profile profile = {info[0].As<Napi::Number>().Uint32Value(), {}};
  Napi::Array rules = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < rules.Length(); i++) {
    Napi::Object rule = rules.Get(i).As<Napi::Object>();
    ProfileRule read = {rule.Get("call").As<Napi::String>(), static_cast<uint32_t>(Whole(rule, "action")), {}};
    Napi::Array arguments = rule.Get("args").As<Napi::Array>();
    for (uint32_t j = 0; j < arguments.Length(); j++) {
      Napi::Object each = arguments.Get(j).As<Napi::Object>();
      read.arguments.push_back({static_cast<uint32_t>(Whole(each, "index")), static_cast<uint32_t>(Whole(each, "op")),
                                Whole(each, "value"), Whole(each, "second")});
    }
    profile.rules.push_back(std::move(read));
  }
  std::string error, bytes = CompileProfile(profile, &error);
  if (bytes.empty()) return Napi::String::New(info.Env(), error);
  return Napi::Buffer<char>::Copy(info.Env(), bytes.data(), bytes.size());
}

Napi::Value CloseFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), close(info[0].As<Napi::Number>().Int32Value()) < 0 ? -errno : 0);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("Endpoint", Endpoint::Define(env));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair));
  exports.Set("pipe", Napi::Function::New(env, Pipe));
  exports.Set("spawn", Napi::Function::New(env, SpawnProcess));
  exports.Set("signal", Napi::Function::New(env, Signal));
  exports.Set("exitStatus", Napi::Function::New(env, Status));
  exports.Set("reap", Napi::Function::New(env, Reap));
  exports.Set("lock", Napi::Function::New(env, Lock));
  exports.Set("readNumber", Napi::Function::New(env, Number));
  exports.Set("compileProfile", Napi::Function::New(env, CompileProfileToBytes));
  exports.Set("close", Napi::Function::New(env, CloseFd));
  return exports;
}

}  // namespace

NODE_API_MODULE(forktree, Init)

}  // namespace forktree
