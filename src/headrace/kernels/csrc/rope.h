// Rotary embedding and the write into the paged cache.
#pragma once

#include "cache.h"
#include "pool.h"

namespace headrace {

struct Rotary {
    const float *cos, *sin;  // [positions][width / 2]; width 0: no rotation
    int64_t positions, width;
    const float *query_norm, *key_norm;  // [head size] RMS norm weights, or null
    float eps;
};

// Normalises and rotates queries and keys of qkv [T, (heads + 2 kv heads) * head size] in place
// (half-split pairs: feature i with i + width / 2), and puts keys and values at their slots.
class RopeWriteOp : public Op {
   public:
    RopeWriteOp(Rows rows, float* qkv, int64_t heads, const int32_t* positions,
                const int64_t* slots, Rotary rotary, Cache cache)
        : Op(rows), qkv_(qkv), heads_(heads), positions_(positions), slots_(slots),
          rotary_(rotary), cache_(cache) {}
    void run(Team& team) const override;

   private:
    void rotate(float* head, int64_t position, const float* norm) const;
    void write(const float* head, int64_t slot, int64_t kv_head, bool is_key) const;

    float* qkv_;
    int64_t heads_;
    const int32_t* positions_;
    const int64_t* slots_;
    Rotary rotary_;
    Cache cache_;
};

}  // namespace headrace
