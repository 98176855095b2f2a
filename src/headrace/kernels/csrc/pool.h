// The threads, and the recorded programs they run together.
//
// A program is a list of ops with fixed pointers. Threads enter it once and share each op's units;
// the next op begins when all units are done, not when all threads have arrived: a thread that the
// system keeps from running holds up the others by no more than the unit it is in. How work is
// shared never changes an op's arithmetic.
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

// One thread's part of the running op's units, next..end, in one word with the op's turn. Owners
// claim from the front, idle threads from the end, each by one compare-and-swap.
class alignas(64) Part {
   public:
    static constexpr int64_t kMaxUnits = (1 << 24) - 1;

    void reset(uint16_t turn) { word_.store(pack(turn, 0, 0)); }

    // Claims a unit of turn `turn`, whose part is first..last if nobody has looked at it yet.
    // Returns -1 if there is none left, or a later turn has begun. Parts are looked at in every
    // turn, empty ones too, so that turns compare well when they wrap.
    int64_t claim(uint16_t turn, int64_t first, int64_t last, bool is_owner) {
        uint64_t word = word_.load(std::memory_order_relaxed);
        for (;;) {
            const auto lead = static_cast<int16_t>(static_cast<uint16_t>(word >> 48) - turn);
            if (lead > 0) return -1;
            int64_t next = lead < 0 ? first : static_cast<int64_t>(word >> 24 & kMaxUnits);
            int64_t end = lead < 0 ? last : static_cast<int64_t>(word & kMaxUnits);
            int64_t unit = -1;
            if (next < end) {
                unit = is_owner ? next++ : --end;
            } else if (lead == 0) {
                return -1;
            }
            const uint64_t claimed = pack(turn, next, end);
            if (word_.compare_exchange_weak(word, claimed, std::memory_order_relaxed)) return unit;
        }
    }

   private:
    static uint64_t pack(uint16_t turn, int64_t next, int64_t end) {
        return static_cast<uint64_t>(turn) << 48 | static_cast<uint64_t>(next) << 24 |
               static_cast<uint64_t>(end);
    }

    std::atomic<uint64_t> word_{0};
};

// What one thread knows of its part in the running op.
class Team {
   public:
    Team(int thread, int num_threads, uint16_t turn, Part* parts, std::atomic<const char*>* error)
        : thread_(thread), num_threads_(num_threads), turn_(turn), parts_(parts), error_(error) {}

    int num_threads() const { return num_threads_; }

    // Calls function(unit) for this thread's share of 0..units, at most once in an op: first its
    // own contiguous part, then what slower threads have left.
    template <typename Function>
    void share(int64_t units, Function function) {
        if (units > Part::kMaxUnits) return fail("one op has 2^24 or more units of work");
        units_ = units;
        for (int i = 0; i < num_threads_; ++i) {
            const int64_t owner = (thread_ + i) % num_threads_;
            const int64_t first = units * owner / num_threads_;
            const int64_t last = units * (owner + 1) / num_threads_;
            int64_t unit;
            while ((unit = parts_[owner].claim(turn_, first, last, i == 0)) >= 0) {
                function(unit);
                ++done_;
            }
        }
    }

    // Reports bad data found while running; the program's caller gets the message.
    void fail(const char* message) const { error_->store(message, std::memory_order_relaxed); }

    int64_t units() const { return units_; }
    int64_t done() const { return done_; }

   private:
    int thread_, num_threads_;
    uint16_t turn_;
    Part* parts_;
    std::atomic<const char*>* error_;
    int64_t units_ = 0, done_ = 0;
};

class Op {
   public:
    explicit Op(Rows rows) : rows_(rows) {}
    virtual ~Op() = default;
    virtual void run(Team& team) const = 0;
    // Whether there is just one unit, so that waking other threads would only cost.
    virtual bool is_single() const { return false; }
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
