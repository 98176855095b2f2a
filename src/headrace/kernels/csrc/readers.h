// How each op is read: its words are those of its class's fields in headrace/kernels/ops, in their
// order.
#pragma once

#include "arguments.h"
#include "coded.h"
#include "linear.h"
#include "pack.h"
#include "pointwise.h"
#include "sample.h"

namespace headrace {

template <typename AnyOp>
inline void add(Program& ops, AnyOp op) {
    ops.push_back(std::make_unique<AnyOp>(std::move(op)));
}

inline void embedding(Arguments& a, Rows rows, Program& ops) {
    const auto* ids = a.data<int32_t>();
    const Weight table = a.weight();
    auto* out = a.data<float>();
    const float scale = a.number();
    const int64_t first_id = a.integer(), vocab_size = a.integer();
    add(ops, EmbeddingOp(rows, ids, table, scale, first_id, vocab_size ? vocab_size : table.out,
                         out, a.flag()));
}

inline void norm(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    const auto* weight = a.data<float>();
    int64_t out_stride;
    const SplitActivation out = a.activation(&out_stride);
    const float eps = a.number();
    const Norm kind = a.kind<Norm>();
    const auto* bias = a.data<float>();
    const auto* index = a.data<int32_t>();
    add(ops, NormOp(rows, x.data, x.rows, x.stride, index, kind, weight, bias, eps, out, out_stride,
                    a.flag()));
}

inline void linear(Arguments& a, Rows rows, Program& ops) {
    const SplitActivation x = a.activation();
    const Weight weight = a.weight();
    const auto out = a.matrix<float>();
    const auto* bias = a.data<float>();
    add(ops, LinearOp(rows, x, weight, {bias, out.data, a.flag(), out.stride}));
}

inline void linear_blocks(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    const int64_t count = a.integer();
    std::vector<Weight> weights;
    for (int64_t left = count; left > 0 && !PyErr_Occurred(); --left) weights.push_back(a.weight());
    auto* out = a.data<float>();
    if (!a.complete()) return;
    add(ops, BlockLinearOp(rows, x.data, x.columns / count, std::move(weights), out));
}

inline void linear_gate(Arguments& a, Rows rows, Program& ops) {
    const SplitActivation x = a.activation();
    const Weight weight = a.weight();
    const SplitActivation out = a.activation();
    add(ops, LinearGateOp(rows, x, {weight}, a.kind<Gate>(), out));
}

inline void gate(Arguments& a, Rows rows, Program& ops) {
    const auto* x = a.data<float>();
    const SplitActivation out = a.activation();
    add(ops, GateOp(rows, x, a.kind<Gate>(), out));
}

inline void activate(Arguments& a, Rows rows, Program& ops) {
    const auto* x = a.data<float>();
    const SplitActivation out = a.activation();
    add(ops, ActivateOp(rows, x, a.kind<Gate>(), out));
}

inline void soft_cap(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    add(ops, SoftCapOp(rows, x.data, x.columns, a.number()));
}

inline void quantize(Arguments& a, Rows rows, Program& ops) {
    const auto* x = a.data<float>();
    add(ops, QuantizeOp(rows, x, a.activation()));
}

inline void permute(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    const auto* index = a.data<int32_t>();
    add(ops, PermuteOp(rows, x.data, x.columns, index, a.activation()));
}

inline void move_rows(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    add(ops, MoveRowsOp(rows, x.data, x.rows, x.stride, x.columns, a.data<int32_t>()));
}

inline void argmax(Arguments& a, Rows rows, Program& ops) {
    const auto x = a.matrix<float>();
    add(ops, ArgmaxOp(rows, x.data, x.columns, a.data<int32_t>()));
}

inline void allow(Arguments& a, Rows rows, Program& ops) {
    const auto logits = a.matrix<float>();
    const auto* index = a.data<int64_t>();
    const auto words = a.matrix<uint32_t>();
    add(ops, AllowOp(rows, logits.data, logits.rows, logits.columns, index, words.data,
                     words.columns));
}

inline void sample(Arguments& a, Rows rows, Program& ops) {
    const auto logits = a.matrix<float>();
    const auto* draws = a.address<Draw>();
    auto* ids = a.data<int64_t>();
    add(ops, SampleOp(rows, logits.data, logits.columns, draws, ids, a.data<float>()));
}

inline void top_logprobs(Arguments& a, Rows rows, Program& ops) {
    const auto logits = a.matrix<float>();
    const auto* index = a.data<int64_t>();
    const auto ids = a.matrix<int64_t>();
    auto* logprobs = a.data<float>();
    add(ops, TopLogprobsOp(rows, logits.data, logits.rows, logits.columns, index, ids.columns,
                           ids.data, logprobs, a.data<float>()));
}

inline void route(Arguments& a, Rows rows, Program& ops) {
    const auto* logits = a.data<float>();
    auto* experts = a.data<int32_t>();
    auto* weights = a.data<float>();
    RoutingRule rule = a.routing_rule();
    const auto* choice_bias = a.data<float>();
    rule.has_shared = a.flag();
    const auto* shared = a.data<float>();
    add(ops, RouteOp(rows, logits, choice_bias, shared, rule, experts, weights));
}

inline void experts(Arguments& a, Rows rows, Program& ops) {
    Mixture mixture;
    const auto* x = a.data<float>();
    const auto chosen = a.matrix<int32_t>();
    mixture.chosen = chosen.columns;
    mixture.chosen_experts = chosen.data;
    mixture.weights = a.data<float>();
    for (int64_t left = a.integer(); left > 0 && !PyErr_Occurred(); --left) {
        const bool has_up = a.integer() > 1;
        GateWeights gate_up{a.weight()};
        if (has_up) gate_up.up = a.weight();
        const Weight down = a.weight();
        const auto* gate_up_bias = a.data<float>();
        mixture.experts.push_back({gate_up, down, gate_up_bias, a.data<float>()});
    }
    auto* out = a.data<float>();
    mixture.plan = a.data<int32_t>();
    mixture.inputs = a.activation();
    mixture.inner = a.activation();
    mixture.outputs = a.data<float>();
    const Gate kind = a.kind<Gate>();
    mixture.weighs_inputs = a.flag();
    add(ops, PlanOp(rows, mixture));
    add(ops, GatherOp(rows, mixture, x));
    add(ops, ExpertGateOp(rows, mixture, kind));
    add(ops, ExpertDownOp(rows, mixture));
    add(ops, CombineOp(rows, mixture, out, a.flag()));
}

// Where values stand beside their keys, and keys beside queries unless they are given.
inline HeadRows head_rows(Matrix<float> qkv, Matrix<float> key, const Cache& cache, int64_t heads) {
    if (key.data) return {qkv.data, key.data, nullptr, qkv.stride, key.stride};
    float* keys = qkv.data + heads * cache.head_size;
    return {qkv.data, keys, keys + cache.heads * cache.head_size, qkv.stride, qkv.stride};
}

inline void rope_write(Arguments& a, Rows rows, Program& ops) {
    const auto qkv = a.matrix<float>();
    const auto* positions = a.data<int32_t>();
    const auto* slots = a.data<int64_t>();
    const Cache cache = a.cache();
    const int64_t heads = a.integer();
    const HeadRows in = head_rows(qkv, a.matrix<float>(), cache, heads);
    HeadOptions options{};
    options.rotary = a.rotary();
    options.norms = a.head_norms();
    options.clip = a.number();
    if (a.size()) {
        options.temperature_interval = a.number();
        options.temperature_growth = a.number();
    }
    add(ops, RopeWriteOp(rows, in, heads, positions, slots, options, cache));
}

inline void attention(Arguments& a, Rows rows, Program& ops) {
    const auto q = a.matrix<float>();
    AttentionInputs in{};
    in.q = q.data;
    in.q_stride = q.stride;
    in.cache = a.cache();
    in.batch.query_start = a.data<int32_t>();
    in.batch.context_lens = a.data<int32_t>();
    const auto table = a.matrix<int32_t>();
    in.batch.block_table = table.data;
    in.batch.table_width = table.columns;
    in.batch.max_tokens = q.rows;
    const SplitActivation out = a.activation();
    in.heads = a.integer();
    in.options = a.attention_options();
    if (!a.complete()) return;
    auto op = std::make_unique<AttentionOp>(rows, in, out);
    reserve_scratch(static_cast<size_t>(op->scratch_floats()));
    const AttentionOp& first = *op;
    ops.push_back(std::move(op));
    add(ops, AttentionMergeOp(first));
}

inline void all_reduce(Arguments& a, Rows rows, Program& ops) {
    const Ranks ranks = a.ranks();
    const auto x = a.matrix<float>();
    auto* out = a.data<float>();
    add(ops, ContributeOp(rows, ranks, x.data, x.columns));
    if (ranks.relay) add(ops, RelayOp(rows, ranks, x.columns));
    add(ops, SumOp(rows, ranks, x.columns, out, a.flag()));
}

inline void all_gather(Arguments& a, Rows rows, Program& ops) {
    const Ranks ranks = a.ranks();
    const auto x = a.matrix<float>();
    const auto out = a.matrix<float>();
    if (!a.complete()) return;
    add(ops, ContributeOp(rows, ranks, x.data, x.columns));
    const int64_t widest = (out.columns + ranks.size - 1) / ranks.size;
    if (ranks.relay) add(ops, RelayOp(rows, ranks, widest));
    add(ops, ConcatenateOp(rows, ranks, out.columns, out.data));
}

inline void pack_blocks(Arguments& a, Rows rows, Program& ops) {
    const auto* blocks = a.address<uint8_t>();
    const int64_t row_bytes = a.integer();
    const Source source = a.kind<Source>();
    const int64_t first_group = a.integer();
    const Weight weight = a.weight();
    add(ops, PackBlocksOp(rows, blocks, row_bytes, source, first_group, weight, a.integer()));
}

inline void pack_groups(Arguments& a, Rows rows, Program& ops) {
    const auto* quants = a.address<uint8_t>();
    const auto* scales = a.address<float>();
    const auto* offsets = a.address<void>();
    const Weight weight = a.weight();
    add(ops, PackGroupsOp(rows, quants, scales, offsets, weight, a.integer()));
}

inline void pack_floats(Arguments& a, Rows rows, Program& ops) {
    const auto* floats = a.address<uint8_t>();
    const int64_t row_bytes = a.integer();
    const Weight weight = a.weight();
    add(ops, PackFloatsOp(rows, floats, row_bytes, weight, a.integer()));
}

inline void count_exceptions(Arguments& a, Rows rows, Program& ops) {
    const Weight weight = a.weight();
    add(ops, CountExceptionsOp(rows, weight, a.address<int32_t>()));
}

inline void code(Arguments& a, Rows rows, Program& ops) {
    const Weight from = a.weight();
    add(ops, CodeOp(rows, from, a.weight()));
}

}  // namespace headrace
