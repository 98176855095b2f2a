// Products of bfloat16 rows where there are no tile registers: AVX-512's instruction that adds the
// products of two inputs. With bfloat16 tiles, plain or coded, or with tiles in groups that are widened.
#pragma once

#include "widen.h"

namespace headrace {

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

// A part of the depth for which a tile stays in the L1 cache while all rows are multiplied with it, and
// groups of it that are decoded ahead of the first products.
constexpr int64_t kPairGroups = 18, kDecodedPairs = 1;

// Two inputs of a row, in all lanes.
inline __m512bh broadcast_pair(const uint16_t* pair) {
    int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}

// sums += rows r of a cell times 32 inputs of a tile, in two chains, of lines 2i and 2i + 1, so that
// only their sum waits for the group before.
template <int R>
inline void add_pairs(const uint16_t (*rows)[kGroup], const RightTile& right, F32x16 (&sums)[R]) {
    __m512 chains[R][2];
    HEADRACE_UNROLL
    for (auto& chain : chains) chain[0] = chain[1] = _mm512_setzero_ps();
    HEADRACE_UNROLL
    for (int line = 0; line < kGroup / 2; ++line) {
        const auto weights = reinterpret_cast<__m512bh>(_mm512_load_si512(right.values[line]));
        HEADRACE_UNROLL
        for (int r = 0; r < R; ++r) {
            __m512& chain = chains[r][line % 2];
            chain = _mm512_dpbf16_ps(chain, weights, broadcast_pair(rows[r] + 2 * line));
        }
    }
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) {
        sums[r] = sums[r] + F32x16{_mm512_add_ps(chains[r][0], chains[r][1])};
    }
}

// c[r][16] += rows r of `cells`, from row `first` of its block, times so many groups of a tile. Calls
// meanwhile(g) before each.
template <int R, typename Meanwhile>
inline void multiply_pairs(const BFloat16Cell* cells, int first, const RightTile* right,
                           int64_t groups, float* c, int64_t ldc, Meanwhile meanwhile) {
    F32x16 sums[R];
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) sums[r] = F32x16::load(c + r * ldc);
    for (int64_t g = 0; g < groups; ++g) {
        meanwhile(g);
        add_pairs<R>(cells[g].values + first, right[g], sums);
    }
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) sums[r].store(c + r * ldc);
}

// Rows from `row`, the first of a block, times a part of a tile: of `groups` groups from `begin` on.
// What lies kPrefetchBytes further is fetched meanwhile.
inline void multiply_part(const Activation& x, int64_t row, int64_t rows, const Weight& weight,
                          int64_t tile, int64_t begin, int64_t groups, float* c, int64_t ldc) {
    RightTile widened[kPairGroups];
    const bool is_widened = !weight.is_tiled();
    const int64_t lines = (weight.tile_bytes() / 64 + x.groups() - 1) / x.groups();
    const uint8_t* ahead = weight.tile(tile) + begin * lines * 64 + kPrefetchBytes;
    int64_t ready = is_widened ? 0 : groups;
    const auto widen = [&](int64_t most) {
        const int64_t count = std::min(most, groups - ready);
        widen_groups(weight, tile, begin + ready, count, widened + ready);
        ready += count;
    };
    if (is_widened) widen(weight.is_coded() ? kDecodedPairs : groups);
    const RightTile* const right =
        is_widened ? widened : reinterpret_cast<const RightTile*>(weight.tile(tile)) + begin;
    for (int64_t r = 0; r < rows; r += kRowTile) {
        const int count = static_cast<int>(std::min<int64_t>(rows - r, kRowTile));
        const BFloat16Cell* cells = x.bfloat16_cells((row + r) / kBlockRows) + begin;
        with_constant<kRowTile>(count, [&](auto n) {
            multiply_pairs<n.value>(cells, static_cast<int>(r % kBlockRows), right, groups,
                                    c + r * ldc, ldc, [&](int64_t g) {
                if (r > 0) return;
                for (int64_t i = g * lines; i < (g + 1) * lines; ++i) {
                    __builtin_prefetch(ahead + 64 * i, 0, 2);
                }
                if (ready < groups) widen(1);
            });
        });
    }
}

// Rows from `row`, the first of a block, times one or two tiles of a bfloat16 weight or of one in
// groups, which is rounded to bfloat16; of any number of rows with the same instructions in the same
// order. Calls finish(0, rows, c).
template <typename Finish>
inline void multiply_bfloat16(const Activation& x, int64_t row, int64_t rows, const Weight& weight,
                              Tiles tiles, float* c, int64_t ldc, Finish finish) {
    std::memset(c, 0, static_cast<size_t>(rows * ldc) * sizeof *c);
    for (int v = 0; v < tiles.count; ++v) {
        for (int64_t g = 0; g < x.groups(); g += kPairGroups) {
            const int64_t groups = std::min(kPairGroups, x.groups() - g);
            multiply_part(x, row, rows, weight, tiles[v], g, groups, c + v * kLanes, ldc);
        }
    }
    finish(0, rows, c);
}

#endif

}  // namespace headrace
