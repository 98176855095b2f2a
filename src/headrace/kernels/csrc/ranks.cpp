#include "ranks.h"

#include <chrono>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace headrace {
namespace {

constexpr int64_t kPiece = 8192;  // floats of one unit of work
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kNap = std::chrono::milliseconds(20);
constexpr auto kPatience = std::chrono::minutes(5);
constexpr const char* kTimeout = "a rank of the model did not arrive within five minutes";
constexpr const char* kBroken = "the ranks of another host cannot be reached";

static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(RankLine) == 64);

bool has_arrived(const RankLine& line, uint32_t collective) {
    const uint32_t arrived = line.arrived.load(std::memory_order_acquire);
    return static_cast<int32_t>(arrived - collective) >= 0;
}

// With more threads than cores, spinning would keep the rank waited for from running.
bool may_spin(const Ranks& ranks) {
    static const int64_t cores = std::thread::hardware_concurrency();
    return (ranks.here_last - ranks.here_first) * num_threads() <= cores;
}

// Sleeps until `arrived` is no longer `seen`, or for a nap.
void sleep_on(RankLine& line, uint32_t seen) {
#if defined(__linux__)
    const timespec limit{0, std::chrono::nanoseconds(kNap).count()};
    line.sleepers.fetch_add(1);
    syscall(SYS_futex, &line.arrived, FUTEX_WAIT, seen, &limit, nullptr, 0);
    line.sleepers.fetch_sub(1);
#else
    (void)line, (void)seen;
    std::this_thread::yield();
#endif
}

void wake(RankLine& line) {
#if defined(__linux__)
    if (line.sleepers.load()) syscall(SYS_futex, &line.arrived, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
#else
    (void)line;
#endif
}

// Returns false if the rank does not come.
bool wait_for(RankLine& line, uint32_t collective, bool spins) {
    if (has_arrived(line, collective)) return true;
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
        const auto waited = std::chrono::steady_clock::now() - start;
        if (waited > kPatience) return false;
        if (!spins || waited > kSpin) sleep_on(line, collective - 1);
        for (int i = 0; i < 32; ++i) {
            if (has_arrived(line, collective)) return true;
        }
    }
}

// Returns false if one of the ranks first..last does not come.
bool wait_for_ranks(const Ranks& ranks, int64_t first, int64_t last, uint32_t collective) {
    const bool spins = may_spin(ranks);
    for (int64_t rank = first; rank < last; ++rank) {
        if (!wait_for(ranks.line(rank), collective, spins)) return false;
    }
    return true;
}

bool wait_for_all(const Ranks& ranks, uint32_t collective) {
    return wait_for_ranks(ranks, 0, ranks.size, collective);
}

// The collective that this rank has contributed to last; it does not change while others read.
uint32_t current(const Ranks& ranks) {
    return ranks.line(ranks.rank).arrived.load(std::memory_order_relaxed);
}

}  // namespace

void ContributeOp::run(Team& team) const {
    const int64_t count = rows_.count() * features_;
    const int64_t units = (count + kPiece - 1) / kPiece;
    RankLine& line = ranks_.line(ranks_.rank);
    team.share(units, [&](int64_t unit) {
        const uint32_t collective = current(ranks_) + 1;
        const int64_t first = unit * kPiece, last = std::min(count, first + kPiece);
        std::memcpy(ranks_.slot(ranks_.rank, collective) + first, x_ + first,
                    static_cast<size_t>(last - first) * sizeof(float));
        if (line.copied.fetch_add(1) + 1 == units) {
            line.copied.store(0);
            line.arrived.store(collective);
            wake(line);
        }
    });
}

void RelayOp::run(Team& team) const {
    const int64_t floats = rows_.count() * features_;
    team.share(floats ? 1 : 0, [&](int64_t) {
        const uint32_t collective = current(ranks_);
        if (!wait_for_ranks(ranks_, ranks_.here_first, ranks_.here_last, collective)) {
            return team.fail(kTimeout);
        }
        if (ranks_.relay(collective, floats) != 0) return team.fail(kBroken);
        for (int64_t rank = 0; rank < ranks_.size; ++rank) {
            if (rank >= ranks_.here_first && rank < ranks_.here_last) continue;
            ranks_.line(rank).arrived.store(collective);
            wake(ranks_.line(rank));
        }
    });
}

// Elements first..last of the rows.
void SumOp::sum(uint32_t collective, int64_t first, int64_t last) const {
    for (int64_t i = first; i < last; i += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, last - i);
        F32x16 sum = load_partial(ranks_.slot(0, collective) + i, lanes);
        for (int64_t rank = 1; rank < ranks_.size; ++rank) {
            sum = sum + load_partial(ranks_.slot(rank, collective) + i, lanes);
        }
        store_partial(accumulate_ ? load_partial(out_ + i, lanes) + sum : sum, out_ + i, lanes);
    }
}

void SumOp::run(Team& team) const {
    const int64_t count = rows_.count() * features_;
    team.share((count + kPiece - 1) / kPiece, [&](int64_t unit) {
        const uint32_t collective = current(ranks_);
        if (!wait_for_all(ranks_, collective)) return team.fail(kTimeout);
        sum(collective, unit * kPiece, std::min(count, (unit + 1) * kPiece));
    });
}

void ConcatenateOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t row) {
        const uint32_t collective = current(ranks_);
        if (!wait_for_all(ranks_, collective)) return team.fail(kTimeout);
        for (int64_t rank = 0; rank < ranks_.size; ++rank) {
            const int64_t first = ranks_.first_column(rank, columns_);
            const int64_t width = ranks_.first_column(rank + 1, columns_) - first;
            std::memcpy(out_ + row * columns_ + first, ranks_.slot(rank, collective) + row * width,
                        static_cast<size_t>(width) * sizeof(float));
        }
    });
}

}  // namespace headrace
