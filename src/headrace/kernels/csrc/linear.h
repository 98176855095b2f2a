// Linear layers over packed weights.
#pragma once

#include "math.h"
#include "pool.h"
#include "layout.h"

namespace headrace {

// out[r][n] = sum_k x[r][k] * w[n][k] (+ bias[n]) (+ out[r][n] if accumulate).
class LinearOp : public Op {
   public:
    LinearOp(Rows rows, Activation x, Weight weight, const float* bias, float* out, bool accumulate)
        : Op(rows), x_(x), weight_(weight), bias_(bias), out_(out), accumulate_(accumulate) {}
    void run(Team& team) const override;

   private:
    void finish(const float* panel, int64_t row, int64_t rows, int64_t tile) const;

    Activation x_;
    Weight weight_;
    const float* bias_;
    float* out_;
    bool accumulate_;
};

// out[r][f] = activate(gate[f]) * up[f], the weight's first half of outputs being gate, the second
// up; the product never leaves the cache.
class LinearGateOp : public Op {
   public:
    LinearGateOp(Rows rows, Activation x, Weight weight, Gate kind, Activation out)
        : Op(rows), x_(x), weight_(weight), kind_(kind), out_(out) {}
    void run(Team& team) const override;

   private:
    Activation x_;
    Weight weight_;
    Gate kind_;
    Activation out_;
};

}  // namespace headrace
