// Work in items, on the threads that XLA runs its own programs with.
#ifndef FEDJAX_KD_PARALLEL_H_
#define FEDJAX_KD_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace fedjax_kd {

class Items {
 public:
  Items(int64_t count, std::function<void(int64_t)> run) : count_(count), run_(std::move(run)) {}

  // Takes items until none is left.
  void work() {
    for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        run_(item);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_all();
      }
    }
  }

  // Waits for the items that other threads are at, and throws what one of them threw.
  void wait() {
    // The last items end at about the same time: looking again is cheaper than going to sleep.
    for (int look = 0; look < kLooks && !is_done(); ++look) pause();
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return is_done(); });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kLooks = 2000;

  bool is_done() const { return done_.load(std::memory_order_acquire) == count_; }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int64_t count_;
  const std::function<void(int64_t)> run_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
  std::exception_ptr error_;
};

// Runs run(0), ..., run(count - 1). The caller works too and waits only for items that are being
// worked at, so that it gets to the end also if every other thread is busy with something else.
inline void parallel(xla::ffi::ThreadPool& pool, int64_t count, bool is_small,
                     const std::function<void(int64_t)>& run) {
  const int64_t threads = std::min<int64_t>(count, pool.num_threads());
  if (threads <= 1 || is_small) {
    for (int64_t item = 0; item < count; ++item) run(item);
    return;
  }
  // Threads that come too late find no item, at a time at which the caller may have gone on.
  auto items = std::make_shared<Items>(count, run);
  for (int64_t n = 1; n < threads; ++n) pool.Schedule([items] { items->work(); });
  items->work();
  items->wait();
}

// Memory that a thread keeps for its next item.
inline float* scratch(size_t size) {
  thread_local std::vector<float> kept;
  if (kept.size() < size) kept.resize(size);
  return kept.data();
}

}  // namespace fedjax_kd

#endif  // FEDJAX_KD_PARALLEL_H_
