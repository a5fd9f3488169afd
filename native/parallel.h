// One pool of threads for the process.
#pragma once

#include <cstddef>
#include <functional>

namespace pruneonce {

// Threads that parallel_for uses, the calling one included. At first: as many as there are processors.
std::size_t num_threads();
void set_num_threads(std::size_t count);  // throws std::invalid_argument unless 1 <= count <= 1024

// Calls task(0) ... task(count - 1), each once, in any order and on any thread; returns when all are done. `task` must
// not throw. A second caller, while the pool is busy, runs its tasks on its own thread.
void parallel_for(std::size_t count, const std::function<void(std::size_t)>& task);

}  // namespace pruneonce
