// What attention keeps of one or more splits: for each row its sums [width of values], maximum and
// total; and how scores become weights.
#pragma once

#include <cmath>
#include <limits>

#include "attention_units.h"
#include "math.h"

namespace headrace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

inline int64_t part_stride(int64_t width) { return width + kLanes; }
inline float& maximum_of(float* row, int64_t width) { return row[width]; }
inline float& total_of(float* row, int64_t width) { return row[width + 1]; }

// Memory for that, in whole lines: what straddles two takes tiles thrice the time.
class PartMemory {
   public:
    PartMemory(int64_t rows, int64_t width)
        : lines_(static_cast<size_t>(rows * part_stride(width) / kLanes)) {}
    float* data() { return lines_[0].values; }

   private:
    struct alignas(64) Line {
        float values[kLanes];
    };
    std::vector<Line> lines_;
};

void clear_part(const Unit& unit, int64_t width, float* part);

// Adds a later split to `sum`: both are weighted by e to their maximum.
void merge_part(const Unit& unit, int64_t width, float* part, float* sum);

// Caps scores [slots][split] and adds the slopes' distances; notes each row's maximum in `part`.
void prepare_scores(const AttentionInputs& in, const Unit& unit, const Span& span, float* scores,
                    float* part);

// Calls emit(i, a, b) with the weights of scores i..i + 16 and i + 16..i + 32, zero for those that
// are not seen; returns their sum. `count` is a multiple of 32.
template <typename Emit>
float weigh_row(const float* scores, int64_t count, Seen seen, float maximum, Emit emit) {
    const F32x16 factor = F32x16::broadcast(1.44269504f), zero = F32x16::zero();
    const F32x16 shift = F32x16::broadcast(maximum);
    F32x16 sum = zero;
    for (int64_t i = 0; i < count; i += kBlockTokens) {
        if (seen.has_none(i)) {
            emit(i, zero, zero);
            continue;
        }
        F32x16 a = exp2((F32x16::load(scores + i) - shift) * factor);
        F32x16 b = exp2((F32x16::load(scores + i + kLanes) - shift) * factor);
        if (!seen.has_all(i)) a = seen.keep(a, zero, i), b = seen.keep(b, zero, i + kLanes);
        sum = sum + a + b;
        emit(i, a, b);
    }
    return reduce_add(sum);
}

// Makes weights of scores, and notes maxima and totals. Calls emit(slot, i, a, b) with 32 weights
// from i.
template <typename Emit>
void weigh(const AttentionInputs& in, const Unit& unit, const Span& span, float* scores,
           float* part, Emit emit) {
    const int64_t width = in.cache.value_width(), stride = part_stride(width);
    prepare_scores(in, unit, span, scores, part);
    unit.for_each_row([&](int64_t slot, int64_t query, int64_t) {
        float* row = part + slot * stride;
        const auto emit_row = [&](int64_t i, F32x16 a, F32x16 b) { emit(slot, i, a, b); };
        total_of(row, width) = weigh_row(scores + slot * kSplit, span.end(),
                                         in.seen(unit, span, query), maximum_of(row, width),
                                         emit_row);
    });
}

}  // namespace headrace
