// Attention of one unit where bfloat16 is multiplied as it is, but not by whole tiles: over a bfloat16
// cache in tiles by the instruction that adds the products of two features, or of two tokens. Queries
// and weights are rounded to bfloat16 as keys and values are; sums are float32.
#pragma once

#include "attention_cells.h"
#include "attention_parts.h"
#include "products_pairs.h"

namespace headrace {

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

// Two tiles side by side, and what is fetched while they are read.
struct TilePair {
    const uint16_t *tiles, *next;
};

// sums[r][v] += pairs of row r of `rows`, `stride` apart, times the first `depth` features or tokens of
// two successive tiles. What lies behind an odd last one is not multiplied, not even with zero.
template <int R>
inline void add_pairs(const uint16_t* rows, int64_t stride, TilePair pair, int64_t depth,
                      F32x16 (&sums)[R][2]) {
    constexpr int64_t kLine = 2 * kLanes;
    const auto add = [&](int64_t i, __mmask32 kept) {
        HEADRACE_UNROLL
        for (int v = 0; v < 2; ++v) {
            const int64_t at = v * Cache::kTile + i * kLine;
            __builtin_prefetch(pair.next + at, 0, 2);
            const auto line =
                reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(kept, pair.tiles + at));
            HEADRACE_UNROLL
            for (int r = 0; r < R; ++r) {
                const __m512bh both = broadcast_pair(rows + r * stride + 2 * i);
                sums[r][v].v = _mm512_dpbf16_ps(sums[r][v].v, line, both);
            }
        }
    };
    for (int64_t i = 0; i < depth / 2; ++i) add(i, ~0u);
    if (depth % 2) add(depth / 2, 0x55555555u);
}

class TiledUnit {
   public:
    TiledUnit(const AttentionInputs& in, const Unit& unit) : in_(in), unit_(unit) {
        const int64_t width = in.cache.key_width();
        unit.for_each_row([&](int64_t slot, int64_t query, int64_t head) {
            for (int64_t i = 0; i < width; i += kLanes) {
                store_bf16(in.query(unit, query, head, i), queries_ + slot * width + i);
            }
        });
    }

    // Scores, weights and weighted sums of one split.
    void attend(const Span& span, float* part) const {
        const Cells<uint16_t> cells(in_.cache, unit_, span);
        alignas(64) float scores[kFmaRows * kSplit];
        alignas(64) uint16_t weights[kFmaRows * kSplit];
        clear_part(unit_, in_.cache.value_width(), part);
        with_constant<kFmaRows>(static_cast<int>(unit_.rows()), [&](auto n) {
            for (int64_t i = 0; i < span.blocks; ++i) {
                score<n.value>(cells, i, scores + i * kBlockTokens);
            }
            weigh(in_, unit_, span, scores, part, [&](int64_t slot, int64_t i, F32x16 a, F32x16 b) {
                store_bf16(a, weights + slot * kSplit + i);
                store_bf16(b, weights + slot * kSplit + i + kLanes);
            });
            for (int64_t d = 0; d < in_.cache.value_width(); d += 2 * kLanes) {
                sum<n.value>(span, cells, weights, d, part + d);
            }
        });
    }

   private:
    // scores[rows][32] = queries times the keys of a block.
    template <int R>
    void score(const Cells<uint16_t>& cells, int64_t block, float* scores) const {
        const int64_t width = in_.cache.key_width();
        const uint16_t *keys = cells[block], *next = cells.ahead(block);
        F32x16 sums[R][2];
        for (auto& row : sums) row[0] = row[1] = F32x16::zero();
        for (int64_t i = 0; i < width; i += kGroup) {
            const int64_t at = i * kBlockTokens;
            add_pairs<R>(queries_ + i, width, {keys + at, next + at}, kGroup, sums);
        }
        store<R>(sums, scores, kSplit);
    }

    // part[rows][32] += weights times 32 features of all blocks, from feature d on.
    template <int R>
    void sum(const Span& span, const Cells<uint16_t>& cells, const uint16_t* weights, int64_t d,
             float* part) const {
        const int64_t stride = part_stride(in_.cache.value_width());
        F32x16 sums[R][2];
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < 2; ++v) sums[r][v] = F32x16::load(part + r * stride + v * kLanes);
        }
        for (int64_t i = 0; i < span.blocks; ++i) {
            const int64_t cell = cells.first_value(0) + i, at = d * kBlockTokens;
            const int64_t used = i + 1 < span.blocks ? kBlockTokens : span.last_used();
            add_pairs<R>(weights + i * kBlockTokens, kSplit,
                         {cells[cell] + at, cells.ahead(cell) + at}, used, sums);
        }
        store<R>(sums, part, stride);
    }

    template <int R>
    static void store(const F32x16 (&sums)[R][2], float* to, int64_t stride) {
        for (int r = 0; r < R; ++r) {
            for (int v = 0; v < 2; ++v) sums[r][v].store(to + r * stride + v * kLanes);
        }
    }

    const AttentionInputs& in_;
    const Unit& unit_;
    alignas(64) uint16_t queries_[kFmaRows * kMaxHeadSize];
};

#elif !defined(__AVX512BF16__)

struct TiledUnit {
    TiledUnit(const AttentionInputs&, const Unit&) {}
    void attend(const Span&, float*) const {}
};

#endif

}  // namespace headrace
