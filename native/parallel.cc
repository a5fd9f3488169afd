#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
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

// How long an idle thread looks for the next job before it sleeps: some 20 µs, longer than the gap between two layers,
// shorter than anybody would notice. Waking a sleeping thread costs about as much.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Tasks that several threads share out among themselves.
struct Job {
  const std::function<void(std::size_t)>* task;
  std::size_t count;
  std::atomic<std::size_t> next{0};
  std::atomic_flag failed{};
  std::exception_ptr failure{};  // the first that a task threw; to be read when all threads are done

  void take_tasks() noexcept {
    try {
      for (std::size_t i = next++; i < count; i = next++) (*task)(i);
    } catch (...) {
      next = count;
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  }

  void finish() const {
    if (failure) std::rethrow_exception(failure);
  }
};

class Pool {
 public:
  // With fewer workers where the system grants no more threads.
  explicit Pool(std::size_t threads) : threads_(threads) {
    workers_.reserve(threads - 1);
    try {
      while (workers_.size() < threads - 1) workers_.emplace_back([this] { work(); });
    } catch (const std::exception&) {  // no thread, or no memory for one
    }
  }

  ~Pool() {
    stop_ = true;
    announce();
    for (std::thread& worker : workers_) worker.join();
  }

  std::size_t threads() const { return threads_; }  // that it was asked for

  void run(Job& job) {
    job_ = &job;
    busy_ = workers_.size();
    announce();
    job.take_tasks();
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
    ++jobs_;
    jobs_.notify_all();
  }

  void work() {
    for (unsigned seen = 0;; ++seen) {
      for (int spins = 0; jobs_ == seen && spins < kSpins; ++spins) pause();
      jobs_.wait(seen);
      if (stop_) return;
      job_->take_tasks();
      if (--busy_ == 0) busy_.notify_one();
    }
  }

  const std::size_t threads_;
  Job* job_ = nullptr;                // written before `jobs_` rises, read after it was seen to rise
  std::atomic<std::size_t> busy_{0};  // workers that have not finished the job
  std::atomic<unsigned> jobs_{0};
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
    const auto take_tasks = [](void* data) { static_cast<Job*>(data)->take_tasks(); };
    borrowed(take_tasks, &job, static_cast<unsigned>(std::min<std::size_t>(count, state->threads)), 0);
    job.finish();
    return;
  }
  std::unique_lock lock(state->mutex, std::defer_lock);
  if (count > 1 && state->threads > 1 && lock.try_lock()) {
    if (state->pool && state->pool->threads() != state->threads) {
      delete state->pool;
      state->pool = nullptr;
    }
    if (!state->pool) state->pool = new Pool(state->threads);
    Job job{&task, count};
    state->pool->run(job);
    job.finish();
    return;
  }
  for (std::size_t i = 0; i < count; ++i) task(i);
}

}  // namespace pruneonce
