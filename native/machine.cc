#include "machine.h"

#include "parallel.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace pruneonce {

std::size_t l1_bytes() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  if (const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE); bytes >= static_cast<long>(kSmallestL1Bytes))
    return static_cast<std::size_t>(bytes);
#endif
  return 32 * 1024;  // the smallest of current x86 and Arm server cores
}

Machine this_machine(Isa isa) { return {isa, l1_bytes(), num_threads()}; }

}  // namespace pruneonce
