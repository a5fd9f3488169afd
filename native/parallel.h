// One pool of threads for the process.
#pragma once

#include <cstddef>

#include "function_ref.h"

namespace pruneonce {

constexpr std::size_t kMaxThreads = 1024;

// Threads that parallel_for uses, those of all callers included: fewer where the system grants no more. At first
// $PRUNEONCE_THREADS, else granted_cores(). Throws std::invalid_argument where the variable is no number of 1 to
// kMaxThreads.
std::size_t num_threads();
void set_num_threads(std::size_t count);  // throws std::invalid_argument unless 1 <= count <= kMaxThreads

// Calls task(0) ... task(count - 1), each once, in any order and on any thread; returns when all are done. When a
// task throws, no other is begun, and its exception (of several, the first) is the caller's once every thread is done.
// Callers at once share the threads: each works on its own tasks, and the pool's workers spread out evenly over all.
void parallel_for(std::size_t count, FunctionRef<void(std::size_t)> task);

// GOMP_parallel of an OpenMP library, as compilers call it: task(data) on each thread of a team of `threads`.
using OpenMpParallel = void (*)(void (*task)(void*), void* data, unsigned threads, unsigned flags);

// From now on parallel_for borrows the threads of that library instead of its own; null: its own again. For callers who
// compute with them in turn: two pools on the same cores wait for each other.
void borrow_threads(OpenMpParallel parallel);

}  // namespace pruneonce
