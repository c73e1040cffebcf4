// Messages between host, keeper and its children: NUL-terminated words, and fds beside them.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

namespace keeper {

Words Split(const char* bytes, size_t size) {
  Words words;
  for (const char* end = bytes + size; bytes < end;) {
    size_t length = strnlen(bytes, static_cast<size_t>(end - bytes));
    words.emplace_back(bytes, length);
    bytes += length + 1;
  }
  return words;
}

ssize_t ReceiveBytes(int socket, char* bytes, size_t size, std::vector<Fd>* fds) {
  char control[CMSG_SPACE(16 * sizeof(int))];
  iovec vector = {bytes, size};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (received <= 0) return received;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      fds->emplace_back(fd);
    }
  }
  return received;
}

void Send(int socket, const Outcome& outcome) {
  std::string text = outcome.ok ? "ok" : "no";
  text.push_back('\0');
  for (const std::string& word : outcome.words) text.append(word).push_back('\0');
  char control[CMSG_SPACE(sizeof(int))] = {};
  iovec vector = {text.data(), text.size()};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (outcome.fd.get() >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    int fd = outcome.fd.get();
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  // The other side may have gone; then its end of file says so.
  if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0) return;
}

Outcome Receive(int socket) {
  char bytes[8192];
  std::vector<Fd> fds;
  ssize_t size = ReceiveBytes(socket, bytes, sizeof bytes, &fds);
  if (size <= 0) return Outcome::Failed("answer", size < 0 ? errno : EPIPE, "");
  Words words = Split(bytes, static_cast<size_t>(size));
  bool ok = !words.empty() && words[0] == "ok";
  if (!words.empty()) words.erase(words.begin());
  Outcome outcome = {ok, std::move(words), fds.empty() ? Fd() : std::move(fds[0]), 0};
  return outcome;
}

Outcome InChild(const std::function<Outcome()>& steps) {
  int pair[2];
  TRY("socketpair", "", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
  Fd ours(pair[0]), theirs(pair[1]);
  pid_t child = fork();
  TRY("fork", "", child);
  if (child == 0) {
    Send(theirs.get(), steps());
    _exit(0);
  }
  theirs.Close();
  Outcome outcome = Receive(ours.get());
  waitpid(child, nullptr, 0);
  return outcome;
}

}  // namespace keeper
