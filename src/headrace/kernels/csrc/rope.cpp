#include "rope.h"

#include <cmath>

namespace headrace {
namespace {

// Calls function(first, features) for the vectors of a head; only the last may be partial.
template <typename Function>
inline void for_each_vector(int64_t size, Function function) {
    for (int64_t i = 0; i < size; i += kLanes) function(i, std::min<int64_t>(kLanes, size - i));
}

// These fill whole vectors of `to`, with zeros behind `count`.
void convert_float32(const float* from, int64_t count, float* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) { load_partial(from + i, n).store(to + i); });
}

void convert_float16(const float* from, int64_t count, uint16_t* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
        store_f16(load_partial(from + i, n), to + i);
    });
}

void convert_bfloat16(const float* from, int64_t count, uint16_t* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
        store_bf16(load_partial(from + i, n), to + i);
    });
}

// Returns the scale: q = round(x / scale), scale = max|x| / 127.
float convert_int8(const float* from, int64_t count, int8_t* to) {
    F32x16 largest_lanes = F32x16::zero();
    for_each_vector(count, [&](int64_t i, int64_t n) {
        largest_lanes = max(largest_lanes, abs(load_partial(from + i, n)));
    });
    const float largest = reduce_max(largest_lanes);
    const F32x16 inverse = F32x16::broadcast(largest > 0 ? 127.0f / largest : 0.0f);
    for_each_vector(count, [&](int64_t i, int64_t n) {
        store_i8(round_even(load_partial(from + i, n) * inverse), to + i);
    });
    return largest / 127.0f;
}

template <typename Type>
void convert_float8(const float* from, int64_t count, float scale, uint8_t* to) {
    const F32x16 divisor = F32x16::broadcast(scale), most = F32x16::broadcast(Type::kLargest);
    const F32x16 least = F32x16::zero() - most;
    for_each_vector(count, [&](int64_t i, int64_t n) {
        float lanes[kLanes];
        max(min(load_partial(from + i, n) / divisor, most), least).store(lanes);
        for (int lane = 0; lane < kLanes; ++lane) to[i + lane] = Type::round(lanes[lane]);
    });
}

// Begins to load the lines that a row's key and value go to. Inlined, because gcc takes a function
// that only fetches for one without effect, and drops its calls.
__attribute__((always_inline)) inline void fetch(const Cache& cache, int64_t slot,
                                                 int64_t kv_head) {
    const int64_t token = slot % kBlockTokens, bytes = cache.element_bytes();
    const int64_t cell = cache.cell(slot / kBlockTokens, kv_head) * kBlockTokens * bytes;
    const char* key = static_cast<const char*>(cache.keys) + cell * cache.key_width();
    const char* value = static_cast<const char*>(cache.values) + cell * cache.value_width();
    const int64_t step = cache.is_tiled() ? 2 : 1;  // features of a line
    for (int64_t i = 0; i < cache.key_width(); i += step) {
        __builtin_prefetch(key + cache.key_element(i, token) * bytes, 1, 3);
    }
    for (int64_t i = 0; i < cache.value_width(); i += kLanes) {
        __builtin_prefetch(value + cache.value_element(token, i) * bytes, 1, 3);
    }
}

#if defined(__AVX512BF16__)
// A token's place in the tiles of its cell: lanes of 32 bits hold two features of a key, but of a
// value one of them this token and the other its neighbour.
void write_key_tiles(const Cache& cache, const uint16_t* key, int64_t token, uint16_t* cell) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t i = 0; i < cache.key_width(); i += kGroup) {
        _mm512_i32scatter_epi32(cell + cache.key_element(i, token),
                                _mm512_slli_epi32(lanes, 4), _mm512_loadu_si512(key + i), 4);
    }
}

void write_value_tiles(const Cache& cache, const uint16_t* value, int64_t token, uint16_t* cell) {
    const auto odd = static_cast<unsigned>(token % 2);
    for (int64_t i = 0; i < cache.value_width(); i += kLanes) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(value + i));
        const __m512i lanes = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16 * odd);
        _mm512_mask_storeu_epi16(cell + cache.value_element(token - odd, i), 0x55555555u << odd,
                                 lanes);
    }
}
#else
void write_key_tiles(const Cache&, const uint16_t*, int64_t, uint16_t*) {}
void write_value_tiles(const Cache&, const uint16_t*, int64_t, uint16_t*) {}
#endif

}  // namespace

void RopeWriteOp::clamp(float* head) const {
    if (options_.clip == 0) return;
    const F32x16 limit = F32x16::broadcast(options_.clip), least = F32x16::zero() - limit;
    for_each_vector(cache_.head_size, [&](int64_t i, int64_t n) {
        store_partial(max(min(load_partial(head + i, n), limit), least), head + i, n);
    });
}

void RopeWriteOp::normalize(float* head, const float* weight) const {
    const int64_t size = cache_.head_size;
    const float count = static_cast<float>(size);
    F32x16 mean = F32x16::zero(), squares = F32x16::zero();
    if (options_.norms.is_layer) {
        F32x16 sum = F32x16::zero();
        for_each_vector(size, [&](int64_t i, int64_t n) { sum = sum + load_partial(head + i, n); });
        mean = F32x16::broadcast(reduce_add(sum) / count);
    }
    for_each_vector(size, [&](int64_t i, int64_t n) {
        const F32x16 value = load_partial(head + i, n) - mean;
        const F32x16 kept = n == kLanes ? value : select(value, F32x16::zero(), 0, static_cast<int>(n));
        squares = fma(kept, kept, squares);
    });
    const float variance = reduce_add(squares) / count;
    const F32x16 inverse = F32x16::broadcast(1.0f / std::sqrt(variance + options_.norms.eps));
    for_each_vector(size, [&](int64_t i, int64_t n) {
        const F32x16 value = (load_partial(head + i, n) - mean) * inverse;
        store_partial(value * load_partial(weight + i, n), head + i, n);
    });
}

void RopeWriteOp::rotate(float* head, int64_t position) const {
    const Rotary& rotary = options_.rotary;
    const int64_t half = rotary.width / 2;
    const float *cos = rotary.cos + position * half, *sin = rotary.sin + position * half;
    float *to = head + rotary.first, *from = to, apart[kMaxHeadSize];
    if (rotary.is_interleaved) {
        for (int64_t i = 0; i < rotary.width; ++i) apart[i % 2 * half + i / 2] = to[i];
        from = apart;
    }
    for_each_vector(half, [&](int64_t i, int64_t n) {
        const F32x16 a = load_partial(from + i, n), b = load_partial(from + half + i, n);
        const F32x16 c = load_partial(cos + i, n), s = load_partial(sin + i, n);
        store_partial(a * c - b * s, to + i, n);
        store_partial(b * c + a * s, to + half + i, n);
    });
}

void RopeWriteOp::temper(float* head, int64_t position) const {
    if (options_.temperature_interval == 0) return;
    const float steps =
        std::floor(static_cast<float>(position + 1) / options_.temperature_interval);
    const F32x16 factor =
        F32x16::broadcast(std::log1p(steps) * options_.temperature_growth + 1.0f);
    for_each_vector(cache_.head_size, [&](int64_t i, int64_t n) {
        store_partial(load_partial(head + i, n) * factor, head + i, n);
    });
}

void RopeWriteOp::write(const float* head, int64_t slot, int64_t kv_head, bool is_key) const {
    const int64_t size = is_key ? cache_.head_size : cache_.value_size;
    const int64_t width = is_key ? cache_.key_width() : cache_.value_width();
    const int64_t token = slot % kBlockTokens;
    const int64_t cell = cache_.cell(slot / kBlockTokens, kv_head);
    with_cache_type(cache_.type, [&](auto type) {
        using Element = typename decltype(type)::Element;
        Element converted[kMaxHeadSize];
        if constexpr (std::is_same_v<Element, int8_t>) {
            float* scales = is_key ? cache_.key_scales : cache_.value_scales;
            scales[cell * kBlockTokens + token] = convert_int8(head, size, converted);
        } else if constexpr (std::is_same_v<Element, uint8_t>) {
            const float scale = is_key ? cache_.key_scale : cache_.value_scale;
            convert_float8<decltype(type)>(head, size, scale, converted);
        } else if constexpr (std::is_same_v<Element, float>) {
            convert_float32(head, size, converted);
        } else if (cache_.type == CacheType::kFloat16) {
            convert_float16(head, size, converted);
        } else {
            convert_bfloat16(head, size, converted);
        }
        auto* base = static_cast<Element*>(is_key ? cache_.keys : cache_.values) +
                     cell * width * kBlockTokens;
        if constexpr (std::is_same_v<Element, uint16_t>) {
            if (cache_.is_tiled()) {
                return is_key ? write_key_tiles(cache_, converted, token, base)
                              : write_value_tiles(cache_, converted, token, base);
            }
        }
        if (!is_key) {
            std::memcpy(base + token * width, converted,
                        static_cast<size_t>(width) * sizeof(Element));
        } else {
            for (int64_t i = 0; i < width; ++i) base[i * kBlockTokens + token] = converted[i];
        }
    });
}

void RopeWriteOp::prepare(int64_t row, int64_t kv_head) const {
    const int64_t group = heads_ / cache_.heads, size = cache_.head_size;
    const int64_t position = positions_[row], slot = slots_[row];
    const HeadNorms& norms = options_.norms;
    const auto prepare_head = [&](float* head, const float* norm) {
        clamp(head);
        if (norm) normalize(head, norm);
        rotate(head, position);
    };
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        float* query = in_.query + row * in_.query_stride + head * size;
        prepare_head(query, norms.query ? norms.query + head * norms.query_stride : nullptr);
        temper(query, position);
    }
    float* key = in_.key + row * in_.key_stride + kv_head * size;
    prepare_head(key, norms.key ? norms.key + kv_head * norms.key_stride : nullptr);
    write(key, slot, kv_head, true);
    float* value = key;
    if (cache_.has_own_values()) {
        value = in_.value + row * in_.key_stride + kv_head * size;
        clamp(value);
    }
    write(value, slot, kv_head, false);
}

void RopeWriteOp::run(Team& team) const {
    const int64_t rows = rows_.count(), slots = cache_.blocks * kBlockTokens;
    team.share(rows, [&](int64_t row) {
        const int64_t position = positions_[row], slot = slots_[row];
        if (options_.rotary.width && (position < 0 || position >= options_.rotary.positions)) {
            return team.fail("a position is outside the rotary table");
        }
        if (slot < 0 || slot >= slots) return team.fail("a slot is outside the cache");
        const int64_t next = row + 1 < rows ? slots_[row + 1] : slot;
        const bool is_elsewhere = next / kBlockTokens != slot / kBlockTokens;
        for (int64_t kv_head = 0; kv_head < cache_.heads; ++kv_head) {
            if (is_elsewhere) fetch(cache_, next, kv_head);
            prepare(row, kv_head);
        }
    });
}

}  // namespace headrace
