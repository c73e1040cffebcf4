// The keeper's messages: bytes that come over its socket with descriptors beside them, and answers that it sends.
// Input: the number of descriptors, the message.
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "../keeper/keeper.h"
#include "fuzz.h"

namespace {

using keeper::Fd;
using keeper::Outcome;
using keeper::Words;

constexpr size_t kMaxMessage = 8192;  // what Receive() has room for
constexpr size_t kMaxFds = 16;

Words SplitPlainly(const std::string& text) {
  Words words;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\0', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

void SendBytes(int socket, const std::string& text, size_t count) {
  char control[CMSG_SPACE(2 * kMaxFds * sizeof(int))] = {};
  iovec vector = {const_cast<char*>(text.data()), text.size()};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    const std::vector<int> fds(count, socket);
    memcpy(CMSG_DATA(header), fds.data(), count * sizeof(int));
  }
  EXPECT(sendmsg(socket, &message, 0) == static_cast<ssize_t>(text.size()));
}

// The lowest number that is free: the same before and after when nothing was left open.
int LowestFree() {
  int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
  close(fd);
  return fd;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > kMaxMessage || data[0] > 2 * kMaxFds) return 0;
  const size_t count = data[0];
  const std::string text(data + 1, data + size);
  const Words words = SplitPlainly(text);
  EXPECT(keeper::Split(text.data(), text.size()) == words);

  static int pair[2] = {-1, -1};
  if (pair[0] < 0) EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  const int free_before = LowestFree();
  {
    SendBytes(pair[0], text, count);
    std::vector<Fd> fds;
    std::vector<char> bytes(kMaxMessage);
    EXPECT(keeper::ReceiveBytes(pair[1], bytes.data(), bytes.size(), &fds) == static_cast<ssize_t>(text.size()));
    EXPECT(std::string(bytes.data(), text.size()) == text);
    EXPECT(fds.size() == std::min(count, kMaxFds));
  }
  {
    SendBytes(pair[0], text, count);
    Outcome got = keeper::Receive(pair[1]);
    EXPECT(got.ok == (words[0] == "ok"));
    EXPECT(got.words == Words(words.begin() + 1, words.end()));
    EXPECT((got.fd.get() >= 0) == (count > 0));
  }
  {
    const bool with_fd = count > 0;
    Outcome sent = Outcome::Ok(words, Fd(with_fd ? fcntl(pair[0], F_DUPFD_CLOEXEC, 0) : -1));
    sent.ok = words.size() % 2 == 0;
    if (text.size() + 4 <= kMaxMessage) {
      keeper::Send(pair[0], sent);
      Outcome got = keeper::Receive(pair[1]);
      EXPECT(got.ok == sent.ok && got.words == words && (got.fd.get() >= 0) == with_fd);
    }
  }
  EXPECT(LowestFree() == free_before);
  return 0;
}
