// Products of int8 rows with integer tiles by AMX. The sums of integers are exact and are scaled in the
// same order as in multiply_tile, so a row's result is the same bits whichever of the two computes
// it.
#pragma once

#include "tiles.h"

namespace headrace {

#if defined(__AMX_BF16__)

constexpr int kInFlight = 3;             // tile products
constexpr int64_t kUnpackedGroups = 32;  // at a time: 20 KB

// 32 inputs of an integer tile: w = q * scale + minimum, q signed.
struct alignas(64) UnpackedGroup {
    int8_t q[kGroup / 4][kLanes][4];
    float scale[kLanes], minimum[kLanes];
};

struct alignas(64) TileSums {
    int32_t values[kInFlight][kBlockRows][kLanes];
};

// The codes at `quants`, which are part `part` of the group whose scales begin at `scales`.
template <Kind kKind, Scaling kScaling>
inline void unpack_group(const uint8_t* quants, const uint8_t* scales, int64_t part,
                         UnpackedGroup& to) {
    constexpr int kBits = code_bits(kKind);
    constexpr bool kHasOffset = kScaling == Scaling::kSymmetric && !is_codebook4(kKind);
    const auto store = [&](int line, __m512i bytes) { _mm512_store_si512(to.q[line], bytes); };
    const __m512i flip = _mm512_set1_epi8(-128);
    if constexpr (kBits == 8) {
        for (int line = 0; line < 8; ++line) {
            store(line, _mm512_xor_si512(U8x64::load(quants + 64 * line).v, flip));
        }
    } else {
        HEADRACE_UNROLL
        for (int line = 0; line < 4; ++line) {
            const auto [low, high] = load_codes<kBits>(quants, line);
            if constexpr (is_codebook4(kKind)) {
                const U8x64 table = byte_table<kKind>();
                store(line, _mm512_xor_si512(lookup(table, low).v, flip));
                store(line + 4, _mm512_xor_si512(lookup(table, high).v, flip));
            } else {
                const __m512i offset = _mm512_set1_epi8(kHasOffset ? 1 << (kBits - 1) : 0);
                store(line, _mm512_sub_epi8(low.v, offset));
                store(line + 4, _mm512_sub_epi8(high.v, offset));
            }
        }
    }
    auto [scale, minimum] = load_scales<kKind, kScaling>(scales, part);
    if constexpr (is_codebook4(kKind)) scale = scale * F32x16::broadcast(1 / kUnits<kKind>);
    scale.store(to.scale);
    minimum.store(to.minimum);
}

// `count` times 32 inputs of a tile from the one with index `first`.
template <Kind kKind, Scaling kScaling>
inline void unpack_groups(const Weight& weight, int64_t tile, int64_t first, int64_t count,
                          UnpackedGroup* to) {
    const int64_t parts = weight.group / kGroup;
    const uint8_t* quants = weight.quants(tile, first * kGroup);
    const uint8_t* scales = weight.scales(tile, first / parts);
    for (int64_t g = 0, part = first % parts; g < count; ++g, quants += 64 * code_bits(kKind)) {
        unpack_group<kKind, kScaling>(quants, scales, part, to[g]);
        if (++part == parts) part = 0, scales += scale_bytes(kScaling, parts);
    }
}

// Sum register kSum = a cell times a group. Assembly, because gcc 12's intrinsics take no template
// arguments for register numbers.
template <int kSum>
inline void multiply_cell(const Cell& cell, const UnpackedGroup& group) {
    __asm__ volatile(
        "tilezero %%tmm%c[sum]\n\t"
        "tileloadd (%[cell], %[cell_row]), %%tmm%c[left]\n\t"
        "tileloadd (%[group], %[group_row]), %%tmm%c[right]\n\t"
        "tdpbssd %%tmm%c[right], %%tmm%c[left], %%tmm%c[sum]"
        :
        : [cell] "r"(cell.q), [cell_row] "r"(int64_t{kGroup}), [group] "r"(group.q),
          [group_row] "r"(int64_t{64}), [sum] "i"(kSum), [left] "i"(4 + kSum % 2),
          [right] "i"(6 + kSum % 2)
        : "memory");
}

template <int kSum>
inline void store_sum(TileSums& sums) {
    __asm__ volatile("tilestored %%tmm%c[sum], (%[to], %[row])"
                     :
                     : [to] "r"(sums.values[kSum]), [row] "r"(int64_t{64}), [sum] "i"(kSum)
                     : "memory");
}

// Starts the products of the first three of `count` groups.
inline void start_products(const Cell* cells, const UnpackedGroup* groups, int64_t count) {
    if (count > 0) multiply_cell<0>(cells[0], groups[0]);
    if (count > 1) multiply_cell<1>(cells[1], groups[1]);
    if (count > 2) multiply_cell<2>(cells[2], groups[2]);
}

// All at once: changing from other instructions to this one is what takes the time.
inline void store_sums(TileSums& sums) {
    store_sum<0>(sums);
    store_sum<1>(sums);
    store_sum<2>(sums);
}

// Lines of weights that are unpacked later and fetched meanwhile, so many with each group.
struct LinesAhead {
    const uint8_t* next;
    int64_t lines;

    void fetch() {
        for (int64_t i = 0; i < lines; ++i, next += 64) __builtin_prefetch(next, 0, 2);
    }
};

template <int kCount, bool kMinimum, int kRows>
inline void add_scaled(const TileSums& sums, const Cell* cells, const UnpackedGroup* groups,
                       LinesAhead& ahead, F32x16 (&acc)[kRows]) {
    for (int g = 0; g < kCount; ++g) {
        ahead.fetch();
        const F32x16 scale = F32x16::load(groups[g].scale);
        const F32x16 minimum = F32x16::load(groups[g].minimum);
        HEADRACE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const I32x16 sum{_mm512_load_si512(sums.values[g][r])};
            acc[r] = fma(to_float(sum), scale * F32x16::broadcast(cells[g].scale[r]), acc[r]);
            if constexpr (kMinimum) {
                acc[r] = fma(minimum, F32x16::broadcast(cells[g].scaled_sum[r]), acc[r]);
            }
        }
    }
}

// c[kRows][16] += a block's first rows times as many groups; their first products have been started.
// Starts those of the block at `next`, if any, at the end: the tiles are never idle.
template <int kRows, bool kMinimum>
inline void multiply_block(const Cell* cells, const Cell* next, const UnpackedGroup* groups,
                           int64_t count, LinesAhead ahead, float* c, int64_t ldc) {
    TileSums sums;
    F32x16 acc[kRows];
    HEADRACE_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r] = F32x16::load(c + r * ldc);
    int64_t g = 0;
    for (; count - g > kInFlight; g += kInFlight) {
        store_sums(sums);
        start_products(cells + g + kInFlight, groups + g + kInFlight, count - g - kInFlight);
        add_scaled<kInFlight, kMinimum>(sums, cells + g, groups + g, ahead, acc);
    }
    store_sums(sums);
    if (next) start_products(next, groups, count);
    with_constant<kInFlight>(static_cast<int>(count - g), [&](auto n) {
        add_scaled<n.value, kMinimum>(sums, cells + g, groups + g, ahead, acc);
    });
    HEADRACE_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r].store(c + r * ldc);
}

// c[rows][16] = rows, from row block `block`, times one integer tile. Writes whole blocks to c.
template <Kind kKind, Scaling kScaling>
inline void multiply_blocks(const Activation& x, int64_t block, int64_t rows,
                            const Weight& weight, int64_t tile, float* c, int64_t ldc) {
    constexpr bool kMinimum = has_minimum(kScaling);
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int64_t group_lines = (weight.tile_bytes() / x.groups() + 63) / 64;
    LinesAhead ahead{weight.tile(tile + 1), 0};
    UnpackedGroup groups[kUnpackedGroups];
    for (int64_t r = 0; r < blocks * kBlockRows; ++r) F32x16::zero().store(c + r * ldc);
    for (int64_t first = 0; first < x.groups(); first += kUnpackedGroups) {
        const int64_t count = std::min(kUnpackedGroups, x.groups() - first);
        unpack_groups<kKind, kScaling>(weight, tile, first, count, groups);
        const Cell* cells = x.cells(block) + first;
        start_products(cells, groups, count);
        for (int64_t b = 0; b < blocks; ++b, cells += x.groups()) {
            const Cell* next = b + 1 < blocks ? cells + x.groups() : nullptr;
            float* to = c + b * kBlockRows * ldc;
            ahead.lines = group_lines * (b + 1) / blocks - group_lines * b / blocks;
            if (rows - b * kBlockRows > kBlockRows / 2) {
                multiply_block<kBlockRows, kMinimum>(cells, next, groups, count, ahead, to, ldc);
            } else {
                multiply_block<kBlockRows / 2, kMinimum>(cells, next, groups, count, ahead, to, ldc);
            }
            ahead.next += 64 * count * ahead.lines;
        }
    }
}

#else

template <Kind, Scaling>
inline void multiply_blocks(const Activation&, int64_t, int64_t, const Weight&, int64_t, float*,
                            int64_t) {}

#endif

}  // namespace headrace
