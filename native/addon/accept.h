// Accepting from sockets that a sandbox has made. Whoever made one may have kept a copy, and so have a hand in what it does.
#pragma once

namespace forktree {

// Whether it is a TCP socket that listens.
bool IsListener(int fd);

// The next connection, which does not block and on which nothing is left of what the listener was set to that could make
// us wait; or -errno, -EAGAIN when there is none. Whoever has a copy of the listener can make this call wait by taking both its O_NONBLOCK
// and its connection away at the right moment; then the listener is shut down after a while, and the answer is -EINVAL.
int AcceptConnection(int listener);

// Has a connection reset when it is closed, instead of ended.
void ResetOnClose(int fd);

}  // namespace forktree
