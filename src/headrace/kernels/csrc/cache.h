// One layer's paged KV cache. A block holds 32 tokens; keys lie [key width][32], so that lanes are
// tokens in the scores, values [32][value width], so that lanes are features in the sum; widths are
// sizes in whole vectors, padding is zero. Values narrower than keys are the first features of
// these, in the layout that sums want. Where bfloat16 is multiplied as it is, it lies in right tiles of
// 32 x 16 instead: line i of a tile of keys holds features 2i and 2i + 1 of 16 tokens, of a tile of
// values tokens 2i and 2i + 1 of 16 features. Blocks must start zeroed: masked lanes are multiplied by
// zero, and NaN would survive that.
#pragma once

#include <cstdint>

#include "float8.h"
#include "products.h"

namespace headrace {

constexpr int kBlockTokens = 32;
constexpr int64_t kMaxHeadSize = 576;  // DeepSeek's latents beside their rotated part

// Numbered as `DTYPES` in headrace/kernels/words.py are.
enum class CacheType : int { kFloat32, kInt8, kBFloat16, kFloat16, kE4M3 = 7, kE5M2 };

struct Cache {
    void *keys, *values;                 // [blocks][heads][width * 32]
    float *key_scales, *value_scales;    // [blocks][heads][32], int8 only
    CacheType type;
    int64_t blocks, heads, head_size, value_size;
    float key_scale, value_scale;        // of all, 8-bit floats only

    int64_t key_width() const { return whole_vectors(head_size); }
    int64_t value_width() const { return whole_vectors(value_size); }
    bool has_own_values() const { return value_size == head_size; }
    int64_t element_bytes() const {
        const bool is_half = type == CacheType::kBFloat16 || type == CacheType::kFloat16;
        return is_half ? 2 : type == CacheType::kFloat32 ? 4 : 1;
    }
    int64_t cell(int64_t block, int64_t head) const { return block * heads + head; }
    bool is_tiled() const {
        return kHasBFloat16 && type == CacheType::kBFloat16 && key_width() % kGroup == 0 &&
               value_width() % kGroup == 0;
    }
    // Where an element lies in its cell.
    int64_t key_element(int64_t feature, int64_t token) const {
        if (!is_tiled()) return feature * kBlockTokens + token;
        const int64_t tile = feature / kGroup * 2 + token / kLanes;
        return tile * kTile + in_tile(feature % kGroup, token % kLanes);
    }
    int64_t value_element(int64_t token, int64_t feature) const {
        if (!is_tiled()) return token * value_width() + feature;
        return feature / kLanes * kTile + in_tile(token, feature % kLanes);
    }

    static constexpr int64_t kTile = kGroup * kLanes;

   private:
    static int64_t whole_vectors(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }
    static int64_t in_tile(int64_t depth, int64_t lane) {
        return depth / 2 * 2 * kLanes + lane * 2 + depth % 2;
    }
};

// Calls function with the type that loads the cache's elements.
template <typename Function>
inline void with_cache_type(CacheType type, Function function) {
    switch (type) {
        case CacheType::kFloat32: return function(Float32{});
        case CacheType::kFloat16: return function(Float16{});
        case CacheType::kBFloat16: return function(BFloat16{});
        case CacheType::kInt8: return function(Int8{});
        case CacheType::kE4M3: return function(E4M3{});
        case CacheType::kE5M2: return function(E5M2{});
    }
}

}  // namespace headrace
