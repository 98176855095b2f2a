// Attention's two products by AMX, over a bfloat16 cache in tiles. Queries and weights are rounded to
// bfloat16 as keys and values are; sums are float32.
#pragma once

#include "cache.h"
#include "tiles.h"

namespace headrace {

#if defined(__AMX_BF16__)

// Sixteen rows of 32 features or tokens.
struct alignas(64) LeftTile {
    uint16_t values[kBlockRows][kGroup];
};

// 32 floats as row `row` of a tile.
inline void round_row(F32x16 low, F32x16 up, LeftTile& to, int64_t row) {
    const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(up.v, low.v));
    _mm512_store_si512(to.values[row], rounded);
}

// Sums kSum and kSum + 1 += left tile 4 times two successive right ones.
template <int kSum>
inline void add_right(const uint16_t* right) {
    load_tile<6>(right);
    load_tile<7>(right + Cache::kTile);
    multiply_tiles<kSum, 4, 6>();
    multiply_tiles<kSum + 1, 4, 7>();
}

template <int kSum>
inline void store_sums(float* to, int64_t row_floats) {
    store_tile<kSum>(to, row_floats);
    store_tile<kSum + 1>(to + kLanes, row_floats);
}

// The first lines of a page of 4 KiB; the processor itself fetches what follows them.
inline void fetch_start(const uint16_t* page) {
    for (int64_t i = 0; i < 8; ++i) __builtin_prefetch(page + i * 2 * kLanes, 0, 3);
}

// scores[rows][32] = queries times the keys of a block. What is at `next` is fetched.
inline void score_block(const LeftTile* queries, int64_t width, const uint16_t* keys,
                        const uint16_t* next, float* scores, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    for (int64_t i = 0; i < width / kGroup; ++i) {
        const int64_t offset = 2 * i * Cache::kTile;
        load_tile<4>(queries[i].values);
        if (i % 2 == 0) fetch_start(next + offset);
        add_right<0>(keys + offset);
    }
    store_sums<0>(scores, row_floats);
}

// Sums 0 and 1 += the first left tile times two successive right ones, 2 and 3 += the second.
inline void add_pair(const LeftTile& left, const LeftTile& left2, const uint16_t* right) {
    load_tile<6>(right);
    load_tile<7>(right + Cache::kTile);
    load_tile<4>(left.values);
    load_tile<5>(left2.values);
    multiply_tiles<0, 4, 6>();
    multiply_tiles<1, 4, 7>();
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
}

// score_block for two blocks of rows.
inline void score_pair(const LeftTile* queries, const LeftTile* queries2, int64_t width,
                       const uint16_t* keys, const uint16_t* next, float* scores,
                       int64_t row_floats) {
    clear_sums<2, 2>();
    for (int64_t i = 0; i < width / kGroup; ++i) {
        const int64_t offset = 2 * i * Cache::kTile;
        if (i % 2 == 0) fetch_start(next + offset);
        add_pair(queries[i], queries2[i], keys + offset);
    }
    store_sums<2, 2>(scores, row_floats);
}

// The first `used` tokens of tiles of values, the others zero. What lies behind them is not read.
inline void copy_tokens(const uint16_t* from, int tiles, int64_t used, uint16_t* to) {
    for (int tile = 0; tile < tiles; ++tile) {
        for (int64_t token = 0; token < kBlockTokens; token += 2) {
            const auto kept = static_cast<__mmask32>(token + 1 < used ? ~0u : 0x55555555u);
            const __m512i line = token < used ? _mm512_maskz_loadu_epi16(kept, from)
                                              : _mm512_setzero_si512();
            _mm512_store_si512(to, line);
            from += 2 * kLanes;
            to += 2 * kLanes;
        }
    }
}

// sums[rows][64] = weights times 64 (or as many as `tiles` say) features of successive blocks. What
// is at `next` is fetched.
inline void sum_blocks(const LeftTile* weights, int64_t blocks, const uint16_t* const* values,
                       const uint16_t* const* next, int tiles, float* sums, int64_t row_floats) {
    clear_tile<0>();
    clear_tile<1>();
    clear_tile<2>();
    clear_tile<3>();
    for (int64_t i = 0; i < blocks; ++i) {
        load_tile<4>(weights[i].values);
        fetch_start(next[i]);
        add_right<0>(values[i]);
        if (tiles == 4) add_right<2>(values[i] + 2 * Cache::kTile);
    }
    store_sums<0>(sums, row_floats);
    if (tiles == 4) store_sums<2>(sums + 2 * kLanes, row_floats);
}

// sum_blocks of 32 features for two blocks of rows.
inline void sum_pair(const LeftTile* weights, const LeftTile* weights2, int64_t blocks,
                     const uint16_t* const* values, const uint16_t* const* next, int64_t offset,
                     float* sums, int64_t row_floats) {
    clear_sums<2, 2>();
    for (int64_t i = 0; i < blocks; ++i) {
        fetch_start(next[i]);
        add_pair(weights[i], weights2[i], values[i] + offset);
    }
    store_sums<2, 2>(sums, row_floats);
}

#endif

}  // namespace headrace
