// Paged attention: decode and chunked prefill are one op.
//
// A token's context is cut into splits of 256 positions, counted from position 0. Each split is
// attended by itself (scores, maximum, exponentials, weighted sum) and splits are merged in order.
// A token's result therefore depends on its own query and context only, not on the chunk it is
// computed in, nor on which thread computes which split (flash-decoding, Dao et al. 2023).
#pragma once

#include "attention_units.h"

namespace headrace {

// out [T, heads * value size]. `rows` counts sequences. Heads are whole groups of a quantized
// `out`.
class AttentionOp : public Op {
   public:
    AttentionOp(Rows rows, AttentionInputs in, SplitActivation out)
        : Op(rows), in_(in), out_(out) {}
    void run(Team& team) const override;

    // Floats of scratch that all attention ops share.
    int64_t scratch_floats() const;

   private:
    friend class AttentionMergeOp;
    bool valid(const Team& team) const;
    int64_t apart_floats() const;
    void attend(const Team& team, const Unit& unit, int64_t first, int64_t last, float* part) const;
    template <typename Attended>
    void attend_splits(const Unit& unit, int64_t first, int64_t last, float* sum) const;
    void store(const Unit& unit, float* sums) const;

    AttentionInputs in_;
    SplitActivation out_;
};

// Second half for few long sequences, whose splits were computed apart; else nothing is left to do.
class AttentionMergeOp : public Op {
   public:
    explicit AttentionMergeOp(const AttentionOp& first) : Op(first.rows()), first_(first) {}
    void run(Team& team) const override;

   private:
    const AttentionOp& first_;
};

}  // namespace headrace
