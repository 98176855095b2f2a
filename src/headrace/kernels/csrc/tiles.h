// AMX's tile registers, and the instructions on them: one for 16 rows, 16 outputs and 32 inputs.
// Without AMX no number of rows suits.
#pragma once

#include "products.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace headrace {

// 32 inputs of 16 outputs; see Weight.
struct alignas(64) RightTile {
    uint16_t values[kGroup / 2][kLanes][2];
};

#if defined(__AMX_BF16__)

// With fewer rows, multiply_tile is quicker.
inline bool suits_tiles(int64_t rows) { return rows > 10; }

// Linux keeps the tile registers from a process until it asks for them.
inline bool permit_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// A thread has tile registers from construction to destruction. For int8: 0..2 sums [16][16] int32,
// 4..5 activations [16][32], 6..7 weights [8][16][4]. For bfloat16: 0..3 sums [rows][16] float32,
// 4..5 activations [rows][32], 6..7 weights [16][16][2].
class TileRegisters {
   public:
    TileRegisters(Format format, int64_t rows)
        : needed_(format == Format::kBFloat16 || (format == Format::kInt8 && suits_tiles(rows))) {
        if (!needed_) return;
        const bool is_int8 = format == Format::kInt8;
        const auto left = static_cast<uint8_t>(is_int8 || rows > kBlockRows ? kBlockRows : rows);
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = is_int8 && (i == 4 || i == 5) ? kGroup : 64;
            config.rows[i] = i < 6 ? left : is_int8 ? kGroup / 4 : kGroup / 2;
        }
        // Not the intrinsic: gcc 12 takes it to read eight bytes, and may drop the others.
        __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    }
    ~TileRegisters() {
        if (needed_) _tile_release();
    }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;

   private:
    bool needed_;
};

template <int kTile>
inline void clear_tile() {
    __asm__ volatile("tilezero %%tmm%c[tile]" : : [tile] "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* from, int64_t row_bytes = 64) {
    __asm__ volatile("tileloadd (%[from], %[row]), %%tmm%c[tile]"
                     : : [from] "r"(from), [row] "r"(row_bytes), [tile] "i"(kTile) : "memory");
}
// What is read only once does not take the L1 cache from other data.
template <int kTile, bool kOnce>
inline void load_operand(const void* from) {
    if constexpr (!kOnce) return load_tile<kTile>(from);
    __asm__ volatile("tileloaddt1 (%[from], %[row]), %%tmm%c[tile]"
                     : : [from] "r"(from), [row] "r"(int64_t{64}), [tile] "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(float* to, int64_t row_floats) {
    __asm__ volatile("tilestored %%tmm%c[tile], (%[to], %[row])"
                     : : [to] "r"(to), [row] "r"(row_floats * 4), [tile] "i"(kTile) : "memory");
}
template <int kSum, int kLeft, int kRight>
inline void multiply_tiles() {
    __asm__ volatile("tdpbf16ps %%tmm%c[right], %%tmm%c[left], %%tmm%c[sum]"
                     : : [sum] "i"(kSum), [left] "i"(kLeft), [right] "i"(kRight));
}

// The sums of 16 * kBlocks rows and 16 * kVectors outputs, from zero.
template <int kBlocks, int kVectors>
inline void clear_sums() {
    clear_tile<0>();
    if (kVectors > 1) clear_tile<1>();
    if (kBlocks > 1) clear_tile<2>();
    if (kBlocks > 1 && kVectors > 1) clear_tile<3>();
}

template <int kBlocks, int kVectors>
inline void load_sums(const float* c, int64_t ldc) {
    const float* const c2 = c + kBlockRows * ldc;
    load_tile<0>(c, ldc * 4);
    if (kVectors > 1) load_tile<1>(c + kLanes, ldc * 4);
    if (kBlocks > 1) load_tile<2>(c2, ldc * 4);
    if (kBlocks > 1 && kVectors > 1) load_tile<3>(c2 + kLanes, ldc * 4);
}

template <int kBlocks, int kVectors>
inline void store_sums(float* c, int64_t ldc) {
    float* const c2 = c + kBlockRows * ldc;
    store_tile<0>(c, ldc);
    if (kVectors > 1) store_tile<1>(c + kLanes, ldc);
    if (kBlocks > 1) store_tile<2>(c2, ldc);
    if (kBlocks > 1 && kVectors > 1) store_tile<3>(c2 + kLanes, ldc);
}

#else

inline bool permit_tiles() { return true; }
inline bool suits_tiles(int64_t) { return false; }

struct TileRegisters {
    TileRegisters(Format, int64_t) {}
};

#endif

}  // namespace headrace
