// The addon's face: what src/native.ts calls. It says what the kernel can do and decides nothing.
#include <errno.h>
#include <fcntl.h>
#include <napi.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>

#include "accept.h"
#include "endpoint.h"
#include "groups.h"
#include "pages.h"
#include "process.h"
#include "profile.h"
#include "relay.h"
#include "tree.h"

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
  return Napi::Number::New(info.Env(), LockFile(info[0].As<Napi::String>(), info[1].ToBoolean()));
}

// flock(fd, shared): 0, or -errno; -EAGAIN when another open file has it
Napi::Value Flock(const Napi::CallbackInfo& info) {
  const int operation = info[1].ToBoolean() ? LOCK_SH : LOCK_EX;
  const int result = flock(info[0].As<Napi::Number>().Int32Value(), operation | LOCK_NB);
  return Napi::Number::New(info.Env(), result < 0 ? -errno : 0);
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

// NUL-terminated words.
std::vector<std::string> Words(const Napi::Value& value) {
  const std::string text = value.As<Napi::String>();
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size(); at += words.back().size() + 1) words.emplace_back(text.c_str() + at);
  return words;
}

// Three words for each: `make`, `set`, `try` or `join`, the path, the value or nothing.
std::vector<GroupStep> GroupSteps(const Napi::Value& value) {
  const std::vector<std::string> words = Words(value);
  std::vector<GroupStep> steps;
  for (size_t i = 0; i + 2 < words.size(); i += 3) {
    const std::string& name = words[i];
    auto kind = name == "make" ? GroupStep::kMake : name == "join" ? GroupStep::kJoin : name == "set" ? GroupStep::kSet : GroupStep::kTry;
    steps.push_back({kind, words[i + 1], words[i + 2]});
  }
  return steps;
}

// [fd, ...], or [-errno, step, path]
Napi::Value GroupAnswer(Napi::Env env, const std::vector<int>& fds, const GroupFailure& failure) {
  Napi::Array answer = Napi::Array::New(env);
  if (failure.error < 0) {
    answer.Set(0U, failure.error);
    answer.Set(1U, failure.step);
    answer.Set(2U, failure.path);
  }
  for (uint32_t i = 0; i < fds.size(); i++) answer.Set(i, fds[i]);
  return answer;
}

// Work on a group away from Node's thread; settles a promise with the answer.
class GroupWork : public Napi::AsyncWorker {
 public:
  using Work = std::function<std::vector<int>(GroupFailure*)>;
  static Napi::Value Queue(Napi::Env env, Work work) {
    auto* worker = new GroupWork(env, std::move(work));
    Napi::Promise promise = worker->settled_.Promise();
    worker->AsyncWorker::Queue();
    return promise;
  }

 protected:
  void Execute() override { fds_ = work_(&failure_); }
  void OnOK() override { settled_.Resolve(GroupAnswer(Env(), fds_, failure_)); }

 private:
  GroupWork(Napi::Env env, Work work) : AsyncWorker(env), work_(std::move(work)), settled_(Napi::Promise::Deferred::New(env)) {}
  Work work_;
  std::vector<int> fds_;
  GroupFailure failure_ = {0, "", ""};
  Napi::Promise::Deferred settled_;
};

// makeGroup(words): [fd, ...], or [-errno, step, path]
Napi::Value MakeGroupNow(const Napi::CallbackInfo& info) {
  GroupFailure failure = {0, "", ""};
  std::vector<int> fds = MakeGroup(GroupSteps(info[0]), &failure);
  return GroupAnswer(info.Env(), fds, failure);
}

// makeGroupLater(words): a promise of the same
Napi::Value MakeGroupLater(const Napi::CallbackInfo& info) {
  return GroupWork::Queue(info.Env(), [steps = GroupSteps(info[0])](GroupFailure* failure) { return MakeGroup(steps, failure); });
}

// removeGroup(folders): a promise of [], or [-errno, step, path]
Napi::Value RemoveGroupLater(const Napi::CallbackInfo& info) {
  return GroupWork::Queue(info.Env(), [folders = Words(info[0])](GroupFailure* failure) {
    *failure = RemoveGroup(folders);
    return std::vector<int>();
  });
}

// Takes a folder over away from Node's thread.
class SealWork : public Napi::AsyncWorker {
 public:
  static Napi::Value Queue(Napi::Env env, std::string folder, TreeLimits limits) {
    auto* worker = new SealWork(env, std::move(folder), limits);
    Napi::Promise promise = worker->settled_.Promise();
    worker->AsyncWorker::Queue();
    return promise;
  }

 protected:
  void Execute() override { tree_ = SealTree(folder_, limits_); }
  void OnOK() override {
    Napi::Object answer = Napi::Object::New(Env());
    answer.Set("files", static_cast<double>(tree_.files));
    answer.Set("bytes", static_cast<double>(tree_.bytes));
    answer.Set("error", tree_.error);
    answer.Set("step", tree_.step);
    answer.Set("path", tree_.path);
    settled_.Resolve(answer);
  }

 private:
  SealWork(Napi::Env env, std::string folder, TreeLimits limits)
      : AsyncWorker(env), folder_(std::move(folder)), limits_(limits), settled_(Napi::Promise::Deferred::New(env)) {}
  std::string folder_;
  TreeLimits limits_;
  SealedTree tree_;
  Napi::Promise::Deferred settled_;
};

// sealTree(folder, entries, bytes): a promise of {files, bytes, error, step, path}
Napi::Value SealTreeLater(const Napi::CallbackInfo& info) {
  const TreeLimits limits = {info[1].As<Napi::Number>().Int64Value(), info[2].As<Napi::Number>().Int64Value()};
  return SealWork::Queue(info.Env(), info[0].As<Napi::String>(), limits);
}

// Looks into a process's memory away from Node's thread.
class PagesWork : public Napi::AsyncWorker {
 public:
  static Napi::Value Queue(Napi::Env env, int pid, uint64_t max_pages) {
    auto* worker = new PagesWork(env, pid, max_pages);
    Napi::Promise promise = worker->settled_.Promise();
    worker->AsyncWorker::Queue();
    return promise;
  }

 protected:
  void Execute() override { result_ = ReadWorkingSet(pid_, max_pages_, &set_); }
  void OnOK() override {
    if (result_ < 0) return settled_.Resolve(Napi::Number::New(Env(), result_));
    Napi::Object answer = Napi::Object::New(Env());
    answer.Set("written", Pairs(set_.written));
    answer.Set("read", Pairs(set_.read));
    settled_.Resolve(answer);
  }

 private:
  Napi::Array Pairs(const std::vector<PageRange>& ranges) {
    Napi::Array pairs = Napi::Array::New(Env(), ranges.size());
    for (uint32_t i = 0; i < ranges.size(); i++) {
      Napi::Array pair = Napi::Array::New(Env(), 2);
      pair.Set(0U, static_cast<double>(ranges[i].start));
      pair.Set(1U, static_cast<double>(ranges[i].size));
      pairs.Set(i, pair);
    }
    return pairs;
  }

  PagesWork(Napi::Env env, int pid, uint64_t max_pages)
      : AsyncWorker(env), pid_(pid), max_pages_(max_pages), settled_(Napi::Promise::Deferred::New(env)) {}
  int pid_;
  uint64_t max_pages_;
  int result_ = 0;
  WorkingSet set_;
  Napi::Promise::Deferred settled_;
};

// workingSet(pid, max pages): a promise of {written: [[start, size], ...], read: [[start, size], ...]}, or of -errno
Napi::Value WorkingSetLater(const Napi::CallbackInfo& info) {
  return PagesWork::Queue(info.Env(), info[0].As<Napi::Number>().Int32Value(),
                          static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value()));
}

// readControl(path): its text, or -errno
Napi::Value ReadControlFile(const Napi::CallbackInfo& info) {
  std::string text;
  int result = ReadControl(info[0].As<Napi::String>(), &text);
  if (result < 0) return Napi::Number::New(info.Env(), result);
  return Napi::String::New(info.Env(), text);
}

// readCounter(fd, name): the number
Napi::Value Counter(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), ReadCounter(info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::String>()));
}

Napi::Value Listens(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), IsListener(info[0].As<Napi::Number>().Int32Value()));
}

Napi::Value Reset(const Napi::CallbackInfo& info) {
  ResetOnClose(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

Napi::Value Local(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), LocalAddress(info[0].As<Napi::Number>().Int32Value()));
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
  exports.Set("flock", Napi::Function::New(env, Flock));
  exports.Set("sealTree", Napi::Function::New(env, SealTreeLater));
  exports.Set("workingSet", Napi::Function::New(env, WorkingSetLater));
  exports.Set("readNumber", Napi::Function::New(env, Number));
  exports.Set("makeGroup", Napi::Function::New(env, MakeGroupNow));
  exports.Set("makeGroupLater", Napi::Function::New(env, MakeGroupLater));
  exports.Set("removeGroup", Napi::Function::New(env, RemoveGroupLater));
  exports.Set("readCounter", Napi::Function::New(env, Counter));
  exports.Set("readControl", Napi::Function::New(env, ReadControlFile));
  exports.Set("compileProfile", Napi::Function::New(env, CompileProfileToBytes));
  exports.Set("Relay", Relay::Define(env));
  exports.Set("localAddress", Napi::Function::New(env, Local));
  exports.Set("isListener", Napi::Function::New(env, Listens));
  exports.Set("resetOnClose", Napi::Function::New(env, Reset));
  exports.Set("close", Napi::Function::New(env, CloseFd));
  return exports;
}

}  // namespace

NODE_API_MODULE(forktree, Init)

}  // namespace forktree
