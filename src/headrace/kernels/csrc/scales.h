// The scales of packed weights as products read them, however they are stored.
#pragma once

#include <type_traits>

#include "layout.h"

namespace headrace {

// Of 16 outputs: w = q * scale + minimum. q is the code, the byte less 128, or codebook[code].
struct Affine {
    F32x16 scale, minimum;
};

constexpr float middle(Kind kind) { return static_cast<float>(1 << (code_bits(kind) - 1)); }

// For inputs 32 * part + 16 * half.. of the group whose scales begin at `from`. All are exact:
// products of two numbers with 19 significant bits together.
template <Kind kKind, Scaling kScaling>
inline Affine load_scales(const uint8_t* from, int64_t part, int half = 0) {
    constexpr bool kHasOffset = kKind < Kind::kInt8;
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
    const uint8_t* factors = from + head_bytes(kScaling) + 2 * part * kLanes;
    const F32x16 scale = load_f16(halves), from_middle = F32x16::broadcast(-middle(kKind));
    if constexpr (kScaling == Scaling::kSymmetric) {
        return {scale, kHasOffset ? scale * from_middle : F32x16::zero()};
    } else if constexpr (kScaling == Scaling::kPowerOfTwo) {
        return {load_e8m0(from), F32x16::zero()};
    } else if constexpr (kScaling == Scaling::kMinimum) {
        return {scale, load_f16(halves + kLanes)};
    } else if constexpr (kScaling == Scaling::kZeroPoint) {
        const F32x16 steps = load_u8(from + 2 * kLanes);
        const F32x16 zero = kHasOffset ? steps * F32x16::broadcast(-1.0f / kZeroPointSteps)
                                       : F32x16::broadcast(128) - steps;
        return {scale, zero * scale};
    } else if constexpr (kScaling == Scaling::kNibbleZeroPoint) {
        return {scale, F32x16::zero() - load_u4(from + 2 * kLanes) * scale};
    } else if constexpr (kScaling == Scaling::kSuperBlock) {
        return {scale * load_u8(factors), load_f16(halves + kLanes) * load_u8(factors + kLanes)};
    } else if constexpr (kScaling == Scaling::kSignedSuperBlock) {
        const auto* signed_factors = reinterpret_cast<const int8_t*>(factors + half * kLanes);
        const F32x16 scaled = scale * load_i8(signed_factors);
        return {scaled, scaled * from_middle};
    } else {
        const F32x16 both = load_u8(factors + half * kLanes);
        // Of n + 0 to n + 15 sixteenths n.
        const F32x16 down = F32x16::broadcast(-15.0f / 32);
        const F32x16 high = round_even(fma(both, F32x16::broadcast(1.0f / 16), down));
        return {scale * fma(high, F32x16::broadcast(-16), both), load_f16(halves + kLanes) * high};
    }
}

// The kind and scaling of a weight in groups as constants.
template <Kind kKind, Scaling kScaling>
struct Layout {
    static constexpr Kind kind = kKind;
    static constexpr Scaling scaling = kScaling;
};

template <Kind kKind, Scaling kFirst, Scaling... kOthers, typename Function>
inline auto with_scaling(Scaling scaling, Function function) {
    if constexpr (sizeof...(kOthers) > 0) {
        if (scaling != kFirst) return with_scaling<kKind, kOthers...>(scaling, function);
    }
    return function(Layout<kKind, kFirst>{});
}

// Calls function with the `Layout` of a weight, one of those that there are.
template <typename Function>
inline auto with_layout(const Weight& weight, Function function) {
    using S = Scaling;
    constexpr S kSymmetric = S::kSymmetric, kMinimum = S::kMinimum, kZeroPoint = S::kZeroPoint,
                kNibbleZeroPoint = S::kNibbleZeroPoint;
    const S scaling = weight.scaling;
    switch (weight.kind) {
        case Kind::kInt2:
            return with_scaling<Kind::kInt2, kSymmetric, kMinimum, kNibbleZeroPoint,
                                S::kNibbleSuperBlock>(scaling, function);
        case Kind::kInt3:
            return with_scaling<Kind::kInt3, kSymmetric, kMinimum, kNibbleZeroPoint,
                                S::kSignedSuperBlock>(scaling, function);
        case Kind::kInt4:
            return with_scaling<Kind::kInt4, kSymmetric, kMinimum, kZeroPoint, S::kSuperBlock>(
                scaling, function);
        case Kind::kInt5:
            return with_scaling<Kind::kInt5, kSymmetric, kMinimum, S::kSuperBlock>(
                scaling, function);
        case Kind::kInt6: return function(Layout<Kind::kInt6, S::kSignedSuperBlock>{});
        case Kind::kInt8:
            return with_scaling<Kind::kInt8, kSymmetric, kMinimum, kZeroPoint>(scaling, function);
        case Kind::kNF4: return function(Layout<Kind::kNF4, kSymmetric>{});
        case Kind::kFP4: return function(Layout<Kind::kFP4, kSymmetric>{});
        case Kind::kMXFP4: return function(Layout<Kind::kMXFP4, S::kPowerOfTwo>{});
        default: return function(Layout<Kind::kFloat8, kSymmetric>{});
    }
}

}  // namespace headrace
