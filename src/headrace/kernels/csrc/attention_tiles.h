// Attention of one unit by AMX, over a bfloat16 cache in tiles. The processor gets from vectors to
// tiles as seldom as possible: scores of all key heads, then weights, then sums.
#pragma once

#include "attention_amx.h"
#include "attention_cells.h"
#include "attention_parts.h"

namespace headrace {

#if defined(__AMX_BF16__)

class TiledUnit {
   public:
    TiledUnit(const AttentionInputs& in, const Unit& unit) : in_(in), unit_(unit) {
        unit.for_each_row([&](int64_t slot, int64_t query, int64_t head) {
            for (int64_t i = 0; i < in.cache.key_width(); i += kGroup) {
                round_row(in.query(unit, query, head, i), in.query(unit, query, head, i + kLanes),
                          queries_[slot / kBlockRows][i / kGroup], slot % kBlockRows);
            }
        });
    }

    // Scores, weights and weighted sums of one split.
    void attend(const Span& span, float* part) const {
        const Cells<uint16_t> cells(in_.cache, unit_, span);
        const int64_t row_blocks = (unit_.rows() + kBlockRows - 1) / kBlockRows;
        alignas(64) float scores[kTiledRows * kSplit];
        for (int64_t k = 0; k < unit_.kv_heads; ++k) {
            score(cells, k, k + row_blocks, scores);
        }
        Weights weights[kRowBlocks];
        weigh(in_, unit_, span, scores, part, [&](int64_t slot, int64_t i, F32x16 a, F32x16 b) {
            round_row(a, b, weights[slot / kBlockRows][i / kBlockTokens], slot % kBlockRows);
        });
        for (int64_t k = 0; k < unit_.kv_heads; ++k) {
            sum(cells, k, k + row_blocks, span.last_used(), weights, part);
        }
    }

   private:
    using Weights = LeftTile[kSplit / kBlockTokens];
    static constexpr int64_t kRowBlocks = kTiledRows / kBlockRows;
    static constexpr int64_t kChunk = 4 * kLanes;  // features of values that are summed together

    // scores[rows][split] of row blocks b..last = queries times the keys of one key head.
    void score(const Cells<uint16_t>& cells, int64_t b, int64_t last, float* scores) const {
        const int64_t width = in_.cache.key_width(), first = cells.first_key(b);
        for (; b < last; b += 2) {
            for (int64_t i = 0; i < cells.blocks(); ++i) {
                const uint16_t *keys = cells[first + i], *next = cells.ahead(first + i);
                float* to = scores + b * kBlockRows * kSplit + i * kBlockTokens;
                if (b + 1 < last) {
                    score_pair(queries_[b], queries_[b + 1], width, keys, next, to, kSplit);
                } else {
                    score_block(queries_[b], width, keys, next, to, kSplit);
                }
            }
        }
    }

    // part[rows] of row blocks b..last = weights times the values of one key head, of whose last
    // block `used` tokens count.
    void sum(const Cells<uint16_t>& cells, int64_t b, int64_t last, int64_t used,
             const Weights* weights, float* part) const {
        const int64_t width = in_.cache.value_width(), blocks = cells.blocks();
        const int64_t first = cells.first_value(b);
        // Behind the context may lie what another sequence left, even NaN, which no weight of zero
        // would silence.
        alignas(64) uint16_t end[kBlockTokens * kChunk];
        for (int64_t d = 0; d < width; d += kChunk) {
            const int tiles = static_cast<int>(std::min(kChunk, width - d) / kLanes);
            const uint16_t *values[kSplit / kBlockTokens], *next[kSplit / kBlockTokens];
            for (int64_t i = 0; i < blocks; ++i) {
                values[i] = cells[first + i] + d * kBlockTokens;
                next[i] = cells.ahead(first + i) + d * kBlockTokens;
            }
            if (used < kBlockTokens) {
                copy_tokens(values[blocks - 1], tiles, used, end);
                values[blocks - 1] = end;
            }
            sum_rows(weights, b, last, blocks, values, next, tiles, part + d);
        }
    }

    void sum_rows(const Weights* weights, int64_t b, int64_t last, int64_t blocks,
                  const uint16_t* const* values, const uint16_t* const* next, int tiles,
                  float* part) const {
        const int64_t stride = part_stride(in_.cache.value_width());
        for (; b + 1 < last; b += 2) {
            for (int half = 0; half < tiles / 2; ++half) {
                float* to = part + b * kBlockRows * stride + half * 2 * kLanes;
                sum_pair(weights[b], weights[b + 1], blocks, values, next,
                         half * 2 * Cache::kTile, to, stride);
            }
        }
        if (b == last) return;
        float* to = part + b * kBlockRows * stride;
        sum_blocks(weights[b], blocks, values, next, tiles, to, stride);
    }

    const AttentionInputs& in_;
    const Unit& unit_;
    LeftTile queries_[kRowBlocks][kMaxHeadSize / kGroup];
};

#endif

}  // namespace headrace
