#include "pack.h"

#include "planes.h"

namespace headrace {
namespace {

// 32 weights as they are packed: quants, and of their scales what the format has.
struct Group {
    uint8_t q[kGroup];
    float scale = 0, minimum = 0;
    uint8_t factors[2];  // of a super-block
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

// Low nibbles are weights 0..15, high nibbles 16..31; fifth bits, if any, in order.
void nibbles(const uint8_t* from, uint32_t fifth_bits, Group& group) {
    for (int k = 0; k < kGroup; ++k) {
        const int low = k < 16 ? from[k] & 15 : from[k - 16] >> 4;
        group.q[k] = static_cast<uint8_t>(low + (fifth_bits >> k & 1) * 16);
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
    group.factors[0] = static_cast<uint8_t>(scale);
    group.factors[1] = static_cast<uint8_t>(minimum);
}

void q2_k(const uint8_t* block, int index, Group& group) {
    group.scale = half_at(block + 80);
    group.minimum = -half_at(block + 82);
    std::memcpy(group.factors, block + 2 * index, 2);
    for (int k = 0; k < kGroup; ++k) {
        group.q[k] = block[16 + index / 4 * 32 + k] >> (index % 4 * 2) & 3;
    }
}

void q3_k(const uint8_t* block, int index, Group& group) {
    const uint8_t *high = block, *low = block + 32, *packed = block + 96;
    group.scale = half_at(block + 108);
    for (int half = 0; half < 2; ++half) {
        const int part = 2 * index + half;
        const int four = part < 8 ? packed[part] & 15 : packed[part - 8] >> 4;
        const int six = four | (packed[8 + part % 4] >> (part / 4 * 2) & 3) << 4;
        group.factors[half] = static_cast<uint8_t>(six - 32);
    }
    for (int k = 0; k < kGroup; ++k) {
        const int two = low[index / 4 * 32 + k] >> (index % 4 * 2) & 3;
        group.q[k] = static_cast<uint8_t>(two + (high[k] >> index & 1) * 4);
    }
}

void q6_k(const uint8_t* block, int index, Group& group) {
    const int half = index / 4, part = index % 4;
    const uint8_t* low = block + half * 64 + part % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    group.scale = half_at(block + 208);
    std::memcpy(group.factors, block + 192 + half * 8 + part * 2, 2);
    for (int k = 0; k < kGroup; ++k) {
        const int four = part < 2 ? low[k] & 15 : low[k] >> 4;
        group.q[k] = static_cast<uint8_t>(four | (high[k] >> (2 * part) & 3) << 4);
    }
}

void q4_k(const uint8_t* block, int index, Group& group) {
    scale_and_minimum(block, index, group);
    const uint8_t* low = block + 16 + index / 2 * 32;
    for (int k = 0; k < kGroup; ++k) group.q[k] = low[k] >> (index % 2 * 4) & 15;
}

void q5_k(const uint8_t* block, int index, Group& group) {
    scale_and_minimum(block, index, group);
    const uint8_t *fifth = block + 16, *low = block + 48 + index / 2 * 32;
    for (int k = 0; k < kGroup; ++k) {
        const int bit = fifth[k] >> index & 1;
        group.q[k] = static_cast<uint8_t>((low[k] >> (index % 2 * 4) & 15) + bit * 16);
    }
}

void q8_0(const uint8_t* from, Group& group) {
    for (int k = 0; k < kGroup; ++k) group.q[k] = from[k] ^ 128;
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
            return nibbles(block(18) + 2, 0, group);
        case Source::kQ4_1:
            legacy(block(20), true);
            return nibbles(block(20) + 4, 0, group);
        case Source::kQ5_0:
            legacy(block(22), false);
            return nibbles(block(22) + 6, bits_at(block(22) + 2), group);
        case Source::kQ5_1:
            legacy(block(24), true);
            return nibbles(block(24) + 8, bits_at(block(24) + 4), group);
        case Source::kQ8_0: legacy(block(34), false); return q8_0(block(34) + 2, group);
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
    const int bits = code_bits(weight.kind);
    uint8_t* quants = weight.quants(row / kLanes, first);
    if (bits == 8) {
        for (int k = 0; k < kGroup; k += 4) std::memcpy(quants + 16 * k + 4 * lane, q + k, 4);
    } else if (bits == 4) {
        for (int k = 0; k < 16; ++k) {
            quants[place(4, lane, k).byte] = static_cast<uint8_t>(q[k] | q[k + 16] << 4);
        }
    } else {
        for (int k = 0; k < kGroup; ++k) store_code(quants, bits, lane, k, q[k]);
    }
}

void put_half(const Weight& weight, int64_t row, int64_t group, int number, float value) {
    const uint16_t half = to_half(value);
    uint8_t* scales = weight.scales(row / kLanes, group);
    std::memcpy(scales + 2 * (number * kLanes + row % kLanes), &half, sizeof half);
}

void put_nibble(uint8_t& byte, bool is_high, int value) {
    const int shift = is_high ? 4 : 0;
    byte = static_cast<uint8_t>((byte & ~(15 << shift)) | value << shift);
}

void put_group_scale(const Weight& weight, int64_t row, int64_t group, float value) {
    if (weight.scaling != Scaling::kPowerOfTwo) return put_half(weight, row, group, 0, value);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    weight.scales(row / kLanes, group)[row % kLanes] = static_cast<uint8_t>(bits >> 23);
}

// Of the weight's 32 inputs `index`, which are a group or, of a super-block, a part of one.
void put_scales(const Weight& weight, int64_t row, int64_t index, const Group& group) {
    const int64_t parts = weight.group / kGroup, at = index / parts;
    const Scaling scaling = weight.scaling;
    put_half(weight, row, at, 0, group.scale);
    if (scaling != Scaling::kSymmetric && scaling != Scaling::kSignedSuperBlock) {
        put_half(weight, row, at, 1, group.minimum);
    }
    if (scaling < Scaling::kSuperBlock) return;
    uint8_t* factors = weight.scales(row / kLanes, at) + head_bytes(scaling) +
                       index % parts * 2 * kLanes + row % kLanes;
    factors[0] = group.factors[0];
    factors[kLanes] = group.factors[1];
}

}  // namespace

void PackBlocksOp::run(Team& team) const {
    team.share(rows_.count(), [&](int64_t row) {
        for (int64_t index = 0; index < weight_.in / kGroup; ++index) {
            Group group;
            decode(source_, blocks_ + row * row_bytes_, first_group_ + index, group);
            put_quants(weight_, first_row_ + row, index * kGroup, group.q);
            put_scales(weight_, first_row_ + row, index, group);
        }
    });
}

// Rows of one tile share bytes.
void PackGroupsOp::run(Team& team) const {
    const int64_t end = first_row_ + rows_.count(), first_tile = first_row_ / kLanes;
    team.share((end + kLanes - 1) / kLanes - first_tile, [&](int64_t index) {
        const int64_t tile = first_tile + index, last = std::min(end, (tile + 1) * kLanes);
        for (int64_t row = std::max(first_row_, tile * kLanes); row < last; ++row) pack(row);
    });
}

void PackGroupsOp::pack(int64_t row) const {
    const int64_t groups = weight_.in / weight_.group, from = row - first_row_;
    for (int64_t k = 0; k < weight_.in; k += kGroup) {
        put_quants(weight_, row, k, quants_ + from * weight_.in + k);
    }
    for (int64_t group = 0; group < groups; ++group) {
        put_group_scale(weight_, row, group, scales_[from * groups + group]);
        if (offsets_) put_offset(row, group, from * groups + group);
    }
}

// Number `at` of what is offset.
void PackGroupsOp::put_offset(int64_t row, int64_t group, int64_t at) const {
    const int64_t lane = row % kLanes;
    uint8_t* bytes = weight_.scales(row / kLanes, group) + 2 * kLanes;
    if (weight_.scaling == Scaling::kMinimum) {
        const float middle = weight_.kind == Kind::kInt8 ? 128.0f : 0.0f;
        const float minimum = static_cast<const float*>(offsets_)[at];
        return put_half(weight_, row, group, 1, minimum + middle * scales_[at]);
    }
    const uint8_t zero_point = static_cast<const uint8_t*>(offsets_)[at];
    if (weight_.scaling == Scaling::kZeroPoint) {
        bytes[lane] = zero_point;
    } else {
        put_nibble(bytes[lane % (kLanes / 2)], lane >= kLanes / 2, zero_point);
    }
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
