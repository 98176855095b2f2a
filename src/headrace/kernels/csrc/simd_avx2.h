// AVX2, FMA and F16C (with AVX-VNNI where the flags say so): two 256-bit registers per vector.
#pragma once

#include <immintrin.h>

namespace headrace {

#if defined(__AVXVNNI__)
constexpr const char* kIsa = "avx_vnni";
#else
constexpr const char* kIsa = "avx2";
#endif
constexpr int kRowTile = 2;
constexpr int kFmaRows = 3;

struct F32x16 {
    __m256 a, b;
    static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F32x16 load(const float* from) {
        return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
    }
    static F32x16 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    void store(float* to) const {
        _mm256_storeu_ps(to, a);
        _mm256_storeu_ps(to + 8, b);
    }
};

inline F32x16 operator+(F32x16 x, F32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F32x16 operator-(F32x16 x, F32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F32x16 operator*(F32x16 x, F32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F32x16 operator/(F32x16 x, F32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F32x16 reciprocal(F32x16 a) { return F32x16::broadcast(1.0f) / a; }
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32x16 max(F32x16 x, F32x16 y) {
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F32x16 min(F32x16 x, F32x16 y) {
    return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F32x16 abs(F32x16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F32x16 round_even(F32x16 x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
// x less the whole number below it, 0..1.
inline F32x16 fraction(F32x16 x) {
    return {_mm256_sub_ps(x.a, _mm256_floor_ps(x.a)), _mm256_sub_ps(x.b, _mm256_floor_ps(x.b))};
}
inline __m256 power_of_two(__m256 n) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_floor_ps(n));
    const __m256i biased = _mm256_add_epi32(whole, _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
// x * 2^floor(n) for n in -126..127.
inline F32x16 scale_by_power(F32x16 x, F32x16 n) {
    return x * F32x16{power_of_two(n.a), power_of_two(n.b)};
}
inline float reduce_add(F32x16 x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four =
        _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(F32x16 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four =
        _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline __m256 lanes_between(int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1));
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane);
    return _mm256_castsi256_ps(_mm256_and_si256(from, below));
}
// Lanes first <= lane < last of x, the others of y.
inline F32x16 select(F32x16 x, F32x16 y, int first, int last) {
    return {_mm256_blendv_ps(y.a, x.a, lanes_between(first, last)),
            _mm256_blendv_ps(y.b, x.b, lanes_between(first - 8, last - 8))};
}

inline F32x16 load_f16(const uint16_t* from) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline __m256 widen_bf16(const uint16_t* from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline F32x16 load_bf16(const uint16_t* from) { return {widen_bf16(from), widen_bf16(from + 8)}; }
inline __m256 widen_i8(const int8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline F32x16 load_i8(const int8_t* from) { return {widen_i8(from), widen_i8(from + 8)}; }
inline __m256 widen_u8(const uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
inline F32x16 load_u8(const uint8_t* from) { return {widen_u8(from), widen_u8(from + 8)}; }
inline __m256 widen_e8m0(const uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23);
    return _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_set1_epi32(1 << 22)));
}
inline F32x16 load_e8m0(const uint8_t* from) { return {widen_e8m0(from), widen_e8m0(from + 8)}; }
inline F32x16 load_u4(const uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m256i both = _mm256_cvtepu8_epi32(bytes), low = _mm256_set1_epi32(15);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(both, low)),
            _mm256_cvtepi32_ps(_mm256_srli_epi32(both, 4))};
}
inline void store_f16(F32x16 x, uint16_t* to) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    auto* halves = reinterpret_cast<__m128i*>(to);
    _mm_storeu_si128(halves, _mm256_cvtps_ph(x.a, mode));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(x.b, mode));
}
// Whole values in -128..127.
inline void store_i8(F32x16 x, int8_t* to) {
    const __m256i ab = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i words = _mm256_permute4x64_epi64(ab, 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

inline unsigned lane_bits(__m256 a, __m256 b) {
    return static_cast<unsigned>(_mm256_movemask_ps(a) | _mm256_movemask_ps(b) << 8);
}
inline unsigned at_least(F32x16 x, F32x16 y) {
    return lane_bits(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ));
}
// Lanes of x where y >= z, else 0.
inline F32x16 where_at_least(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_and_ps(_mm256_cmp_ps(y.a, z.a, _CMP_GE_OQ), x.a),
            _mm256_and_ps(_mm256_cmp_ps(y.b, z.b, _CMP_GE_OQ), x.b)};
}
inline unsigned nan_lanes(F32x16 x) {
    return lane_bits(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
}

struct I32x16 {
    __m256i a, b;
    static I32x16 broadcast(int32_t value) {
        return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
    }
    static I32x16 load(const int32_t* from) {
        const auto* halves = reinterpret_cast<const __m256i*>(from);
        return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
    }
    void store(int32_t* to) const {
        auto* halves = reinterpret_cast<__m256i*>(to);
        _mm256_storeu_si256(halves, a);
        _mm256_storeu_si256(halves + 1, b);
    }
};

inline F32x16 to_float(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I32x16 bits(F32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline I32x16 operator+(I32x16 x, I32x16 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline I32x16 operator*(I32x16 x, I32x16 y) {
    return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
inline I32x16 operator^(I32x16 x, I32x16 y) {
    return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
inline I32x16 operator&(I32x16 x, I32x16 y) {
    return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
template <int kBits>
inline I32x16 shift_right(I32x16 x) {
    return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
template <int kBits>
inline I32x16 shift_right_signed(I32x16 x) {
    return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}

struct U8x64 {
    __m256i a, b;
    static U8x64 load(const uint8_t* from) {
        const auto* lines = reinterpret_cast<const __m256i*>(from);
        return {_mm256_loadu_si256(lines), _mm256_loadu_si256(lines + 1)};
    }
};

inline U8x64 low_nibbles(U8x64 x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline U8x64 high_nibbles(U8x64 x) {
    return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}

inline U8x64 operator|(U8x64 x, U8x64 y) {
    return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
inline __m256i field(__m256i x, int from, int to, int mask) {
    const __m256i moved =
        from > to ? _mm256_srli_epi16(x, from - to) : _mm256_slli_epi16(x, to - from);
    return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask << to)));
}
inline U8x64 field(U8x64 x, int from, int to, int mask) {
    return {field(x.a, from, to, mask), field(x.b, from, to, mask)};
}

// Sixteen bytes for `lookup`.
inline U8x64 broadcast_table(const uint8_t* table) {
    const auto* bytes = reinterpret_cast<const __m128i*>(table);
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes));
    return {twice, twice};
}
// table[code] for codes below 16.
inline U8x64 lookup(U8x64 table, U8x64 codes) {
    return {_mm256_shuffle_epi8(table.a, codes.a), _mm256_shuffle_epi8(table.b, codes.b)};
}

inline __m256i broadcast_bytes(const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, sizeof four);
    return _mm256_set1_epi32(four);
}

#if defined(__AVXVNNI__)
inline I32x16 dot_codes(I32x16 acc, U8x64 w, const int8_t* a) {
    const __m256i four = broadcast_bytes(a);
    return {_mm256_dpbusd_avx_epi32(acc.a, w.a, four), _mm256_dpbusd_avx_epi32(acc.b, w.b, four)};
}
inline I32x16 bytes_start(const int32_t* offset) {
    return I32x16::broadcast(*offset);
}
inline I32x16 dot_bytes(I32x16 acc, U8x64 w, const int8_t* a) { return dot_codes(acc, w, a); }
#else
// 16-bit pair sums cannot saturate: 2 * 63 * 128 here, 2 * 128 * 127 in dot_bytes.
inline __m256i add_pairs(__m256i acc, __m256i unsigned_bytes, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I32x16 dot_codes(I32x16 acc, U8x64 w, const int8_t* a) {
    const __m256i four = broadcast_bytes(a);
    return {add_pairs(acc.a, w.a, four), add_pairs(acc.b, w.b, four)};
}
inline I32x16 bytes_start(const int32_t*) { return I32x16::broadcast(0); }
inline I32x16 dot_bytes(I32x16 acc, U8x64 w, const int8_t* a) {
    const __m256i four = broadcast_bytes(a);
    const __m256i flip = _mm256_set1_epi8(-128);
    const __m256i wa = _mm256_xor_si256(w.a, flip), wb = _mm256_xor_si256(w.b, flip);
    return {add_pairs(acc.a, _mm256_abs_epi8(wa), _mm256_sign_epi8(four, wa)),
            add_pairs(acc.b, _mm256_abs_epi8(wb), _mm256_sign_epi8(four, wb))};
}
#endif

// Byte `index` (0..3) of every lane.
inline F32x16 byte_of_lanes(U8x64 x, int index) {
    const __m128i shift = _mm_cvtsi32_si128(index * 8);
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(x.a, shift), mask)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(x.b, shift), mask))};
}
// values[that byte].
inline F32x16 gather(const float* values, U8x64 x, int index) {
    const __m128i shift = _mm_cvtsi32_si128(index * 8);
    const __m256i mask = _mm256_set1_epi32(255);
    const __m256i a = _mm256_and_si256(_mm256_srl_epi32(x.a, shift), mask);
    const __m256i b = _mm256_and_si256(_mm256_srl_epi32(x.b, shift), mask);
    return {_mm256_i32gather_ps(values, a, 4), _mm256_i32gather_ps(values, b, 4)};
}

}  // namespace headrace
