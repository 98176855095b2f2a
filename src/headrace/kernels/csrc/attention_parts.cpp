#include "attention_parts.h"

namespace headrace {
namespace {

// The maximum of what is seen; `count` is a multiple of 32.
float largest_of(const float* scores, int64_t count, Seen seen) {
    const F32x16 none = F32x16::broadcast(kNone);
    F32x16 largest[2] = {none, none};
    for (int64_t i = 0; i < count; i += kBlockTokens) {
        F32x16 a = F32x16::load(scores + i), b = F32x16::load(scores + i + kLanes);
        if (!seen.has_all(i)) a = seen.keep(a, none, i), b = seen.keep(b, none, i + kLanes);
        largest[0] = max(largest[0], a);
        largest[1] = max(largest[1], b);
    }
    return reduce_max(max(largest[0], largest[1]));
}

void cap_row(float cap, int64_t count, float* scores) {
    const F32x16 most = F32x16::broadcast(cap), inverse = F32x16::broadcast(1.0f / cap);
    for (int64_t i = 0; i < count; i += kLanes) {
        (tanh(F32x16::load(scores + i) * inverse) * most).store(scores + i);
    }
}

// Adds slope * (key's position - query's) to the scores of keys from `first`, counted from the
// query.
void add_distances(float slope, int64_t first, int64_t count, float* scores) {
    float distances[kSplit];
    for (int64_t i = 0; i < count; ++i) distances[i] = static_cast<float>(first + i);
    for (int64_t i = 0; i < count; i += kLanes) {
        fma(F32x16::load(distances + i), F32x16::broadcast(slope), F32x16::load(scores + i))
            .store(scores + i);
    }
}

void merge_row(float* part, int64_t width, float* sum) {
    const float part_maximum = maximum_of(part, width);
    if (part_maximum == kNone) return;
    float& maximum = maximum_of(sum, width);
    float& total = total_of(sum, width);
    const float largest = std::max(maximum, part_maximum);
    const float old_weight = maximum == kNone ? 0.0f : exp(maximum - largest);
    const float new_weight = exp(part_maximum - largest);
    for (int64_t i = 0; i < width; i += kLanes) {
        const F32x16 old = F32x16::load(sum + i) * F32x16::broadcast(old_weight);
        fma(F32x16::load(part + i), F32x16::broadcast(new_weight), old).store(sum + i);
    }
    total = std::fma(total_of(part, width), new_weight, total * old_weight);
    maximum = largest;
}

}  // namespace

void clear_part(const Unit& unit, int64_t width, float* part) {
    const int64_t stride = part_stride(width);
    std::fill_n(part, unit.slots() * stride, 0.0f);
    for (int64_t slot = 0; slot < unit.slots(); ++slot) {
        maximum_of(part + slot * stride, width) = kNone;
    }
}

void merge_part(const Unit& unit, int64_t width, float* part, float* sum) {
    unit.for_each_row([&](int64_t slot, int64_t, int64_t) {
        merge_row(part + slot * part_stride(width), width, sum + slot * part_stride(width));
    });
}

void prepare_scores(const AttentionInputs& in, const Unit& unit, const Span& span, float* scores,
                    float* part) {
    const AttentionOptions& options = in.options;
    const int64_t width = in.cache.value_width(), end = span.end();
    unit.for_each_row([&](int64_t slot, int64_t query, int64_t head) {
        float* row = scores + slot * kSplit;
        if (options.soft_cap > 0) cap_row(options.soft_cap, end, row);
        if (options.alibi_slopes) {
            const int64_t first = span.start - unit.position - query;
            add_distances(options.alibi_slopes[head], first, end, row);
        }
        const Seen seen = in.seen(unit, span, query);
        maximum_of(part + slot * part_stride(width), width) =
            seen.is_empty() ? kNone : largest_of(row, end, seen);
    });
}

}  // namespace headrace
