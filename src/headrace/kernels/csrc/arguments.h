// What the Python side calls an op with, one word after another: numbers, addresses, None. Mirrors
// headrace/kernels/words.py.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention.h"
#include "experts.h"
#include "layout.h"
#include "ranks.h"
#include "rope.h"

namespace headrace {

constexpr const char* kCapsule = "headrace.Program";

// A vector is a row that repeats; of more dimensions `rows` and `columns` are the first two.
template <typename Type>
struct Matrix {
    Type* data;  // null: there is none
    int64_t rows, columns, stride;
    int dtype;
};

// Reads positional arguments one after another; the first error sticks. None stands for 0, for null
// and for each structure of zeros.
class Arguments {
   public:
    Arguments(PyObject* const* values, Py_ssize_t count) : values_(values), count_(count) {}

    int64_t integer() {
        PyObject* value = next();
        return value ? PyLong_AsLongLong(value) : 0;
    }
    int size() { return static_cast<int>(integer()); }
    bool flag() { return integer() != 0; }
    template <typename Kind>
    Kind kind() {
        return static_cast<Kind>(size());
    }
    float number() {
        PyObject* value = next();
        return value ? static_cast<float>(PyFloat_AsDouble(value)) : 0.0f;
    }
    template <typename Type>
    Type* address() {
        PyObject* value = next();
        return value ? static_cast<Type*>(PyLong_AsVoidPtr(value)) : nullptr;
    }
    template <typename Type>
    Matrix<Type> matrix() {
        if (skips_none()) return {};
        auto* data = address<Type>();
        const int64_t rows = integer(), columns = integer(), stride = integer();
        return {data, rows, columns, stride, size()};
    }
    template <typename Type>
    Type* data() {
        return matrix<Type>().data;
    }
    Program* program() {
        PyObject* value = next();
        return value ? static_cast<Program*>(PyCapsule_GetPointer(value, kCapsule)) : nullptr;
    }
    Rows rows() {
        const int capacity = size();
        return Rows(data<int32_t>(), capacity, capacity);
    }
    // `stride` becomes that of rows in float32.
    SplitActivation activation(int64_t* stride = nullptr) {
        constexpr int kInt32 = 4;  // of a boundary; both parts follow
        const auto x = matrix<void>();
        const bool is_split = x.dtype == kInt32;
        const auto first = is_split ? matrix<void>() : x, rest = is_split ? matrix<void>() : x;
        if (stride) *stride = first.stride;
        const auto* boundary = is_split ? static_cast<const int32_t*>(x.data) : nullptr;
        return {{first.data, first.columns, static_cast<Format>(first.dtype)},
                {rest.data, rest.columns, static_cast<Format>(rest.dtype)},
                boundary};
    }
    Weight weight() {
        auto* data = address<uint8_t>();
        const int64_t out = integer(), in = integer();
        const Kind kind = this->kind<Kind>();
        const int64_t group = integer();
        return {data, out, in, kind, group, this->kind<Scaling>()};
    }
    Cache cache() {
        const auto keys = matrix<void>();
        void* values = data<void>();
        const int64_t head_size = integer(), value_size = integer();
        float *key_scales = data<float>(), *value_scales = data<float>();
        const float key_scale = number(), value_scale = number();
        const CacheType type = static_cast<CacheType>(keys.dtype);
        return {keys.data, values,       key_scales, value_scales, type,       keys.rows,
                keys.columns, head_size, value_size, key_scale,    value_scale};
    }
    Ranks ranks() {
        Ranks ranks{};
        ranks.rank = integer();
        ranks.size = ranks.here_last = integer();
        ranks.slot_bytes = integer();
        ranks.memory = data<uint8_t>();
        if (skips_none()) return ranks;
        ranks.here_first = integer();
        ranks.here_last = integer();
        ranks.relay = reinterpret_cast<Relay>(address<void>());
        return ranks;
    }
    RoutingRule routing_rule() {
        RoutingRule rule{};
        rule.experts = integer();
        rule.chosen = integer();
        rule.is_sigmoid = flag();
        rule.is_normalized = flag();
        rule.scale = number();
        rule.groups = integer();
        rule.chosen_groups = integer();
        rule.experts_per_group = integer();
        return rule;
    }
    Rotary rotary() {
        if (skips_none()) return {};
        const auto cos = matrix<const float>();
        const auto* sin = data<const float>();
        const int64_t first = integer();
        return {cos.data, sin, cos.rows, 2 * cos.columns, first, flag()};
    }
    HeadNorms head_norms() {
        if (skips_none()) return {};
        const auto query = matrix<const float>(), key = matrix<const float>();
        const float eps = number();
        return {query.data, key.data, query.stride, key.stride, flag(), eps};
    }
    AttentionOptions attention_options() {
        AttentionOptions options{};
        options.scale = number();
        options.window = integer();
        options.soft_cap = number();
        options.alibi_slopes = data<float>();
        options.sinks = data<float>();
        options.chunk = integer();
        return options;
    }

    // To be asked after the last argument.
    bool complete() const {
        if (PyErr_Occurred()) return false;
        if (read_ == count_) return true;
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return false;
    }

   private:
    bool skips_none() {
        if (read_ == count_ || values_[read_] != Py_None) return false;
        ++read_;
        return true;
    }
    // Null is None, or stands for an error.
    PyObject* next() {
        if (PyErr_Occurred() || skips_none()) return nullptr;
        if (read_ < count_) return values_[read_++];
        PyErr_SetString(PyExc_TypeError, "too few arguments");
        return nullptr;
    }

    PyObject* const* values_;
    Py_ssize_t count_, read_ = 0;
};

}  // namespace headrace
