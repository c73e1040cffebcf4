#pragma once

extern "C" {

// Faults pages in for writing, so that what writes to them later does not wait for a copy: `ranges` are pairs of an address
// and a size, 8 bytes each, in whole pages. Those that are not there, or can't be written to, are passed over. Answers how
// many were; none before Linux 5.14.
unsigned int forktree_populate(const char* ranges, unsigned long size);
}
