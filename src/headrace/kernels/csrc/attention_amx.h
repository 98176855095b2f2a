// Attention's two products by AMX, over a bfloat16 cache in tiles. Float rows are split into two
// bfloat16 parts, high and low, that together keep 16 bits.
#pragma once

#include "cache.h"
#include "products_amx.h"

namespace headrace {

#if defined(__AMX_BF16__)

// Sixteen rows of 32 features or tokens: a left tile for each part.
struct alignas(64) SplitTile {
    uint16_t high[kBlockRows][kGroup], low[kBlockRows][kGroup];
};

// 32 floats as row `row` of a tile.
inline void split_row(const float* from, SplitTile& to, int64_t row) {
    const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + kLanes);
    const __m512i high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
    const auto rest = [](__m512 x, __m256i half) {
        return _mm512_sub_ps(x, _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
    };
    const __m512 rest_a = rest(a, _mm512_castsi512_si256(high));
    const __m512 rest_b = rest(b, _mm512_extracti64x4_epi64(high, 1));
    _mm512_store_si512(to.high[row], high);
    _mm512_store_si512(to.low[row], reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(rest_b, rest_a)));
}

template <int kSum>
inline void add_split(const uint16_t* right) {
    load_tile<6 + kSum % 2>(right);
    multiply_tiles<kSum, 4, 6 + kSum % 2>();
    multiply_tiles<kSum, 5, 6 + kSum % 2>();
}

inline void load_split(const SplitTile& left) {
    load_tile<4>(left.high);
    load_tile<5>(left.low);
}

// scores[rows][32] = queries times the keys of one block.
inline void score_block(const SplitTile* queries, int64_t head_size, const uint16_t* keys,
                        float* scores, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    for (int64_t i = 0; i < head_size / kGroup; ++i) {
        load_split(queries[i]);
        add_split<0>(keys + 2 * i * Cache::kTile);
        add_split<1>(keys + (2 * i + 1) * Cache::kTile);
    }
    store_tile<0>(scores, row_floats);
    store_tile<1>(scores + kLanes, row_floats);
}

// sums[rows][64] = weights times 64 (or as many as `tiles` say) features of successive blocks.
template <typename ValueTiles>
inline void sum_blocks(const SplitTile* weights, int64_t blocks, ValueTiles value_tiles, int tiles,
                       float* sums, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    clear_tile<2>();
    clear_tile<3>();
    for (int64_t i = 0; i < blocks; ++i) {
        const uint16_t* values = value_tiles(i);
        load_split(weights[i]);
        add_split<0>(values);
        add_split<1>(values + Cache::kTile);
        if (tiles < 4) continue;
        add_split<2>(values + 2 * Cache::kTile);
        add_split<3>(values + 3 * Cache::kTile);
    }
    store_tile<0>(sums, row_floats);
    store_tile<1>(sums + kLanes, row_floats);
    if (tiles < 4) return;
    store_tile<2>(sums + 2 * kLanes, row_floats);
    store_tile<3>(sums + 3 * kLanes, row_floats);
}

#endif

}  // namespace headrace
