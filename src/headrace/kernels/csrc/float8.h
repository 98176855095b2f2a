// Floats of 8 bits as elements of a cache: E4M3 and E5M2 (OCP 8-bit floating point, 1.0).
#pragma once

#include "simd.h"

namespace headrace {

// The nearest, of two equally near the even one. x is within their range.
template <int kMantissa, int kBias>
inline uint8_t to_float8(float x) {
    constexpr int kDropped = 23 - kMantissa, kLast = kBias - 1 + kMantissa;
    constexpr uint32_t kLeastNormal = static_cast<uint32_t>(128 - kBias) << 23;
    constexpr uint32_t kAligned = static_cast<uint32_t>(127 + 23 - kLast) << 23;
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t size = bits & 0x7fffffff;
    const uint32_t half_up = size + (1u << (kDropped - 1)) - 1 + (size >> kDropped & 1);
    const uint32_t normal = (half_up >> kDropped) - ((127 - kBias) << kMantissa);
    // A number whose last bit is their smallest: adding it rounds to that.
    float aligner, magnitude;
    std::memcpy(&aligner, &kAligned, sizeof aligner);
    std::memcpy(&magnitude, &size, sizeof magnitude);
    const float sum = magnitude + aligner;
    uint32_t subnormal;
    std::memcpy(&subnormal, &sum, sizeof subnormal);
    const uint32_t code = size < kLeastNormal ? subnormal - kAligned : normal;
    return static_cast<uint8_t>((bits >> 24 & 128) | code);
}

struct E4M3 {
    using Element = uint8_t;
    static constexpr float kLargest = 448.0f;
    static uint8_t round(float x) { return to_float8<3, 7>(x); }
    static F32x16 load(const uint8_t* from) {
        uint16_t halves[kLanes];  // of float16, whose exponents have another bias
        for (int i = 0; i < kLanes; ++i) {
            halves[i] = static_cast<uint16_t>((from[i] & 128) << 8 | (from[i] & 127) << 7);
        }
        return load_f16(halves) * F32x16::broadcast(256.0f);
    }
};

struct E5M2 {
    using Element = uint8_t;
    static constexpr float kLargest = 57344.0f;
    static uint8_t round(float x) { return to_float8<2, 15>(x); }
    static F32x16 load(const uint8_t* from) {
        uint16_t halves[kLanes];
        for (int i = 0; i < kLanes; ++i) halves[i] = static_cast<uint16_t>(from[i] << 8);
        return load_f16(halves);
    }
};

}  // namespace headrace
