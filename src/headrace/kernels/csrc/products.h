// The two inner products everything is made of: float rows times a matrix of lanes, and int8 rows
// times a tile of packed weights. A row's result depends on its own values only: sums run over
// the depth in order, whatever the number of rows beside it.
#pragma once

#include <type_traits>

#include "codebook.h"
#include "planes.h"
#include "scales.h"

namespace headrace {

// Calls function with `n`, 1 <= n <= Max, as a compile-time constant.
template <int Max, typename Function>
inline void with_constant(int n, Function function) {
    if constexpr (Max > 1) {
        if (n < Max) return with_constant<Max - 1>(n, function);
    }
    function(std::integral_constant<int, Max>{});
}

// Element types of a matrix of lanes.
struct Float32 {
    using Element = float;
    static F32x16 load(const float* from) { return F32x16::load(from); }
};
struct Float16 {
    using Element = uint16_t;
    static F32x16 load(const uint16_t* from) { return load_f16(from); }
};
struct BFloat16 {
    using Element = uint16_t;
    static F32x16 load(const uint16_t* from) { return load_bf16(from); }
};
struct Int8 {
    using Element = int8_t;
    static F32x16 load(const int8_t* from) { return load_i8(from); }
};

// A matrix [depth][16 * vectors]: vector v of depth k at data + k * stride + v * vector_stride.
// What `next` points to is read after this, and in the same pattern: it is fetched meanwhile.
template <typename Type>
struct Lanes {
    const typename Type::Element* data;
    int64_t stride, vector_stride;
    const typename Type::Element* next;
};

// c[r][lanes] += a[r][k] * b[k][lanes], k in order.
template <int R, int V, typename Type>
inline void multiply_rows(const float* a, int64_t lda, Lanes<Type> b, int64_t depth, float* c,
                          int64_t ldc) {
    F32x16 acc[R][V];
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) {
        HEADRACE_UNROLL
        for (int v = 0; v < V; ++v) acc[r][v] = F32x16::load(c + r * ldc + v * kLanes);
    }
    // One pointer for three rows: with 0, 1 and 2 strides the address is free.
    const float* third[(R + 2) / 3];
    HEADRACE_UNROLL
    for (int i = 0; i < (R + 2) / 3; ++i) third[i] = a + 3 * i * lda;
    for (int64_t k = 0; k < depth; ++k) {
        F32x16 lanes[V];
        HEADRACE_UNROLL
        for (int v = 0; v < V; ++v) {
            lanes[v] = Type::load(b.data + v * b.vector_stride);
            __builtin_prefetch(b.next + v * b.vector_stride, 0, 2);
        }
        b.data += b.stride;
        b.next += b.stride;
        HEADRACE_UNROLL
        for (int r = 0; r < R; ++r) {
            const F32x16 value = F32x16::broadcast(third[r / 3][r % 3 * lda]);
            HEADRACE_UNROLL
            for (int v = 0; v < V; ++v) acc[r][v] = fma(value, lanes[v], acc[r][v]);
        }
        for (const float*& pointer : third) ++pointer;
    }
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) {
        HEADRACE_UNROLL
        for (int v = 0; v < V; ++v) acc[r][v].store(c + r * ldc + v * kLanes);
    }
}

// The same for any number of rows and one or two vectors.
template <typename Type>
inline void multiply(const float* a, int64_t lda, int64_t rows, Lanes<Type> b, int vectors,
                     int64_t depth, float* c, int64_t ldc) {
    for (int64_t row = 0; row < rows; row += kFmaRows) {
        const int count = static_cast<int>(rows - row < kFmaRows ? rows - row : kFmaRows);
        const float* from = a + row * lda;
        float* to = c + row * ldc;
        with_constant<kFmaRows>(count, [&](auto r) {
            if (vectors == 2) {
                multiply_rows<r.value, 2>(from, lda, b, depth, to, ldc);
            } else {
                multiply_rows<r.value, 1>(from, lda, b, depth, to, ldc);
            }
        });
    }
}

constexpr int64_t kPrefetchBytes = 8192;

// c[r][16] += rows r of `cells`, from row `first` of its block, times one integer tile. Per group
// of 32 the sum is exact; group sums are scaled and added in order.
template <int R, Kind kKind, Scaling kScaling>
inline void multiply_tile(const Weight& weight, int64_t tile, const Cell* cells, int first,
                          float* c, int64_t ldc) {
    constexpr int kBits = code_bits(kKind);  // and lines per 32 inputs
    constexpr bool kMinimum = has_minimum(kScaling);
    const uint8_t* quants = weight.tile(tile);
    const uint8_t* scales = weight.scales(tile);
    const uint8_t* ahead = quants + kPrefetchBytes;
    const int64_t cells_per_scale = weight.group / kGroup;
    U8x64 table;
    if constexpr (is_codebook4(kKind)) table = byte_table<kKind>();
    const F32x16 unit = F32x16::broadcast(1 / kUnits<kKind>);
    F32x16 acc[R];
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = F32x16::load(c + r * ldc);
    for (int64_t group = weight.in / weight.group; group > 0; --group) {
        for (int64_t i = 0; i < cells_per_scale; ++i, ++cells) {
            auto [scale, minimum] = load_scales<kKind, kScaling>(scales, i);
            if constexpr (is_codebook4(kKind)) scale = scale * unit;
            const int8_t* q = cells->q[first];
            I32x16 sum[R];
            HEADRACE_UNROLL
            for (int r = 0; r < R; ++r) {
                if constexpr (kKind == Kind::kInt8 || is_codebook4(kKind)) {
                    sum[r] = bytes_start(cells->start8 + first + r);
                } else if constexpr (kMinimum) {
                    sum[r] = I32x16::broadcast(0);
                } else {
                    sum[r] = I32x16::broadcast(cells->start8[first + r] >> (8 - kBits));
                }
            }
            if constexpr (kKind == Kind::kInt8) {
                for (int line = 0; line < kBits; ++line) {
                    __builtin_prefetch(ahead + 64 * line, 0, 2);
                    const U8x64 w = U8x64::load(quants + 64 * line);
                    HEADRACE_UNROLL
                    for (int r = 0; r < R; ++r) sum[r] = dot_bytes(sum[r], w, q + 4 * line + kGroup * r);
                }
            } else {
                HEADRACE_UNROLL
                for (int line = 0; line < kGroup / 8; ++line) {
                    __builtin_prefetch(ahead + 64 * line * kBits / 4, 0, 2);
                    auto [low, high] = load_codes<kBits>(quants, line);
                    if constexpr (is_codebook4(kKind)) low = lookup(table, low), high = lookup(table, high);
                    constexpr auto* dot = is_codebook4(kKind) ? dot_bytes : dot_codes;
                    HEADRACE_UNROLL
                    for (int r = 0; r < R; ++r) {
                        sum[r] = dot(sum[r], low, q + 4 * line + kGroup * r);
                        sum[r] = dot(sum[r], high, q + 4 * (line + 4) + kGroup * r);
                    }
                }
            }
            quants += 64 * kBits, ahead += 64 * kBits;
            if (kMinimum || i == 0) __builtin_prefetch(ahead, 0, 2), ahead += 64;
            HEADRACE_UNROLL
            for (int r = 0; r < R; ++r) {
                const F32x16 x_scale = F32x16::broadcast(cells->scale[first + r]);
                acc[r] = fma(to_float(sum[r]), scale * x_scale, acc[r]);
                if constexpr (kMinimum) {
                    const F32x16 x_sum = F32x16::broadcast(cells->scaled_sum[first + r]);
                    acc[r] = fma(minimum, x_sum, acc[r]);
                }
            }
        }
        scales += scale_bytes(kScaling, cells_per_scale);
    }
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) acc[r].store(c + r * ldc);
}

// The same where each 16 inputs have a scale of their own.
template <int R, Kind kKind, Scaling kScaling>
inline void multiply_halved_tile(const Weight& weight, int64_t tile, const Cell* cells, int first,
                                 float* c, int64_t ldc) {
    constexpr int kBits = code_bits(kKind);
    constexpr bool kMinimum = kScaling == Scaling::kNibbleSuperBlock;
    const uint8_t* quants = weight.tile(tile);
    F32x16 acc[R];
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) acc[r] = F32x16::load(c + r * ldc);
    for (int64_t k = 0; k < weight.in; k += kGroup, ++cells, quants += 64 * kBits) {
        const uint8_t* scales = weight.scales(tile, k / weight.group);
        for (int line = 0; line < kBits; ++line) {
            __builtin_prefetch(quants + kPrefetchBytes + 64 * line, 0, 2);
        }
        HEADRACE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const auto [scale, minimum] =
                load_scales<kKind, kScaling>(scales, k % weight.group / kGroup, half);
            const int8_t* q = cells->q[first] + half * kLanes;
            I32x16 sum[R];
            int32_t x_sum[R];
            HEADRACE_UNROLL
            for (int r = 0; r < R; ++r) {
                const int32_t low = cells->low_sum[first + r];
                x_sum[r] = half ? -cells->start8[first + r] / 128 - low : low;
                sum[r] = I32x16::broadcast(kMinimum ? 0 : -x_sum[r] * (1 << (kBits - 1)));
            }
            HEADRACE_UNROLL
            for (int line = 0; line < kGroup / 8; ++line) {
                const auto [low, high] = load_codes<kBits>(quants, line);
                const U8x64 w = half ? high : low;
                HEADRACE_UNROLL
                for (int r = 0; r < R; ++r) sum[r] = dot_codes(sum[r], w, q + 4 * line + kGroup * r);
            }
            HEADRACE_UNROLL
            for (int r = 0; r < R; ++r) {
                const float x_scale = cells->scale[first + r];
                acc[r] = fma(to_float(sum[r]), scale * F32x16::broadcast(x_scale), acc[r]);
                if constexpr (kMinimum) {
                    const float scaled_sum = x_scale * static_cast<float>(x_sum[r]);
                    acc[r] = fma(minimum, F32x16::broadcast(scaled_sum), acc[r]);
                }
            }
        }
    }
    HEADRACE_UNROLL
    for (int r = 0; r < R; ++r) acc[r].store(c + r * ldc);
}

}  // namespace headrace
