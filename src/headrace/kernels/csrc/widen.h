// Weights in groups as right tiles of bfloat16, each computed in float32 and rounded; and coded ones.
#pragma once

#include "coded.h"

namespace headrace {

#if defined(__AVX512BF16__)

// Sixteen lanes twice over: those of outputs 0 to 7, each two times, then those of 8 to 15. A line of a
// right tile is two such vectors rounded, no word having to change places.
struct Doubled {
    __m512i first, second;
};
inline Doubled doubled(__m512i lanes) {
    const __m512i low = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    return {_mm512_permutexvar_epi32(low, lanes), _mm512_permutexvar_epi32(high, lanes)};
}

// What the codes of four bits stand for.
template <Kind kKind>
inline F32x16 nibble_table() {
    if constexpr (is_codebook4(kKind)) return F32x16::load(codebook(kKind));
    return to_float({_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)});
}

// The scales of 16 outputs, doubled.
struct DoubledAffine {
    Doubled scale, minimum;

    explicit DoubledAffine(const Affine& affine)
        : scale(doubled(_mm512_castps_si512(affine.scale.v))),
          minimum(doubled(_mm512_castps_si512(affine.minimum.v))) {}
};

// Four inputs of 16 outputs, from bit `bit` of what holds their codes, as two lines of a right tile.
template <Kind kKind>
inline void widen_line(__m512i codes, int bit, const DoubledAffine& affine,
                       uint16_t (*to)[kLanes][2]) {
    constexpr int kBits = code_bits(kKind);
    const F32x16 table = nibble_table<kKind>();
    const auto value = [&](__m512i lanes, __m512i shifts, __m512i scale, __m512i minimum) {
        const __m512i code = _mm512_srlv_epi32(lanes, shifts);
        __m512 number = _mm512_permutexvar_ps(code, table.v);
        if constexpr (kBits != 4) {
            const __m512i byte = _mm512_and_si512(code, _mm512_set1_epi32(255));
            const __m512i offset = _mm512_set1_epi32(kBits == 8 ? 128 : 0);
            number = _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, offset));
        }
        return _mm512_fmadd_ps(number, _mm512_castsi512_ps(scale), _mm512_castsi512_ps(minimum));
    };
    const Doubled lanes = doubled(codes);
    HEADRACE_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int from = bit + 8 * i;
        const __m512i shifts = _mm512_set1_epi64(static_cast<int64_t>(from + 16) << 32 | from);
        const __m512 a = value(lanes.first, shifts, affine.scale.first, affine.minimum.first);
        const __m512 b = value(lanes.second, shifts, affine.scale.second, affine.minimum.second);
        _mm512_store_si512(to[i], reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
    }
}

// 32 inputs of a tile in groups, rounded to bfloat16.
template <Kind kKind, Scaling kScaling>
inline void widen_group(const Weight& weight, int64_t tile, int64_t index, RightTile& to) {
    constexpr int kBits = code_bits(kKind);
    const int64_t first = index * kGroup, part = first % weight.group / kGroup;
    const uint8_t* scales = weight.scales(tile, first / weight.group);
    const DoubledAffine low(load_scales<kKind, kScaling>(scales, part));
    const DoubledAffine high =
        is_halved(kScaling) ? DoubledAffine(load_scales<kKind, kScaling>(scales, part, 1)) : low;
    const uint8_t* quants = weight.quants(tile, first);
    HEADRACE_UNROLL
    for (int line = 0; line < kGroup / 8; ++line) {
        auto *low_line = to.values + 2 * line, *high_line = low_line + kGroup / 4;
        if constexpr (kBits == 8) {
            widen_line<kKind>(U8x64::load(quants + 64 * line).v, 0, low, low_line);
            widen_line<kKind>(U8x64::load(quants + 64 * (line + 4)).v, 0, high, high_line);
        } else if constexpr (kBits == 4) {
            const __m512i both = U8x64::load(quants + 64 * line).v;
            widen_line<kKind>(both, 0, low, low_line);
            widen_line<kKind>(both, 4, high, high_line);
        } else {
            const Codes codes = load_codes<kBits>(quants, line);
            widen_line<kKind>(codes.low.v, 0, low, low_line);
            widen_line<kKind>(codes.high.v, 0, high, high_line);
        }
    }
}

__attribute__((noinline)) inline void widen_groups(const Weight& weight, int64_t tile, int64_t first,
                                                   int64_t count, RightTile* to) {
    if (weight.is_coded()) return decode_groups(weight, tile, first, count, to);
    with_layout(weight, [&](auto layout) {
        if constexpr (layout.kind != Kind::kFloat8) {
            for (int64_t g = 0; g < count; ++g) {
                widen_group<layout.kind, layout.scaling>(weight, tile, first + g, to[g]);
            }
        }
    });
}

#endif

}  // namespace headrace
