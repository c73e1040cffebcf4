#include "accept.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#include <mutex>

namespace forktree {
namespace {

constexpr long kLongestMs = 100;

int Option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

// Ends a call that waits although it must not. Its timer has a thread of its own, which is woken only then.
class Watchdog {
 public:
  Watchdog() {
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_value.sival_ptr = this;
    event.sigev_notify_function = [](sigval value) { static_cast<Watchdog*>(value.sival_ptr)->Bite(); };
    works_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
  }

  bool works() const { return works_; }

  void Guard(int listener) {
    std::lock_guard<std::mutex> lock(mutex_);
    guarded_ = listener;
    Set(kLongestMs);
  }

  void Leave() {
    std::lock_guard<std::mutex> lock(mutex_);
    guarded_ = -1;
    Set(0);
  }

 private:
  void Set(long ms) {
    itimerspec when = {};
    when.it_value.tv_nsec = ms * 1000000;
    timer_settime(timer_, 0, &when, nullptr);
  }

  void Bite() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (guarded_ >= 0) shutdown(guarded_, SHUT_RDWR);
  }

  std::mutex mutex_;
  timer_t timer_ = {};
  int guarded_ = -1;
  bool works_ = false;
};

}  // namespace

bool IsListener(int fd) {
  const int family = Option(fd, SO_DOMAIN);
  return (family == AF_INET || family == AF_INET6) && Option(fd, SO_PROTOCOL) == IPPROTO_TCP && Option(fd, SO_ACCEPTCONN) == 1;
}

int AcceptConnection(int listener) {
  // Never destroyed: its thread may still be about to look at it when the process ends.
  static Watchdog& watchdog = *new Watchdog;
  if (!watchdog.works()) return -EAGAIN;
  watchdog.Guard(listener);
  const int accepted = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  const int error = errno;
  watchdog.Leave();
  if (accepted < 0) return -error;
  // Inherited, it would have close() wait for a peer that does not read.
  const linger none = {0, 0};
  setsockopt(accepted, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  return accepted;
}

void ResetOnClose(int fd) {
  const linger at_once = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

}  // namespace forktree
