// How codes of less than 8 bits lie: in a plane of 4 bits or of 2, and what is left in a second one.
#pragma once

#include "layout.h"

namespace headrace {

constexpr int first_plane(int bits) { return bits == 8 ? 8 : bits >= 4 ? 4 : 2; }

// Codes of inputs 4 * line.. and 16 + 4 * line.. of a group, four to each lane.
struct Codes {
    U8x64 low, high;
};

// Those that a plane has, moved up to bit `to`.
template <int kBits>
inline Codes load_plane(const uint8_t* plane, int line, int to) {
    if constexpr (kBits == 4) {
        const U8x64 both = U8x64::load(plane + 64 * line);
        return {low_nibbles(both), high_nibbles(both)};
    } else if constexpr (kBits == 2) {
        const U8x64 low = U8x64::load(plane), high = U8x64::load(plane + 64);
        return {field(low, 2 * line, to, 3), field(high, 2 * line, to, 3)};
    } else {
        const U8x64 all = U8x64::load(plane);
        return {field(all, line, to, 1), field(all, 4 + line, to, 1)};
    }
}

// `quants` of 32 inputs.
template <int kBits>
inline Codes load_codes(const uint8_t* quants, int line) {
    constexpr int kFirst = first_plane(kBits), kRest = kBits - kFirst;
    const Codes codes = load_plane<kFirst>(quants, line, 0);
    if constexpr (kRest == 0) return codes;
    const Codes rest = load_plane<kRest>(quants + 64 * kFirst, line, kFirst);
    return {codes.low | rest.low, codes.high | rest.high};
}

// Where a plane has one code.
struct Place {
    int64_t byte;
    int shift;
};
inline Place place(int bits, int64_t lane, int k) {
    const int64_t byte = lane * 4 + k % 4;
    const int half = k / 16, line = k % 16 / 4;
    switch (bits) {
        case 8: return {64 * (4 * half + line) + byte, 0};
        case 4: return {64 * line + byte, 4 * half};
        case 2: return {64 * half + byte, 2 * line};
        default: return {byte, 4 * half + line};
    }
}

inline int load_code(const uint8_t* quants, int bits, int64_t lane, int k) {
    int code = 0;
    for (int done = 0; done < bits;) {
        const int width = done ? bits - done : first_plane(bits);
        const Place at = place(width, lane, k);
        code |= (quants[64 * done + at.byte] >> at.shift & ((1 << width) - 1)) << done;
        done += width;
    }
    return code;
}

inline void store_code(uint8_t* quants, int bits, int64_t lane, int k, int code) {
    for (int done = 0; done < bits;) {
        const int width = done ? bits - done : first_plane(bits), mask = (1 << width) - 1;
        const Place at = place(width, lane, k);
        uint8_t& byte = quants[64 * done + at.byte];
        byte = static_cast<uint8_t>((byte & ~(mask << at.shift)) | (code >> done & mask) << at.shift);
        done += width;
    }
}

}  // namespace headrace
