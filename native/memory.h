// What the C library does with freed memory.
#pragma once

namespace pruneonce {

// Keep freed memory for the next allocation instead of giving it back to the system: a training step frees and asks for
// the same large tensors again, and fresh pages cost more than most of what is computed in them. Does nothing but with
// glibc.
void keep_freed_memory();

}  // namespace pruneonce
