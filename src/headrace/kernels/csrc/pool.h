// The threads, and the recorded programs they run together.
//
// A program is a list of ops with fixed pointers. All threads enter it once, share each op's work
// and meet at a barrier before the next. How work is shared never changes an op's arithmetic.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace headrace {

// A row count that is read when the op runs: a control word, or a constant of its own.
class Rows {
   public:
    Rows(const int32_t* control, int32_t constant, int32_t capacity)
        : control_(control), constant_(constant), capacity_(capacity) {}
    int32_t count() const { return control_ ? *control_ : constant_; }
    bool in_range() const { return count() >= 0 && count() <= capacity_; }
    int32_t capacity() const { return capacity_; }

   private:
    const int32_t* control_;
    int32_t constant_, capacity_;
};

// What one thread knows of its part in the running op.
class Team {
   public:
    Team(int thread, int num_threads, std::atomic<int64_t>* next, std::atomic<const char*>* error)
        : thread_(thread), num_threads_(num_threads), next_(next), error_(error) {}

    int thread() const { return thread_; }
    int num_threads() const { return num_threads_; }

    // Contiguous equal shares: least overhead, best for short work.
    template <typename Function>
    void split(int64_t units, Function function) const {
        const int64_t last = units * (thread_ + 1) / num_threads_;
        for (int64_t unit = units * thread_ / num_threads_; unit < last; ++unit) function(unit);
    }

    // One at a time from a common counter: evens out threads of unequal speed.
    template <typename Function>
    void take(int64_t units, Function function) const {
        if (num_threads_ == 1) return split(units, function);
        int64_t unit;
        while ((unit = next_->fetch_add(1, std::memory_order_relaxed)) < units) function(unit);
    }

    // Reports bad data found while running; the program's caller gets the message.
    void fail(const char* message) const { error_->store(message, std::memory_order_relaxed); }

   private:
    int thread_, num_threads_;
    std::atomic<int64_t>* next_;
    std::atomic<const char*>* error_;
};

class Op {
   public:
    explicit Op(Rows rows) : rows_(rows) {}
    virtual ~Op() = default;
    virtual void run(const Team& team) const = 0;
    const Rows& rows() const { return rows_; }

   protected:
    Rows rows_;
};

using Program = std::vector<std::unique_ptr<Op>>;

// Starts or stops threads so that programs run on `num_threads`, the calling one included.
void set_num_threads(int num_threads);
int num_threads();

// Memory that ops of all programs share, as no two ops run at the same time. Grows only.
void reserve_scratch(size_t floats);
float* scratch();

// Runs all ops in order; returns null, or what was wrong with the data.
const char* run(const Program& program);

}  // namespace headrace
