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
inline void split_row(F32x16 low, F32x16 up, SplitTile& to, int64_t row) {
    const __m512 a = low.v, b = up.v;
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

inline void load_split(const SplitTile& left) {
    load_tile<4>(left.high);
    load_tile<5>(left.low);
}

// Sums kSum and kSum + 1 += the left tiles times two successive right ones, of which those at
// `next` are fetched.
template <int kSum>
inline void add_split(const uint16_t* right, const uint16_t* next) {
    load_tile<6>(right);
    load_tile<7>(right + Cache::kTile);
    for (int64_t i = 0; i < 2 * Cache::kTile; i += 2 * kLanes) __builtin_prefetch(next + i, 0, 3);
    multiply_tiles<kSum, 4, 6>();
    multiply_tiles<kSum + 1, 4, 7>();
    multiply_tiles<kSum, 5, 6>();
    multiply_tiles<kSum + 1, 5, 7>();
}

template <int kSum>
inline void store_sums(float* to, int64_t row_floats) {
    store_tile<kSum>(to, row_floats);
    store_tile<kSum + 1>(to + kLanes, row_floats);
}

// scores[rows][32 * kBlocks] = queries times the keys of one or two blocks.
template <int kBlocks>
inline void score_blocks(const SplitTile* queries, int64_t width, const uint16_t* const* keys,
                         const uint16_t* const* next, float* scores, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    if (kBlocks > 1) clear_tile<2>();
    if (kBlocks > 1) clear_tile<3>();
    for (int64_t i = 0; i < width / kGroup; ++i) {
        const int64_t offset = 2 * i * Cache::kTile;
        load_split(queries[i]);
        add_split<0>(keys[0] + offset, next[0] + offset);
        if (kBlocks > 1) add_split<2>(keys[1] + offset, next[1] + offset);
    }
    store_sums<0>(scores, row_floats);
    if (kBlocks > 1) store_sums<2>(scores + kBlockTokens, row_floats);
}

// The first `used` tokens of tiles of values, the others zero.
inline void copy_tokens(const uint16_t* from, int tiles, int64_t used, uint16_t* to) {
    for (int64_t line = 0; line < tiles * kGroup / 2; ++line, from += 2 * kLanes, to += 2 * kLanes) {
        const int64_t left = used - line % (kGroup / 2) * 2;
        const auto kept = static_cast<__mmask32>(left > 1 ? ~0u : left == 1 ? 0x55555555u : 0u);
        _mm512_store_si512(to, _mm512_maskz_loadu_epi16(kept, from));
    }
}

// sums[rows][64] = weights times 64 (or as many as `tiles` say) features of successive blocks.
inline void sum_blocks(const SplitTile* weights, int64_t blocks, const uint16_t* const* values,
                       const uint16_t* const* next, int tiles, float* sums, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    clear_tile<2>();
    clear_tile<3>();
    for (int64_t i = 0; i < blocks; ++i) {
        load_split(weights[i]);
        add_split<0>(values[i], next[i]);
        if (tiles == 4) add_split<2>(values[i] + 2 * Cache::kTile, next[i] + 2 * Cache::kTile);
    }
    store_sums<0>(sums, row_floats);
    if (tiles == 4) store_sums<2>(sums + 2 * kLanes, row_floats);
}

#endif

}  // namespace headrace
