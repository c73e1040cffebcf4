// Process 1 of a program sandbox: runs what the host asks for and tells how it ended.
#pragma once

// In a leaf that is set up. Ends with the host's end of the channel, and with it everything in the sandbox.
[[noreturn]] void Supervise();
