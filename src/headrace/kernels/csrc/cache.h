// One layer's paged KV cache. A block holds 32 tokens; keys lie [head size][32], so that lanes are
// tokens in the scores, values [32][head size], so that lanes are features in the sum. Blocks must
// start zeroed: masked lanes are multiplied by zero, and NaN would survive that.
#pragma once

#include <cstdint>

#include "products.h"

namespace headrace {

constexpr int kBlockTokens = 32;

enum class CacheType : int { kFloat32, kFloat16, kBFloat16, kInt8 };

struct Cache {
    void *keys, *values;                 // [blocks][heads][head size * 32]
    float *key_scales, *value_scales;    // [blocks][heads][32], int8 only
    CacheType type;
    int64_t blocks, heads, head_size;

    int64_t cell(int64_t block, int64_t head) const { return block * heads + head; }
};

// Calls function with the type that loads the cache's elements.
template <typename Function>
inline void with_cache_type(CacheType type, Function function) {
    switch (type) {
        case CacheType::kFloat32: return function(Float32{});
        case CacheType::kFloat16: return function(Float16{});
        case CacheType::kBFloat16: return function(BFloat16{});
        case CacheType::kInt8: return function(Int8{});
    }
}

}  // namespace headrace
