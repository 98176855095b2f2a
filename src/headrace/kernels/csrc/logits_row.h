// One row of logits: its largest, its mass, and those of its logits that a search has to look at.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "math.h"

namespace headrace {

// Logits above a floor, in order of id. scores: (logit - largest) / temperature.
struct Candidates {
    std::vector<float> scores;
    std::vector<int32_t> ids;

    size_t size() const { return ids.size(); }
    void resize(size_t size) {
        scores.resize(size);
        ids.resize(size);
    }
};

// Reads the row once when made, and keeps the largest of every sixteen logits.
class LogitsRow {
   public:
    static constexpr int64_t kBlock = 16 * kLanes;

    // `maxima` is the caller's memory, used as long as the row is.
    LogitsRow(const float* logits, int64_t size, std::vector<float>& maxima)
        : logits_(logits), size_(size), maxima_(maxima) {
        maxima.resize(static_cast<size_t>((size + kBlock - 1) / kBlock * kLanes));
        F32x16 lanes = F32x16::broadcast(-kInfinity);
        unsigned nans = 0;
        for (int64_t begin = 0; begin < size; begin += kBlock) {
            F32x16 block = F32x16::broadcast(-kInfinity);
            for (int64_t i = begin; i < std::min(size, begin + kBlock); i += kLanes) {
                const F32x16 values = load(i);
                block = max(block, values);
                nans |= nan_lanes(values);
            }
            block.store(maxima.data() + begin / kLanes);
            lanes = max(lanes, block);
        }
        largest_ = nans ? std::numeric_limits<float>::quiet_NaN() : reduce_max(lanes);
    }

    int64_t size() const { return size_; }
    float operator[](int64_t id) const { return logits_[id]; }
    // NaN if any logit is.
    float largest() const { return largest_; }

    // Sixteen logits from `first`; those behind the end are -infinity.
    F32x16 load(int64_t first) const {
        if (first + kLanes <= size_) return F32x16::load(logits_ + first);
        const int count = static_cast<int>(size_ - first);
        return select(load_partial(logits_ + first, count), F32x16::broadcast(-kInfinity), 0,
                      count);
    }

    // The lowest id among equals. The row holds no NaN.
    int64_t first_of_largest() const {
        for (int64_t begin = 0;; begin += kBlock) {
            if (!at_least(block_maxima(begin), F32x16::broadcast(largest_))) continue;
            return std::find(logits_ + begin, logits_ + size_, largest_) - logits_;
        }
    }

    // For each of `levels` the sum of exp(score) over scores of at least it, where a score is
    // (logit - largest) * inverse_temperature.
    template <size_t kLevels>
    std::array<double, kLevels> masses(float inverse_temperature,
                                       const std::array<float, kLevels>& levels) const {
        const F32x16 scale = F32x16::broadcast(inverse_temperature);
        const F32x16 shift = F32x16::broadcast(largest_);
        std::array<double, kLevels> sums{};
        for (int64_t begin = 0; begin < size_; begin += kBlock) {
            F32x16 lanes[kLevels];
            HEADRACE_UNROLL
            for (F32x16& sum : lanes) sum = F32x16::zero();
            for (int64_t i = begin; i < std::min(size_, begin + kBlock); i += kLanes) {
                const F32x16 scores = (load(i) - shift) * scale, weights = exp(scores);
                HEADRACE_UNROLL
                for (size_t level = 0; level < kLevels; ++level) {
                    const F32x16 least = F32x16::broadcast(levels[level]);
                    lanes[level] = lanes[level] + where_at_least(weights, scores, least);
                }
            }
            for (size_t level = 0; level < kLevels; ++level) {
                sums[level] += static_cast<double>(reduce_add(lanes[level]));
            }
        }
        return sums;
    }

    double mass() const {
        return masses<1>(1, {std::numeric_limits<float>::lowest()})[0];
    }

    // A value that at least `count` logits reach, and few others.
    float floor_of_leading(int64_t count) const {
        if (count > static_cast<int64_t>(maxima_.size())) return -kInfinity;
        thread_local std::vector<float> sorted;
        sorted = maxima_;
        const auto last = sorted.begin() + (count - 1);
        std::nth_element(sorted.begin(), last, sorted.end(), std::greater<float>());
        return *last;
    }

    // Calls function(first) for the vectors in blocks that reach `floor()`, which may rise.
    template <typename Floor, typename Function>
    void for_each_vector(Floor floor, Function function) const {
        for (int64_t begin = 0; begin < size_; begin += kBlock) {
            if (!at_least(block_maxima(begin), F32x16::broadcast(floor()))) continue;
            const int64_t end = std::min(size_, begin + kBlock);
            for (int64_t i = begin; i < end; i += kLanes) function(i);
        }
    }

    // All logits of at least `floor`.
    void collect(float floor, float temperature, Candidates& out) const {
        size_t count = 0;
        for_each_vector([=] { return floor; }, [&](int64_t first) {
            unsigned lanes = at_least(load(first), F32x16::broadcast(floor));
            if (out.size() < count + kLanes) out.resize(2 * count + kBlock);
            for (; lanes; lanes &= lanes - 1) {
                const int64_t id = first + __builtin_ctz(lanes);
                if (id >= size_) break;
                out.scores[count] = (logits_[id] - largest_) / temperature;
                out.ids[count++] = static_cast<int32_t>(id);
            }
        });
        out.resize(count);
    }

   private:
    static constexpr float kInfinity = std::numeric_limits<float>::infinity();

    F32x16 block_maxima(int64_t begin) const {
        return F32x16::load(maxima_.data() + begin / kLanes);
    }

    const float* logits_;
    int64_t size_;
    const std::vector<float>& maxima_;
    float largest_;
};

}  // namespace headrace
