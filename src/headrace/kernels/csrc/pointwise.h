// Ops whose rows need little arithmetic: embedding, norm, gate, activate, quantize, permute, move
// rows, soft cap, argmax.
#pragma once

#include "math.h"
#include "pool.h"
#include "layout.h"

namespace headrace {

// to[i] = gated(gate[i], up[i]); count is a multiple of 16.
inline void gate_rows(Gate kind, const float* gate, const float* up, int64_t count, float* to) {
    for (int64_t i = 0; i < count; i += kLanes) {
        gated(kind, F32x16::load(gate + i), F32x16::load(up + i)).store(to + i);
    }
}

// out[r] = table[ids[r] - first_id] * scale, or added to out[r]; zero for ids of the vocabulary
// beyond the table.
class EmbeddingOp : public Op {
   public:
    EmbeddingOp(Rows rows, const int32_t* ids, Weight table, float scale, int64_t first_id,
                int64_t vocab_size, float* out, bool accumulate)
        : Op(rows), ids_(ids), table_(table), scale_(scale), first_id_(first_id),
          vocab_size_(vocab_size), out_(out), accumulate_(accumulate) {}
    void run(Team& team) const override;

   private:
    const int32_t* ids_;
    Weight table_;
    float scale_;
    int64_t first_id_, vocab_size_;
    float* out_;
    bool accumulate_;
};

enum class Norm { kRms, kLayer };

// out[r] = norm(x[index ? index[r] : r]) * weight (+ bias), or added to out[r], which is float then.
// Strides are those of rows; out may be x.
class NormOp : public Op {
   public:
    NormOp(Rows rows, const float* x, int64_t x_rows, int64_t x_stride, const int32_t* index,
           Norm kind, const float* weight, const float* bias, float eps, SplitActivation out,
           int64_t out_stride, bool accumulate)
        : Op(rows), x_(x), x_rows_(x_rows), x_stride_(x_stride), index_(index), kind_(kind),
          weight_(weight), bias_(bias), eps_(eps), out_(out), out_stride_(out_stride),
          accumulate_(accumulate) {}
    void run(Team& team) const override;

   private:
    void normalize(int64_t row, int64_t first, int64_t last) const;

    const float* x_;
    int64_t x_rows_, x_stride_;
    const int32_t* index_;
    Norm kind_;
    const float *weight_, *bias_;
    float eps_;
    SplitActivation out_;
    int64_t out_stride_;
    bool accumulate_;
};

// out[r][f] = activate(x[r][f]) * x[r][features + f].
class GateOp : public Op {
   public:
    GateOp(Rows rows, const float* x, Gate kind, SplitActivation out)
        : Op(rows), x_(x), kind_(kind), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    Gate kind_;
    SplitActivation out_;
};

// out[r][f] = activate(x[r][f]).
class ActivateOp : public Op {
   public:
    ActivateOp(Rows rows, const float* x, Gate kind, SplitActivation out)
        : Op(rows), x_(x), kind_(kind), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    Gate kind_;
    SplitActivation out_;
};

// x[r][f] = cap * tanh(x[r][f] / cap).
class SoftCapOp : public Op {
   public:
    SoftCapOp(Rows rows, float* x, int64_t features, float cap)
        : Op(rows), x_(x), features_(features), cap_(cap) {}
    void run(Team& team) const override;

   private:
    float* x_;
    int64_t features_;
    float cap_;
};

// out = x, quantized.
class QuantizeOp : public Op {
   public:
    QuantizeOp(Rows rows, const float* x, SplitActivation out) : Op(rows), x_(x), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    SplitActivation out_;
};

// out[r][k] = x[r][index[k]], 0 where the index is negative.
class PermuteOp : public Op {
   public:
    PermuteOp(Rows rows, const float* x, int64_t features, const int32_t* index, SplitActivation out)
        : Op(rows), x_(x), features_(features), index_(index), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    int64_t features_;
    const int32_t* index_;
    SplitActivation out_;
};

// x[r] = x[index[r]]: rows move up, in order.
class MoveRowsOp : public Op {
   public:
    MoveRowsOp(Rows rows, float* x, int64_t x_rows, int64_t stride, int64_t columns,
               const int32_t* index)
        : Op(rows), x_(x), x_rows_(x_rows), stride_(stride), columns_(columns), index_(index) {}
    void run(Team& team) const override;

   private:
    float* x_;
    int64_t x_rows_, stride_, columns_;
    const int32_t* index_;
};

// out[r] = the least index of the largest of x[r].
class ArgmaxOp : public Op {
   public:
    ArgmaxOp(Rows rows, const float* x, int64_t features, int32_t* out)
        : Op(rows), x_(x), features_(features), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    int64_t features_;
    int32_t* out_;
};

}  // namespace headrace
