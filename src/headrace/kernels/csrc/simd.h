// Sixteen-lane vectors, one header per instruction set behind the same names:
//   F32x16  float lanes; I32x16 int lanes; U8x64 bytes, four to each of 16 lanes.
//   dot_codes(acc, w, a): lane o += sum of w[o][i] * a[i], i < 4, w in 0..63, a int8
//   dot_bytes(acc, w, a):   the same for w = byte - 128, starting from bytes_start(offset)
//   field(x, from, to, mask): of each byte the bits of `mask` from bit `from` on, moved to bit `to`
//   load_e8m0(from): powers of two, biased by 127; load_u4(from): low halves of 8 bytes, then high
//   lookup(broadcast_table(table), codes): table[code] for each byte
//   gather(values, a, i):   lane o = values[byte i of lane o]
//   at_least(a, b), nan_lanes(a)  bit i of the result is the answer for lane i
//   kRowTile       rows of one integer product held in registers
//   kFmaRows       rows of one float product held in registers (two vectors each)
// The rest of the library is written on these only. Multiply-adds are explicit (fma), and the
// build turns contraction off, so a row's arithmetic is the same in every template instance.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

// Loops over registers: they must be unrolled for the arrays to become registers.
#if defined(__clang__)
#define HEADRACE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HEADRACE_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#error "build with the flags of one of the supported instruction sets"
#endif

namespace headrace {

constexpr int kLanes = 16;

inline float half_to_float(uint16_t half) {
    uint16_t lanes[kLanes] = {half};
    float out[kLanes];
    load_f16(lanes).store(out);
    return out[0];
}

inline float bfloat16_to_float(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

#if !defined(__AVX512BF16__)
inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void store_bf16(F32x16 a, uint16_t* to) {
    float lanes[kLanes];
    a.store(lanes);
    for (int i = 0; i < kLanes; ++i) to[i] = to_bfloat16(lanes[i]);
}

// Of each four lanes the two in the middle change places.
inline F32x16 swap_middles(F32x16 a) {
    float lanes[kLanes];
    a.store(lanes);
    for (int i = 0; i < kLanes; i += 4) std::swap(lanes[i + 1], lanes[i + 2]);
    return F32x16::load(lanes);
}
#endif

// The first `count` (1..16) lanes; the others are zero, or not stored.
inline F32x16 load_partial(const float* from, int64_t count) {
    if (count == kLanes) return F32x16::load(from);
    float lanes[kLanes] = {};
    std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(float));
    return F32x16::load(lanes);
}

inline void store_partial(F32x16 value, float* to, int64_t count) {
    if (count == kLanes) return value.store(to);
    float lanes[kLanes];
    value.store(lanes);
    std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace headrace
