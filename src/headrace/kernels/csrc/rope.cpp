#include "rope.h"

#include <cmath>

namespace headrace {
namespace {

constexpr int64_t kMaxHeadSize = 512;

void convert_float16(const float* from, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; i += kLanes) store_f16(F32x16::load(from + i), to + i);
}

void convert_bfloat16(const float* from, int64_t count, uint16_t* to) {
    for (int64_t i = 0; i < count; i += kLanes) store_bf16(F32x16::load(from + i), to + i);
}

// Returns the scale: q = round(x / scale), scale = max|x| / 127.
float convert_int8(const float* from, int64_t count, int8_t* to) {
    F32x16 largest_lanes = F32x16::zero();
    for (int64_t i = 0; i < count; i += kLanes) {
        largest_lanes = max(largest_lanes, abs(F32x16::load(from + i)));
    }
    const float largest = reduce_max(largest_lanes);
    const F32x16 inverse = F32x16::broadcast(largest > 0 ? 127.0f / largest : 0.0f);
    for (int64_t i = 0; i < count; i += kLanes) {
        store_i8(round_even(F32x16::load(from + i) * inverse), to + i);
    }
    return largest / 127.0f;
}

}  // namespace

void RopeWriteOp::rotate(float* head, int64_t position, const float* norm) const {
    const int64_t size = cache_.head_size, half = rotary_.width / 2;
    if (norm) {
        F32x16 squares = F32x16::zero();
        for (int64_t i = 0; i < size; i += kLanes) {
            const F32x16 value = F32x16::load(head + i);
            squares = fma(value, value, squares);
        }
        const float mean = reduce_add(squares) / static_cast<float>(size);
        const F32x16 inverse = F32x16::broadcast(1.0f / std::sqrt(mean + rotary_.eps));
        for (int64_t i = 0; i < size; i += kLanes) {
            (F32x16::load(head + i) * inverse * F32x16::load(norm + i)).store(head + i);
        }
    }
    const float *cos = rotary_.cos + position * half, *sin = rotary_.sin + position * half;
    for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t count = std::min<int64_t>(kLanes, half - i);
        const F32x16 a = load_partial(head + i, count), b = load_partial(head + half + i, count);
        const F32x16 c = load_partial(cos + i, count), s = load_partial(sin + i, count);
        store_partial(a * c - b * s, head + i, count);
        store_partial(b * c + a * s, head + half + i, count);
    }
}

void RopeWriteOp::write(const float* head, int64_t slot, int64_t kv_head, bool is_key) const {
    const int64_t size = cache_.head_size, token = slot % kBlockTokens;
    const int64_t cell = cache_.cell(slot / kBlockTokens, kv_head);
    with_cache_type(cache_.type, [&](auto type) {
        using Element = typename decltype(type)::Element;
        Element converted[kMaxHeadSize];
        if constexpr (std::is_same_v<Element, int8_t>) {
            float* scales = is_key ? cache_.key_scales : cache_.value_scales;
            scales[cell * kBlockTokens + token] = convert_int8(head, size, converted);
        } else if constexpr (std::is_same_v<Element, float>) {
            std::memcpy(converted, head, static_cast<size_t>(size) * sizeof(float));
        } else if (cache_.type == CacheType::kFloat16) {
            convert_float16(head, size, converted);
        } else {
            convert_bfloat16(head, size, converted);
        }
        auto* base = static_cast<Element*>(is_key ? cache_.keys : cache_.values) +
                     cell * size * kBlockTokens;
        if (!is_key && !cache_.is_tiled()) {
            std::memcpy(base + token * size, converted, static_cast<size_t>(size) * sizeof(Element));
            return;
        }
        for (int64_t i = 0; i < size; ++i) {
            base[is_key ? cache_.key_element(i, token) : cache_.value_element(token, i)] =
                converted[i];
        }
    });
}

void RopeWriteOp::run(Team& team) const {
    const int64_t kv_heads = cache_.heads, all_heads = heads_ + 2 * kv_heads;
    team.share(rows_.count() * all_heads, [&](int64_t unit) {
        const int64_t row = unit / all_heads, head = unit % all_heads;
        const int64_t position = positions_[row], slot = slots_[row];
        if (rotary_.width && (position < 0 || position >= rotary_.positions)) {
            return team.fail("a position is outside the rotary table");
        }
        if (slot < 0 || slot >= cache_.blocks * kBlockTokens) {
            return team.fail("a slot is outside the cache");
        }
        float* values = qkv_ + unit * cache_.head_size;
        if (head < heads_) return rotate(values, position, rotary_.query_norm);
        const bool is_key = head < heads_ + kv_heads;
        if (is_key) rotate(values, position, rotary_.key_norm);
        write(values, slot, (head - heads_) % kv_heads, is_key);
    });
}

}  // namespace headrace
