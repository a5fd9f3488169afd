// One pool of threads for the process.
#pragma once

#include <cstddef>
#include <functional>

namespace pruneonce {

constexpr std::size_t kMaxThreads = 1024;

// Threads that parallel_for uses, the calling one included: fewer where the system grants no more. At first: as many as
// there are processors.
std::size_t num_threads();
void set_num_threads(std::size_t count);  // throws std::invalid_argument unless 1 <= count <= 1024

// Calls task(0) ... task(count - 1), each once, in any order and on any thread; returns when all are done. When a
// task throws, no other is begun, and its exception (of several, the first) is the caller's once every thread is done.
// A second caller, while the pool is busy, runs its tasks on its own thread.
void parallel_for(std::size_t count, const std::function<void(std::size_t)>& task);

// GOMP_parallel of an OpenMP library, as compilers call it: task(data) on each thread of a team of `threads`.
using OpenMpParallel = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);

// From now on parallel_for borrows the threads of that library instead of its own; null: its own again. For callers who
// compute with them in turn: two pools on the same cores wait for each other.
void borrow_threads(OpenMpParallel parallel);

}  // namespace pruneonce
