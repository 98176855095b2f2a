// From checkpoint formats to the packed layout of `Weight`.
#pragma once

#include "layout.h"
#include "pool.h"

namespace headrace {

// Block formats of GGUF, and arrays of groups (GPTQ, AWQ and the like) and of floats.
enum class Source : int {
    kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
};

// Rows of GGUF blocks, `row_bytes` apart, become the weight's rows from `first_row`.
class PackBlocksOp : public Op {
   public:
    PackBlocksOp(Rows rows, const uint8_t* blocks, int64_t row_bytes, Source source, Weight weight,
                 int64_t first_row)
        : Op(rows), blocks_(blocks), row_bytes_(row_bytes), source_(source), weight_(weight),
          first_row_(first_row) {}
    void run(Team& team) const override;

   private:
    const uint8_t* blocks_;
    int64_t row_bytes_;
    Source source_;
    Weight weight_;
    int64_t first_row_;
};

// w[n][k] = q[n][k] * scale[n][k / group] + minimum[n][k / group]; without minimum the quants are
// offset, by 8 or 128, or are codes of a codebook.
class PackGroupsOp : public Op {
   public:
    PackGroupsOp(Rows rows, const uint8_t* quants, const float* scales, const float* minima,
                 Weight weight, int64_t first_row)
        : Op(rows), quants_(quants), scales_(scales), minima_(minima), weight_(weight),
          first_row_(first_row) {}
    void run(Team& team) const override;

   private:
    const uint8_t* quants_;
    const float *scales_, *minima_;
    Weight weight_;
    int64_t first_row_;
};

// Float rows, already of the weight's element type, `row_bytes` apart.
class PackFloatsOp : public Op {
   public:
    PackFloatsOp(Rows rows, const uint8_t* values, int64_t row_bytes, Weight weight,
                 int64_t first_row)
        : Op(rows), values_(values), row_bytes_(row_bytes), weight_(weight),
          first_row_(first_row) {}
    void run(Team& team) const override;

   private:
    const uint8_t* values_;
    int64_t row_bytes_;
    Weight weight_;
    int64_t first_row_;
};

}  // namespace headrace
