// From checkpoint formats to the packed layout of `Weight`.
#pragma once

#include "layout.h"
#include "pool.h"

namespace headrace {

// Block formats of GGUF, and arrays of groups (GPTQ, AWQ and the like) and of floats.
enum class Source : int {
    kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
};

// Rows of GGUF blocks, `row_bytes` apart, become the weight's rows from `first_row`, without the
// `first_group` groups of 32 that each begins with.
class PackBlocksOp : public Op {
   public:
    PackBlocksOp(Rows rows, const uint8_t* blocks, int64_t row_bytes, Source source,
                 int64_t first_group, Weight weight, int64_t first_row)
        : Op(rows), blocks_(blocks), row_bytes_(row_bytes), source_(source),
          first_group_(first_group), weight_(weight), first_row_(first_row) {}
    void run(Team& team) const override;

   private:
    const uint8_t* blocks_;
    int64_t row_bytes_;
    Source source_;
    int64_t first_group_;
    Weight weight_;
    int64_t first_row_;
};

// w[n][k] = q[n][k] * scale[n][k / group] + minimum[n][k / group]. `offsets` are these minima, or
// zero points in steps, one a byte, or null: then quants are offset by 8 or 128, or are codes.
class PackGroupsOp : public Op {
   public:
    PackGroupsOp(Rows rows, const uint8_t* quants, const float* scales, const void* offsets,
                 Weight weight, int64_t first_row)
        : Op(rows), quants_(quants), scales_(scales), offsets_(offsets), weight_(weight),
          first_row_(first_row) {}
    void run(Team& team) const override;

   private:
    void pack(int64_t row) const;
    void put_offset(int64_t row, int64_t group, int64_t at) const;

    const uint8_t* quants_;
    const float* scales_;
    const void* offsets_;
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
