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
            score(cells, k * span.blocks, span.blocks, k, k + row_blocks, scores);
        }
        Weights weights[kRowBlocks];
        weigh(in_, unit_, span, scores, part, [&](int64_t slot, int64_t i, F32x16 a, F32x16 b) {
            round_row(a, b, weights[slot / kBlockRows][i / kBlockTokens], slot % kBlockRows);
        });
        for (int64_t k = 0; k < unit_.kv_heads; ++k) {
            sum(cells, k * span.blocks, span, weights, k, k + row_blocks, part);
        }
    }

   private:
    using Weights = LeftTile[kSplit / kBlockTokens];
    static constexpr int64_t kRowBlocks = kTiledRows / kBlockRows;
    static constexpr int64_t kCellsAhead = 2;  // fetched while one is read

    // scores[rows][split] of row blocks b..last = queries times the keys of `blocks` cells.
    void score(const Cells<uint16_t>& cells, int64_t first, int64_t blocks, int64_t b, int64_t last,
               float* scores) const {
        const int64_t width = in_.cache.key_width();
        bool is_new = true;
        for (; b + 2 <= last; b += 2, is_new = false) {
            for (int64_t i = 0; i < blocks; ++i) {
                float* to = scores + b * kBlockRows * kSplit + i * kBlockTokens;
                score_pair(queries_[b], queries_[b + 1], width, cells[first + i],
                           is_new ? cells[first + i + kCellsAhead] : nullptr, to, kSplit);
            }
        }
        if (b == last) return;
        for (int64_t i = 0; i < blocks; i += 2) {
            const int64_t at = first + i, count = std::min<int64_t>(blocks - i, 2);
            const uint16_t* keys[] = {cells[at], cells[at + 1]};
            const uint16_t* next[] = {cells[at + kCellsAhead], cells[at + 1 + kCellsAhead]};
            with_constant<2>(static_cast<int>(count), [&](auto n) {
                float* to = scores + b * kBlockRows * kSplit + i * kBlockTokens;
                score_blocks<n.value>(queries_[b], width, keys, is_new ? next : nullptr, to, kSplit);
            });
        }
    }

    // part[rows] of row blocks b..last = weights times the values of the span's cells.
    void sum(const Cells<uint16_t>& cells, int64_t first, const Span& span, const Weights* weights,
             int64_t first_block, int64_t last, float* part) const {
        const int64_t width = in_.cache.value_width(), stride = part_stride(width);
        // Behind the context may lie what another sequence left, even NaN, which no weight of zero
        // would silence.
        alignas(64) uint16_t end[4 * Cache::kTile];
        for (int64_t d = 0; d < width; d += 4 * kLanes) {
            const int tiles = static_cast<int>(std::min<int64_t>(4, (width - d) / kLanes));
            const uint16_t *values[kSplit / kBlockTokens], *next[kSplit / kBlockTokens];
            for (int64_t i = 0; i < span.blocks; ++i) {
                const int64_t at = cells.keys() + first + i;
                values[i] = cells[at] + d * kBlockTokens;
                next[i] = cells[at + kCellsAhead] + d * kBlockTokens;
            }
            if (span.last_used() < kBlockTokens) {
                copy_tokens(values[span.blocks - 1], tiles, span.last_used(), end);
                values[span.blocks - 1] = end;
            }
            sum_rows(weights, first_block, last, span.blocks, values, next, tiles, part + d, stride);
        }
    }

    static void sum_rows(const Weights* weights, int64_t b, int64_t last, int64_t blocks,
                         const uint16_t* const* values, const uint16_t* const* next, int tiles,
                         float* part, int64_t stride) {
        for (; b + 2 <= last; b += 2, next = nullptr) {
            for (int half = 0; half < tiles / 2; ++half) {
                float* to = part + b * kBlockRows * stride + half * 2 * kLanes;
                sum_pair(weights[b], weights[b + 1], blocks, values, next, half * 2 * Cache::kTile,
                         to, stride);
            }
        }
        if (b == last) return;
        sum_blocks(weights[b], blocks, values, next, tiles, part + b * kBlockRows * stride, stride);
    }

    const AttentionInputs& in_;
    const Unit& unit_;
    LeftTile queries_[kRowBlocks][kMaxHeadSize / kGroup];
};

#else

struct TiledUnit {
    TiledUnit(const AttentionInputs&, const Unit&) {}
    void attend(const Span&, float*) const {}
};

#endif

}  // namespace headrace
