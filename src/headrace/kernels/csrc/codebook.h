// Numbers that codes stand for where they are not integers: NF4, FP4, E2M1 and E4M3.
#pragma once

#include <array>
#include <cmath>

#include "layout.h"

namespace headrace {

// QLoRA's quantiles of the normal distribution, and bitsandbytes' table of 4-bit floats.
constexpr float kNF4[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
constexpr float kFP4[16] = {0.0f, 1 / 192.0f, 2 / 3.0f, 1.0f, 1 / 3.0f, 0.5f, 1 / 6.0f, 0.25f,
                            -0.0f, -1 / 192.0f, -2 / 3.0f, -1.0f, -1 / 3.0f, -0.5f, -1 / 6.0f,
                            -0.25f};
// Of MXFP4: a sign, two bits of exponent, one of mantissa (E2M1).
constexpr float kE2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// Four bits of exponent, biased by 7, and three of mantissa; no infinity.
inline float from_e4m3(int code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    if (exponent == 15 && mantissa == 7) return std::nanf("");
    const float size = exponent ? std::ldexp(1.0f + static_cast<float>(mantissa) / 8, exponent - 7)
                                : std::ldexp(static_cast<float>(mantissa), -9);
    return code & 128 ? -size : size;
}

// Null where codes are integers.
inline const float* codebook(Kind kind) {
    static const std::array<float, 256> e4m3 = [] {
        std::array<float, 256> values{};
        for (int code = 0; code < 256; ++code) values[static_cast<size_t>(code)] = from_e4m3(code);
        return values;
    }();
    switch (kind) {
        case Kind::kNF4: return kNF4;
        case Kind::kFP4: return kFP4;
        case Kind::kMXFP4: return kE2M1;
        case Kind::kFloat8: return e4m3.data();
        default: return nullptr;
    }
}

// For products with int8 rows a 4-bit codebook is rounded to whole multiples of 1 / unit, 0.4 % of
// its largest number. In units of 1 / 120 all of FP4's but 1/192 are whole, and in 1 / 20 all of
// E2M1's.
template <Kind kKind>
constexpr float kUnits = kKind == Kind::kNF4     ? 127.0f
                         : kKind == Kind::kFP4   ? 120.0f
                         : kKind == Kind::kMXFP4 ? 20.0f
                                                 : 1.0f;

// The rounded codebook, plus 128.
template <Kind kKind>
inline U8x64 byte_table() {
    constexpr const float* values = kKind == Kind::kNF4   ? kNF4
                                    : kKind == Kind::kFP4 ? kFP4
                                                          : kE2M1;
    alignas(16) uint8_t table[16];
    for (int i = 0; i < 16; ++i) {
        const float whole = values[i] * kUnits<kKind>;
        table[i] = static_cast<uint8_t>(static_cast<int>(whole + (whole < 0 ? -0.5f : 0.5f)) + 128);
    }
    return broadcast_table(table);
}

}  // namespace headrace
