#include "pack.h"

#include <cmath>

namespace headrace {
namespace {

// 32 weights: w = q * scale * scale_factor + minimum * minimum_factor, q in -128..127. Formats
// without a minimum are signed.
struct Group {
    int8_t q[kGroup];
    float scale, minimum;
    uint8_t scale_factor = 1, minimum_factor = 1;
};

float half_at(const uint8_t* from) {
    uint16_t half;
    std::memcpy(&half, from, sizeof half);
    return half_to_float(half);
}

uint16_t to_half(float value) {
    uint16_t halves[kLanes];
    store_f16(F32x16::broadcast(value), halves);
    return halves[0];
}

// Formats whose scales cover 16 weights are rounded once more, to 8 bits with one scale for 32.
void requantize(const float* values, Group& group) {
    float largest = 0;
    for (int k = 0; k < kGroup; ++k) largest = std::max(largest, std::fabs(values[k]));
    group.scale = half_to_float(to_half(largest / 127));
    group.minimum = 0;
    for (int k = 0; k < kGroup; ++k) {
        const float q = group.scale > 0 ? std::nearbyint(values[k] / group.scale) : 0.0f;
        group.q[k] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, q)));
    }
}

// Low nibbles are weights 0..15, high nibbles 16..31; fifth bits, if any, in order.
void nibbles(const uint8_t* from, uint32_t fifth_bits, int offset, Group& group) {
    for (int k = 0; k < kGroup; ++k) {
        const int low = k < 16 ? from[k] & 15 : from[k - 16] >> 4;
        group.q[k] = static_cast<int8_t>(low + (fifth_bits >> k & 1) * 16 - offset);
    }
}

uint32_t bits_at(const uint8_t* from) {
    uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}

// The 6-bit scale and minimum of group `index` in a Q4_K or Q5_K super-block.
void scale_and_minimum(const uint8_t* block, int index, Group& group) {
    const uint8_t* packed = block + 4;
    int scale, minimum;
    if (index < 4) {
        scale = packed[index] & 63;
        minimum = packed[index + 4] & 63;
    } else {
        scale = (packed[index + 4] & 15) | (packed[index - 4] >> 6 << 4);
        minimum = (packed[index + 4] >> 4) | (packed[index] >> 6 << 4);
    }
    group.scale = half_at(block);
    group.minimum = -half_at(block + 2);
    group.scale_factor = static_cast<uint8_t>(scale);
    group.minimum_factor = static_cast<uint8_t>(minimum);
}

void q2_k(const uint8_t* block, int index, Group& group) {
    const float scale = half_at(block + 80), minimum = half_at(block + 82);
    float values[kGroup];
    for (int k = 0; k < kGroup; ++k) {
        const uint8_t packed = block[2 * index + k / 16];
        const int q = block[16 + index / 4 * 32 + k] >> (index % 4 * 2) & 3;
        values[k] = scale * static_cast<float>((packed & 15) * q) -
                    minimum * static_cast<float>(packed >> 4);
    }
    requantize(values, group);
}

void q3_k(const uint8_t* block, int index, Group& group) {
    const uint8_t *high = block, *low = block + 32, *packed = block + 96;
    const float scale = half_at(block + 108);
    float values[kGroup];
    for (int k = 0; k < kGroup; ++k) {
        const int part = 2 * index + k / 16;
        const int four = part < 8 ? packed[part] & 15 : packed[part - 8] >> 4;
        const int six = four | (packed[8 + part % 4] >> (part / 4 * 2) & 3) << 4;
        const int q = (low[index / 4 * 32 + k] >> (index % 4 * 2) & 3) + (high[k] >> index & 1) * 4;
        values[k] = scale * static_cast<float>((six - 32) * (q - 4));
    }
    requantize(values, group);
}

void q6_k(const uint8_t* block, int index, Group& group) {
    const int half = index / 4, part = index % 4;
    const uint8_t* low = block + half * 64 + part % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    const auto* scales = reinterpret_cast<const int8_t*>(block + 192) + half * 8 + part * 2;
    const float scale = half_at(block + 208);
    float values[kGroup];
    for (int k = 0; k < kGroup; ++k) {
        const int four = part < 2 ? low[k] & 15 : low[k] >> 4;
        const int q = (four | (high[k] >> (2 * part) & 3) << 4) - 32;
        values[k] = scale * static_cast<float>(scales[k / 16] * q);
    }
    requantize(values, group);
}

void q4_k(const uint8_t* block, int index, Group& group) {
    scale_and_minimum(block, index, group);
    const uint8_t* low = block + 16 + index / 2 * 32;
    for (int k = 0; k < kGroup; ++k) {
        group.q[k] = static_cast<int8_t>(low[k] >> (index % 2 * 4) & 15);
    }
}

void q5_k(const uint8_t* block, int index, Group& group) {
    scale_and_minimum(block, index, group);
    const uint8_t *fifth = block + 16, *low = block + 48 + index / 2 * 32;
    for (int k = 0; k < kGroup; ++k) {
        const int bit = fifth[k] >> index & 1;
        group.q[k] = static_cast<int8_t>((low[k] >> (index % 2 * 4) & 15) + bit * 16);
    }
}

// Group `index` of a row of blocks (llama.cpp's ggml-common.h describes the formats).
void decode(Source source, const uint8_t* row, int64_t index, Group& group) {
    const auto block = [&](int64_t bytes) { return row + index * bytes; };
    const auto super = [&](int64_t bytes) { return row + index / 8 * bytes; };
    const int part = static_cast<int>(index % 8);
    const auto legacy = [&](const uint8_t* from, bool has_minimum) {
        group.scale = half_at(from);
        group.minimum = has_minimum ? half_at(from + 2) : 0.0f;
    };
    switch (source) {
        case Source::kQ4_0:
            legacy(block(18), false);
            return nibbles(block(18) + 2, 0, 8, group);
        case Source::kQ4_1:
            legacy(block(20), true);
            return nibbles(block(20) + 4, 0, 0, group);
        case Source::kQ5_0:
            legacy(block(22), false);
            return nibbles(block(22) + 6, bits_at(block(22) + 2), 16, group);
        case Source::kQ5_1:
            legacy(block(24), true);
            return nibbles(block(24) + 8, bits_at(block(24) + 4), 0, group);
        case Source::kQ8_0:
            legacy(block(34), false);
            std::memcpy(group.q, block(34) + 2, kGroup);
            return;
        case Source::kQ2_K: return q2_k(super(84), part, group);
        case Source::kQ3_K: return q3_k(super(110), part, group);
        case Source::kQ4_K: return q4_k(super(144), part, group);
        case Source::kQ5_K: return q5_k(super(176), part, group);
        case Source::kQ6_K: return q6_k(super(210), part, group);
    }
}

// Quants of 32 inputs from `first` of one row.
void put_quants(const Weight& weight, int64_t row, int64_t first, const uint8_t* q) {
    const int64_t lane = row % kLanes;
    uint8_t* lines = weight.tile(row / kLanes) + lane * 4;
    if (!is_nibbles(weight.kind)) {
        lines += first * 16;
        for (int line = 0; line < 8; ++line) std::memcpy(lines + 64 * line, q + 4 * line, 4);
        return;
    }
    lines += first * 8;
    for (int k = 0; k < 16; ++k) {
        lines[k / 4 * 64 + k % 4] = static_cast<uint8_t>(q[k] | q[k + 16] << 4);
    }
}

void put_half(const Weight& weight, int64_t row, int64_t group, int place, float value) {
    const uint16_t half = to_half(value);
    uint8_t* scales = weight.scales(row / kLanes, group);
    std::memcpy(scales + 2 * (place * kLanes + row % kLanes), &half, sizeof half);
}

void put_scales(const Weight& weight, int64_t row, int64_t index, const Group& group) {
    if (weight.scaling != Scaling::kSuperBlock) {
        put_half(weight, row, index, 0, group.scale * group.scale_factor);
        if (weight.scaling == Scaling::kMinimum) {
            put_half(weight, row, index, 1, group.minimum * group.minimum_factor);
        }
        return;
    }
    const int64_t parts = weight.group / kGroup;
    put_half(weight, row, index / parts, 0, group.scale);
    put_half(weight, row, index / parts, 1, group.minimum);
    uint8_t* factors = weight.scales(row / kLanes, index / parts) +
                       (4 + 2 * (index % parts)) * kLanes + row % kLanes;
    factors[0] = group.scale_factor;
    factors[kLanes] = group.minimum_factor;
}

// A nibble with a minimum is unsigned: signed formats move their zero point into the minimum.
void put(const Weight& weight, int64_t row, int64_t index, Group& group, bool is_signed) {
    const bool nibble = weight.kind == Kind::kInt4;
    const int offset = nibble ? (is_signed ? 8 : 0) : 128;
    uint8_t q[kGroup];
    for (int k = 0; k < kGroup; ++k) q[k] = static_cast<uint8_t>(group.q[k] + offset);
    put_quants(weight, row, index * kGroup, q);
    if (nibble && is_signed) group.minimum = -8 * group.scale;
    put_scales(weight, row, index, group);
}

}  // namespace

void PackBlocksOp::run(Team& team) const {
    const bool is_signed = source_ == Source::kQ4_0;
    team.share(rows_.count(), [&](int64_t row) {
        for (int64_t index = 0; index < weight_.in / kGroup; ++index) {
            Group group;
            decode(source_, blocks_ + row * row_bytes_, first_group_ + index, group);
            put(weight_, first_row_ + row, index, group, is_signed);
        }
    });
}

void PackGroupsOp::run(Team& team) const {
    const int64_t groups = weight_.in / weight_.group;
    const float middle = weight_.kind == Kind::kInt8 ? 128.0f : 0.0f;
    const auto* minima = static_cast<const float*>(offsets_);
    const auto* zero_points = static_cast<const uint8_t*>(offsets_);
    team.share(rows_.count(), [&](int64_t row) {
        for (int64_t k = 0; k < weight_.in; k += kGroup) {
            put_quants(weight_, first_row_ + row, k, quants_ + row * weight_.in + k);
        }
        for (int64_t group = 0; group < groups; ++group) {
            const int64_t at = row * groups + group, to = first_row_ + row;
            put_half(weight_, to, group, 0, scales_[at]);
            if (weight_.scaling == Scaling::kMinimum) {
                put_half(weight_, to, group, 1, minima[at] + middle * scales_[at]);
            } else if (weight_.scaling == Scaling::kZeroPoint) {
                weight_.scales(to / kLanes, group)[2 * kLanes + to % kLanes] = zero_points[at];
            }
        }
    });
}

void PackFloatsOp::run(Team& team) const {
    const size_t bytes = weight_.kind == Kind::kFloat32 ? 4 : 2;
    team.share(rows_.count(), [&](int64_t row) {
        const int64_t to_row = first_row_ + row;
        const uint8_t* from = values_ + row * row_bytes_;
        uint8_t* to = weight_.tile(to_row / kLanes);
        for (int64_t k = 0; k < weight_.in; ++k) {
            const auto at = static_cast<size_t>(weight_.element(k, to_row % kLanes));
            std::memcpy(to + at * bytes, from + static_cast<size_t>(k) * bytes, bytes);
        }
    });
}

}  // namespace headrace
