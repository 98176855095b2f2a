// Armv8.2 with dot products: four 128-bit registers per vector. Compiles; not yet run.
#pragma once

#include <arm_neon.h>

namespace headrace {

constexpr const char* kIsa = "neon_dotprod";
constexpr int kRowTile = 2;
constexpr int kFmaRows = 3;

struct F32x16 {
    float32x4_t v[4];
    static F32x16 broadcast(float value) {
        const float32x4_t one = vdupq_n_f32(value);
        return {{one, one, one, one}};
    }
    static F32x16 zero() { return broadcast(0.0f); }
    static F32x16 load(const float* from) {
        return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
    }
    void store(float* to) const {
        for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, v[i]);
    }
};

template <typename Function>
inline F32x16 per_register(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
}

inline F32x16 operator+(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline F32x16 reciprocal(F32x16 a) { return F32x16::broadcast(1.0f) / a; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return per_register([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F32x16 max(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); });
}
inline F32x16 min(F32x16 a, F32x16 b) {
    return per_register([&](int i) { return vminq_f32(a.v[i], b.v[i]); });
}
inline F32x16 abs(F32x16 a) {
    return per_register([&](int i) { return vabsq_f32(a.v[i]); });
}
inline F32x16 round_even(F32x16 a) {
    return per_register([&](int i) { return vrndnq_f32(a.v[i]); });
}
// a less the whole number below it, 0..1.
inline F32x16 fraction(F32x16 a) {
    return per_register([&](int i) { return vsubq_f32(a.v[i], vrndmq_f32(a.v[i])); });
}
// a * 2^floor(n) for n in -126..127.
inline F32x16 scale_by_power(F32x16 a, F32x16 n) {
    return per_register([&](int i) {
        const int32x4_t biased = vaddq_s32(vcvtmq_s32_f32(n.v[i]), vdupq_n_s32(127));
        return vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
    });
}
inline float reduce_add(F32x16 a) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3])));
}
inline float reduce_max(F32x16 a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
// Lanes first <= lane < last of a, the others of b.
inline F32x16 select(F32x16 a, F32x16 b, int first, int last) {
    static const int32_t kLane[4] = {0, 1, 2, 3};
    return per_register([&](int i) {
        const int32x4_t lane = vaddq_s32(vld1q_s32(kLane), vdupq_n_s32(4 * i));
        const uint32x4_t inside = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(first)),
                                            vcltq_s32(lane, vdupq_n_s32(last)));
        return vbslq_f32(inside, a.v[i], b.v[i]);
    });
}

inline F32x16 load_f16(const uint16_t* from) {
    return per_register([&](int i) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i)));
    });
}
inline F32x16 load_bf16(const uint16_t* from) {
    return per_register([&](int i) {
        return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16));
    });
}
inline F32x16 load_i8(const int8_t* from) {
    const int8x16_t bytes = vld1q_s8(from);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
             vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline F32x16 load_u8(const uint8_t* from) {
    const uint8x16_t bytes = vld1q_u8(from);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
             vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
             vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
             vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}
inline F32x16 load_e8m0(const uint8_t* from) {
    return per_register([&](int i) {
        const uint32x4_t e = {from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]};
        return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(e, 23), vdupq_n_u32(1 << 22)));
    });
}
inline F32x16 load_u4(const uint8_t* from) {
    const uint8x8_t bytes = vld1_u8(from);
    uint8_t codes[16];
    vst1_u8(codes, vand_u8(bytes, vdup_n_u8(15)));
    vst1_u8(codes + 8, vshr_n_u8(bytes, 4));
    return load_u8(codes);
}
inline void store_f16(F32x16 a, uint16_t* to) {
    for (int i = 0; i < 4; ++i) {
        vst1_u16(to + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
    }
}
// Whole values in -128..127.
inline void store_i8(F32x16 a, int8_t* to) {
    const auto words = [&](int i) { return vqmovn_s32(vcvtnq_s32_f32(a.v[i])); };
    vst1_s8(to, vqmovn_s16(vcombine_s16(words(0), words(1))));
    vst1_s8(to + 8, vqmovn_s16(vcombine_s16(words(2), words(3))));
}

// Bit 4 i + j: whether lane j of comparison(i) holds.
template <typename Comparison>
inline unsigned lane_bits(Comparison comparison) {
    static const uint32_t kBit[4] = {1, 2, 4, 8};
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) {
        bits |= vaddvq_u32(vandq_u32(comparison(i), vld1q_u32(kBit))) << 4 * i;
    }
    return bits;
}
inline unsigned at_least(F32x16 a, F32x16 b) {
    return lane_bits([&](int i) { return vcgeq_f32(a.v[i], b.v[i]); });
}
// Lanes of x where a >= b, else 0.
inline F32x16 where_at_least(F32x16 x, F32x16 a, F32x16 b) {
    return per_register([&](int i) {
        const uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]);
        return vreinterpretq_f32_u32(vandq_u32(bits, vcgeq_f32(a.v[i], b.v[i])));
    });
}
inline unsigned nan_lanes(F32x16 a) {
    return lane_bits([&](int i) { return vmvnq_u32(vceqq_f32(a.v[i], a.v[i])); });
}

struct I32x16 {
    int32x4_t v[4];
    static I32x16 broadcast(int32_t value) {
        const int32x4_t one = vdupq_n_s32(value);
        return {{one, one, one, one}};
    }
    static I32x16 load(const int32_t* from) {
        return {{vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)}};
    }
    void store(int32_t* to) const {
        for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, v[i]);
    }
};

inline F32x16 to_float(I32x16 a) {
    return per_register([&](int i) { return vcvtq_f32_s32(a.v[i]); });
}
template <typename Function>
inline I32x16 per_int_register(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
}
inline I32x16 bits(F32x16 a) {
    return per_int_register([&](int i) { return vreinterpretq_s32_f32(a.v[i]); });
}
inline I32x16 operator+(I32x16 a, I32x16 b) {
    return per_int_register([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline I32x16 operator*(I32x16 a, I32x16 b) {
    return per_int_register([&](int i) { return vmulq_s32(a.v[i], b.v[i]); });
}
inline I32x16 operator^(I32x16 a, I32x16 b) {
    return per_int_register([&](int i) { return veorq_s32(a.v[i], b.v[i]); });
}
inline I32x16 operator&(I32x16 a, I32x16 b) {
    return per_int_register([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
template <int kBits>
inline I32x16 shift_right(I32x16 a) {
    return per_int_register([&](int i) {
        return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v[i]), kBits));
    });
}
template <int kBits>
inline I32x16 shift_right_signed(I32x16 a) {
    return per_int_register([&](int i) { return vshrq_n_s32(a.v[i], kBits); });
}

struct U8x64 {
    uint8x16_t v[4];
    static U8x64 load(const uint8_t* from) {
        return {{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32), vld1q_u8(from + 48)}};
    }
};

inline U8x64 low_nibbles(U8x64 a) {
    for (uint8x16_t& part : a.v) part = vandq_u8(part, vdupq_n_u8(15));
    return a;
}
inline U8x64 high_nibbles(U8x64 a) {
    for (uint8x16_t& part : a.v) part = vshrq_n_u8(part, 4);
    return a;
}
inline U8x64 operator|(U8x64 a, U8x64 b) {
    for (int i = 0; i < 4; ++i) a.v[i] = vorrq_u8(a.v[i], b.v[i]);
    return a;
}
inline U8x64 field(U8x64 a, int from, int to, int mask) {
    const int8x16_t by = vdupq_n_s8(static_cast<int8_t>(to - from));
    for (uint8x16_t& part : a.v) {
        part = vandq_u8(vshlq_u8(part, by), vdupq_n_u8(static_cast<uint8_t>(mask << to)));
    }
    return a;
}

// Sixteen bytes for `lookup`.
inline U8x64 broadcast_table(const uint8_t* table) {
    const uint8x16_t bytes = vld1q_u8(table);
    return {{bytes, bytes, bytes, bytes}};
}
// table[code] for codes below 16.
inline U8x64 lookup(U8x64 table, U8x64 codes) {
    for (uint8x16_t& part : codes.v) part = vqtbl1q_u8(table.v[0], part);
    return codes;
}

inline int8x16_t broadcast_bytes(const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
inline I32x16 dot_codes(I32x16 acc, U8x64 w, const int8_t* a) {
    const int8x16_t four = broadcast_bytes(a);
    for (int i = 0; i < 4; ++i) acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), four);
    return acc;
}
inline I32x16 bytes_start(const int32_t*) { return I32x16::broadcast(0); }
inline I32x16 dot_bytes(I32x16 acc, U8x64 w, const int8_t* a) {
    for (uint8x16_t& part : w.v) part = veorq_u8(part, vdupq_n_u8(128));
    return dot_codes(acc, w, a);
}

// Byte `index` (0..3) of every lane.
inline F32x16 byte_of_lanes(U8x64 a, int index) {
    return per_register([&](int i) {
        const uint32x4_t shifted =
            vshlq_u32(vreinterpretq_u32_u8(a.v[i]), vdupq_n_s32(-8 * index));
        return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(255)));
    });
}

// values[that byte].
inline F32x16 gather(const float* values, U8x64 a, int index) {
    uint8_t bytes[64];
    float lanes[16];
    for (int i = 0; i < 4; ++i) vst1q_u8(bytes + 16 * i, a.v[i]);
    for (int lane = 0; lane < 16; ++lane) lanes[lane] = values[bytes[4 * lane + index]];
    return F32x16::load(lanes);
}

}  // namespace headrace
