// A program as an operator of ONNX Runtime, bdsa.Network(images, budget, program, per_image) -> logits, for any of its
// languages: the library is loaded by SessionOptions.register_custom_ops_library, RegisterCustomOpsLibrary and the like.
// The last input, a bool, may be missing: whether no image may exceed the budget.
#include <algorithm>
#include <cstring>

#include "network.h"
#include "onnx_runtime.h"

namespace {

using namespace ort;

struct Tensor {
    void* data = nullptr;
    int64_t sizes[4] = {1, 1, 1, 1};
    size_t dimensions = 0;
};

const Api* known = nullptr;

// An input of a call; fails for more than four dimensions.
Status* input(void* context, size_t index, Tensor& found) {
    void *value = nullptr, *shape = nullptr;
    if (Status* failed = known->call(KERNEL_CONTEXT_GET_INPUT, context, index, &value)) return failed;
    if (Status* failed = known->call(GET_TENSOR_TYPE_AND_SHAPE, value, &shape)) return failed;
    Status* failed = known->call(GET_DIMENSIONS_COUNT, shape, &found.dimensions);
    if (!failed && found.dimensions <= 4) failed = known->call(GET_DIMENSIONS, shape, found.sizes, found.dimensions);
    known->call<void>(RELEASE_TENSOR_TYPE_AND_SHAPE, shape);
    if (!failed && found.dimensions > 4) failed = known->call(CREATE_STATUS, FAIL, "bdsa.Network: more than four dimensions");
    return failed ? failed : known->call(GET_TENSOR_MUTABLE_DATA, value, &found.data);
}

Status* compute(void*, void* context) {
    Tensor images, budget, program, per_image;
    size_t inputs = 0;
    if (Status* failed = known->call(KERNEL_CONTEXT_GET_INPUT_COUNT, context, &inputs)) return failed;
    if (Status* failed = input(context, 0, images)) return failed;
    if (Status* failed = input(context, 1, budget)) return failed;
    if (Status* failed = input(context, 2, program)) return failed;
    if (Status* failed = inputs > 3 ? input(context, 3, per_image) : nullptr) return failed;
    const bool exact = per_image.data && *static_cast<bool*>(per_image.data);
    if (images.dimensions != 4) return known->call(CREATE_STATUS, FAIL, "bdsa.Network takes images [B, C, H, W]");
    const int64_t* n = images.sizes;
    const int64_t strides[4] = {n[1] * n[2] * n[3], n[2] * n[3], n[3], 1};
    char message[MESSAGE] = "bdsa.Network: the program has no header";
    const int64_t bytes = program.sizes[0];
    int64_t classes = 0;
    if (bdsa_classes(program.data, bytes, &classes, message, MESSAGE))
        return known->call(CREATE_STATUS, FAIL, static_cast<const char*>(message));
    const int64_t shape[2] = {n[0], classes};
    void *output = nullptr, *logits = nullptr;
    if (Status* failed = known->call(KERNEL_CONTEXT_GET_OUTPUT, context, (size_t)0, shape, (size_t)2, &output)) return failed;
    if (Status* failed = known->call(GET_TENSOR_MUTABLE_DATA, output, &logits)) return failed;
    if (bdsa_network(program.data, bytes, static_cast<float*>(images.data), n, strides, *static_cast<float*>(budget.data), exact,
                     static_cast<float*>(logits), 0, message, MESSAGE))
        return known->call(CREATE_STATUS, FAIL, static_cast<const char*>(message));
    return nullptr;
}

CustomOp described() {
    CustomOp op{};
    op.version = VERSION;
    op.name = [](const CustomOp*) { return "Network"; };
    op.provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
    op.inputs = [](const CustomOp*) -> size_t { return 4; };
    op.input_type = [](const CustomOp*, size_t index) { return index == 3 ? BOOL : index == 2 ? UINT8 : FLOAT; };
    op.outputs = [](const CustomOp*) -> size_t { return 1; };
    op.output_type = [](const CustomOp*, size_t) { return FLOAT; };
    op.input_characteristic = [](const CustomOp*, size_t index) { return index == 3 ? OPTIONAL : REQUIRED; };
    op.output_characteristic = [](const CustomOp*, size_t) { return REQUIRED; };
    op.input_memory = [](const CustomOp*, size_t) { return DEFAULT_MEMORY; };
    op.create_with_status = [](const CustomOp*, const Api*, const void*, void** kernel) -> Status* {
        *kernel = nullptr;
        return nullptr;
    };
    op.destroy = [](void*) {};
    op.compute = compute;
    return op;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(void* options, const ort::ApiBase* base) {
    static const CustomOp op = described();
    known = base->api(VERSION);
    if (!known)
        return base->api(1)->call(CREATE_STATUS, FAIL, "bdsa's operator needs ONNX Runtime 1.16 or newer");
    void* domain = nullptr;
    if (Status* failed = known->call(CREATE_CUSTOM_OP_DOMAIN, "bdsa", &domain)) return failed;
    if (Status* failed = known->call(CUSTOM_OP_DOMAIN_ADD, domain, &op)) return failed;
    return known->call(ADD_CUSTOM_OP_DOMAIN, options, domain);
}
