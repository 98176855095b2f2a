// Linear layers over packed weights.
#pragma once

#include <utility>
#include <vector>

#include "math.h"
#include "pool.h"
#include "layout.h"

namespace headrace {

struct LinearOut {
    const float* bias;  // or null
    float* values;
    bool accumulate;
    int64_t stride = 0;  // of rows of `values`; 0: the weight's outputs
};

// The units of work of a product of `rows` rows in this format, and one of them.
int64_t linear_units(Format format, const Weight& weight, int64_t rows);
void linear_unit(const Activation& x, const Weight& weight, const LinearOut& out, int64_t rows,
                 int64_t unit);

// Of a gated MLP. Without `up` gate's second half of outputs is up.
struct GateWeights {
    Weight gate;
    Weight up{};

    bool has_up() const { return up.data != nullptr; }
    int64_t out() const { return has_up() ? gate.out : gate.out / 2; }
};

int64_t gate_units(Format format, const GateWeights& weights, int64_t rows);
// Rows of x go to rows from `out_row` of out. `bias`: of gate, then of up, or null.
void gate_unit(const Activation& x, const GateWeights& weights, const float* bias, Gate kind,
               const SplitActivation& out, int64_t out_row, int64_t rows, int64_t unit);

// out[r][n] = sum_k x[r][k] * w[n][k] (+ bias[n]) (+ out[r][n] if accumulate).
class LinearOp : public Op {
   public:
    LinearOp(Rows rows, SplitActivation x, Weight weight, LinearOut out)
        : Op(rows), x_(x), weight_(weight), out_(out) {}
    void run(Team& team) const override;

   private:
    SplitActivation x_;
    Weight weight_;
    LinearOut out_;
};

// out[r][f] = activate(gate[f]) * up[f]; the product never leaves the cache.
class LinearGateOp : public Op {
   public:
    LinearGateOp(Rows rows, SplitActivation x, GateWeights weights, Gate kind,
                 SplitActivation out)
        : Op(rows), x_(x), weights_(weights), kind_(kind), out_(out) {}
    void run(Team& team) const override;

   private:
    SplitActivation x_;
    GateWeights weights_;
    Gate kind_;
    SplitActivation out_;
};

// out[r][b * out_step + n] = sum_k x[r][b * x_step + k] * w[b][n][k] for each block b of columns; what
// of a block of x is not read (k past the weights' inputs) comes behind its products.
class BlockLinearOp : public Op {
   public:
    BlockLinearOp(Rows rows, const float* x, int64_t x_step, std::vector<Weight> weights,
                  float* out)
        : Op(rows), x_(x), x_step_(x_step), weights_(std::move(weights)), out_(out) {}
    void run(Team& team) const override;

   private:
    const float* x_;
    int64_t x_step_;
    std::vector<Weight> weights_;  // of one shape
    float* out_;
};

}  // namespace headrace
