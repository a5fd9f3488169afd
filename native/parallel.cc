#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "granted_cores.h"
#include "refuse.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pruneonce {
namespace {

// How long an idle thread looks for the next job before it sleeps: some 20 µs, longer than the gap between two layers,
// shorter than anybody would notice. Waking a sleeping thread costs about as much.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// For a few instructions at a time, which a mutex's sleep would outlast by far.
class SpinLock {
 public:
  void lock() {
    for (int spins = 0; held_.test_and_set(std::memory_order_acquire); ++spins)
      if (spins < kSpins) {
        pause();
      } else {
        std::this_thread::yield();  // who holds it may have been interrupted
      }
  }
  void unlock() { held_.clear(std::memory_order_release); }

 private:
  std::atomic_flag held_{};
};

// Tasks that several threads share out among themselves.
struct Job {
  FunctionRef<void(std::size_t)> task;
  std::size_t count;
  std::atomic<std::size_t> next{0};
  std::atomic_flag failed{};
  std::exception_ptr failure{};         // the first that a task threw; to be read when all threads are done
  std::atomic<std::size_t> workers{0};  // of the pool, in it now; changed under the pool's lock
  Job* newer = nullptr;

  // Until none is left, or leave() after one of them.
  template <class Leave>
  void take_tasks(Leave leave) noexcept {
    try {
      for (std::size_t i = next++; i < count; i = next++) {
        task(i);
        if (leave()) return;
      }
    } catch (...) {
      next = count;
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  }
  void take_tasks() noexcept {
    take_tasks([] { return false; });
  }

  void finish() const {
    if (failure) std::rethrow_exception(failure);
  }
};

// Threads in jobs, callers included, are at most as many as were asked for, but for callers beyond that. Whenever a job
// comes or goes, workers finish their task and choose again, the job that has the fewest of them: so callers get equal
// shares, however long their jobs are. Never destroyed: at exit, workers may still be asleep in it.
class Pool {
 public:
  // Calls the job's tasks on this thread and others.
  void run(Job& job, std::size_t threads) {
    resize(threads);
    {
      const std::lock_guard guard(lock_);
      Job** last = &oldest_;
      while (*last) last = &(*last)->newer;
      *last = &job;
      ++callers_;
    }
    announce();
    job.take_tasks();
    bool others;
    {
      const std::lock_guard guard(lock_);
      Job** place = &oldest_;
      while (*place != &job) place = &(*place)->newer;
      *place = job.newer;
      --callers_;
      others = oldest_ != nullptr;
    }
    if (others) announce();  // this thread is theirs now
    for (int spins = 0; job.workers != 0; ++spins) {
      if (spins < kSpins) {
        pause();
        continue;
      }
      const unsigned seen = departures_;
      if (job.workers != 0) departures_.wait(seen);
    }
  }

 private:
  void announce() {
    ++news_;
    news_.notify_all();
  }

  // As many workers as threads, less a caller; fewer where the system grants no more, which is not asked again.
  void resize(std::size_t threads) {
    if (threads_ == threads) return;
    const std::lock_guard resizing(resizing_);
    if (threads_ == threads) return;
    threads_ = threads;
    for (;;) {
      {
        const std::lock_guard guard(lock_);
        if (alive_ + 1 >= threads) break;
        ++alive_;
      }
      try {
        std::thread([this] { work(); }).detach();
      } catch (const std::exception&) {  // no thread, or no memory for one
        const std::lock_guard guard(lock_);
        --alive_;
        break;
      }
    }
    announce();  // to those that are too many now, or may work again
  }

  void work() {
    for (;;) {
      const unsigned seen = news_;  // before looking: what comes after it is not slept over
      bool surplus = false;
      if (Job* const job = join(surplus)) {
        job->take_tasks([&] { return news_ != seen; });
        leave(*job);
        continue;
      }
      if (surplus) return;
      for (int spins = 0; news_ == seen && spins < kSpins; ++spins) pause();
      news_.wait(seen);
    }
  }

  // Null where there is nothing to do.
  Job* join(bool& surplus) {
    const std::lock_guard guard(lock_);
    if (alive_ + 1 > threads_) {
      --alive_;
      surplus = true;
      return nullptr;
    }
    if (callers_ + working_ >= threads_) return nullptr;
    Job* best = nullptr;
    for (Job* job = oldest_; job; job = job->newer)
      if (job->next < job->count && (!best || job->workers < best->workers)) best = job;
    if (!best) return nullptr;
    ++working_;
    ++best->workers;
    return best;
  }

  void leave(Job& job) {
    bool last;
    {
      const std::lock_guard guard(lock_);
      --working_;
      last = --job.workers == 0;
    }
    if (!last) return;  // else its caller may wait; the job may be gone already
    ++departures_;
    departures_.notify_all();
  }

  std::mutex resizing_;
  std::atomic<std::size_t> threads_{1};
  std::atomic<unsigned> news_{0};        // rises when a job comes or goes
  std::atomic<unsigned> departures_{0};  // rises when the last worker has left a job
  SpinLock lock_;                        // of what follows
  Job* oldest_ = nullptr;
  std::size_t callers_ = 0;  // in their own jobs
  std::size_t working_ = 0;  // workers in jobs
  std::size_t alive_ = 0;    // workers
};

struct State {
  std::atomic<std::size_t> threads{0};  // 0: not yet asked for
  std::atomic<OpenMpParallel> lender{nullptr};
  Pool pool;
};

State* state = new State;

#if defined(__unix__) || defined(__APPLE__)
// A forked child has none of the threads, a lender's neither, and locks that may be held by one of them: it starts
// afresh.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  const std::size_t threads = state->threads;
  state = new State;
  state->threads = threads;
});
#endif

std::size_t default_threads() {
  const char* const text = std::getenv("PRUNEONCE_THREADS");
  if (!text || !*text) return std::min(granted_cores(), kMaxThreads);
  const char* const end = text + std::strlen(text);
  std::size_t count = 0;
  const auto [stop, error] = std::from_chars(text, end, count);
  if (error != std::errc{} || stop != end || count < 1 || count > kMaxThreads)
    refuse("num_threads",
           "PRUNEONCE_THREADS='" + std::string(text) + "', expected a number of 1 to " + std::to_string(kMaxThreads));
  return count;
}

}  // namespace

std::size_t num_threads() {
  if (state->threads == 0) {
    std::size_t none = 0;
    state->threads.compare_exchange_strong(none, default_threads());
  }
  return state->threads;
}

void set_num_threads(std::size_t count) {
  if (count < 1 || count > kMaxThreads)
    refuse("set_num_threads", "count is " + std::to_string(count) + ", expected 1 to " + std::to_string(kMaxThreads));
  state->threads = count;
}

void borrow_threads(OpenMpParallel parallel) { state->lender = parallel; }

void parallel_for(std::size_t count, FunctionRef<void(std::size_t)> task) {
  const std::size_t threads = count > 1 ? num_threads() : 1;
  if (threads == 1) {
    for (std::size_t i = 0; i < count; ++i) task(i);
    return;
  }
  Job job{task, count};
  if (const OpenMpParallel borrowed = state->lender) {
    const auto take_tasks = [](void* data) { static_cast<Job*>(data)->take_tasks(); };
    borrowed(take_tasks, &job, static_cast<unsigned>(std::min(count, threads)), 0);
  } else {
    state->pool.run(job, threads);
  }
  job.finish();
}

}  // namespace pruneonce
