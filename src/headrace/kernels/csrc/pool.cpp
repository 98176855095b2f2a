#include "pool.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace headrace {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// Spins until ready() or the limit has passed; returns the last ready().
template <typename Ready>
bool spin_until(Ready ready, std::chrono::microseconds limit) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int i = 0; i < 32; ++i) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() - start < limit);
    return ready();
}

class Pool {
   public:
    void resize(int num_threads) {
        const std::lock_guard<std::mutex> run_lock(run_mutex_);
        stop_workers();
        num_threads_ = num_threads;
        start_workers();
    }

    int num_threads() const { return num_threads_; }

    const char* run(const Program& program) {
        const std::lock_guard<std::mutex> run_lock(run_mutex_);
        program_ = &program;
        error_.store(nullptr, std::memory_order_relaxed);
        if (num_threads_ > 1) wake();
        work(0);
        return error_.load(std::memory_order_relaxed);
    }

    void reserve_scratch(size_t floats) {
        const std::lock_guard<std::mutex> run_lock(run_mutex_);
        if (scratch_.size() < floats) scratch_.resize(floats);
    }
    float* scratch() { return scratch_.data(); }

   private:
    void start_workers() {
        stopping_ = false;
        const uint32_t epoch = epoch_.load();
        for (int thread = 1; thread < num_threads_; ++thread) {
            workers_.emplace_back([this, thread, epoch] { serve(thread, epoch); });
        }
    }

    void stop_workers() {
        stopping_ = true;
        wake();
        for (std::thread& worker : workers_) worker.join();
        workers_.clear();
    }

    void wake() {
        epoch_.fetch_add(1);
        if (sleepers_.load() == 0) return;
        const std::lock_guard<std::mutex> lock(sleep_mutex_);
        awake_.notify_all();
    }

    void serve(int thread, uint32_t seen) {
        for (;; ++seen) {
            const auto called = [&] { return epoch_.load() != seen; };
            if (!spin_until(called, kSpin)) {
                std::unique_lock<std::mutex> lock(sleep_mutex_);
                sleepers_.fetch_add(1);
                awake_.wait(lock, called);
                sleepers_.fetch_sub(1);
            }
            if (stopping_) return;
            work(thread);
        }
    }

    void work(int thread) {
        const Team team(thread, num_threads_, &next_, &error_);
        const Program& program = *program_;
        for (size_t i = 0, count = program.size(); i < count; ++i) {
            program[i]->run(team);
            barrier();
        }
    }

    // The last to arrive resets the counters and opens the next phase.
    void barrier() {
        if (num_threads_ == 1) return;
        const uint32_t phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
            next_.store(0, std::memory_order_relaxed);
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        const auto open = [&] { return phase_.load(std::memory_order_acquire) != phase; };
        // Past the spin somebody else needs this core, perhaps the very thread waited for.
        while (!spin_until(open, kSpin)) std::this_thread::yield();
    }

    std::mutex run_mutex_;
    int num_threads_ = 1;
    std::vector<std::thread> workers_;
    std::vector<float> scratch_;
    const Program* program_ = nullptr;
    std::atomic<const char*> error_{nullptr};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_mutex_;
    std::condition_variable awake_;
    std::atomic<int> sleepers_{0};
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
};

// Never destroyed: its threads may still sleep when the interpreter leaves.
Pool& pool() {
    static Pool* const instance = new Pool;
    return *instance;
}

}  // namespace

void set_num_threads(int num_threads) { pool().resize(num_threads); }
int num_threads() { return pool().num_threads(); }
void reserve_scratch(size_t floats) { pool().reserve_scratch(floats); }
float* scratch() { return pool().scratch(); }

const char* run(const Program& program) {
    for (const auto& op : program) {
        if (!op->rows().in_range()) return "a row count exceeds what its buffers hold";
    }
    return pool().run(program);
}

}  // namespace headrace
