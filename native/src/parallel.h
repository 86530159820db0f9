// Work in numbered parts on XLA's own thread pool.
//
// Which thread takes a part never changes what the part computes, so results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace saddle {

// Half-open range [first, last) of images that a part works on.
struct Range {
  int64_t first, last;
};

inline Range RangeOf(int64_t part, int64_t parts, int64_t images) {
  return {images * part / parts, images * (part + 1) / parts};
}

// Calls work(part) for every part in [0, parts) and returns when all have ended. Rethrows the first exception.
//
// Threads take the next free part, and the caller takes parts, too. So it waits only for parts that a running thread
// has begun, never for a thread that the system or the pool has not started: no deadlock in a full pool, no stall on a
// busy machine.
inline void ForEachPart(xla::ffi::ThreadPool& pool, int64_t parts, const std::function<void(int64_t)>& work) {
  struct State {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable all_ended;
    int64_t ended = 0;
    std::exception_ptr error;
  };
  auto state = std::make_shared<State>();  // a helper may start after this call has returned
  auto take_parts = [state, parts, &work] {
    for (int64_t part; (part = state->next.fetch_add(1)) < parts;) {
      std::exception_ptr error;
      try {
        work(part);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(state->mutex);
      if (error && !state->error) state->error = error;
      if (++state->ended == parts) state->all_ended.notify_one();
    }
  };
  const int64_t helpers = std::min(parts, pool.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(take_parts));
  take_parts();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_ended.wait(lock, [&] { return state->ended == parts; });
  if (state->error) std::rethrow_exception(state->error);
}

}  // namespace saddle
