// Elementary functions on sixteen lanes, accurate to a few units in the last place.
#pragma once

#include <initializer_list>

#include "simd.h"

namespace headrace {

// Cody-Waite reduction to |r| <= ln(2)/2, then the Taylor polynomial; below -87 it stays at e^-87.
__attribute__((always_inline)) inline F32x16 exp(F32x16 x) {
    const auto constant = F32x16::broadcast;
    x = max(min(x, constant(88.0f)), constant(-87.0f));
    const F32x16 n = round_even(x * constant(1.44269504f));
    F32x16 r = fma(n, constant(-0.693359375f), x);
    r = fma(n, constant(2.12194440e-4f), r);
    F32x16 sum = constant(1.0f / 5040);
    for (float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
        sum = fma(sum, r, constant(term));
    }
    return scale_by_power(sum, n);
}

// 2^x for x up to 127, by the polynomial of least relative error (1e-7) on 0..1; below -126 it stays
// at 2^-126.
__attribute__((always_inline)) inline F32x16 exp2(F32x16 x) {
    const auto constant = F32x16::broadcast;
    x = max(x, constant(-126.0f));
    const F32x16 r = fraction(x);
    F32x16 sum = constant(1.8775767e-3f);
    for (float term : {8.9893397e-3f, 5.5826318e-2f, 2.4015361e-1f, 6.9315308e-1f, 9.9999994e-1f}) {
        sum = fma(sum, r, constant(term));
    }
    return scale_by_power(sum, x);
}

inline float exp(float x) {
    float lanes[kLanes];
    exp(F32x16::broadcast(x)).store(lanes);
    return lanes[0];
}

inline F32x16 sigmoid(F32x16 x) {
    return reciprocal(F32x16::broadcast(1.0f) + exp(F32x16::zero() - x));
}

inline F32x16 tanh(F32x16 x) {
    return F32x16::broadcast(2.0f) * sigmoid(x + x) - F32x16::broadcast(1.0f);
}

// Abramowitz and Stegun 7.1.26 on |x|; absolute error below 1.5e-7.
inline F32x16 erfc_abs(F32x16 x) {
    const auto constant = F32x16::broadcast;
    const F32x16 t = constant(1.0f) / fma(constant(0.3275911f), abs(x), constant(1.0f));
    F32x16 sum = constant(1.061405429f);
    for (float term : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) {
        sum = fma(sum, t, constant(term));
    }
    return sum * t * exp(F32x16::zero() - x * x);
}

enum class Gate { kSilu, kGelu, kGeluTanh, kRelu, kClampedSwiglu };

inline F32x16 gelu(F32x16 x) {
    // x * (1 + erf(x / sqrt 2)) / 2, with erf from its complement on the positive side.
    const F32x16 tail = F32x16::broadcast(0.5f) * erfc_abs(x * F32x16::broadcast(0.70710678f));
    return max(x, F32x16::zero()) - abs(x) * tail;
}

inline F32x16 gelu_tanh(F32x16 x) {
    const F32x16 cubic = fma(x * x * x, F32x16::broadcast(0.044715f), x);
    return x * sigmoid(F32x16::broadcast(2.0f * 0.79788456f) * cubic);
}

inline F32x16 activate(Gate kind, F32x16 x) {
    switch (kind) {
        case Gate::kSilu: return x * sigmoid(x);
        case Gate::kGelu: return gelu(x);
        case Gate::kRelu: return max(x, F32x16::zero());
        default: return gelu_tanh(x);
    }
}

// activate(gate) * up; GPT-OSS has a function of both instead.
inline F32x16 gated(Gate kind, F32x16 gate, F32x16 up) {
    if (kind != Gate::kClampedSwiglu) return activate(kind, gate) * up;
    const auto constant = F32x16::broadcast;
    gate = min(gate, constant(7.0f));
    up = min(max(up, constant(-7.0f)), constant(7.0f));
    return gate * sigmoid(constant(1.702f) * gate) * (up + constant(1.0f));
}

}  // namespace headrace
