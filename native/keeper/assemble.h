// The steps of which roots are made; a root is the path of a folder on the host.
#pragma once
#include "keeper.h"

namespace keeper {

// Whether an operation makes its path, by itself.
bool IsPlaced(Op op);
// The folders above `path` in a root.
Outcome MakeParents(const std::string& root, const std::string& path);
// A file, link or folder; nothing for what is mounted.
Outcome MakeEntry(const Operation& operation, const std::string& root, mode_t file_mode);
// A read-only /dev with just the plan's devices.
Outcome MakeDevices(const Plan& plan, const std::string& root);
// A /proc of no process.
Outcome MountDeadProc(const std::string& root);
// Becomes the user whose ids these are, and keeps the capabilities: what the kernel counts for the maker of a user
// namespace is then not counted for root of the host.
Outcome BecomeOwner(id_t id);
// Makes the root, which is a mount point, this process's, and detaches the old one.
Outcome Enter(const std::string& root);

}  // namespace keeper
