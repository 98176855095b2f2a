// What happens to queries, keys and values before attention: clamp, norm, rotary embedding,
// temperature, and the write into the paged cache.
#pragma once

#include "cache.h"
#include "pool.h"

namespace headrace {

struct Rotary {
    const float *cos, *sin;  // [positions][width / 2]; width 0: no rotation
    int64_t positions, width, first;  // features first..first + width rotate
    bool is_interleaved;  // neighbours rotate together, and come out as halves; else halves do
};

// RMS or layer norm of each head, by a weight [head size] at a stride from head to head; or null.
struct HeadNorms {
    const float *query, *key;
    int64_t query_stride, key_stride;
    bool is_layer;
    float eps;
};

struct HeadOptions {
    Rotary rotary;
    HeadNorms norms;
    float clip;                                       // all are clamped to +-clip; 0: not
    float temperature_interval, temperature_growth;   // of queries; interval 0: none
};

// Rows of queries [heads * head size], keys and values [kv heads * head size]. Without values
// these are the first features of the keys.
struct HeadRows {
    float *query, *key, *value;
    int64_t query_stride, key_stride;  // values stand beside keys
};

// Prepares queries and keys in place, and puts keys and values at their slots.
class RopeWriteOp : public Op {
   public:
    RopeWriteOp(Rows rows, HeadRows in, int64_t heads, const int32_t* positions,
                const int64_t* slots, HeadOptions options, Cache cache)
        : Op(rows), in_(in), heads_(heads), positions_(positions), slots_(slots),
          options_(options), cache_(cache) {}
    void run(Team& team) const override;

   private:
    // Key, value and queries of one key head.
    void prepare(int64_t row, int64_t kv_head) const;
    void clamp(float* head) const;
    void normalize(float* head, const float* weight) const;
    void rotate(float* head, int64_t position) const;
    void temper(float* head, int64_t position) const;
    void write(const float* head, int64_t slot, int64_t kv_head, bool is_key) const;

    HeadRows in_;
    int64_t heads_;
    const int32_t* positions_;
    const int64_t* slots_;
    HeadOptions options_;
    Cache cache_;
};

}  // namespace headrace
