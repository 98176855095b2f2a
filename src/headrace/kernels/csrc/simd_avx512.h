// AVX-512 F/BW/VL/DQ with VNNI, and BF16 if there is: one 512-bit register per vector.
#pragma once

// gcc 12 takes the header's deliberately undefined operands for mistakes (PR 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

namespace headrace {

#if defined(__AMX_BF16__)
constexpr const char* kIsa = "amx";
#elif defined(__AVX512BF16__)
constexpr const char* kIsa = "avx512_bf16";
#else
constexpr const char* kIsa = "avx512_vnni";
#endif
constexpr int kRowTile = 8;
constexpr int kFmaRows = 12;

struct F32x16 {
    __m512 v;
    static F32x16 zero() { return {_mm512_setzero_ps()}; }
    static F32x16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static F32x16 broadcast(float value) { return {_mm512_set1_ps(value)}; }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
};

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
// 1 / a for finite a above 2^-126: 14 bits, then one Newton step; a third of a division's time.
inline F32x16 reciprocal(F32x16 a) {
    const __m512 guess = _mm512_rcp14_ps(a.v);
    const __m512 rest = _mm512_fnmadd_ps(a.v, guess, _mm512_set1_ps(1.0f));
    return {_mm512_fmadd_ps(guess, rest, guess)};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 round_even(F32x16 a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a less the whole number below it, 0..1.
inline F32x16 fraction(F32x16 a) {
    return {_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
// a * 2^floor(n) for n in -126..127.
inline F32x16 scale_by_power(F32x16 a, F32x16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline float reduce_add(F32x16 a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }

// Lanes first <= lane < last of a, the others of b.
inline F32x16 select(F32x16 a, F32x16 b, int first, int last) {
    const auto below = [](int n) { return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1; };
    return {_mm512_mask_mov_ps(b.v, static_cast<__mmask16>(below(last) & ~below(first)), a.v)};
}

inline F32x16 load_f16(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline F32x16 load_bf16(const uint16_t* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline F32x16 load_i8(const int8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline F32x16 load_u8(const uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
inline F32x16 load_e8m0(const uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23);
    return {_mm512_castsi512_ps(_mm512_max_epi32(bits, _mm512_set1_epi32(1 << 22)))};
}
inline F32x16 load_u4(const uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m512i both = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(bytes, bytes));
    const __m512i moved = _mm512_mask_srli_epi32(both, 0xff00, both, 4);
    return {_mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(15)))};
}
inline void store_f16(F32x16 a, uint16_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#if defined(__AVX512BF16__)
inline void store_bf16(F32x16 a, uint16_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v)));
}
inline F32x16 swap_middles(F32x16 a) {
    return {_mm512_permute_ps(a.v, _MM_SHUFFLE(3, 1, 2, 0))};
}
#endif
// Whole values in -128..127.
inline void store_i8(F32x16 a, int8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

inline unsigned at_least(F32x16 a, F32x16 b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ);
}
// Lanes of x where a >= b, else 0.
inline F32x16 where_at_least(F32x16 x, F32x16 a, F32x16 b) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ), x.v)};
}
inline unsigned nan_lanes(F32x16 a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }

struct I32x16 {
    __m512i v;
    static I32x16 broadcast(int32_t value) { return {_mm512_set1_epi32(value)}; }
    static I32x16 load(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
    void store(int32_t* to) const { _mm512_storeu_si512(to, v); }
};

inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32x16 bits(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 operator*(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I32x16 operator^(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline I32x16 operator&(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int kBits>
inline I32x16 shift_right(I32x16 a) { return {_mm512_srli_epi32(a.v, kBits)}; }
template <int kBits>
inline I32x16 shift_right_signed(I32x16 a) { return {_mm512_srai_epi32(a.v, kBits)}; }

struct U8x64 {
    __m512i v;
    static U8x64 load(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
};

inline U8x64 low_nibbles(U8x64 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline U8x64 high_nibbles(U8x64 a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}

inline U8x64 operator|(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline U8x64 field(U8x64 a, int from, int to, int mask) {
    const auto by = static_cast<unsigned>(from > to ? from - to : to - from);
    const __m512i moved = from > to ? _mm512_srli_epi16(a.v, by) : _mm512_slli_epi16(a.v, by);
    return {_mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(mask << to)))};
}

// Sixteen bytes for `lookup`.
inline U8x64 broadcast_table(const uint8_t* table) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))};
}
// table[code] for codes below 16.
inline U8x64 lookup(U8x64 table, U8x64 codes) { return {_mm512_shuffle_epi8(table.v, codes.v)}; }

// Assembly, because gcc 12 splits the broadcast from the product and loses an execution slot.
inline I32x16 dot_codes(I32x16 acc, U8x64 w, const int8_t* a) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(acc.v)
            : "v"(w.v), "m"(*reinterpret_cast<const int32_t(*)>(a)));
    return acc;
}
inline I32x16 bytes_start(const int32_t* offset) { return {_mm512_set1_epi32(*offset)}; }
inline I32x16 dot_bytes(I32x16 acc, U8x64 w, const int8_t* a) { return dot_codes(acc, w, a); }

// Byte `index` (0..3) of every lane.
inline F32x16 byte_of_lanes(U8x64 a, int index) {
    const __m512i shifted = _mm512_srli_epi32(a.v, static_cast<unsigned>(index) * 8);
    return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)))};
}
// values[that byte].
inline F32x16 gather(const float* values, U8x64 a, int index) {
    const __m512i shifted = _mm512_srli_epi32(a.v, static_cast<unsigned>(index) * 8);
    return {_mm512_i32gather_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)), values, 4)};
}

}  // namespace headrace
