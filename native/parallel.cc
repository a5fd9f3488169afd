#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pruneonce {
namespace {

constexpr std::size_t kMaxThreads = 1024;
// How long an idle thread looks for the next job before it sleeps: some 20 µs, longer than the gap between two layers,
// shorter than anybody would notice. Waking a sleeping thread costs about as much.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

class Pool {
 public:
  explicit Pool(std::size_t threads) {
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    stop_ = true;
    announce();
    for (std::thread& worker : workers_) worker.join();
  }

  std::size_t threads() const { return workers_.size() + 1; }

  void run(std::size_t count, const std::function<void(std::size_t)>& task) {
    task_ = &task;
    count_ = count;
    next_ = 0;
    busy_ = workers_.size();
    announce();
    take_tasks();
    for (int spins = 0; busy_ != 0; ++spins) {
      if (spins < kSpins) {
        pause();
      } else if (const std::size_t busy = busy_; busy != 0) {
        busy_.wait(busy);
      }
    }
  }

 private:
  void announce() {
    ++job_;
    job_.notify_all();
  }

  void take_tasks() {
    for (std::size_t i = next_++; i < count_; i = next_++) (*task_)(i);
  }

  void work() {
    for (unsigned seen = 0;; ++seen) {
      for (int spins = 0; job_ == seen && spins < kSpins; ++spins) pause();
      job_.wait(seen);
      if (stop_) return;
      take_tasks();
      if (--busy_ == 0) busy_.notify_one();
    }
  }

  // Plain members are written before `job_` rises and read after it was seen to rise.
  const std::function<void(std::size_t)>* task_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> busy_{0};  // workers that have not finished the job
  std::atomic<unsigned> job_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// Never destroyed: at exit, workers may still be asleep in it.
struct State {
  std::mutex mutex;  // held while the pool runs or changes
  std::atomic<std::size_t> threads{std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMaxThreads)};
  Pool* pool = nullptr;  // started by the first job
  std::atomic<OpenMpParallel> lender{nullptr};
};

State* state = new State;

#if defined(__unix__) || defined(__APPLE__)
// A forked child has none of the threads, a lender's neither, and a mutex that may be held by one of them: it starts afresh.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  const std::size_t threads = state->threads;
  state = new State;
  state->threads = threads;
});
#endif

struct Job {
  const std::function<void(std::size_t)>* task;
  std::size_t count;
  std::atomic<std::size_t> next{0};

  static void take_tasks(void* data) {
    auto& job = *static_cast<Job*>(data);
    for (std::size_t i = job.next++; i < job.count; i = job.next++) (*job.task)(i);
  }
};

}  // namespace

std::size_t num_threads() { return state->threads; }

void set_num_threads(std::size_t count) {
  if (count < 1 || count > kMaxThreads)
    throw std::invalid_argument("[set_num_threads] count is " + std::to_string(count) + ", expected 1 to " +
                                std::to_string(kMaxThreads));
  state->threads = count;
}

void borrow_threads(OpenMpParallel parallel) { state->lender = parallel; }

void parallel_for(std::size_t count, const std::function<void(std::size_t)>& task) {
  if (const OpenMpParallel borrowed = state->lender; borrowed && count > 1 && state->threads > 1) {
    Job job{&task, count};
    borrowed(&Job::take_tasks, &job, static_cast<unsigned>(std::min<std::size_t>(count, state->threads)), 0);
    return;
  }
  std::unique_lock lock(state->mutex, std::defer_lock);
  if (count > 1 && state->threads > 1 && lock.try_lock()) {
    if (state->pool && state->pool->threads() != state->threads) {
      delete state->pool;
      state->pool = nullptr;
    }
    if (!state->pool) state->pool = new Pool(state->threads);
    state->pool->run(count, task);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) task(i);
}

}  // namespace pruneonce
