// The message by which a spare becomes a sandbox, cut into its parts.
#pragma once

struct HandOver {
  unsigned int open_files, mount_count, processes, data_mib, flags;  // flags: bits of Request::flags
  // NUL-terminated: options of /tmp (empty: none), working folder, network as in network.h; `targets` has one word for
  // each mount.
  const char *scratch, *folder, *network, *targets;
};

// The payload: five numbers, then the words, and nothing else. False: it is none, or not of that many mounts.
static inline bool CutHandOver(const char* payload, unsigned long size, unsigned int mount_count, HandOver* cut) {
  constexpr unsigned long kHead = 5 * sizeof(unsigned int);
  if (size < kHead || payload[size - 1] != 0) return false;
  const unsigned char* head = reinterpret_cast<const unsigned char*>(payload);
  auto number = [&](int at) {
    return static_cast<unsigned int>(head[at]) | static_cast<unsigned int>(head[at + 1]) << 8 |
           static_cast<unsigned int>(head[at + 2]) << 16 | static_cast<unsigned int>(head[at + 3]) << 24;
  };
  cut->open_files = number(0);
  cut->mount_count = number(4);
  cut->processes = number(8);
  cut->data_mib = number(12);
  cut->flags = number(16);
  if (cut->mount_count != mount_count) return false;
  const char* end = payload + size;
  unsigned int words = 0;
  for (const char* word = payload + kHead; word < end; words++) {
    if (words == 0) cut->scratch = word;
    if (words == 1) cut->folder = word;
    if (words == 2) cut->network = word;
    while (*word != 0) word++;
    word++;
    if (words == 2) cut->targets = word;
  }
  return words == 3 + mount_count;
}
