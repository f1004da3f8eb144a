// The part of ONNX Runtime's C interface that a custom operator and a small program need. The interface is stable: its
// table of functions only grows at its end, so that a function has one place in all versions from 1.16 on. Whoever has
// onnxruntime_c_api.h uses that; Python's package comes without it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;

struct Api {
    const void* functions[102];

    // The function at a place of the table, as what it is.
    template <typename Result = Status*, typename... Arguments>
    Result call(int place, Arguments... arguments) const {
        return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void*>(functions[place]))(arguments...);
    }
};

struct ApiBase {
    const Api* (*api)(uint32_t version);
    const char* (*version)();
};

constexpr uint32_t VERSION = 16;  // from this on an operator's computation may fail with a message
enum Place : int {
    CREATE_STATUS = 0, GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24, CREATE_CUSTOM_OP_DOMAIN = 26, CUSTOM_OP_DOMAIN_ADD = 27, ADD_CUSTOM_OP_DOMAIN = 28,
    REGISTER_CUSTOM_OPS_LIBRARY = 29, CREATE_TENSOR_WITH_DATA = 49, GET_TENSOR_MUTABLE_DATA = 51, GET_DIMENSIONS_COUNT = 61,
    GET_DIMENSIONS = 62, GET_TENSOR_TYPE_AND_SHAPE = 65, CREATE_CPU_MEMORY_INFO = 69, KERNEL_CONTEXT_GET_INPUT_COUNT = 88,
    KERNEL_CONTEXT_GET_INPUT = 90, KERNEL_CONTEXT_GET_OUTPUT = 91, RELEASE_TENSOR_TYPE_AND_SHAPE = 99
};
enum Type : int { FLOAT = 1, UINT8 = 2, BOOL = 9 };
constexpr int FAIL = 1, DEFAULT_MEMORY = 0, DEVICE_ALLOCATOR = 0, REQUIRED = 0, OPTIONAL = 1;

// An operator: functions that ONNX Runtime calls, `self` being this structure.
struct CustomOp {
    uint32_t version;
    void* (*create)(const CustomOp* self, const Api* api, const void* info);
    const char* (*name)(const CustomOp* self);
    const char* (*provider)(const CustomOp* self);
    Type (*input_type)(const CustomOp* self, size_t index);
    size_t (*inputs)(const CustomOp* self);
    Type (*output_type)(const CustomOp* self, size_t index);
    size_t (*outputs)(const CustomOp* self);
    void (*compute_without_status)(void* kernel, void* context);
    void (*destroy)(void* kernel);
    int (*input_characteristic)(const CustomOp* self, size_t index);
    int (*output_characteristic)(const CustomOp* self, size_t index);
    int (*input_memory)(const CustomOp* self, size_t index);
    int (*variadic_inputs)(const CustomOp* self);
    int (*variadic_inputs_alike)(const CustomOp* self);
    int (*variadic_outputs)(const CustomOp* self);
    int (*variadic_outputs_alike)(const CustomOp* self);
    Status* (*create_with_status)(const CustomOp* self, const Api* api, const void* info, void** kernel);
    Status* (*compute)(void* kernel, void* context);
};

}  // namespace ort
