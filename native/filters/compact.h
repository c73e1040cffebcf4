// Makes a filter of libseccomp's shorter without changing what it answers.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <string>
#include <vector>

[[noreturn]] void Fail(const std::string& what, int error = 0);

// The same answers to every call of `audit_arch`, and to those of others, by
// ranges of calls that share an answer instead of call by call: the kernel
// checks, converts and compiles a filter anew for each process that installs
// it, so its length is what installing it takes. Stops the program when the
// filter is of another form than libseccomp's for one architecture, or when
// the two are found to answer differently.
std::vector<sock_filter> Compact(const std::vector<sock_filter>& program,
                                 uint32_t audit_arch);
