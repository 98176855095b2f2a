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
        parts_ = std::vector<Part>(static_cast<size_t>(num_threads));
        for (Part& part : parts_) part.reset(static_cast<uint16_t>(turn_.load() - 1));
        start_workers();
    }

    int num_threads() const { return num_threads_; }

    const char* run(const Program& program) {
        const std::lock_guard<std::mutex> run_lock(run_mutex_);
        program_ = &program;
        first_turn_ = turn_.load(std::memory_order_relaxed);
        error_.store(nullptr, std::memory_order_relaxed);
        const bool is_alone = program.size() == 1 && program[0]->is_single();
        if (num_threads_ > 1 && !is_alone) {
            is_open_.store(true);
            wake();
        }
        work(0);
        is_open_.store(false);
        wait_for([&] { return inside_.load() == 0; });
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
        while (!stopping_) {
            const auto called = [&] { return epoch_.load() != seen; };
            if (!spin_until(called, kSpin)) {
                std::unique_lock<std::mutex> lock(sleep_mutex_);
                sleepers_.fetch_add(1);
                awake_.wait(lock, called);
                sleepers_.fetch_sub(1);
            }
            seen = epoch_.load();
            // Either this thread sees the program closed, or the caller sees this thread inside.
            inside_.fetch_add(1);
            if (is_open_.load()) work(thread);
            inside_.fetch_sub(1);
        }
    }

    // Past the spin somebody else needs this core, perhaps the very thread waited for.
    template <typename Ready>
    static void wait_for(Ready ready) {
        if (ready()) return;
        while (!spin_until(ready, kSpin)) std::this_thread::yield();
    }

    void work(int thread) {
        const Program& program = *program_;
        for (;;) {
            const uint64_t turn = turn_.load(std::memory_order_acquire);
            if (turn - first_turn_ >= program.size()) return;
            Team team(thread, num_threads_, static_cast<uint16_t>(turn), parts_.data(), &error_);
            program[turn - first_turn_]->run(team);
            finish(turn, team.units(), team.done());
            wait_for([&] { return turn_.load(std::memory_order_acquire) != turn; });
        }
    }

    // Whoever completes the last unit begins the next turn. A thread with nothing done may be late,
    // and the counter another turn's: it must not touch it.
    void finish(uint64_t turn, int64_t units, int64_t done) {
        if (units == 0) {
            turn_.compare_exchange_strong(turn, turn + 1);
        } else if (done > 0 && finished_.fetch_add(done) + done == units) {
            finished_.store(0);
            turn_.store(turn + 1);
        }
    }

    std::mutex run_mutex_;
    int num_threads_ = 1;
    std::vector<std::thread> workers_;
    std::vector<Part> parts_ = std::vector<Part>(1);
    std::vector<float> scratch_;
    const Program* program_ = nullptr;
    uint64_t first_turn_ = 0;
    std::atomic<const char*> error_{nullptr};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_mutex_;
    std::condition_variable awake_;
    std::atomic<int> sleepers_{0};
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<bool> is_open_{false};
    alignas(64) std::atomic<int64_t> finished_{0};
    alignas(64) std::atomic<uint64_t> turn_{1};
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
