// A draw from the softmax of scores: each candidate's exp(score) is divided by its own exponential
// number, and the largest quotient wins. The same numbers as headrace/kernels/sampling/random.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "simd.h"

namespace headrace {

// The finalizer of SplitMix64 (Steele et al. 2014).
inline uint64_t splitmix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

inline uint64_t draw_key(uint64_t seed, int64_t position) {
    return splitmix(splitmix(seed + 0x9E3779B97F4A7C15u) + static_cast<uint64_t>(position));
}

// Vectors only bound the quotients from above, which needs neither exp nor log; the few candidates
// that may win are computed in double. The result does not depend on the order of entering.
class Race {
   public:
    // Candidates with exp(score) below `least` do not take part; `fallback` wins if none does.
    Race(uint64_t key, double least, int32_t fallback)
        : low_(static_cast<int32_t>(key)), high_(static_cast<int32_t>(key >> 32)), least_(least),
          lowest_score_(least > 0 ? static_cast<float>(std::log(least)) - kSlack : -kInfinity),
          winner_(fallback) {}

    // scores may be off by their rounding, exact(lane) is not; -infinity stands for no candidate.
    template <typename Exact>
    void enter(F32x16 scores, I32x16 ids, Exact exact) {
        const auto constant = F32x16::broadcast;
        const F32x16 uniform = uniforms(ids);
        // log2(exp(score) / -log(1 - u)) <= score * log2(e) - log2(u); the bits of a float, taken
        // as a number in units of 2^23, are at most 127 + log2(u).
        const F32x16 bound = fma(to_float(bits(uniform)), constant(-0x1p-23f),
                                 fma(scores, constant(kLog2E), constant(127.0f)));
        unsigned lanes =
            at_least(bound, constant(to_beat_)) & at_least(scores, constant(lowest_score_));
        if (!lanes) return;
        float numbers[kLanes];
        int32_t names[kLanes];
        uniform.store(numbers);
        ids.store(names);
        for (; lanes; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            enter_one(exact(lane), numbers[lane], names[lane]);
        }
    }

    // Candidates with lower scores cannot win any more.
    float lowest_score() const {
        return std::max(lowest_score_, (to_beat_ - kMostBits) / kLog2E - kSlack);
    }
    int32_t winner() const { return winner_; }

   private:
    static constexpr float kInfinity = std::numeric_limits<float>::infinity();
    static constexpr float kLog2E = 1.44269504f;
    static constexpr float kSlack = 0x1p-10f;  // far more than the rounding of the bounds
    static constexpr float kMostBits = 32.0f;  // -log2 of the least uniform number

    F32x16 uniforms(I32x16 ids) const {
        const auto constant = I32x16::broadcast;
        I32x16 x = (ids * constant(static_cast<int32_t>(0x9E3779B9u))) ^ constant(low_);
        x = x ^ shift_right<16>(x);
        x = x * constant(0x7FEB352D) + constant(high_);
        x = x ^ shift_right<15>(x);
        x = x * constant(static_cast<int32_t>(0x846CA68Bu));
        x = (x ^ shift_right_signed<16>(x)) & constant(0x7FFFFFFF);
        const F32x16 whole = to_float(x) + F32x16::broadcast(0.5f);
        return whole * F32x16::broadcast(0x1p-31f * (1.0f - 0x1p-24f));
    }

    void enter_one(float score, float uniform, int32_t id) {
        const double weight = std::exp(static_cast<double>(score));
        if (weight < least_) return;
        const double quotient = weight / -std::log1p(-static_cast<double>(uniform));
        if (quotient > best_ || (quotient == best_ && id < winner_)) {
            best_ = quotient;
            winner_ = id;
            to_beat_ = static_cast<float>(std::log2(quotient)) - kSlack;
        }
    }

    int32_t low_, high_;
    double least_, best_ = 0x1p-1022;
    float lowest_score_, to_beat_ = -1022.0f;  // its logarithm; -infinity never enters
    int32_t winner_;
};

}  // namespace headrace
