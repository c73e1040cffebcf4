// What Landlock lets a leaf write to.
#pragma once

// Besides devices and proc: /tmp, if it has one; the folders at the targets, each a NUL-terminated word; or everything.
struct Enclosure {
  bool scratch, writable_root;
  const char* targets;
  int target_count;
};

// Binds the caller, which has given up its privileges, and all that it starts. Answers 0, also where the kernel has no Landlock, or its
// first version alone, by which nothing could be renamed from one folder to another; else -errno.
long Enclose(const Enclosure& enclosure);

const char* NextWord(const char* word);
