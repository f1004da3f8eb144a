// What the library offers, as plain C functions: an operation is a structure of pointers and sizes that knows how to run.
// Those on maps are there twice, for float32 and for bfloat16.
#include "contents.h"
#include "convnext.h"
#include "dense.h"
#include "maps.h"
#include "residual.h"
#include "unit.h"

// One operation of a recorded inference.
struct Call {
    void (*function)(const void* operation, int threads);
    const void* operation;
    int threads;
};

extern "C" {

#define OPERATION(name, ...) \
    void bdsa_##name(const __VA_ARGS__* operation, int threads) { operation->run(threads); }
#define OPERATIONS(name, Type) \
    OPERATION(name, Type<float>) \
    OPERATION(name##_bfloat16, Type<Bfloat16>)

OPERATION(contents, Contents)
OPERATION(pad, Pad<float, float>)
OPERATION(pad_bfloat16, Pad<Bfloat16, Bfloat16>)
OPERATION(pad_to_bfloat16, Pad<float, Bfloat16>)
OPERATION(convolution, Dense<float, float>)
OPERATION(convolution_bfloat16, Dense<Bfloat16, Bfloat16>)
OPERATION(convolution_from_bfloat16, Dense<Bfloat16, float>)
OPERATIONS(convolution_pool, DensePool)
OPERATIONS(layer_norm, LayerNorm)
OPERATIONS(mean, Mean)
OPERATIONS(subsample, Subsample)
OPERATIONS(average_pool, AveragePool)
OPERATIONS(products, Products)
OPERATIONS(decide, Decision)
OPERATIONS(unit, UnitDecision)
OPERATIONS(residual, Residual)
OPERATIONS(convnext, ConvNext)

void bdsa_play(const Call* calls, int count) {
    for (int i = 0; i < count; i++) calls[i].function(calls[i].operation, calls[i].threads);
}

int bdsa_panel() { return PANEL; }

const char* bdsa_instructions() {
#if defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__AVX__)
    return "AVX";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "plain";
#endif
}

// How products of bfloat16 are made; "plain" is no faster than float32.
const char* bdsa_bfloat16_instructions() {
#if defined(__AMX_BF16__)
    return "AMX";
#elif defined(__AVX512BF16__)
    return "AVX512-BF16";
#else
    return "plain";
#endif
}

int bdsa_parallel() {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
}

}  // extern "C"
