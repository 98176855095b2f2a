// Attention of one unit by multiply-adds, over a cache of any type in plain layout.
#pragma once

#include "attention_cells.h"
#include "attention_parts.h"

namespace headrace {

template <typename Type>
class FmaUnit {
   public:
    FmaUnit(const AttentionInputs& in, const Unit& unit) : in_(in), unit_(unit) {
        const int64_t width = in.cache.key_width();
        unit.for_each_row([&](int64_t slot, int64_t query, int64_t head) {
            for (int64_t i = 0; i < width; i += kLanes) {
                in.query(unit, query, head, i).store(queries_ + slot * width + i);
            }
        });
    }

    // Scores, weights and weighted sums of one split.
    void attend(const Span& span, float* part) const {
        const Cells<Element> cells(in_.cache, unit_, span);
        alignas(64) float scores[kFmaRows * kSplit];
        score(span, cells, scores);
        clear_part(unit_, in_.cache.value_width(), part);
        weigh(in_, unit_, span, scores, part, [&](int64_t slot, int64_t i, F32x16 a, F32x16 b) {
            a.store(scores + slot * kSplit + i);
            b.store(scores + slot * kSplit + i + kLanes);
        });
        sum(span, cells, scores, part);
    }

   private:
    using Element = typename Type::Element;

    // scores[rows][split] = queries times keys.
    void score(const Span& span, const Cells<Element>& cells, float* scores) const {
        const Cache& cache = in_.cache;
        for (int64_t r = 0; r < unit_.rows(); ++r) {
            std::fill_n(scores + r * kSplit, span.end(), 0.0f);
        }
        for (int64_t i = 0; i < span.blocks; ++i) {
            float* to = scores + i * kBlockTokens;
            const Lanes<Type> lanes{cells[i], kBlockTokens, kLanes, cells.ahead(i)};
            multiply(queries_, cache.key_width(), unit_.rows(), lanes, 2, cache.head_size, to,
                     kSplit);
            scale(cache.key_scales, span.table[i], to);
        }
    }

    // part[rows] += weights times values.
    void sum(const Span& span, const Cells<Element>& cells, float* weights,
             float* part) const {
        const int64_t width = in_.cache.value_width();
        for (int64_t i = 0; i < span.blocks; ++i, weights += kBlockTokens) {
            // Behind the context may lie what another sequence left, even NaN, which no weight of
            // zero would silence.
            const int64_t used = i + 1 < span.blocks ? kBlockTokens : span.last_used();
            scale(in_.cache.value_scales, span.table[i], weights);
            const int64_t at = cells.first_value(0) + i;
            const Element *values = cells[at], *next = cells.ahead(at);
            for (int64_t d = 0; d < width; d += 2 * kLanes) {
                const Lanes<Type> lanes{values + d, width, kLanes, next + d};
                multiply(weights, kSplit, unit_.rows(), lanes, d + kLanes < width ? 2 : 1, used,
                         part + d, part_stride(width));
            }
        }
    }

    // Of an int8 cache: multiplies the columns of one block by its tokens' scales.
    void scale(const float* scales, int64_t block, float* columns) const {
        if constexpr (!std::is_same_v<Type, Int8>) return;
        const float* of_block = scales + in_.cache.cell(block, unit_.kv_head) * kBlockTokens;
        for (int64_t i = 0; i < unit_.rows() * kBlockTokens; i += kLanes) {
            float* to = columns + i / kBlockTokens * kSplit + i % kBlockTokens;
            (F32x16::load(to) * F32x16::load(of_block + i % kBlockTokens)).store(to);
        }
    }

    const AttentionInputs& in_;
    const Unit& unit_;
    alignas(64) float queries_[kFmaRows * kMaxHeadSize];
};

}  // namespace headrace
