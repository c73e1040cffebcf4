#pragma once

extern "C" {

// Takes page faults ahead. `set`: words of 8 bytes, first how many ranges are to be written to, then an address and a size of
// each of these, and then of those that are only read, in whole pages. Those that are not there, or can't be written to, are
// passed over. Answers how many were not; none before Linux 5.14.
unsigned int forktree_populate(const char* set, unsigned long size);
}
