// Mixtures of experts: which rows go to which expert, and their products. In a chain of ops, each
// with data-dependent shares: route, plan, gather, gate, down, combine.
#pragma once

#include <vector>

#include "layout.h"
#include "linear.h"
#include "math.h"
#include "pool.h"

namespace headrace {

struct RoutingRule {
    int64_t experts, chosen;  // of each row, without the shared one
    bool is_sigmoid, is_normalized, has_shared;
    float scale;
    int64_t groups, chosen_groups, experts_per_group;
};

// experts[r], weights[r] = the rule's choice by logits[r], in the order of their numbers. A shared
// expert comes last; its weight is 1, or the sigmoid of shared[r].
class RouteOp : public Op {
   public:
    RouteOp(Rows rows, const float* logits, const float* choice_bias, const float* shared,
            RoutingRule rule, int32_t* experts, float* weights)
        : Op(rows), logits_(logits), choice_bias_(choice_bias), shared_(shared), rule_(rule),
          experts_(experts), weights_(weights) {}
    void run(Team& team) const override;

   private:
    void score(const float* logits, float* scores) const;
    void rank(const float* logits, const float* scores, float* ranks) const;
    void choose(int64_t row, const float* scores, float* ranks) const;

    const float *logits_, *choice_bias_, *shared_;
    RoutingRule rule_;
    int32_t* experts_;
    float* weights_;
};

struct ExpertWeights {
    GateWeights gate_up;
    Weight down;
    const float *gate_up_bias, *down_bias;  // or null
};

// What the ops of one mixture share. Rows are sorted into slots by share: the rows of one expert in
// one part of `inputs` and `inner`. Those of each share begin at whole blocks of 16.
struct Mixture {
    std::vector<ExpertWeights> experts;
    int64_t chosen;  // per row, the shared one included
    const int32_t* chosen_experts;
    const float* weights;
    bool weighs_inputs;
    int32_t* plan;  // [shares] counts, [shares] first slots, [1] used slots, [rows * chosen]
                    // slots, [slots] which of these, or -1
    SplitActivation inputs, inner;
    float* outputs;

    int64_t parts() const { return inputs.boundary ? 2 : 1; }
    int64_t count() const { return static_cast<int64_t>(experts.size()) * parts(); }  // shares
    const ExpertWeights& weights_of(int64_t share) const {
        return experts[static_cast<size_t>(share / parts())];
    }
    // The part that has a share's rows; slots have one numbering.
    const Activation& part(const SplitActivation& x, int64_t share) const {
        return share % parts() ? x.rest : x.first;
    }
    int32_t* counts() const { return plan; }
    int32_t* starts() const { return plan + count(); }
    int32_t* used() const { return plan + 2 * count(); }
    int32_t* slots() const { return used() + 1; }
    int32_t* sources(int64_t capacity) const { return slots() + capacity * chosen; }
};

class PlanOp : public Op {
   public:
    PlanOp(Rows rows, const Mixture& mixture) : Op(rows), mixture_(mixture) {}
    void run(Team& team) const override;
    bool is_single() const override { return true; }

   private:
    Mixture mixture_;
};

// Slots of `inputs` from rows of x.
class GatherOp : public Op {
   public:
    GatherOp(Rows rows, const Mixture& mixture, const float* x)
        : Op(rows), mixture_(mixture), x_(x) {}
    void run(Team& team) const override;

   private:
    Mixture mixture_;
    const float* x_;
};

// inner = gated(inputs x gate, inputs x up), each slot with its expert's weights.
class ExpertGateOp : public Op {
   public:
    ExpertGateOp(Rows rows, const Mixture& mixture, Gate kind)
        : Op(rows), mixture_(mixture), kind_(kind) {}
    void run(Team& team) const override;

   private:
    Mixture mixture_;
    Gate kind_;
};

// outputs = inner x down.
class ExpertDownOp : public Op {
   public:
    ExpertDownOp(Rows rows, const Mixture& mixture) : Op(rows), mixture_(mixture) {}
    void run(Team& team) const override;

   private:
    Mixture mixture_;
};

// out[r] = the weighted outputs of its experts summed in their order, or added to out[r].
class CombineOp : public Op {
   public:
    CombineOp(Rows rows, const Mixture& mixture, float* out, bool accumulate)
        : Op(rows), mixture_(mixture), out_(out), accumulate_(accumulate) {}
    void run(Team& team) const override;

   private:
    Mixture mixture_;
    float* out_;
    bool accumulate_;
};

}  // namespace headrace
