// The Python module of one instruction set: a function for each op, which takes a program, the
// buffers' rows and the op's words. All checking of tensors is done by the caller
// (headrace/kernels/ops); here only the number and kind of arguments are checked. A program of None
// runs the op at once.
#include "tiles.h"
#include "readers.h"

#define HEADRACE_QUOTED_(name) #name
#define HEADRACE_QUOTED(name) HEADRACE_QUOTED_(name)
#define HEADRACE_INIT_(name) PyInit_##name
#define HEADRACE_INIT(name) HEADRACE_INIT_(name)

namespace headrace {
namespace {

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

// Reads one op's arguments; what it adds to `ops` is thrown away if they are not complete.
using Reader = void (*)(Arguments& arguments, Rows rows, Program& ops);

template <Reader read>
PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t count) {
    Arguments arguments(values, count);
    Program* program = arguments.program();
    Program ops;
    read(arguments, arguments.rows(), ops);
    if (!arguments.complete()) return nullptr;
    if (!program) return run_released(ops);
    for (auto& op : ops) program->push_back(std::move(op));
    Py_RETURN_NONE;
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

template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef fast(const char* name) {
    const auto any = reinterpret_cast<void (*)()>(function);
    return {name, reinterpret_cast<PyCFunction>(any), METH_FASTCALL, nullptr};
}

// Ops by their classes' names.
PyMethodDef methods[] = {
    fast<call<embedding>>("Embedding"),
    fast<call<norm>>("Norm"),
    fast<call<linear>>("Linear"),
    fast<call<linear_blocks>>("LinearBlocks"),
    fast<call<linear_gate>>("LinearGate"),
    fast<call<gate>>("Gate"),
    fast<call<activate>>("Activate"),
    fast<call<soft_cap>>("SoftCap"),
    fast<call<quantize>>("Quantize"),
    fast<call<permute>>("Permute"),
    fast<call<move_rows>>("MoveRows"),
    fast<call<argmax>>("Argmax"),
    fast<call<allow>>("Allow"),
    fast<call<sample>>("Sample"),
    fast<call<top_logprobs>>("TopLogprobs"),
    fast<call<route>>("Route"),
    fast<call<experts>>("Experts"),
    fast<call<rope_write>>("RopeWrite"),
    fast<call<attention>>("Attention"),
    fast<call<all_reduce>>("AllReduce"),
    fast<call<all_gather>>("AllGather"),
    fast<call<pack_blocks>>("pack_blocks"),
    fast<call<pack_groups>>("pack_groups"),
    fast<call<pack_floats>>("pack_floats"),
    fast<call<count_exceptions>>("count_exceptions"),
    fast<call<code>>("code"),
    fast<weight_bytes>("weight_bytes"),
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
    PyModule_AddIntConstant(module, "has_bfloat16_products", headrace::kHasBFloat16);
    PyModule_AddIntConstant(module, "has_bfloat16_tiles", headrace::kHasTiles);
    return module;
}
