// A leaf's way out where its network is an allow-list: sockets that listen in its own network namespace, and that the host
// accepts from.
#pragma once

// As many as travel with a birth beside a pidfd; src/sandbox/network/layout.ts has the same.
constexpr int kMaxListeners = 14;

struct Listeners {
  int fds[kMaxListeners];
  int count;
};

// Does what the word says, item by item, while the leaf has its capabilities: `p5432;` is a socket that listens on this
// port at every address; `r0a010200/24;` makes every address of that network, in hexadecimal digits, the namespace's own.
// Nothing for an empty word. 0, or -errno.
long OpenListeners(const char* word, Listeners* made);
