// The Python module of one instruction set. Arguments are plain numbers: addresses, sizes, flags.
// All checking of tensors is done by the caller (headrace/kernels/base.py); here only the number
// and kind of arguments are checked. A program of None runs the op at once.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention.h"
#include "experts.h"
#include "linear.h"
#include "pack.h"
#include "pointwise.h"
#include "products_amx.h"
#include "ranks.h"
#include "rope.h"
#include "sample.h"

#define HEADRACE_QUOTED_(name) #name
#define HEADRACE_QUOTED(name) HEADRACE_QUOTED_(name)
#define HEADRACE_INIT_(name) PyInit_##name
#define HEADRACE_INIT(name) HEADRACE_INIT_(name)

namespace headrace {
namespace {

constexpr const char* kCapsule = "headrace.Program";

// Reads positional arguments one after another; the first error sticks.
class Arguments {
   public:
    Arguments(PyObject* const* values, Py_ssize_t count) : values_(values), count_(count) {}

    int64_t integer() {
        PyObject* value = next();
        return value ? PyLong_AsLongLong(value) : 0;
    }
    int size() { return static_cast<int>(integer()); }
    bool flag() { return integer() != 0; }
    float number() {
        PyObject* value = next();
        return value ? static_cast<float>(PyFloat_AsDouble(value)) : 0.0f;
    }
    // 0 is null.
    template <typename Type>
    Type* address() {
        PyObject* value = next();
        return value ? static_cast<Type*>(PyLong_AsVoidPtr(value)) : nullptr;
    }
    Program* program() {
        PyObject* value = next();
        if (!value || value == Py_None) return nullptr;
        return static_cast<Program*>(PyCapsule_GetPointer(value, kCapsule));
    }
    Rows rows() {
        const auto* control = address<int32_t>();
        const int constant = size();
        return Rows(control, constant, size());
    }
    SplitActivation activation() {
        void *first = address<void>(), *rest = address<void>();
        const int64_t features = integer();
        const Format first_format = static_cast<Format>(size());
        const Format rest_format = static_cast<Format>(size());
        const auto* boundary = address<int32_t>();
        return {{first, features, first_format}, {rest, features, rest_format}, boundary};
    }
    Weight weight() {
        auto* data = address<uint8_t>();
        const int64_t out = integer(), in = integer();
        const Kind kind = static_cast<Kind>(size());
        const int64_t group = integer();
        return {data, out, in, kind, group, static_cast<Scaling>(size())};
    }
    Cache cache() {
        void *keys = address<void>(), *values = address<void>();
        float *key_scales = address<float>(), *value_scales = address<float>();
        const CacheType type = static_cast<CacheType>(size());
        const int64_t blocks = integer(), heads = integer(), head_size = integer();
        return {keys, values, key_scales, value_scales, type, blocks, heads, head_size, integer()};
    }

    Ranks ranks() {
        auto* memory = address<uint8_t>();
        const int64_t rank = integer(), size = integer(), slot_bytes = integer();
        const int64_t here_first = integer(), here_last = integer();
        const auto relay = reinterpret_cast<Relay>(address<void>());
        return {memory, rank, size, slot_bytes, here_first, here_last, relay};
    }

    // To be asked after the last argument.
    bool complete() const {
        if (PyErr_Occurred()) return false;
        if (read_ == count_) return true;
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return false;
    }

   private:
    PyObject* next() {
        if (PyErr_Occurred()) return nullptr;
        if (read_ < count_) return values_[read_++];
        PyErr_SetString(PyExc_TypeError, "too few arguments");
        return nullptr;
    }

    PyObject* const* values_;
    Py_ssize_t count_, read_ = 0;
};

PyObject* run_released(const Program& program) {
    const char* error;
    Py_BEGIN_ALLOW_THREADS
    error = run(program);
    Py_END_ALLOW_THREADS
    if (error) {
        PyErr_SetString(PyExc_ValueError, error);
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyObject* finish(Program* program, Program ops) {
    if (!program) return run_released(ops);
    for (auto& op : ops) program->push_back(std::move(op));
    Py_RETURN_NONE;
}

template <typename AnyOp>
PyObject* finish_one(const Arguments& arguments, Program* program, AnyOp op) {
    if (!arguments.complete()) return nullptr;
    Program ops;
    ops.push_back(std::make_unique<AnyOp>(op));
    return finish(program, std::move(ops));
}

PyObject* embedding(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* ids = a.address<int32_t>();
    const Weight table = a.weight();
    const float scale = a.number();
    const int64_t first_id = a.integer(), vocab_size = a.integer();
    auto* out = a.address<float>();
    return finish_one(a, program, EmbeddingOp(rows, ids, table, scale, first_id, vocab_size, out,
                                              a.flag()));
}

PyObject* norm(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const int64_t x_rows = a.integer(), x_stride = a.integer();
    const auto* index = a.address<int32_t>();
    const Norm kind = static_cast<Norm>(a.size());
    const auto* weight = a.address<float>();
    const auto* bias = a.address<float>();
    const float eps = a.number();
    const SplitActivation out = a.activation();
    const int64_t out_stride = a.integer();
    return finish_one(a, program,
                      NormOp(rows, x, x_rows, x_stride, index, kind, weight, bias, eps, out,
                             out_stride, a.flag()));
}

PyObject* linear(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const SplitActivation x = a.activation();
    const Weight weight = a.weight();
    const auto* bias = a.address<float>();
    auto* out = a.address<float>();
    const bool accumulate = a.flag();
    return finish_one(a, program, LinearOp(rows, x, weight, {bias, out, accumulate, a.integer()}));
}

PyObject* linear_gate(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const SplitActivation x = a.activation();
    const Weight weight = a.weight();
    const Gate kind = static_cast<Gate>(a.size());
    return finish_one(a, program, LinearGateOp(rows, x, weight, kind, a.activation()));
}

PyObject* gate(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const Gate kind = static_cast<Gate>(a.size());
    return finish_one(a, program, GateOp(rows, x, kind, a.activation()));
}

PyObject* activate(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const Gate kind = static_cast<Gate>(a.size());
    return finish_one(a, program, ActivateOp(rows, x, kind, a.activation()));
}

PyObject* soft_cap(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    auto* x = a.address<float>();
    const int64_t features = a.integer();
    return finish_one(a, program, SoftCapOp(rows, x, features, a.number()));
}

PyObject* quantize(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    return finish_one(a, program, QuantizeOp(rows, x, a.activation()));
}

PyObject* permute(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const int64_t features = a.integer();
    const auto* index = a.address<int32_t>();
    return finish_one(a, program, PermuteOp(rows, x, features, index, a.activation()));
}

PyObject* argmax(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const int64_t features = a.integer();
    return finish_one(a, program, ArgmaxOp(rows, x, features, a.address<int32_t>()));
}

PyObject* sample(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* logits = a.address<float>();
    const int64_t vocab_size = a.integer();
    const auto* draws = a.address<Draw>();
    auto* ids = a.address<int64_t>();
    return finish_one(a, program,
                      SampleOp(rows, logits, vocab_size, draws, ids, a.address<float>()));
}

PyObject* top_logprobs(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* logits = a.address<float>();
    const int64_t logit_rows = a.integer(), vocab_size = a.integer();
    const auto* index = a.address<int64_t>();
    const int64_t leading = a.integer();
    auto* ids = a.address<int64_t>();
    auto* logprobs = a.address<float>();
    return finish_one(a, program,
                      TopLogprobsOp(rows, logits, logit_rows, vocab_size, index, leading, ids,
                                    logprobs, a.address<float>()));
}

PyObject* route(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* logits = a.address<float>();
    const auto *choice_bias = a.address<float>(), *shared = a.address<float>();
    RoutingRule rule;
    rule.experts = a.integer();
    rule.chosen = a.integer();
    rule.is_sigmoid = a.flag();
    rule.is_normalized = a.flag();
    rule.has_shared = a.flag();
    rule.scale = a.number();
    rule.groups = a.integer();
    rule.chosen_groups = a.integer();
    rule.experts_per_group = a.integer();
    auto* experts = a.address<int32_t>();
    auto* weights = a.address<float>();
    return finish_one(a, program,
                      RouteOp(rows, logits, choice_bias, shared, rule, experts, weights));
}

PyObject* experts(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    Mixture mixture;
    mixture.chosen = a.integer();
    mixture.chosen_experts = a.address<int32_t>();
    mixture.weights = a.address<float>();
    mixture.weighs_inputs = a.flag();
    mixture.plan = a.address<int32_t>();
    mixture.inputs = a.activation();
    mixture.inner = a.activation();
    mixture.outputs = a.address<float>();
    const Gate kind = static_cast<Gate>(a.size());
    auto* out = a.address<float>();
    const bool accumulate = a.flag();
    for (int64_t left = a.integer(); left > 0 && !PyErr_Occurred(); --left) {
        const Weight gate_up = a.weight(), down = a.weight();
        const auto* gate_up_bias = a.address<float>();
        mixture.experts.push_back({gate_up, down, gate_up_bias, a.address<float>()});
    }
    if (!a.complete()) return nullptr;
    Program ops;
    ops.push_back(std::make_unique<PlanOp>(rows, mixture));
    ops.push_back(std::make_unique<GatherOp>(rows, mixture, x));
    ops.push_back(std::make_unique<ExpertGateOp>(rows, mixture, kind));
    ops.push_back(std::make_unique<ExpertDownOp>(rows, mixture));
    ops.push_back(std::make_unique<CombineOp>(rows, mixture, out, accumulate));
    return finish(program, std::move(ops));
}

PyObject* rope_write(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    HeadRows in;
    in.query = a.address<float>();
    in.query_stride = a.integer();
    in.key = a.address<float>();
    in.key_stride = a.integer();
    in.value = a.address<float>();
    const int64_t heads = a.integer();
    const auto* positions = a.address<int32_t>();
    const auto* slots = a.address<int64_t>();
    HeadOptions options;
    options.rotary.cos = a.address<float>();
    options.rotary.sin = a.address<float>();
    options.rotary.positions = a.integer();
    options.rotary.width = a.integer();
    options.rotary.first = a.integer();
    options.rotary.is_interleaved = a.flag();
    options.norms.query = a.address<float>();
    options.norms.key = a.address<float>();
    options.norms.query_stride = a.integer();
    options.norms.key_stride = a.integer();
    options.norms.is_layer = a.flag();
    options.norms.eps = a.number();
    options.clip = a.number();
    options.temperature_interval = a.number();
    options.temperature_growth = a.number();
    return finish_one(a, program,
                      RopeWriteOp(rows, in, heads, positions, slots, options, a.cache()));
}

PyObject* attention(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* q = a.address<float>();
    const int64_t q_stride = a.integer(), heads = a.integer();
    const Cache cache = a.cache();
    Batch batch;
    batch.query_start = a.address<int32_t>();
    batch.context_lens = a.address<int32_t>();
    batch.block_table = a.address<int32_t>();
    batch.table_width = a.integer();
    batch.max_tokens = a.integer();
    AttentionOptions options;
    options.scale = a.number();
    options.window = a.integer();
    options.soft_cap = a.number();
    options.alibi_slopes = a.address<float>();
    options.sinks = a.address<float>();
    options.chunk = a.integer();
    auto* out = a.address<float>();
    if (!a.complete()) return nullptr;
    auto op = std::make_unique<AttentionOp>(rows, q, q_stride, heads, cache, batch, options, out);
    reserve_scratch(static_cast<size_t>(op->scratch_floats()));
    Program ops;
    const AttentionOp& first = *op;
    ops.push_back(std::move(op));
    ops.push_back(std::make_unique<AttentionMergeOp>(first));
    return finish(program, std::move(ops));
}

PyObject* linear_blocks(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const auto* x = a.address<float>();
    const int64_t x_step = a.integer();
    auto* out = a.address<float>();
    std::vector<Weight> weights;
    for (int64_t left = a.integer(); left > 0 && !PyErr_Occurred(); --left) {
        weights.push_back(a.weight());
    }
    return finish_one(a, program, BlockLinearOp(rows, x, x_step, std::move(weights), out));
}

PyObject* all_reduce(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const Ranks ranks = a.ranks();
    const auto* x = a.address<float>();
    const int64_t features = a.integer();
    auto* out = a.address<float>();
    const bool accumulate = a.flag();
    if (!a.complete()) return nullptr;
    Program ops;
    ops.push_back(std::make_unique<ContributeOp>(rows, ranks, x, features));
    if (ranks.relay) ops.push_back(std::make_unique<RelayOp>(rows, ranks, features));
    ops.push_back(std::make_unique<SumOp>(rows, ranks, features, out, accumulate));
    return finish(program, std::move(ops));
}

PyObject* all_gather(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    Program* program = a.program();
    const Rows rows = a.rows();
    const Ranks ranks = a.ranks();
    const auto* x = a.address<float>();
    const int64_t features = a.integer(), columns = a.integer();
    auto* out = a.address<float>();
    if (!a.complete()) return nullptr;
    Program ops;
    ops.push_back(std::make_unique<ContributeOp>(rows, ranks, x, features));
    const int64_t widest = (columns + ranks.size - 1) / ranks.size;
    if (ranks.relay) ops.push_back(std::make_unique<RelayOp>(rows, ranks, widest));
    ops.push_back(std::make_unique<ConcatenateOp>(rows, ranks, columns, out));
    return finish(program, std::move(ops));
}

PyObject* pack_blocks(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    const Rows rows = a.rows();
    const auto* blocks = a.address<uint8_t>();
    const int64_t row_bytes = a.integer();
    const Source source = static_cast<Source>(a.size());
    const int64_t first_group = a.integer();
    const Weight weight = a.weight();
    return finish_one(a, nullptr, PackBlocksOp(rows, blocks, row_bytes, source, first_group,
                                               weight, a.integer()));
}

PyObject* pack_groups(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    const Rows rows = a.rows();
    const auto* quants = a.address<uint8_t>();
    const auto* scales = a.address<float>();
    const auto* offsets = a.address<void>();
    const Weight weight = a.weight();
    return finish_one(a, nullptr, PackGroupsOp(rows, quants, scales, offsets, weight, a.integer()));
}

PyObject* pack_floats(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    const Rows rows = a.rows();
    const auto* floats = a.address<uint8_t>();
    const int64_t row_bytes = a.integer();
    const Weight weight = a.weight();
    return finish_one(a, nullptr, PackFloatsOp(rows, floats, row_bytes, weight, a.integer()));
}

PyObject* new_program(PyObject*, PyObject*) {
    const auto destroy = [](PyObject* capsule) {
        delete static_cast<Program*>(PyCapsule_GetPointer(capsule, kCapsule));
    };
    return PyCapsule_New(new Program, kCapsule, destroy);
}

PyObject* run_program(PyObject*, PyObject* capsule) {
    const auto* program = static_cast<Program*>(PyCapsule_GetPointer(capsule, kCapsule));
    return program ? run_released(*program) : nullptr;
}

PyObject* set_threads(PyObject*, PyObject* count) {
    const long threads = PyLong_AsLong(count);
    if (PyErr_Occurred()) return nullptr;
    Py_BEGIN_ALLOW_THREADS
    set_num_threads(static_cast<int>(threads));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// Bytes that a weight's storage needs; its address does not matter.
PyObject* weight_bytes(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments a(values, count);
    const Weight weight = a.weight();
    if (!a.complete()) return nullptr;
    return PyLong_FromLongLong(weight.tiles() * weight.tile_bytes());
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"embedding", fast(embedding), METH_FASTCALL, nullptr},
    {"norm", fast(norm), METH_FASTCALL, nullptr},
    {"linear", fast(linear), METH_FASTCALL, nullptr},
    {"linear_blocks", fast(linear_blocks), METH_FASTCALL, nullptr},
    {"linear_gate", fast(linear_gate), METH_FASTCALL, nullptr},
    {"gate", fast(gate), METH_FASTCALL, nullptr},
    {"activate", fast(activate), METH_FASTCALL, nullptr},
    {"soft_cap", fast(soft_cap), METH_FASTCALL, nullptr},
    {"quantize", fast(quantize), METH_FASTCALL, nullptr},
    {"permute", fast(permute), METH_FASTCALL, nullptr},
    {"argmax", fast(argmax), METH_FASTCALL, nullptr},
    {"sample", fast(sample), METH_FASTCALL, nullptr},
    {"top_logprobs", fast(top_logprobs), METH_FASTCALL, nullptr},
    {"route", fast(route), METH_FASTCALL, nullptr},
    {"experts", fast(experts), METH_FASTCALL, nullptr},
    {"rope_write", fast(rope_write), METH_FASTCALL, nullptr},
    {"attention", fast(attention), METH_FASTCALL, nullptr},
    {"all_reduce", fast(all_reduce), METH_FASTCALL, nullptr},
    {"all_gather", fast(all_gather), METH_FASTCALL, nullptr},
    {"pack_blocks", fast(pack_blocks), METH_FASTCALL, nullptr},
    {"pack_groups", fast(pack_groups), METH_FASTCALL, nullptr},
    {"pack_floats", fast(pack_floats), METH_FASTCALL, nullptr},
    {"weight_bytes", fast(weight_bytes), METH_FASTCALL, nullptr},
    {"new_program", new_program, METH_NOARGS, nullptr},
    {"run_program", run_program, METH_O, nullptr},
    {"set_num_threads", set_threads, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, HEADRACE_QUOTED(HEADRACE_MODULE), nullptr, -1, methods,
    nullptr, nullptr, nullptr, nullptr,
};

}  // namespace
}  // namespace headrace

PyMODINIT_FUNC HEADRACE_INIT(HEADRACE_MODULE)() {
    if (!headrace::permit_tiles()) {
        PyErr_SetString(PyExc_ImportError, "the system grants no tile registers");
        return nullptr;
    }
    PyObject* module = PyModule_Create(&headrace::definition);
    if (!module) return nullptr;
    PyModule_AddStringConstant(module, "isa", headrace::kIsa);
    PyModule_AddIntConstant(module, "has_bfloat16_tiles", headrace::kHasTiles);
    return module;
}
