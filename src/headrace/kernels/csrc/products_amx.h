// AMX: the product of 16 int8 rows with an integer tile, one tile instruction for each group of 32.
// Its integer sums are exact and are scaled in the same order as in multiply_tile, so a row's
// result is the same bits whichever of the two computes it.
// Without AMX no block of rows is taken.
#pragma once

#include "products.h"

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace headrace {

#if defined(__AMX_INT8__)

constexpr int64_t kMinTileRows = 9;  // of a block of 16: with fewer, multiply_tile is quicker

// Blocks of rows that are multiplied with tiles, the last perhaps with some rows too many.
inline int64_t tile_blocks(int64_t rows) {
    return (rows + kBlockRows - kMinTileRows) / kBlockRows;
}

// Linux keeps the tile registers from a process until it asks for them.
inline bool permit_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Tile registers: 0..3 sums [16][16] int32, 4..5 activations [16][32], 6..7 weights [8][16][4].
// A thread has them, if needed, from construction to destruction.
class TileRegisters {
   public:
    explicit TileRegisters(bool needed) : needed_(needed) {
        if (!needed) return;
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, kGroup, kGroup, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, kBlockRows, kBlockRows, kGroup / 4, kGroup / 4};
        } config;
        _tile_loadconfig(&config);
    }
    ~TileRegisters() {
        if (needed_) _tile_release();
    }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;

   private:
    bool needed_;
};

constexpr int64_t kUnpackedGroups = 32;  // at a time: 16 KB
constexpr int kGroupBytes = kGroup * kLanes;
constexpr int kTilesInFlight = 4;

struct alignas(64) TileSums {
    int32_t values[kTilesInFlight][kBlockRows][kLanes];
};

// Sum register `kSum` = rows of the cell times a group of unpacked weights. Assembly, because
// gcc 12's intrinsics take no template arguments for register numbers.
template <int kSum>
inline void multiply_cell(const Cell* cell, const int8_t* weights) {
    constexpr int kLeft = 4 + kSum % 2, kRight = 6 + kSum % 2;
    __asm__ volatile(
        "tilezero %%tmm%c[sum]\n\t"
        "tileloadd (%[cell], %[cell_row]), %%tmm%c[left]\n\t"
        "tileloadd (%[weights], %[weight_row]), %%tmm%c[right]\n\t"
        "tdpbssd %%tmm%c[right], %%tmm%c[left], %%tmm%c[sum]"
        :
        : [cell] "r"(cell->q), [cell_row] "r"(int64_t{kGroup}), [weights] "r"(weights),
          [weight_row] "r"(int64_t{64}), [sum] "i"(kSum), [left] "i"(kLeft), [right] "i"(kRight)
        : "memory");
}

template <int kSum>
inline void store_sums(TileSums& sums) {
    __asm__ volatile("tilestored %%tmm%c[sum], (%[to], %[row])"
                     :
                     : [to] "r"(sums.values[kSum]), [row] "r"(int64_t{64}), [sum] "i"(kSum)
                     : "memory");
}

// Starts products of up to four groups.
inline void start_products(const Cell* cells, const int8_t* weights, int64_t groups) {
    if (groups > 0) multiply_cell<0>(cells, weights);
    if (groups > 1) multiply_cell<1>(cells + 1, weights + kGroupBytes);
    if (groups > 2) multiply_cell<2>(cells + 2, weights + 2 * kGroupBytes);
    if (groups > 3) multiply_cell<3>(cells + 3, weights + 3 * kGroupBytes);
}

// Stores them all at once: changing between these instructions and others is what takes time.
inline void store_products(TileSums& sums) {
    store_sums<0>(sums);
    store_sums<1>(sums);
    store_sums<2>(sums);
    store_sums<3>(sums);
}

// Weights of a group as signed bytes, the operand of a tile product.
template <Kind kKind, bool kMinimum>
inline void unpack_group(const uint8_t* quants, int8_t* to) {
    constexpr int kLines = kKind == Kind::kInt4 ? 4 : 8;
    const auto store = [&](int line, __m512i bytes) { _mm512_store_si512(to + 64 * line, bytes); };
    for (int line = 0; line < kLines; ++line) {
        const U8x64 bytes = U8x64::load(quants + 64 * line);
        __builtin_prefetch(quants + 64 * line + kPrefetchBytes);
        if constexpr (kKind == Kind::kInt8) {
            store(line, _mm512_xor_si512(bytes.v, _mm512_set1_epi8(-128)));
        } else {
            const __m512i zero_point = _mm512_set1_epi8(kMinimum ? 0 : 8);
            store(line, _mm512_sub_epi8(low_nibbles(bytes).v, zero_point));
            store(line + 4, _mm512_sub_epi8(high_nibbles(bytes).v, zero_point));
        }
    }
}

// c[16][16] += the product of 16 rows with `groups` unpacked groups of 32, the first of which is
// group `first` of the weight's tile.
template <bool kMinimum>
inline void multiply_block(const Weight& weight, int64_t tile, int64_t first, int64_t groups,
                           const int8_t* unpacked, const Cell* cells, float* c, int64_t ldc) {
    const int64_t groups_per_scale = weight.group / kGroup;
    const uint16_t* scales = weight.scales(tile);
    TileSums sums;
    F32x16 acc[kBlockRows];
    HEADRACE_UNROLL
    for (int r = 0; r < kBlockRows; ++r) acc[r] = F32x16::load(c + r * ldc);
    start_products(cells, unpacked, groups);
    for (int64_t start = 0; start < groups; start += kTilesInFlight) {
        const int64_t next = start + kTilesInFlight;
        store_products(sums);
        start_products(cells + next, unpacked + next * kGroupBytes, groups - next);
        for (int64_t g = start; g < std::min(next, groups); ++g) {
            const uint16_t* at =
                scales + (first + g) / groups_per_scale * (kMinimum ? 2 * kLanes : kLanes);
            const F32x16 scale = load_f16(at);
            const F32x16 minimum = kMinimum ? load_f16(at + kLanes) : scale;
            HEADRACE_UNROLL
            for (int r = 0; r < kBlockRows; ++r) {
                const I32x16 sum{_mm512_load_si512(sums.values[g - start][r])};
                const F32x16 x_scale = F32x16::broadcast(cells[g].scale[r]);
                acc[r] = fma(to_float(sum), scale * x_scale, acc[r]);
                if constexpr (kMinimum) {
                    acc[r] = fma(minimum, F32x16::broadcast(cells[g].scaled_sum[r]), acc[r]);
                }
            }
        }
    }
    HEADRACE_UNROLL
    for (int r = 0; r < kBlockRows; ++r) acc[r].store(c + r * ldc);
}

// c[blocks * 16][16] = whole blocks of 16 rows, from row block `block`, times one integer tile.
template <Kind kKind, bool kMinimum>
inline void multiply_blocks(const Activation& x, int64_t block, int64_t blocks,
                            const Weight& weight, int64_t tile, float* c, int64_t ldc) {
    if (blocks == 0) return;
    alignas(64) int8_t unpacked[kUnpackedGroups * kGroupBytes];
    constexpr int64_t kQuantBytes = kGroupBytes / (kKind == Kind::kInt4 ? 2 : 1);
    for (int64_t r = 0; r < blocks * kBlockRows; ++r) F32x16::zero().store(c + r * ldc);
    for (int64_t first = 0; first < x.groups(); first += kUnpackedGroups) {
        const int64_t groups = std::min(kUnpackedGroups, x.groups() - first);
        for (int64_t g = 0; g < groups; ++g) {
            unpack_group<kKind, kMinimum>(weight.tile(tile) + (first + g) * kQuantBytes,
                                          unpacked + g * kGroupBytes);
        }
        for (int64_t b = 0; b < blocks; ++b) {
            multiply_block<kMinimum>(weight, tile, first, groups, unpacked,
                                     x.cells(block + b) + first, c + b * kBlockRows * ldc, ldc);
        }
    }
}

#else

inline bool permit_tiles() { return true; }
inline int64_t tile_blocks(int64_t) { return 0; }

struct TileRegisters {
    explicit TileRegisters(bool) {}
};

template <Kind, bool>
inline void multiply_blocks(const Activation&, int64_t, int64_t, const Weight&, int64_t, float*,
                            int64_t) {}

#endif

}  // namespace headrace
