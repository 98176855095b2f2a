// The scales of packed weights as products read them, however they are stored.
#pragma once

#include <type_traits>

#include "layout.h"

namespace headrace {

// Of 16 outputs: w = q * scale + minimum. q is the nibble, the byte less 128, or codebook[code].
struct Affine {
    F32x16 scale, minimum;
};

// For inputs 32 * part.. of the group whose scales begin at `from`. Both are exact: products of two
// numbers with 19 significant bits together.
template <Kind kKind, Scaling kScaling>
inline Affine load_scales(const uint8_t* from, int64_t part) {
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
    const F32x16 scale = load_f16(halves);
    if constexpr (kScaling == Scaling::kSymmetric) {
        return {scale, kKind == Kind::kInt4 ? scale * F32x16::broadcast(-8) : F32x16::zero()};
    } else if constexpr (kScaling == Scaling::kMinimum) {
        return {scale, load_f16(halves + kLanes)};
    } else if constexpr (kScaling == Scaling::kZeroPoint) {
        const F32x16 steps = load_u8(from + 2 * kLanes);
        const F32x16 zero = kKind == Kind::kInt4
                                ? steps * F32x16::broadcast(-1.0f / kZeroPointSteps)
                                : F32x16::broadcast(128) - steps;
        return {scale, zero * scale};
    } else {
        const uint8_t* factors = from + (4 + 2 * part) * kLanes;
        return {scale * load_u8(factors), load_f16(halves + kLanes) * load_u8(factors + kLanes)};
    }
}

// Calls function with `scaling` as a compile-time constant.
template <typename Function>
inline auto with_scaling(Scaling scaling, Function function) {
    switch (scaling) {
        case Scaling::kSymmetric:
            return function(std::integral_constant<Scaling, Scaling::kSymmetric>{});
        case Scaling::kMinimum:
            return function(std::integral_constant<Scaling, Scaling::kMinimum>{});
        case Scaling::kZeroPoint:
            return function(std::integral_constant<Scaling, Scaling::kZeroPoint>{});
        default: return function(std::integral_constant<Scaling, Scaling::kSuperBlock>{});
    }
}

// The same for inputs first..first + 32 of any tile in groups.
inline Affine load_scales(const Weight& weight, int64_t tile, int64_t first) {
    const uint8_t* from = weight.scales(tile, first / weight.group);
    const int64_t part = first % weight.group / kGroup;
    return with_scaling(weight.scaling, [&](auto scaling) {
        return weight.kind == Kind::kInt4 ? load_scales<Kind::kInt4, scaling.value>(from, part)
                                          : load_scales<Kind::kInt8, scaling.value>(from, part);
    });
}

}  // namespace headrace
